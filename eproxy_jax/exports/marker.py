"""This module has the first line of exported files: only files that have it are replaced."""

MARKER = (
    "# Written by eproxy export, which may replace a file with this first line: delete the line to keep your edits."
)

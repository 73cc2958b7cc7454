"""This module has the first line of exported files: only files that have it are replaced."""

MARKER = (
    "# Written by eproxy export. With this first line, eproxy export may replace the file; delete it to keep edits."
)

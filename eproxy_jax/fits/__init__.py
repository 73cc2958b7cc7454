"""This package fits rankings to columns, named numbers per architecture, and to a few labels."""

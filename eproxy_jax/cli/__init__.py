"""This package is the command line: it turns flags and configurations into calls of the library."""

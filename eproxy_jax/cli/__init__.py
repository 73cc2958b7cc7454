"""The command line: flags and configurations in, library calls out."""

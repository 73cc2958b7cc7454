"""A run on disk: architectures and measured values in, result files and figures out."""

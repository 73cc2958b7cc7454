"""This package holds the search space NAS-Bench-201."""

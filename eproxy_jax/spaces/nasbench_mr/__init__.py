"""This package holds NAS-Bench-MR: notation, network, interpreter and space."""

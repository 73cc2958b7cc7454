"""NAS-Bench-MR."""

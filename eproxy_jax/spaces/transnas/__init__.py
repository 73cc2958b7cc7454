"""This package holds the micro and macro search spaces of TransNAS-Bench-101."""

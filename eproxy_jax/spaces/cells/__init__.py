"""This package holds four-node cells, which NAS-Bench-201 and TransNAS-Bench-101-micro share."""

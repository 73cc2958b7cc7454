"""Four-node cells: what NAS-Bench-201 and TransNAS-Bench-101-micro share."""

"""This package runs candidates on devices: groups, compiled programs, memory, plans of the work."""

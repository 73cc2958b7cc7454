"""This package holds the size search space of NATS-Bench."""

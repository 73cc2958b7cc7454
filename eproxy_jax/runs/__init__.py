"""A run on disk: architectures and measured values in, result files and figures out."""

from eproxy_jax.runs.resumable import score

__all__ = ["score"]

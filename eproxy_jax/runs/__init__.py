"""This package keeps a run on disk: it reads architectures and measured values, and writes results and figures."""

from eproxy_jax.runs.columns import score_columns
from eproxy_jax.runs.resumable import score

__all__ = ["score", "score_columns"]

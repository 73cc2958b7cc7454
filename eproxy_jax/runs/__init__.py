"""This package keeps a run on disk: it reads architectures and measured values, and writes results and figures."""

from eproxy_jax.runs.columns import score_columns
from eproxy_jax.runs.fitting import FitResult, Ranked, SavedFit, fit, rank
from eproxy_jax.runs.gathering import Gathered, gather
from eproxy_jax.runs.resumable import score

__all__ = ["FitResult", "Gathered", "Ranked", "SavedFit", "fit", "gather", "rank", "score", "score_columns"]

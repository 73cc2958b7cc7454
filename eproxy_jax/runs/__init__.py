"""This package keeps a run on disk: it reads architectures and measured values, and writes results and figures."""

from eproxy_jax.runs.columns import score_columns
from eproxy_jax.runs.fitting import FitResult, fit
from eproxy_jax.runs.gathering import Gathered, gather
from eproxy_jax.runs.ranking import Ranked, rank
from eproxy_jax.runs.resumable import score
from eproxy_jax.runs.saved_fits import SavedFit

__all__ = ["FitResult", "Gathered", "Ranked", "SavedFit", "fit", "gather", "rank", "score", "score_columns"]

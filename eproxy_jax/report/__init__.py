"""This package makes a page out of runs: what was run, how well each ranking agrees with measured values, figures.

It reads the files of ``eproxy score``, ``fit``, ``dps`` and ``search``, changes none of them, and trains nothing.
"""

from eproxy_jax.report.writing import Written, write

__all__ = ["Written", "write"]

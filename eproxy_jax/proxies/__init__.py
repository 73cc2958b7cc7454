"""The field's other proxies as functions of one candidate, for :func:`eproxy_jax.evaluate`.

Each class is a family whose columns share initialisations and passes. Higher is better in every column. Those of
``spectra`` and ``synflow`` need networks whose blocks are marked (``nn/marks.py``): so far NAS-Bench-101,
NAS-Bench-201 and TransNAS-Bench-101 micro.
"""

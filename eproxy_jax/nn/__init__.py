"""This package holds everything networks are made of: primitives with their gradients, layers, initialisers."""

from eproxy_jax.nn import choice, convolution, initializers, layers, norms, pooling, precision, resizing, windowed

__all__ = [
    "choice",
    "convolution",
    "initializers",
    "layers",
    "norms",
    "pooling",
    "precision",
    "resizing",
    "windowed",
]

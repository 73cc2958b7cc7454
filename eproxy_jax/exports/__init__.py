"""This room writes a chosen architecture as a file that stands alone: Flax, PyTorch, or the field's strings."""

from eproxy_jax.exports.exported import FORMATS, Exported, export, exported, train_script

__all__ = ["FORMATS", "Exported", "export", "exported", "train_script"]

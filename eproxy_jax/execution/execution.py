"""This module says how candidates are spread over devices: forms, batches, groupings, precision.

Execution forms:
  * ``map``: candidates of a device run one after the other (``lax.map``). Each one pays for its own operations only.
    It suits CPUs.
  * ``vmap``: candidates of a device run in batches of one fixed width. It suits accelerators.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eproxy_jax.errors import quoted
from eproxy_jax.nn.precision import BFLOAT16_PRODUCTS

Form = Literal["map", "vmap"]
Grouping = Literal["coarse", "fine"]
Precision = Literal["default", "float32", "bfloat16"]
Device: TypeAlias = Any  # jax.Device, which type checkers see as a variable

AXIS = "candidates"
_FORMS = ("map", "vmap")
_GROUPINGS = ("coarse", "fine")
# The value of jax.default_matmul_precision for each precision.
_PRECISIONS = {"default": None, "float32": "highest", "bfloat16": BFLOAT16_PRODUCTS}
# Candidates of one block of the vmap form. Rounding depends on the batch size, so chunks do not change it.
VMAP_WIDTH = 32
MAX_VMAP_WIDTH = 512
# Candidates per device and chunk of the map form: few, so that results reach the disk every few seconds.
_MAP_CHUNK = 4


def default_form(devices: Sequence[Device]) -> Form:
    """Return ``map`` for CPUs and ``vmap`` for accelerators."""
    return "map" if all(device.platform == "cpu" for device in devices) else "vmap"


def matmul_precision(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which programs of a precision are traced."""
    return jax.default_matmul_precision(_PRECISIONS[precision])


def candidates_mesh(devices: Sequence[Device]) -> Mesh:
    """Return a 1-D mesh over the candidate axis."""
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


@dataclasses.dataclass(frozen=True)
class Execution:
    """The choice of devices, form and batches. Within one form it does not change losses.

    Attributes:
      devices: devices to run on.
      form: execution form.
      chunk_size: candidates per dispatched chunk, a multiple of the number of devices.
      vmap_width: candidates of one block of the vmap form; rounding depends on it.
      grouping: ``coarse`` makes few programs. ``fine`` makes more of them, which waste less work in the vmap form.
        Rounding depends on the grouping. With fine groups in the vmap form it also depends on the number of devices.
      precision: precision of the operands of matrix products. ``default`` is the backend's own choice for float32:
        exact on CPUs, rounded to tf32 or bfloat16 on accelerators. ``float32`` is exact everywhere. ``bfloat16``
        rounds the operands. Sums, statistics, weights and activations are float32 in all three.
      compile_ahead: compile the next group's program while one runs. On CPUs the two would slow each other down.
      auto_width: widen batches to the capacity of the devices' memory, once programs are known
        (``vmap_width="auto"``). The last digits of losses then depend on that memory.

    Example:
      >>> Execution.of(form="vmap", vmap_width=8).label
      'vmap 8'
    """

    devices: tuple[Device, ...]
    form: Form
    chunk_size: int
    vmap_width: int = VMAP_WIDTH
    grouping: Grouping = "coarse"
    precision: Precision = "default"
    compile_ahead: bool = False
    auto_width: bool = False

    @classmethod
    def of(
        cls,
        devices: Sequence[Device] | None = None,
        form: Form | None = None,
        chunk_size: int | None = None,
        vmap_width: int | Literal["auto"] = VMAP_WIDTH,
        grouping: Grouping = "coarse",
        precision: Precision = "default",
    ) -> Execution:
        """Choose all that is absent: this process's devices, the form of their platform, a chunk of a few seconds.

        Args:
          devices: devices to run on; this process's by default.
          form: ``"map"`` or ``"vmap"``; the platform's default form if absent.
          chunk_size: candidates per dispatched chunk.
          vmap_width: candidates of one block of the vmap form. ``"auto"`` starts at ``VMAP_WIDTH`` and is widened to
            the capacity of the devices' memory.
          grouping: ``"coarse"`` or ``"fine"``.
          precision: ``"default"``, ``"float32"`` or ``"bfloat16"``.

        Raises:
          ValueError: an unknown form, grouping or precision, a size below 1.
        """
        devices = tuple(jax.local_devices() if devices is None else devices)
        auto = vmap_width == "auto"
        vmap_width = VMAP_WIDTH if vmap_width == "auto" else vmap_width
        form = default_form(devices) if form is None else form
        choices = (
            ("execution form", form, _FORMS),
            ("grouping", grouping, _GROUPINGS),
            ("precision", precision, _PRECISIONS),
        )
        for name, value, known in choices:
            if value not in known:
                raise ValueError(f"unknown {name} {quoted(value)}; known: {', '.join(known)}")
        for name, value in (("chunk_size", chunk_size), ("vmap_width", vmap_width)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value}")
        block = len(devices) * (1 if form == "map" else vmap_width)
        if chunk_size is None:
            chunk_size = len(devices) * (_MAP_CHUNK if form == "map" else vmap_width)
        ahead = any(device.platform != "cpu" for device in devices)
        chunk_size = -(-chunk_size // block) * block
        return cls(devices, form, chunk_size, vmap_width, grouping, precision, ahead, auto and form == "vmap")

    def replicate(self, tree: Any) -> Any:
        """Put a pytree of arrays on every device."""
        return jax.device_put(tree, NamedSharding(candidates_mesh(self.devices), PartitionSpec()))

    @property
    def label(self) -> str:
        """The part that losses depend on, as text for the record of a run."""
        parts = [self.form if self.form == "map" else f"vmap {self.vmap_width}"]
        if self.grouping == "fine":
            parts.append("fine groups")
        if self.precision != "default":
            parts.append(f"{self.precision} products")
        return ", ".join(parts)

    def widened(self, width: int) -> Execution:
        """Return an execution with batches of ``width``, one batch per device and chunk."""
        return dataclasses.replace(self, vmap_width=width, chunk_size=len(self.devices) * width, auto_width=False)

    def halved(self) -> Execution | None:
        """Return an execution with half the candidates at a time; None if each device has only one."""
        devices = len(self.devices)
        width = 1 if self.form == "map" else self.vmap_width
        if self.chunk_size > devices * width:
            blocks = self.chunk_size // (devices * width)
            return dataclasses.replace(self, chunk_size=blocks // 2 * devices * width)
        if width == 1:
            return None
        return dataclasses.replace(self, chunk_size=devices * (width // 2), vmap_width=width // 2)

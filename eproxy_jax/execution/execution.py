"""How candidates are spread over devices: forms, batches, groupings, precision.

Execution forms:
  * ``map``: candidates of a device run one after the other (``lax.map``), each paying for its own operations only. For
    CPUs.
  * ``vmap``: candidates of a device run in batches of one fixed width. For accelerators.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eproxy_jax.nn.precision import BFLOAT16_PRODUCTS

Form = Literal["map", "vmap"]
Grouping = Literal["coarse", "fine"]
Precision = Literal["default", "float32", "bfloat16"]
Device: TypeAlias = Any  # jax.Device, which type checkers take for a variable

AXIS = "candidates"
_FORMS = ("map", "vmap")
_GROUPINGS = ("coarse", "fine")
# What each precision is for jax.default_matmul_precision.
_PRECISIONS = {"default": None, "float32": "highest", "bfloat16": BFLOAT16_PRODUCTS}
# Candidates of one block of the vmap form. Rounding depends on a batch's size, so it is fixed, whatever the chunks.
VMAP_WIDTH = 32
MAX_VMAP_WIDTH = 512
# Candidates per device and chunk of the map form: few, so that results are safe on disk every few seconds.
_MAP_CHUNK = 4


def default_form(devices: Sequence[Device]) -> Form:
    """``map`` on CPUs, ``vmap`` on accelerators."""
    return "map" if all(device.platform == "cpu" for device in devices) else "vmap"


def matmul_precision(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """What programs of a precision are traced in."""
    return jax.default_matmul_precision(_PRECISIONS[precision])


def candidates_mesh(devices: Sequence[Device]) -> Mesh:
    """A 1-D mesh over the candidate axis."""
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


@dataclasses.dataclass(frozen=True)
class Execution:
    """How candidates are spread over devices; does not change their losses within one form.

    Attributes:
      devices: devices to run on.
      form: execution form.
      chunk_size: candidates per dispatched chunk, a multiple of the number of devices.
      vmap_width: candidates of one block of the vmap form; rounding depends on it.
      grouping: ``coarse``, few programs, or ``fine``, more of them, which waste less work in the vmap form. Rounding
        depends on it; that of fine groups in the vmap form also on the number of devices (seen on the CPU, 4e-7 at
        the second step).
      precision: of the operands of matrix products. ``default`` is the backend's own way with float32: exact on CPUs,
        rounded to tf32 or bfloat16 on accelerators. ``float32`` is exact everywhere. ``bfloat16`` rounds operands.
        Sums, statistics, weights and activations are float32 in all three.
      compile_ahead: compile a group's program while the one before runs; on CPUs the two only get in each other's way.
      auto_width: widen batches to what the devices' memory holds, once programs are known (``vmap_width="auto"``).
        The last digits of losses then depend on that memory.

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
        """Fill in what is absent: this process's devices, the form of their platform, a chunk of a few seconds.

        Args:
          devices: devices to run on; this process's by default.
          form: ``"map"`` or ``"vmap"``; by the devices' platform when absent.
          chunk_size: candidates per dispatched chunk.
          vmap_width: candidates of one block of the vmap form. ``"auto"`` starts at ``VMAP_WIDTH`` and is widened to
            what the devices' memory holds.
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
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
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
        """Put what all candidates share on every device."""
        return jax.device_put(tree, NamedSharding(candidates_mesh(self.devices), PartitionSpec()))

    @property
    def label(self) -> str:
        """What of it the losses depend on, for the record of a run."""
        parts = [self.form if self.form == "map" else f"vmap {self.vmap_width}"]
        if self.grouping == "fine":
            parts.append("fine groups")
        if self.precision != "default":
            parts.append(f"{self.precision} products")
        return ", ".join(parts)

    def widened(self, width: int) -> Execution:
        """The same in the vmap form with batches of ``width``, one a device and chunk."""
        return dataclasses.replace(self, vmap_width=width, chunk_size=len(self.devices) * width, auto_width=False)

    def halved(self) -> Execution | None:
        """The same with half the candidates at a time; None where there is one a device."""
        devices = len(self.devices)
        width = 1 if self.form == "map" else self.vmap_width
        if self.chunk_size > devices * width:
            blocks = self.chunk_size // (devices * width)
            return dataclasses.replace(self, chunk_size=blocks // 2 * devices * width)
        if width == 1:
            return None
        return dataclasses.replace(self, chunk_size=devices * (width // 2), vmap_width=width // 2)

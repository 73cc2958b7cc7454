"""This module says where the maps of an NDS cell network lie on the interpreter's tapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from eproxy_jax.spaces.nds_cells.encoding import WIDE, Machine
from eproxy_jax.spaces.nds_cells.program import NUM_STAGES


@dataclasses.dataclass(frozen=True)
class Layout:
    """The places of things on the tapes, for images of one size.

    Attributes:
      machine: the machine.
      batch: B.
      size: height and width of the images.
    """

    machine: Machine
    batch: int
    size: tuple[int, int]

    @classmethod
    def of(cls, machine: Machine, stem: tuple[int, ...]) -> Layout:
        """Make the layout behind a stem's output [B, H, W, C]."""
        return cls(machine, stem[0], (stem[1], stem[2]))

    def map(self, stage: int, channels_stage: int | None = None) -> tuple[int, int, int, int]:
        """Return the shape of a map of a stage, with the channels of another one if given."""
        height, width = (-(-n // 2**stage) for n in self.size)
        channels = self.machine.width * 2 ** (stage if channels_stage is None else channels_stage)
        return self.batch, height, width, channels

    def slot(self, stage: int) -> int:
        """Count the numbers in a slot."""
        return int(np.prod(self.map(stage)))

    def _stage(self, stage: int) -> tuple[int, int]:
        """Return where the values of a stage, and what is kept of it, begin."""
        values, saved = self.machine.stage_slots()
        before = sum(map(self.slot, range(stage)))
        return before * values, before * saved

    def value(self, stage: int, slot: Any) -> Any:
        """Return where a slot is on the tape of values."""
        return self._stage(stage)[0] + slot * self.slot(stage)

    def saved(self, stage: int, slot: Any) -> Any:
        """Return where a slot is on the tape of what is kept."""
        return self._stage(stage)[1] + slot * self.slot(stage)

    def lengths(self) -> tuple[int, int]:
        """Return the lengths of the two tapes.

        Raises:
          ValueError: one is too long to be indexed.
        """
        values, saved = self._stage(NUM_STAGES)
        # An input of the last cell is read as if it were wide.
        lengths = values + WIDE * self.slot(NUM_STAGES - 1), saved
        if max(lengths) >= 2**31:
            raise ValueError(
                f"NDS networks of width {self.machine.width} with up to {self.machine.places} normal cells a stage do "
                f"not fit on {self.batch} images of {self.size[0]}x{self.size[1]}: choose smaller or fewer images, or "
                "a larger width_divisor"
            )
        return lengths

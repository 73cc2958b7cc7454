"""This module holds a fit as it is saved: the ranking, and what its columns are made of; and the form of its files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax import files
from eproxy_jax.errors import quoted
from eproxy_jax.fits import fitted as fits
from eproxy_jax.runs import outputs
from eproxy_jax.runs.gathering import GENOME, need_of
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_OK

MARK = "fit"  # the field of a file of a fit; its value is the fit's fingerprint
_FIELDS = (MARK, "made_with", "columns", "model")


@dataclasses.dataclass(frozen=True, eq=False)
class SavedFit:
    """A fit, and what its columns are made of.

    Attributes:
      fitted: the fit.
      needs: what each of its columns is, see :class:`Gathered`.
      made_with: what the columns depend on besides.
      mark: fingerprint of columns, labels and method.
    """

    fitted: fits.Fitted
    needs: dict[str, dict[str, Any]]
    made_with: dict[str, Any]
    mark: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {
            MARK: self.mark,
            "made_with": self.made_with,
            "columns": self.needs,
            "model": self.fitted.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SavedFit:
        """Invert :meth:`to_dict`.

        Raises:
          ValueError: a field is absent, or has no such value.
        """
        if not isinstance(values, Mapping) or any(name not in values for name in _FIELDS):
            raise ValueError(f"a saved fit has the fields {', '.join(_FIELDS)}; got {quoted(values)}")
        fitted = fits.Fitted.from_dict(values["model"])
        needs, made_with = values["columns"], values["made_with"]
        for name in fitted.names:
            need = needs.get(need_of(name, needs)) if isinstance(needs, dict) else None
            if not isinstance(need, dict) or not {"proxy", "settings", GENOME, "file"} & need.keys():
                raise ValueError(f"a saved fit: columns: nothing says what {quoted(name)} is: fit it again")
        if not isinstance(made_with, dict) or "space" not in made_with or not isinstance(values[MARK], str):
            raise ValueError("a saved fit: made_with, fit: expected an object with a space, and a text: fit it again")
        return cls(fitted, needs, made_with, values[MARK])

    @property
    def reads_images(self) -> bool:
        """Whether a column of another proxy than Eproxy may read images, which are 128 then."""
        return "images" in self.made_with


def load(path: str | os.PathLike[str]) -> SavedFit:
    """Read a saved fit.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a saved fit.
    """
    try:
        return SavedFit.from_dict(json.loads(files.read_text(path, "saved fit")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def as_lines(archs: Sequence[str], score: np.ndarray, deviation: np.ndarray, more: Mapping[str, Any]) -> list[str]:
    """Return one JSON line an architecture: arch, score, std, status; null for disconnected networks."""
    lines = []
    for arch, value, spread in zip(archs, score.tolist(), deviation.tolist(), strict=True):
        ok = bool(np.isfinite(value))
        row = {"arch": arch, "score": value if ok else None, "std": spread if ok else None}
        lines.append(json.dumps({**row, "status": STATUS_OK if ok else STATUS_DISCONNECTED, **more}) + "\n")
    return lines


def check_lines(path: Path, mark: str, value: str) -> None:
    """Check that a file of JSON lines is absent, or that its first line holds a mark of who wrote it.

    Raises:
      ValueError: it does not; the file is left as it is.
    """
    if not files.writable(path).exists():
        return
    try:
        row = json.loads(files.read_bytes(path, "file of lines").partition(b"\n")[0])
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or mark not in row:
        raise ValueError(f"{path}: not written by this command, and left as it is: {outputs.ELSEWHERE}")
    if row[mark] != value:
        what = f"of another {mark} ({quoted(row[mark])}; this one is {quoted(value)})"
        raise ValueError(f"{path}: {what}: {outputs.ELSEWHERE}")

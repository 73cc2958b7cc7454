"""This module defines columns: named numbers per architecture, whatever computed them.

A fit takes columns and labels, and nothing in it knows what a column means. Columns are scores: higher is better by
convention, so the column of a loss is its negative. A fit may still find that a column ranks a task backwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.errors import check_known, listed, quoted

if TYPE_CHECKING:
    from jaxtyping import Float64

LOSSES, SIZES, GRAPH, PROXIES = "losses", "sizes", "graph", "proxies"
MACS, PARAMS = "macs", "params"  # columns of the block of sizes


def usual_block(name: str) -> str:
    """Return the block of a column that ``eproxy score`` names so; "proxies" if nothing else fits.

    Example:
      >>> [usual_block(name) for name in ("macs", "eproxy:a", "graph_counts", "jacov")]
      ['sizes', 'losses', 'graph', 'proxies']
    """
    if name in (MACS, PARAMS):
        return SIZES
    first = name.partition(":")[0]
    return {"eproxy": LOSSES, "graph_counts": GRAPH}.get(first, PROXIES)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Columns:
    """Numbers of A architectures in C named columns.

    Attributes:
      archs: A distinct strings, for example canonical ones.
      names: C distinct names.
      values: [A, C]; NaN is unknown, ``-inf`` is the worst. The array is read-only.
      blocks: the block of each column, such as "losses", "proxies", "sizes" or "graph". A fit scales every block as a
        whole, so that 200 counts of a graph do not outweigh two sizes.
    """

    archs: tuple[str, ...]
    names: tuple[str, ...]
    values: Float64[np.ndarray, "A C"]
    blocks: tuple[str, ...]

    def __post_init__(self):
        values = np.array(self.values, np.float64)  # a copy: the caller's array stays writable
        values.setflags(write=False)
        for field, value in (("archs", self.archs), ("names", self.names), ("blocks", self.blocks)):
            object.__setattr__(self, field, tuple(value))
        object.__setattr__(self, "values", values)
        shape = (len(self.archs), len(self.names))
        if values.shape != shape:
            raise ValueError(
                f"columns: values of {shape[0]} architectures in {shape[1]} columns have the shape {shape}, "
                f"got {values.shape}"
            )
        if len(self.blocks) != len(self.names):
            raise ValueError(f"columns: expected a block for each of {len(self.names)} names, got {len(self.blocks)}")
        _check_distinct(self.archs, "architecture")
        _check_distinct(self.names, "name")
        if np.isposinf(values).any():
            arch, column = np.argwhere(np.isposinf(values))[0]
            raise ValueError(
                f"columns: {quoted(self.names[column])} of {quoted(self.archs[arch])} is +inf: "
                "give an unknown value as NaN, the worst as -inf, and logarithms of what overflows"
            )

    @classmethod
    def of(cls, archs: Iterable[str], columns: Mapping[str, Any], block: str | None = None) -> Columns:
        """Make columns of vectors, for example those of a ``ColumnsResult``.

        Args:
          archs: A strings.
          columns: vectors [A] by name. Of a matrix [A, F] each column is one of its own: ``name:0``, ``name:1``, ...
          block: the block of all columns; by default that of each name (:func:`usual_block`).

        Raises:
          ValueError: lengths differ, or see the class.

        Example:
          >>> columns = Columns.of(["a", "b"], {"macs": [1, 2], "graph_counts": [[3, 1], [4, 1]]})
          >>> columns.names, columns.blocks
          (('macs', 'graph_counts:0', 'graph_counts:1'), ('sizes', 'graph', 'graph'))
        """
        archs, names, values = tuple(archs), [], []
        for name, column in columns.items():
            array = np.asarray(column, np.float64)
            if array.ndim not in (1, 2) or len(array) != len(archs):
                raise ValueError(
                    f"columns: {quoted(name)}: expected one value or row for each of {len(archs)} architectures, "
                    f"got the shape {array.shape}"
                )
            names += [name] if array.ndim == 1 else [f"{name}:{i}" for i in range(array.shape[1])]
            values.append(array.reshape(len(archs), -1) if array.size else np.zeros((len(archs), 0)))
        blocks = tuple(usual_block(name) if block is None else block for name in names)
        return cls(archs, tuple(names), np.concatenate(values, 1) if values else np.zeros((len(archs), 0)), blocks)

    def __repr__(self) -> str:
        return f"<Columns: {len(self.archs)} architectures, {listed(self.names)}>"

    def __len__(self) -> int:
        """Return the number of architectures."""
        return len(self.archs)

    def column(self, name: str) -> Float64[np.ndarray, " A"]:
        """Return the values [A] of one column.

        Raises:
          ValueError: there is none of this name.
        """
        return self.select([name]).values[:, 0]

    def select(self, names: Sequence[str]) -> Columns:
        """Return some columns, in the order of ``names``.

        Raises:
          ValueError: a name is unknown.
        """
        place = {name: i for i, name in enumerate(self.names)}
        if unknown := [name for name in names if name not in place]:
            check_known(unknown[:1], self.names, "columns", "column")
        chosen = [place[name] for name in names]
        return Columns(self.archs, tuple(names), self.values[:, chosen], tuple(self.blocks[i] for i in chosen))

    def block(self, *blocks: str) -> Columns:
        """Return the columns of some blocks; none if there is no such block."""
        return self.select([name for name, own in zip(self.names, self.blocks, strict=True) if own in blocks])

    def rows(self, archs: Iterable[str]) -> Columns:
        """Return the rows of some architectures, in their order.

        Raises:
          ValueError: an architecture has no row.
        """
        archs = tuple(archs)
        place = {arch: i for i, arch in enumerate(self.archs)}
        if absent := [arch for arch in archs if arch not in place]:
            raise ValueError(
                f"columns: {len(absent)} of {len(archs)} architectures have no row: {listed(map(quoted, absent), 3)}; "
                "compute their columns, or write them as the columns do"
            )
        return Columns(archs, self.names, self.values[[place[arch] for arch in archs]], self.blocks)

    def join(self, *others: Columns, partial: bool = False) -> Columns:
        """Return the columns of all, side by side, for the architectures of this one.

        Args:
          others: further columns, of other names.
          partial: True lets others lack architectures; their values there are unknown (NaN).

        Raises:
          ValueError: a name stands in two of them, or others lack architectures and ``partial`` is False.
        """
        joined: list[Columns] = [self]
        for other in others:
            if partial:
                known = set(other.archs)
                own = other.rows(arch for arch in self.archs if arch in known)
                values = np.full((len(self), len(other.names)), np.nan)
                values[[i for i, arch in enumerate(self.archs) if arch in known]] = own.values
                joined.append(Columns(self.archs, other.names, values, other.blocks))
            else:
                joined.append(other.rows(self.archs))
        return Columns(
            self.archs,
            tuple(name for part in joined for name in part.names),
            np.concatenate([part.values for part in joined], 1),
            tuple(block for part in joined for block in part.blocks),
        )


def _check_distinct(items: Sequence[str], what: str) -> None:
    seen = set()
    for item in items:
        if not isinstance(item, str):
            raise ValueError(f"columns: expected a string for every {what}, got {quoted(item)}")
        if item in seen:
            raise ValueError(f"columns: the {what} {quoted(item)} stands there twice: keep one of them")
        seen.add(item)

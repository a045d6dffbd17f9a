"""What every table has: columns, blocks, a fingerprint, and the part of it that one client scores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.table.blocks import Block, Piece, class_indices, regroup
from ruo.table.cells import to_array

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Source", "Span", "Table", "fingerprint_table"]

Source: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | pl.DataFrame"


class Span(NamedTuple):
    """Part number `part`, from 0, `of` so many: from `begin` to `end` (not included) of `size` bytes or rows."""

    part: int
    of: int
    begin: int
    end: int
    size: int


class Table:
    """A table to score; `open_table` makes one. `features` and `labels` are the names of its columns."""

    name: str
    features: list[str]
    labels: list[str]
    rows: int | None = None  # where it is known before the table is read
    span: Span | None = None  # the part of the table that this is; None for all of it
    _is_stopped = False

    def blocks(
        self, chunk_size: int | Callable[[int], int | None] | None, dtype: np.dtype[Any] | type = np.float32
    ) -> Generator[Block]:
        """Read the table once from the start, in row order.

        Parameters
        ----------
        chunk_size : int, callable or None
            Rows of a block (the last one has the rest), None for one block of all rows. A function gives the size of
            the block that begins at a row, and is called when that block is asked for.
        dtype : numpy.dtype, default float32
            The datatype of the features.

        Raises
        ------
        TableError
            For a cell that the datatype cannot hold, and for a row that is short or long.
        """
        is_empty = True
        for block in regroup(self._read(np.dtype(dtype)), chunk_size if callable(chunk_size) else lambda _: chunk_size):
            is_empty = False
            yield block
        if is_empty and self.span is None:
            raise TableError(f"{self.name} has no rows below its header: there is nothing to score.")

    def stop(self) -> None:
        """End the reading, from any thread: `blocks` raises TableError after the piece that is being read."""
        self._is_stopped = True

    def fingerprint(self) -> str:
        """The SHA-256 of what would be read."""
        raise NotImplementedError

    def expected_rows(self) -> int | None:
        """How many rows there are: exactly where known, estimated once some are read, else None."""
        return self.rows

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        raise NotImplementedError

    def _read(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        for piece in self._pieces(dtype):
            if self._is_stopped:
                raise TableError(f"The reading of {self.name} was stopped before its end.")
            yield piece

    def _piece(self, frame: pl.DataFrame, dtype: np.dtype[Any]) -> Piece:
        features = to_array(frame[self.features], dtype)  # a selection would be planned first, which takes longer
        return Piece(features, class_indices(frame[self.labels]) if self.labels else None)

    def _set_span(self, shard: tuple[int, int], size: int, unit: str, place: Callable[[int], int]) -> Span:
        """Remember which part this is; `place` moves a boundary to where the table can be cut."""
        index, of = shard
        begin, end = (place(boundary) for boundary in (index, index + 1))
        self.span = Span(index, of, begin, end, size)
        self.name += f", part {index} of {of} (from {unit} {begin:,} on)"
        return self.span

    def _set_columns(self, columns: list[str], label_prefix: str) -> None:
        repeated = [name for name in columns if columns.count(name) > 1]
        if repeated:
            raise TableError(f"{self.name} has the column {repeated[0]!r} twice; give each column its own name.")
        self.labels = [name for name in columns if name.startswith(label_prefix)] if label_prefix else []
        self.features = [name for name in columns if name not in set(self.labels)]
        if not self.features:
            raise TableError(
                f"{self.name} has no feature columns: the names of all its {len(columns)} columns start with "
                f"{label_prefix!r}; pass another label_prefix."
            )


def fingerprint_table(source: Source) -> str:
    """The SHA-256 of a table: of the file at a path, or of a DataFrame's column names, types and cells.

    A pandas DataFrame's does not depend on its index. Raises ArgumentError for a path that does not exist.
    """
    if isinstance(source, (str, os.PathLike)):
        return fingerprint(source)
    whole = hashlib.sha256()
    for name in source.columns:
        values = source[name].to_numpy()
        is_numeric = values.dtype.kind in "biuf"
        cells = [values.tobytes()] if is_numeric else [str(cell).encode() for cell in values.tolist()]
        for part in (str(name).encode(), values.dtype.str.encode(), *cells):
            whole.update(len(part).to_bytes(8, "little"))
            whole.update(part)
    return whole.hexdigest()

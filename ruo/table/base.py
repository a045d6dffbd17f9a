"""What every table has: columns, blocks of rows, a fingerprint, and the part that one client scores."""

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
    """Part number `part` (from 0) of `of` parts: from `begin` to `end` (exclusive) out of `size` bytes or rows."""

    part: int
    of: int
    begin: int
    end: int
    size: int


class Table:
    """A table to score, made by `open_table`; `features` and `labels` are the names of its columns."""

    name: str
    features: list[str]
    labels: list[str]
    rows: int | None = None  # None if unknown until the table is read
    index: pd.Index | None = None  # of the rows of a pandas DataFrame
    span: Span | None = None  # the part of the whole table that this is; None for all of it
    _is_stopped = False

    def blocks(
        self, chunk_size: int | Callable[[int], int | None] | None, dtype: np.dtype[Any] | type = np.float32
    ) -> Generator[Block]:
        """Read the table from the start, in row order.

        `chunk_size` is the rows of a block, None for all, or a function as in `regroup`. Raises TableError for a cell
        that the datatype cannot hold, and for a row that is too short or too long.
        """
        is_empty = True
        rows_at = chunk_size if callable(chunk_size) else lambda _: chunk_size
        for block in regroup(self._read(np.dtype(dtype)), rows_at):
            is_empty = False
            yield block
        if is_empty and self.span is None:
            raise TableError(f"{self.name} has no rows below its header: there is nothing to score.")

    def stop(self) -> None:
        """Stop reading, from any thread: `blocks` raises TableError after the current piece."""
        self._is_stopped = True

    def fingerprint(self) -> str:
        """The SHA-256 of the data of the whole table, also where this is a part of it."""
        raise NotImplementedError

    def expected_rows(self) -> int | None:
        """The number of rows: exact if known, an estimate once some are read, else None."""
        return self.rows

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        raise NotImplementedError

    def _read(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        for piece in self._pieces(dtype):
            if self._is_stopped:
                raise TableError(f"Reading {self.name} was stopped before its end.")
            yield piece

    def _piece(self, frame: pl.DataFrame, dtype: np.dtype[Any]) -> Piece:
        features = to_array(frame[self.features], dtype)  # faster than `select`, which makes a plan first
        return Piece(features, class_indices(frame[self.labels]) if self.labels else None)

    def _set_span(self, shard: tuple[int, int], size: int, unit: str, boundary: Callable[[int], int]) -> Span:
        """Make this one part of the table; `boundary(part)` is where a part begins."""
        part, of = shard
        self.span = Span(part, of, boundary(part), boundary(part + 1), size)
        self.name += f", part {part} of {of} (from {unit} {self.span.begin:,} on)"
        return self.span

    def _set_columns(self, columns: list[str], label_prefix: str) -> None:
        repeated = next((name for name in columns if columns.count(name) > 1), None)
        if repeated is not None:
            raise TableError(f"{self.name} has the column {repeated!r} twice; give each column its own name.")
        self.labels = [name for name in columns if name.startswith(label_prefix)] if label_prefix else []
        self.features = [name for name in columns if name not in self.labels]
        if not self.features:
            raise TableError(
                f"{self.name} has no feature columns: the names of all its {len(columns)} columns start with "
                f"{label_prefix!r}; pass another label_prefix."
            )


def fingerprint_table(source: Source) -> str:
    """The SHA-256 of the file at a path, or of a DataFrame's column names, types and cells, without the index."""
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

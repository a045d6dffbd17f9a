"""What every table has: columns, rows in blocks of the request size, a fingerprint, the part that one client scores."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.tables.cells import to_array
from ruo.wire.messages import Array

if TYPE_CHECKING:
    import pandas as pd

Source: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | pl.DataFrame"

# What reading a damaged file raises; polars' panics are no Exceptions.
_DAMAGE = (OSError, EOFError, zlib.error, pl.exceptions.PolarsError, pl.exceptions.PanicException)


Labels = np.ndarray[Any, np.dtype[np.int64]]

NO_LABEL = -1  # marks a row whose label columns do not name exactly one class


class Piece(NamedTuple):
    """Rows from one read: `features` (rows, columns) in C order, `labels` (rows,) class indices or None."""

    features: Array
    labels: Labels | None


class Block(NamedTuple):
    """Rows from row `start` of the table on; `features` and `labels` are those of a `Piece`."""

    start: int
    features: Array
    labels: Labels | None


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
    _read_rows = 0
    _is_stopped = False

    def blocks(
        self, chunk_size: int | Callable[[int], int | None] | None, dtype: np.dtype[Any] | type = np.float32
    ) -> Generator[Block]:
        """Read the table from the start, in row order, in blocks of `chunk_size` rows (None: all; or as in `regroup`).

        Raises TableError for a cell that the datatype cannot hold, and for a row that is too short or too long.
        """
        yield from regroup(self._read(np.dtype(dtype)), chunk_size if callable(chunk_size) else lambda _: chunk_size)
        if not self._read_rows and self.span is None:
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
        self._read_rows = 0
        with self._damage_named():
            for piece in self._pieces(dtype):
                if self._is_stopped:
                    raise TableError(f"Reading {self.name} was stopped before its end.")
                self._read_rows += len(piece.features)
                yield piece

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            message = (
                f"{self.name} is damaged or cannot be read after {self._read_rows:,} rows ({reason}); write it anew."
            )
            raise TableError(message) from error

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
        repeated = next((name for name, count in Counter(columns).items() if count > 1), None)
        if repeated is not None:
            raise TableError(f"{self.name} has the column {repeated!r} twice; give each column its own name.")
        self.labels = [name for name in columns if label_prefix and name.startswith(label_prefix)]
        labels = set(self.labels)
        self.features = [name for name in columns if name not in labels]
        if not self.features:
            raise TableError(
                f"{self.name} has no feature columns: the names of all its {len(columns)} columns start with "
                f"{label_prefix!r}; pass another label_prefix."
            )


def regroup(pieces: Iterator[Piece], rows_at: Callable[[int], int | None]) -> Iterator[Block]:
    """Cut a table's pieces into blocks; rows are copied only where a block spans several pieces.

    `rows_at(start)` is called when the block at row `start` is asked for; it returns the block's size, None for the rest.
    """
    held: list[Piece] = []
    start, count = 0, 0
    size = rows_at(0)
    for piece in pieces:
        while size is not None and count + len(piece.features) >= size:
            head, piece = _slice(piece, slice(size - count)), _slice(piece, slice(size - count, None))
            yield Block(start, *_join([*held, head]))
            held, start, count = [], start + size, 0
            size = rows_at(start)
        if len(piece.features):
            held.append(piece)
            count += len(piece.features)
    if held:
        yield Block(start, *_join(held))


def class_indices(columns: pl.DataFrame) -> Labels:
    """One-hot columns, or one column of whole numbers, as (rows,) class indices; `NO_LABEL` for no class or several."""
    first, *others = (_numbers(column) for column in columns.iter_columns())
    if not others:
        whole = (first >= 0) & (first == np.floor(first)) & (first < 2**24)
        return np.where(whole, first, NO_LABEL).astype(np.int64)
    index, count, valid = np.zeros(len(first), np.int32), np.zeros(len(first), np.int32), np.ones(len(first), np.bool_)
    for position, column in enumerate([first, *others]):  # column by column, as they lie in memory
        hot = column == 1
        index += np.int32(position) * hot
        count += hot
        valid &= hot | (column == 0)
    return np.where(valid & (count == 1), index, NO_LABEL).astype(np.int64)


def _numbers(column: pl.Series) -> Array:
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String):
        return column.cast(pl.Float32, strict=False).to_numpy()
    return np.full(len(column), np.nan, np.float32)  # polars would make numbers of dates and structs


def _join(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    return Piece(np.concatenate([piece.features for piece in pieces]), np.concatenate(labels) if labels else None)


def _slice(piece: Piece, rows: slice) -> Piece:
    return Piece(piece.features[rows], None if piece.labels is None else piece.labels[rows])


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

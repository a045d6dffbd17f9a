"""What every table has: columns, rows in blocks of the request size, a fingerprint, the part that one client scores."""

from __future__ import annotations

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.tables.cells import CellError, to_array
from ruo.tables.columns import Columns, ModelInput, choose, match
from ruo.tables.labels import NO_LABEL, Labels, class_indices, labels_of
from ruo.tables.options import TableOptions
from ruo.wire.messages import ONLY, Array

if TYPE_CHECKING:
    import pandas as pd

POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # its panics are no Exceptions
# What reading a damaged file raises
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, *POLARS_ERRORS)

Shard: TypeAlias = "tuple[int, int] | None"  # (i, n) is the i-th of n parts, from 0; None for the whole table
RowsAt = Callable[[int], int | None]  # from the row at which a block starts to its size; None for all that is left
Dtypes = np.dtype[Any] | type | Mapping[str, Any]  # of all features, or of each input
Types = dict[str, np.dtype[Any]]  # of each feature column


class Block(NamedTuple):
    """Rows from row `start` of the table on.

    `inputs` has the features of each input, (rows, columns) in C order; `labels` are (rows,) class indices or names, None
    without label columns; `kept` has the columns that are not sent.
    """

    start: int
    inputs: dict[str, Array]
    labels: Labels | None
    kept: pl.DataFrame | None = None

    @property
    def array(self) -> Array:
        """The features of the only input."""
        if len(self.inputs) > 1:
            raise TableError(f"Only one input is possible here, the table is for several: {', '.join(self.inputs)}.")
        return next(iter(self.inputs.values()))

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return len(next(iter(self.inputs.values())))

    def cut(self, begin: int, end: int | None = None) -> Block:
        """Some of the rows."""
        rows, (start, inputs, labels, kept) = slice(begin, end), self
        return Block(
            start + begin,
            {name: part[rows] for name, part in inputs.items()},
            None if labels is None else labels[rows],
            None if kept is None else kept[rows],
        )


class Span(NamedTuple):
    """Part number `part` (from 0) of `of` parts: from `begin` to `end` (exclusive) out of `size` bytes or rows."""

    part: int
    of: int
    begin: int
    end: int
    size: int


class Table:
    """A table to score, made by `open_table`; `features`, `labels` and `kept` are the names of its columns.

    `inputs` has the features of each input, by the name that a model or the options give it, `classes` the names of the
    classes where the columns tell them; for one label column of names see `number_classes`.
    """

    name: str
    options: TableOptions
    names: list[str]  # of all columns
    columns: Columns
    features: list[str]
    labels: list[str]
    kept: list[str]
    inputs: dict[str, list[str]]
    rows: int | None = None  # None if unknown until the table is read
    index: pd.Index | None = None  # of the rows of a pandas DataFrame
    span: Span | None = None  # the part of the whole table that this is; None for all of it
    path: Path | None = None  # of the one file
    is_once = False  # the rows can be read once only
    _opened: tuple[int, int] | None = None  # the state of the file when it was opened
    _read_rows = 0
    _is_read = False
    _is_stopped = False

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes of one-hot columns, else None."""
        is_one_hot = self.options.label is None and len(self.labels) > 1
        return [name.removeprefix(self.options.label_prefix) for name in self.labels] if is_one_hot else None

    def number_labels(self, names: Sequence[str]) -> list[str] | None:
        """Number one-hot labels in the order of `names`, if these are their classes; returns the names of the classes."""
        if self.classes is not None and sorted(self.classes) == sorted(names):
            self.take(self.columns._replace(labels=[self.options.label_prefix + name for name in names]))
        return self.classes

    def match(self, model: str, inputs: Sequence[ModelInput]) -> None:
        """Take the features as the inputs of a model want them; raises TableError where they do not fit."""
        self.take(match(self.name, self.columns, model, inputs))

    def take(self, columns: Columns) -> None:
        """Read these columns."""
        self.columns = columns
        self.features, self.labels, self.kept = columns.features, columns.labels, columns.kept
        self.inputs = columns.inputs or {ONLY: columns.features}

    def blocks(self, chunk_size: int | RowsAt | None, dtype: Dtypes = np.float32) -> Generator[Block]:
        """Read the table from the start, in row order, in blocks of `chunk_size` rows (None: all; or as in `regroup`).

        `dtype` is that of all features, or the one of each input by its name; `object` is text, as bytes in UTF-8.
        Raises TableError for a cell that the datatype cannot hold, and for a row that is too short or too long.
        """
        pieces = self.read(self._types(dtype))
        if self.options.label is not None:
            pieces = self._read_labels(pieces)
        yield from regroup(pieces, chunk_size if callable(chunk_size) else lambda _: chunk_size)
        if not self._read_rows and self.span is None:
            raise TableError(f"{self.name} has no rows below its header: there is nothing to score.")

    def stop(self) -> None:
        """Stop reading, from any thread: `blocks` raises TableError after the current piece."""
        self._is_stopped = True

    def fingerprint(self) -> str:
        """The SHA-256 of the file, or of the rows, of the whole table also where this is a part of it."""
        if self.is_once:
            raise read_once(self.name)
        return fingerprint(self.path) if self.path else self._fingerprint()

    def expected_rows(self) -> int | None:
        """The number of rows: exact if known, an estimate once some are read, else None."""
        return self.rows

    def read(self, types: Types) -> Iterator[Block]:
        """Read the rows as they come; `types` has the datatype of each feature column. A single label is a column yet."""
        if self.is_once and self._is_read:
            raise TableError(f"{self.name} was read already, and can be read once only; open it anew.")
        self._read_rows, self._is_read = 0, True
        kept_types: dict[str, pl.DataType] = {}
        with self._errors_named():
            for piece in self._pieces(types):
                if self._is_stopped:
                    raise TableError(f"Reading {self.name} was stopped before its end.")
                for name, kind in {} if piece.kept is None else piece.kept.schema.items():
                    if kept_types.setdefault(name, kind) != kind:
                        what = f"has one type before row {self._read_rows:,} and another from there on"
                        raise TableError(f'{self.name}, column "{name}" {what}; give it one type.', column=name)
                block = piece._replace(start=self._read_rows)
                self._read_rows += block.rows
                yield block
        if (now := _state(self.path)) and now != self._opened:
            raise TableError(f"{self.name} changed while it was read; use it once nothing writes to it any more.")

    def _read_labels(self, pieces: Iterator[Block]) -> Iterator[Block]:
        """Make class numbers of a single label column, or names if the first rows have names."""
        are_names: bool | None = None
        for piece in pieces:
            try:
                labels = labels_of(piece.labels, are_names)
            except CellError as error:
                raise error.named(self._where(piece.start + error.row), piece.start) from None
            if labels.dtype == np.object_ or not (labels == NO_LABEL).all():  # else nothing tells yet
                are_names = labels.dtype == np.object_
            yield piece._replace(labels=labels)

    def _pieces(self, types: Types) -> Iterator[Block]:
        """The rows as one read gives them, megabytes of a file or 20,000 rows of a frame; each starts at 0."""
        raise NotImplementedError

    def _fingerprint(self) -> str:
        raise NotImplementedError

    def _types(self, dtype: Dtypes) -> Types:
        types: Types = {}
        for name, columns in self.inputs.items():
            kind = np.dtype(dtype[name] if isinstance(dtype, Mapping) else dtype)
            for column in columns:
                if types.setdefault(column, kind) != kind:
                    raise TableError(f"The column {column!r} goes to inputs of different datatypes; double the column.")
        return types

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except CellError as error:
            raise error.named(self._where(self._read_rows + error.row), self._read_rows) from None
        except _DAMAGE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            message = f"{self.name} is damaged or cannot be read after {self._read_rows:,} rows ({reason})"
            cure = "write it anew" if self.path or self.is_once else "mend the query, or the file that it reads"
            raise TableError(f"{message}; {cure}.") from error

    def _where(self, row: int) -> str:
        return f"{self.name}, row {row:,}"

    def _block(self, frame: pl.DataFrame, types: Types) -> Block:
        # faster than `select`, which makes a plan first
        return self._block_of(frame, lambda names: to_array(frame[names], types[names[0]]))

    def _block_of(self, frame: pl.DataFrame, features_of: Callable[[list[str]], Array]) -> Block:
        """The labels and kept columns of a frame, and beside them the features, by the names of their columns."""
        inputs = {name: features_of(names) for name, names in self.inputs.items()}
        labels: Any = None
        if self.options.label is not None:
            labels = frame[self.options.label]  # `blocks` makes labels of it
        elif self.labels:
            labels = class_indices(frame[self.labels])
        return Block(0, inputs, labels, frame[self.kept] if self.kept else None)

    def _set_span(
        self, shard: tuple[int, int], unit: str, size: int, first: int = 0, row_at: Callable[[int], int] = int
    ) -> Span:
        """Make this one part of the table, whose rows begin at `first`; `row_at` is where the next row after a place is."""
        part, of = shard
        begin, end = (row_at(first + each * (size - first) // of) if each else first for each in (part, part + 1))
        self.span = Span(part, of, begin, end, size)
        self.name += f", part {part} of {of} (from {unit} {begin:,} on)"
        return self.span

    def _set_columns(self, names: list[str], options: TableOptions) -> None:
        self.names, self.options, self._opened = names, options, _state(self.path)
        self.take(choose(self.name, names, options))


def regroup(pieces: Iterator[Block], rows_at: RowsAt) -> Iterator[Block]:
    """Cut a table's pieces into blocks; rows are copied only where a block spans several pieces.

    `rows_at(start)` is called when the block at row `start` is asked for.
    """
    held: list[Block] = []
    count, size = 0, rows_at(0)
    for piece in pieces:
        while size is not None and count + piece.rows >= size:
            head, piece = piece.cut(0, size - count), piece.cut(size - count)
            yield _join([*held, head])
            held, count, size = [], 0, rows_at(piece.start)
        if piece.rows:
            held.append(piece)
            count += piece.rows
    if held:
        yield _join(held)


def _state(path: Path | None) -> tuple[int, int] | None:
    """What differs once a file was written to or replaced; None for a file that is gone, which can be read to its end.

    Its inode is left out, which some network file systems make up anew.
    """
    with contextlib.suppress(OSError):
        found = path.stat() if path else None
        return found and (found.st_size, found.st_mtime_ns)
    return None


def read_once(name: str) -> TableError:
    """The error for a source that has to be read twice, or in parts, and cannot be."""
    return TableError(f"{name} can be read once only; to use a checkpoint or a part, write it to a file first.")


def _join_labels(labels: Sequence[Labels]) -> Labels:
    """Above the first names may be rows without any, which have `NO_LABEL` yet."""
    if any(part.dtype == np.object_ for part in labels):
        labels = [part if part.dtype == np.object_ else np.full(len(part), None) for part in labels]
    return np.concatenate(labels)


def _join(blocks: list[Block]) -> Block:
    first, *others = blocks
    if not others:
        return first
    _, inputs, labels, kept = zip(*blocks, strict=True)
    return Block(
        first.start,
        {name: np.concatenate([part[name] for part in inputs]) for name in first.inputs},
        None if first.labels is None else _join_labels(labels),
        None if first.kept is None else pl.concat(kept),
    )

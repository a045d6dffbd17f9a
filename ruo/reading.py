"""Any table to blocks of rows: float32 features, in row order, in bounded memory.

A CSV is read in pieces of a few megabytes, cut between rows; a pool of threads parses them (polars lets go of the
interpreter lock), and they are handed on in the order of the file, cut anew to the rows asked for.
"""

from __future__ import annotations

import gzip
import itertools
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from ruo.csvtext import PIECE_BYTES, CsvHeader, cut_between_rows, explain_bad_piece, read_header
from ruo.errors import TableError

if TYPE_CHECKING:
    import pandas as pd

    Source = str | os.PathLike[str] | pd.DataFrame | pl.DataFrame

__all__ = ["Block", "Table", "open_table"]

Features = np.ndarray[Any, np.dtype[np.float32]]
Labels = np.ndarray[Any, np.dtype[np.int64]]

_ROWS_PER_PIECE = 20_000  # of a DataFrame or a Parquet file: about 5 MB of 64 float32 features
_THREADS = min(4, os.cpu_count() or 1)

# Marks a row whose label columns do not name exactly one class.
NO_LABEL = -1


class Block(NamedTuple):
    """Rows from `start` on: `features` (rows, features) float32 in C order; `labels` (rows,) int64 or None."""

    start: int
    features: Features
    labels: Labels | None


class _Part(NamedTuple):
    """A piece of the table, as it was read: like a block that does not know where it starts."""

    features: Features
    labels: Labels | None


class Table:
    """A table to score: its column names, and `blocks`, which reads it once from the start."""

    name: str
    features: list[str]
    labels: list[str]
    rows: int | None = None  # where it is known before the table is read

    def blocks(self, chunk_size: int | None) -> Generator[Block]:
        """Blocks of `chunk_size` rows (the last one has the rest; None: one block of all rows), in row order.

        Raises TableError for a cell that is not a number and for a row that is short or long.
        """
        start = 0
        for part in _regroup(self._parts(), chunk_size):
            yield Block(start, part.features, part.labels)
            start += len(part.features)
        if start == 0:
            raise TableError(f"{self.name} has no rows below its header: there is nothing to score.")

    def expected_rows(self) -> int | None:
        """How many rows there are: exactly where known, estimated once some are read, else None."""
        return self.rows

    def _parts(self) -> Iterator[_Part]:
        raise NotImplementedError

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


def open_table(source: Source, label_prefix: str = "Label_") -> Table:
    """Open a CSV, gzipped CSV or Parquet file, or a pandas or polars DataFrame.

    Columns whose names start with `label_prefix` are labels, all others are features. Raises TableError for a
    missing or empty file, a table without feature columns, and a feature column that does not hold numbers.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise TableError(f"{path} {what}; pass the path of a CSV or Parquet file.")
        if path.name.endswith((".parquet", ".pq")):
            return _ParquetTable(path.name, pl.scan_parquet(path), label_prefix)
        return _CsvTable(path, label_prefix)
    if isinstance(source, pl.DataFrame):
        return _FrameTable("the DataFrame", source.lazy(), label_prefix)
    if type(source).__module__.startswith("pandas") and hasattr(source, "columns"):
        return _FrameTable("the DataFrame", _from_pandas(source).lazy(), label_prefix)
    raise TableError(f"A {type(source).__name__} is not a table; pass a path or a pandas or polars DataFrame.")


class _CsvTable(Table):
    def __init__(self, path: Path, label_prefix: str) -> None:
        self.name = path.name
        self._path = path
        self._read_bytes = 0
        self._read_rows = 0
        with self._open() as stream:
            self._header: CsvHeader = read_header(stream, self.name)
        self._set_columns(self._header.columns, label_prefix)
        # from fast to slow: all numbers; labels that are text; numbers with blanks around them
        numbers: dict[str, Any] = dict.fromkeys(self._header.columns, pl.Float32)
        text: dict[str, Any] = dict.fromkeys(self._header.columns, pl.String)
        self._schemas = [numbers, {**numbers, **dict.fromkeys(self.labels, pl.String)}, text]
        self._schema = 0

    def expected_rows(self) -> int | None:
        if not self._read_rows:
            return None
        return max(self._read_rows, round(self._read_rows * self._path.stat().st_size / self._read_bytes))

    def _open(self) -> IO[bytes]:
        with self._path.open("rb") as stream:
            is_gzip = stream.read(2) == b"\x1f\x8b"  # gzip's magic number, whatever the file is called
        return gzip.open(self._path) if is_gzip else self._path.open("rb")  # type: ignore[return-value]

    def _parts(self) -> Iterator[_Part]:
        rows = 0
        with self._open() as stream, ThreadPoolExecutor(_THREADS, "ruo-read") as pool:
            stream.read(self._header.size)
            underlying = getattr(stream, "fileobj", stream)
            waiting: deque[tuple[bytes, int, Future[_Part | None]]] = deque()
            pieces = cut_between_rows(stream, PIECE_BYTES)
            try:
                while True:
                    for piece in itertools.islice(pieces, _THREADS + 1 - len(waiting)):
                        waiting.append((piece, underlying.tell(), pool.submit(self._parse, piece)))
                    if not waiting:
                        return
                    piece, self._read_bytes, future = waiting.popleft()
                    part = future.result()
                    if part is None:
                        raise explain_bad_piece(piece, self._header, self.features, rows, self.name)
                    rows += len(part.features)
                    self._read_rows = rows
                    yield part
            except (gzip.BadGzipFile, EOFError) as error:
                raise TableError(f"{self.name} is a damaged gzip file ({error}); rows read: {rows:,}.") from error
            finally:
                pool.shutdown(cancel_futures=True)

    def _parse(self, piece: bytes) -> _Part | None:
        """The piece's rows, or None where the slow reader must say what is wrong with it."""
        columns = self._header.columns
        for number, schema in enumerate(self._schemas):
            if number < self._schema:
                continue  # it did not fit an earlier piece
            try:
                frame = pl.read_csv(piece, has_header=False, schema=schema)
                frame = frame.with_columns(_to_number(name) for name in self.features if schema[name] == pl.String)
            except pl.exceptions.PolarsError:
                continue
            self._schema = number
            # polars fills a short row with nulls, so a null in the last column may be a missing cell
            if frame[columns[-1]].null_count() and self._header.has_ragged_rows(piece, frame.height):
                return None
            return _part(frame, self.features, self.labels)
        return None


def _to_number(column: str) -> pl.Expr:
    """Text to numbers, with blanks around them; raises PolarsError where it is something else."""
    text = pl.col(column).str.strip_chars()
    return pl.when(text == "").then(None).otherwise(text).cast(pl.Float32).alias(column)


class _FrameTable(Table):
    def __init__(self, name: str, frame: pl.LazyFrame, label_prefix: str) -> None:
        self.name = name
        try:
            schema = frame.collect_schema()
            self.rows = frame.select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise TableError(f"{name} cannot be read: {str(error).splitlines()[0]}.") from error
        self._set_columns(schema.names(), label_prefix)
        self._frame = frame
        for column in self.features:
            if not (schema[column].is_numeric() or schema[column] == pl.Boolean):
                raise self._not_numeric(column, str(schema[column]))

    def _not_numeric(self, column: str, dtype: str) -> TableError:
        numbers = pl.col(column).cast(pl.String, strict=False).cast(pl.Float64, strict=False)
        found = self._frame.with_row_index("_ruo_row").filter(numbers.is_null() & pl.col(column).is_not_null())
        bad = found.select("_ruo_row", column).head(1).collect()
        if bad.is_empty():
            return TableError(
                f'{self.name}, column "{column}" has the type {dtype}; convert it to numbers.', column=column
            )
        row, value = bad.row(0)
        return TableError(
            f'{self.name}, row {row:,}, column "{column}": {str(value)[:40]!r} is not a number; mend the cell, '
            "or leave the column out.",
            row=row,
            column=column,
        )

    def _parts(self) -> Iterator[_Part]:
        frame = self._frame.collect()  # a DataFrame in memory already: nothing is copied
        for start in range(0, frame.height, _ROWS_PER_PIECE):
            yield _part(frame.slice(start, _ROWS_PER_PIECE), self.features, self.labels)


class _ParquetTable(_FrameTable):
    def _parts(self) -> Iterator[_Part]:
        for frame in self._frame.collect_batches(chunk_size=_ROWS_PER_PIECE, maintain_order=True):
            yield _part(frame, self.features, self.labels)


def _from_pandas(frame: pd.DataFrame) -> pl.DataFrame:
    """The frame's columns, shared where their memory allows it; polars' own way would need pyarrow."""
    columns: dict[str, Any] = {}
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position]
        if str(name) in columns:
            raise TableError(f"the DataFrame has the column {name!r} twice; give each column its own name.")
        kind = getattr(column.dtype, "kind", "O")
        if kind in "biuf" and not isinstance(column.dtype, np.dtype):  # pandas' nullable numbers
            columns[str(name)] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        elif kind in "biuf":
            columns[str(name)] = column.to_numpy()
        else:
            columns[str(name)] = pl.Series([None if cell is None else str(cell) for cell in column], dtype=pl.String)
    return pl.DataFrame(columns)


def _part(frame: pl.DataFrame, features: list[str], labels: list[str]) -> _Part:
    wanted = frame.select(pl.col(features).cast(pl.Float32))
    return _Part(wanted.to_numpy(order="c"), _class_indices(frame.select(labels)) if labels else None)


def _class_indices(columns: pl.DataFrame) -> Labels:
    """One-hot columns, or a single column of whole numbers, to (rows,) int64; NO_LABEL where they name no class."""
    first, *others = (column.cast(pl.Float32, strict=False).to_numpy() for column in columns.iter_columns())
    if not others:
        whole = (first >= 0) & (first == np.floor(first)) & (first < 2**24)
        return np.where(whole, first, NO_LABEL).astype(np.int64)
    index, count, valid = np.zeros(len(first), np.int64), np.zeros(len(first), np.int64), np.ones(len(first), np.bool_)
    for position, column in enumerate([first, *others]):  # column by column, as they lie in memory
        hot = column == 1
        index += position * hot
        count += hot
        valid &= hot | (column == 0)
    return np.where(valid & (count == 1), index, NO_LABEL)


def _regroup(parts: Iterator[_Part], size: int | None) -> Iterator[_Part]:
    """The same rows in parts of `size` rows; rows are copied only where a part spans two pieces."""
    held: list[_Part] = []
    count = 0
    for part in parts:
        while size is not None and count + len(part.features) >= size:
            head, part = _slice(part, slice(size - count)), _slice(part, slice(size - count, None))
            yield _join([*held, head])
            held, count = [], 0
        if len(part.features):
            held.append(part)
            count += len(part.features)
    if held:
        yield _join(held)


def _join(parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    labels = [part.labels for part in parts if part.labels is not None]
    return _Part(np.concatenate([part.features for part in parts]), np.concatenate(labels) if labels else None)


def _slice(part: _Part, rows: slice) -> _Part:
    return _Part(part.features[rows], None if part.labels is None else part.labels[rows])

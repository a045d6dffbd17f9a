"""Any table to blocks of rows: float32 features, in row order, in bounded memory.

A CSV is read in pieces of a few megabytes, cut between rows; a pool of threads parses them (polars lets go of the
interpreter lock), and they are handed on in the order of the file, cut anew to the rows asked for. Of a table that
several clients score, each reads its own part: of a CSV so many bytes, cut at a row's end.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.table.blocks import Block, Part, regroup
from ruo.table.csvtext import (
    PIECE_BYTES,
    ByteRange,
    CsvHeader,
    cut_between_rows,
    explain_bad_piece,
    read_header,
    row_start,
)
from ruo.table.labels import class_indices

if TYPE_CHECKING:
    import pandas as pd

    Source = str | os.PathLike[str] | pd.DataFrame | pl.DataFrame

__all__ = ["Span", "Table", "fingerprint_table", "open_table"]

_ROWS_PER_PIECE = 20_000  # of a DataFrame or a Parquet file: about 5 MB of 64 float32 features
_THREADS = min(4, os.cpu_count() or 1) + 1  # while one hands its rows on, the others keep every CPU busy


class Span(NamedTuple):
    """The part `part`, from 0, `of` so many even ones: from `begin` to `end` (not included) of `size` bytes or rows."""

    part: int
    of: int
    begin: int
    end: int
    size: int


class Table:
    """A table to score: its column names, and `blocks`, which reads it once from the start."""

    name: str
    features: list[str]
    labels: list[str]
    rows: int | None = None  # where it is known before the table is read
    span: Span | None = None  # of a table that is scored in parts

    def blocks(self, chunk_size: int | Callable[[int], int | None] | None) -> Generator[Block]:
        """Blocks of `chunk_size` rows (the last one has the rest; None: one block of all rows), in row order.

        A function gives the size of the block that begins at a row, and is called when that block is asked for.
        Raises TableError for a cell that is not a number and for a row that is short or long.
        """
        found = False
        for block in regroup(self._parts(), chunk_size if callable(chunk_size) else lambda _: chunk_size):
            found = True
            yield block
        if not found and self.span is None:
            raise TableError(f"{self.name} has no rows below its header: there is nothing to score.")

    def fingerprint(self) -> str:
        """The SHA-256 of what would be read."""
        raise NotImplementedError

    def expected_rows(self) -> int | None:
        """How many rows there are: exactly where known, estimated once some are read, else None."""
        return self.rows

    def _parts(self) -> Iterator[Part]:
        raise NotImplementedError

    def _part(self, frame: pl.DataFrame) -> Part:
        features = frame[self.features]  # a selection would be planned first, which takes longer
        if set(features.dtypes) != {pl.Float32}:
            features = features.cast(pl.Float32)
        return Part(features.to_numpy(order="c"), class_indices(frame[self.labels]) if self.labels else None)

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


def open_table(source: Source, label_prefix: str = "Label_", shard: tuple[int, int] | None = None) -> Table:
    """Open a CSV, gzipped CSV or Parquet file, or a pandas or polars DataFrame.

    Columns whose names start with `label_prefix` are labels, all others are features. `shard` (i, n) opens only the
    i-th of n even parts, counted from 0. Raises TableError for a missing or empty file, a table without feature
    columns, and a feature column that does not hold numbers.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise TableError(f"{path} {what}; pass the path of a CSV or Parquet file.")
        if path.name.endswith((".parquet", ".pq")):
            return _ParquetTable(path, label_prefix, shard)
        return _CsvTable(path, label_prefix, shard)
    if isinstance(source, pl.DataFrame):
        return _FrameTable("the DataFrame", source.lazy(), label_prefix, shard)
    if type(source).__module__.startswith("pandas") and hasattr(source, "columns"):
        return _FrameTable("the DataFrame", _from_pandas(source).lazy(), label_prefix, shard)
    raise TableError(f"A {type(source).__name__} is not a table; pass a path or a pandas or polars DataFrame.")


class _CsvTable(Table):
    def __init__(self, path: Path, label_prefix: str, shard: tuple[int, int] | None) -> None:
        self.name = path.name
        self._path = path
        self._read_bytes = 0
        self._read_rows = 0
        with self._open() as stream:
            self._header: CsvHeader = read_header(stream, self.name)
            if shard:
                self._cut(stream, shard)
        self._set_columns(self._header.columns, label_prefix)
        # from fast to slow: labels that are 0, 1, ..; any numbers; labels that are text; numbers with blanks around them
        numbers: dict[str, Any] = dict.fromkeys(self._header.columns, pl.Float32)
        text: dict[str, Any] = dict.fromkeys(self._header.columns, pl.String)
        kinds = (pl.UInt8, pl.Float32, pl.String) if self.labels else (pl.Float32,)
        self._schemas = [*({**numbers, **dict.fromkeys(self.labels, kind)} for kind in kinds), text]
        self._schema = 0

    def expected_rows(self) -> int | None:
        if not self._read_rows:
            return None
        size = self.span.end - self.span.begin if self.span else self._path.stat().st_size
        return max(self._read_rows, round(self._read_rows * size / self._read_bytes))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        with self._path.open("rb") as stream:
            if self.span is None:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(stream.read(self._header.size))
            part = ByteRange(stream, self.span.begin, self.span.end)
            while data := part.read(1 << 20):
                digest.update(data)
        return digest.hexdigest()

    def _cut(self, stream: IO[bytes], shard: tuple[int, int]) -> None:
        if isinstance(stream, gzip.GzipFile):
            raise TableError(
                f"{self.name} is compressed and cannot be read in parts; unpack it first: gunzip {self.name}"
            )
        first, size, of = self._header.size, self._path.stat().st_size, shard[1]
        self._set_span(shard, size, "byte", lambda part: row_start(stream, first + part * (size - first) // of))

    def _open(self) -> IO[bytes]:
        with self._path.open("rb") as stream:
            is_gzip = stream.read(2) == b"\x1f\x8b"  # gzip's magic number, whatever the file is called
        return gzip.open(self._path) if is_gzip else self._path.open("rb")  # type: ignore[return-value]

    def _parts(self) -> Iterator[Part]:
        rows, quotes = 0, 0
        with self._open() as stream, ThreadPoolExecutor(_THREADS, "ruo-read") as pool:
            begin = self.span.begin if self.span else 0
            stream.read(self._header.size)
            underlying = getattr(stream, "fileobj", stream)
            waiting: deque[tuple[bytes, int, Future[Part | None]]] = deque()
            pieces = cut_between_rows(ByteRange(stream, begin, self.span.end) if self.span else stream, PIECE_BYTES)
            try:
                while True:
                    for piece in itertools.islice(pieces, _THREADS + 1 - len(waiting)):
                        waiting.append((piece, underlying.tell() - begin, pool.submit(self._parse, piece)))
                    if not waiting:
                        return
                    piece, self._read_bytes, future = waiting.popleft()
                    part = future.result()
                    if part is None:
                        has_lines = self.span is None
                        raise explain_bad_piece(piece, self._header, self.features, rows, self.name, has_lines)
                    quotes += piece.count(b'"') if self.span else 0
                    if quotes % 2:
                        raise TableError(
                            f"{self.name} begins or ends inside a quoted cell; ask for another number of parts."
                        )
                    rows += len(part.features)
                    self._read_rows = rows
                    yield part
            except (gzip.BadGzipFile, EOFError) as error:
                raise TableError(f"{self.name} is a damaged gzip file ({error}); rows read: {rows:,}.") from error
            finally:
                pool.shutdown(cancel_futures=True)

    def _parse(self, piece: bytes) -> Part | None:
        """The piece's rows, or None where the slow reader must say what is wrong with it."""
        columns = self._header.columns
        quote = '"' if b'"' in piece else None  # looking for quotes is a sixth of the work
        for number, schema in enumerate(self._schemas):
            if number < self._schema:
                continue  # it did not fit an earlier piece
            try:
                frame = pl.read_csv(piece, has_header=False, schema=schema, quote_char=quote)
                if schema is self._schemas[-1]:
                    frame = frame.with_columns(map(_to_number, self.features))
            except pl.exceptions.PolarsError:
                continue
            self._schema = number
            # polars fills a short row with nulls, so a null in the last column may be a missing cell
            if frame[columns[-1]].null_count() and self._header.has_ragged_rows(piece, frame.height):
                return None
            return self._part(frame)
        return None


def _to_number(column: str) -> pl.Expr:
    """Text to numbers, with blanks around them; raises PolarsError where it is something else."""
    text = pl.col(column).str.strip_chars()
    return pl.when(text == "").then(None).otherwise(text).cast(pl.Float32).alias(column)


class _FrameTable(Table):
    def __init__(self, name: str, frame: pl.LazyFrame, label_prefix: str, shard: tuple[int, int] | None) -> None:
        self.name = name
        try:
            schema = frame.collect_schema()
            rows: int = frame.select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise TableError(f"{name} cannot be read: {str(error).splitlines()[0]}.") from error
        if shard:
            span = self._set_span(shard, rows, "row", lambda part: part * rows // shard[1])
            frame, rows = frame.slice(span.begin, span.end - span.begin), span.end - span.begin
        self.rows = rows
        self._set_columns(schema.names(), label_prefix)
        self._frame = frame
        for column in self.features:
            if not (schema[column].is_numeric() or schema[column] == pl.Boolean):
                raise self._not_numeric(column, str(schema[column]))

    def fingerprint(self) -> str:
        return fingerprint_table(self._frame.collect())

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

    def _parts(self) -> Iterator[Part]:
        frame = self._frame.collect()  # a DataFrame in memory already: nothing is copied
        for start in range(0, frame.height, _ROWS_PER_PIECE):
            yield self._part(frame.slice(start, _ROWS_PER_PIECE))


class _ParquetTable(_FrameTable):
    def __init__(self, path: Path, label_prefix: str, shard: tuple[int, int] | None) -> None:
        super().__init__(path.name, pl.scan_parquet(path), label_prefix, shard)
        self._path = path

    def fingerprint(self) -> str:
        return fingerprint(self._path)

    def _parts(self) -> Iterator[Part]:
        for frame in self._frame.collect_batches(chunk_size=_ROWS_PER_PIECE, maintain_order=True):
            yield self._part(frame)


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


def fingerprint_table(source: Source) -> str:
    """The SHA-256 of a table: of the file at a path, or of a pandas or polars DataFrame's names, types and cells.

    A DataFrame's does not depend on its index. Raises ArgumentError for a path that does not exist.
    """
    if isinstance(source, (str, os.PathLike)):
        return fingerprint(source)
    whole = hashlib.sha256()
    for name in source.columns:
        values = source[name].to_numpy()
        for part in (str(name).encode(), values.dtype.str.encode(), *_cells(values)):
            whole.update(len(part).to_bytes(8, "little"))
            whole.update(part)
    return whole.hexdigest()


def _cells(values: Any) -> list[bytes]:
    """The cells of a column: numbers as they lie in memory, anything else as text."""
    if values.dtype.kind in "biuf":
        return [values.tobytes()]
    return [str(cell).encode() for cell in values.tolist()]

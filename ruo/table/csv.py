"""CSV files, gzipped or not.

The text is read in pieces of a few megabytes, cut between rows. A pool of threads parses them (polars releases the
interpreter lock), and the rows come out in the order of the file. A client that scores one part of a table reads only
the bytes of that part.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.table.base import Table
from ruo.table.blocks import Piece
from ruo.table.cells import CellError, cell_error, polars_type, why_unfit
from ruo.table.csvtext import PIECE_BYTES, ByteRange, cut_between_rows, read_header, row_start

__all__ = ["CsvTable"]

_THREADS = min(4, os.cpu_count() or 1) + 1  # one waits with its rows while the others keep every CPU busy

Schema = dict[str, Any]


class CsvTable(Table):
    """A CSV file, opened by `open_table`."""

    def __init__(self, path: Path, label_prefix: str, shard: tuple[int, int] | None) -> None:
        self.name = path.name
        self._path = path
        self._read_bytes = 0
        self._read_rows = 0
        with self._open() as stream:
            self._header = read_header(stream, self.name)
            if shard:
                self._cut(stream, shard)
        self._set_columns(self._header.columns, label_prefix)

    def expected_rows(self) -> int | None:
        """The number of rows, estimated from the bytes read."""
        if not self._read_rows:
            return None
        size = self.span.end - self.span.begin if self.span else self._path.stat().st_size
        return max(self._read_rows, round(self._read_rows * size / self._read_bytes))

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return fingerprint(self._path)

    def _cut(self, stream: IO[bytes], shard: tuple[int, int]) -> None:
        if isinstance(stream, gzip.GzipFile):
            message = f"{self.name} is compressed and cannot be read in parts; unpack it first: gunzip {self.name}"
            raise TableError(message)
        first, size, of = self._header.size, self._path.stat().st_size, shard[1]
        self._set_span(shard, size, "byte", lambda part: row_start(stream, first + part * (size - first) // of))

    def _open(self) -> IO[bytes]:
        with self._path.open("rb") as stream:
            is_gzip = stream.read(2) == b"\x1f\x8b"  # gzip's magic number; the file may have any name
        return gzip.open(self._path) if is_gzip else self._path.open("rb")  # type: ignore[return-value]

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        self._read_rows = 0
        with self._open() as stream:
            try:
                for text, piece in self._parse_all(stream, dtype):
                    if piece is None:
                        raise self._explain(text, dtype)
                    self._read_rows += len(piece.features)
                    yield piece
            except (gzip.BadGzipFile, EOFError) as error:
                message = f"{self.name} is a damaged gzip file ({error}); rows read: {self._read_rows:,}."
                raise TableError(message) from error

    def _parse_all(self, stream: IO[bytes], dtype: np.dtype[Any]) -> Iterator[tuple[bytes, Piece | None]]:
        """Every piece of text and its rows, in order; several are parsed at the same time."""
        begin = self.span.begin if self.span else 0
        stream.read(self._header.size)
        part = ByteRange(stream, begin, self.span.end) if self.span else stream
        texts = cut_between_rows(part, PIECE_BYTES, self.name, blank_lines_are_rows=len(self._header.columns) == 1)
        file = getattr(stream, "fileobj", stream)
        schemas, first = self._schemas(dtype), 0
        parsing: deque[tuple[bytes, int, Future[tuple[int, Piece | None]]]] = deque()
        with ThreadPoolExecutor(_THREADS, "ruo-read") as pool:
            try:
                while True:
                    for text in itertools.islice(texts, _THREADS + 1 - len(parsing)):
                        future = pool.submit(self._parse, text, schemas, first, dtype)
                        parsing.append((text, file.tell() - begin, future))
                    if not parsing:
                        return
                    text, end, future = parsing.popleft()
                    number, piece = future.result()
                    first, self._read_bytes = max(first, number), end
                    yield text, piece
            finally:
                pool.shutdown(cancel_futures=True)

    def _schemas(self, dtype: np.dtype[Any]) -> list[Schema]:
        """From fast to slow: labels as small numbers, labels as any numbers, labels as text, all cells as text."""
        numbers: Schema = dict.fromkeys(self._header.columns, pl.UInt8 if dtype.kind == "b" else polars_type(dtype))
        kinds = (pl.UInt8, pl.Float32, pl.String) if self.labels else (pl.Float32,)
        text: Schema = dict.fromkeys(self._header.columns, pl.String)
        return [*({**numbers, **dict.fromkeys(self.labels, kind)} for kind in kinds), text]

    def _parse(self, text: bytes, schemas: list[Schema], first: int, dtype: np.dtype[Any]) -> tuple[int, Piece | None]:
        """The number of the first schema, from `first` on, that fits the text, and the rows, None if they are bad."""
        has_quotes = b'"' in text
        for number in range(first, len(schemas)):
            is_text = number == len(schemas) - 1
            try:
                if is_text and has_quotes:  # polars would drop quotes inside a cell
                    frame = pl.DataFrame(list(self._header.rows(text, strict=True)), schemas[number], orient="row")
                else:  # looking for quotes is a sixth of the work
                    quote = '"' if has_quotes else None
                    frame = pl.read_csv(text, has_header=False, schema=schemas[number], quote_char=quote)
                # a short row is filled with nulls, so a null in the last column may be a missing cell
                if frame.to_series(-1).null_count() and self._header.has_ragged_rows(text, frame.height):
                    break
                piece = self._piece(frame, dtype)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error):
                continue
            except CellError:
                break
            if is_text or dtype.kind != "f" or not np.isinf(piece.features).any():
                return number, piece
            # only the text distinguishes an infinity from a number beyond the datatype's range
            return first, self._parse(text, schemas, len(schemas) - 1, dtype)[1]
        return first, None

    def _explain(self, text: bytes, dtype: np.dtype[Any]) -> TableError:
        """Which cell of the next piece the datatype cannot hold."""
        columns = self._header.columns
        positions = [(columns.index(name), name) for name in self.features]
        has_lines = self.span is None and b'"' not in text  # a quoted cell may span lines
        for row, cells in enumerate(self._header.rows(text), start=self._read_rows):
            where = f"{self.name}, row {row:,}" + (f" (line {row + 2:,})" if has_lines else "")
            if len(cells) != len(columns):
                message = f"{where} has {len(cells)} cells, the header has {len(columns)}; mend the row."
                return TableError(message, row=row)
            for position, name in positions:
                if why := why_unfit(cells[position], dtype):
                    return cell_error(where, row, name, cells[position], why)
        row = self._read_rows
        return TableError(f"{self.name} cannot be read as CSV after row {row:,}; look for stray quotes.", row=row)

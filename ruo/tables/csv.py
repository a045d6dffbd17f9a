"""CSV files, gzipped or not.

Text is read in pieces of some megabytes, cut between rows, which threads parse in the order of the file.
"""

import csv
import gzip
import itertools
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.tables.base import Piece, Table
from ruo.tables.cells import CellError, cell_error, polars_type, why_unfit
from ruo.tables.csvtext import PIECE_BYTES, cut_between_rows, read_header, row_start

_THREADS = min(4, os.cpu_count() or 1) + 1  # one waits with its rows while the others keep every CPU busy
_LONE_CR = re.compile(rb"\r(?!\n)")  # ends a row for csv, and is part of a cell for polars

Schema = dict[str, Any]


class CsvTable(Table):
    """A CSV file, opened by `open_table`."""

    def __init__(self, path: Path, label_prefix: str, shard: tuple[int, int] | None) -> None:
        self.name = path.name
        self._path = path
        self._read_bytes = 0
        with self._damage_named(), self._open() as stream:
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

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with self._path.open("rb") as file:
            is_gzip = file.peek(2).startswith(b"\x1f\x8b")  # gzip's magic number; the file may have any name
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzip else file

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        """Parse several pieces of text at the same time; the rows come in order."""
        schemas, fastest = self._schemas(dtype), 0
        parsing: deque[tuple[bytes, int, Future[tuple[int, Piece | None]]]] = deque()
        with self._open() as stream, ThreadPoolExecutor(_THREADS, "ruo-read") as pool:
            stream.read(self._header.size)
            begin, end, is_last = 0, sys.maxsize, True
            if self.span:
                begin, end, is_last = stream.seek(self.span.begin), self.span.end, self.span.end == self.span.size
            # a blank line of one column is a missing value; of several it means nothing, at the end of the file only
            are_rows = len(self._header.columns) == 1 or not is_last
            texts = cut_between_rows(stream, PIECE_BYTES, self.name, end, blank_lines_are_rows=are_rows)
            file = getattr(stream, "fileobj", stream)
            try:
                while True:
                    for text in itertools.islice(texts, _THREADS + 1 - len(parsing)):
                        future = pool.submit(self._parse, text, schemas, fastest, dtype)
                        parsing.append((text, file.tell() - begin, future))
                    if not parsing:
                        return
                    text, self._read_bytes, future = parsing.popleft()
                    number, piece = future.result()
                    fastest = max(fastest, number)
                    if piece is None:
                        raise self._explain(text, dtype)
                    yield piece
            finally:
                pool.shutdown(cancel_futures=True)

    def _schemas(self, dtype: np.dtype[Any]) -> list[Schema]:
        """From fast to slow: labels as small numbers, labels as any numbers, labels as text, all cells as text."""
        numbers: Schema = dict.fromkeys(self._header.columns, pl.UInt8 if dtype.kind == "b" else polars_type(dtype))
        kinds = (pl.UInt8, pl.Float32, pl.String) if self.labels else (pl.Float32,)
        text: Schema = dict.fromkeys(self._header.columns, pl.String)
        return [*({**numbers, **dict.fromkeys(self.labels, kind)} for kind in kinds), text]

    def _parse(
        self, text: bytes, schemas: list[Schema], fastest: int, dtype: np.dtype[Any]
    ) -> tuple[int, Piece | None]:
        """The number of the first schema, from `fastest` on, that fits the text, and the rows, None if they are bad."""
        quote = '"' if b'"' in text else None
        has_lone_cr = b"\r" in text and _LONE_CR.search(text) is not None
        first = len(schemas) - 1 if has_lone_cr else fastest
        for number, schema in enumerate(schemas[first:], first):
            is_text = number == len(schemas) - 1
            try:
                if is_text and (quote or has_lone_cr):  # polars would drop quotes inside a cell
                    frame = pl.DataFrame(list(self._header.rows(text)), schema, orient="row")
                else:  # looking for quotes is a sixth of the work
                    frame = pl.read_csv(text, has_header=False, schema=schema, quote_char=quote, encoding="utf8-lossy")
                # a short row is filled with nulls, so a null in the last column may be a missing cell
                if frame.to_series(-1).null_count() and self._header.has_ragged_rows(text, frame.height):
                    break
                return fastest if has_lone_cr else number, self._piece(frame, dtype)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error):
                continue
            except CellError:
                break
        return fastest, None

    def _explain(self, text: bytes, dtype: np.dtype[Any]) -> TableError:
        """Which cell of the next piece the datatype cannot hold."""
        columns, features, row = self._header.columns, set(self.features), self._read_rows
        positions = [(position, name) for position, name in enumerate(columns) if name in features]
        has_lines = self.span is None and b'"' not in text  # a quoted cell may span lines
        try:
            for cells in self._header.rows(text):
                where = f"{self.name}, row {row:,}" + (f" (line {row + 2:,})" if has_lines else "")
                if len(cells) != len(columns):
                    message = f"{where} has {len(cells)} cells, the header has {len(columns)}; mend the row."
                    return TableError(message, row=row)
                for position, name in positions:
                    if why := why_unfit(cells[position], dtype):
                        return cell_error(where, row, name, cells[position], why)
                row += 1
        except csv.Error as error:
            return TableError(f"{self.name}, row {row:,} is not CSV ({error}); look for a stray quote.", row=row)
        return TableError(
            f"{self.name} cannot be read as CSV after row {self._read_rows:,}; look for unusual characters."
        )

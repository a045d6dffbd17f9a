"""CSV files, gzipped or not.

The text is read in pieces of a few megabytes, cut between rows; a pool of threads parses them (polars lets go of the
interpreter lock), and they are handed on in the order of the file. Of a table that several clients score, each reads
its own bytes, cut at a row's end.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.table.base import Table
from ruo.table.blocks import Piece
from ruo.table.cells import CellError, polars_type
from ruo.table.csvtext import PIECE_BYTES, ByteRange, cut_between_rows, explain_bad_piece, read_header, row_start

__all__ = ["CsvTable"]

_THREADS = min(4, os.cpu_count() or 1) + 1  # while one hands its rows on, the others keep every CPU busy

Schema = dict[str, Any]


class _Parsing(NamedTuple):
    """A piece of text that ends `end` bytes into the table, and its rows to come."""

    text: bytes
    end: int
    future: Future[tuple[int, Piece | None]]


class CsvTable(Table):
    """A CSV file; its parameters are those of `open_table`."""

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
        """The number of rows, estimated by the bytes that were read."""
        if not self._read_rows:
            return None
        size = self.span.end - self.span.begin if self.span else self._path.stat().st_size
        return max(self._read_rows, round(self._read_rows * size / self._read_bytes))

    def fingerprint(self) -> str:
        """The SHA-256 of the file, or of the header and this part."""
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

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        self._read_rows = 0
        with self._open() as stream:
            try:
                for text, piece in self._parse_all(stream, dtype):
                    if piece is None:
                        raise explain_bad_piece(
                            text, self._header, self.features, dtype, self._read_rows, self.name, self.span is None
                        )
                    self._read_rows += len(piece.features)
                    yield piece
            except (gzip.BadGzipFile, EOFError) as error:
                raise TableError(
                    f"{self.name} is a damaged gzip file ({error}); rows read: {self._read_rows:,}."
                ) from error

    def _parse_all(self, stream: IO[bytes], dtype: np.dtype[Any]) -> Iterator[tuple[bytes, Piece | None]]:
        """Every piece of the text and its rows, in order; several are parsed at the same time."""
        begin = self.span.begin if self.span else 0
        stream.read(self._header.size)
        part = ByteRange(stream, begin, self.span.end) if self.span else stream
        texts = cut_between_rows(part, PIECE_BYTES, self.name, blank_lines_are_rows=len(self._header.columns) == 1)
        file = getattr(stream, "fileobj", stream)
        schemas, first = self._schemas(dtype), 0
        waiting: deque[_Parsing] = deque()
        with ThreadPoolExecutor(_THREADS, "ruo-read") as pool:
            try:
                while True:
                    for text in itertools.islice(texts, _THREADS + 1 - len(waiting)):
                        future = pool.submit(self._parse, text, schemas, first, dtype)
                        waiting.append(_Parsing(text, file.tell() - begin, future))
                    if not waiting:
                        return
                    parsing = waiting.popleft()
                    number, piece = parsing.future.result()
                    first, self._read_bytes = max(first, number), parsing.end
                    yield parsing.text, piece
            finally:
                pool.shutdown(cancel_futures=True)

    def _schemas(self, dtype: np.dtype[Any]) -> list[Schema]:
        """From fast to slow: labels that are 0, 1, ...; any numbers; labels that are text; all cells as text."""
        numbers: Schema = dict.fromkeys(self._header.columns, pl.UInt8 if dtype.kind == "b" else polars_type(dtype))
        kinds = (pl.UInt8, pl.Float32, pl.String) if self.labels else (pl.Float32,)
        text: Schema = dict.fromkeys(self._header.columns, pl.String)
        return [*({**numbers, **dict.fromkeys(self.labels, kind)} for kind in kinds), text]

    def _parse(self, text: bytes, schemas: list[Schema], first: int, dtype: np.dtype[Any]) -> tuple[int, Piece | None]:
        """The rows, by the first schema from number `first` on that fits, and its number.

        None instead of the rows where they are at fault.
        """
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
            # only the text tells an infinity from a number beyond the datatype's range
            return first, self._parse(text, schemas, len(schemas) - 1, dtype)[1]
        return first, None

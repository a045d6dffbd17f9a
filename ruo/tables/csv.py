"""CSV files and streams, packed or not.

Text is read in pieces of some megabytes, cut between rows, which threads parse in the order of the file.
"""

import csv
import io
import itertools
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.tables.base import Piece, Table, Types, read_once
from ruo.tables.cells import CellError, cell_error, polars_type, why_unfit
from ruo.tables.columns import clean_names
from ruo.tables.csvtext import PIECE_BYTES, cut_between_rows, read_head, read_header, row_start
from ruo.tables.options import TableOptions
from ruo.tables.streams import Text, as_stream, text_of

_THREADS = min(4, os.cpu_count() or 1) + 1  # one waits with its rows while the others keep every CPU busy
_LONE_CR = re.compile(rb"\r(?!\n)")  # ends a row for csv, and is part of a cell for polars

Schema = dict[str, Any]


class CsvTable(Table):
    """A CSV file, or a stream that can be read once, opened by `open_table`."""

    def __init__(
        self, file: Path | io.BufferedReader, options: TableOptions, shard: tuple[int, int] | None, name: str
    ) -> None:
        self._path = file if isinstance(file, Path) else None
        self._file = nullcontext() if isinstance(file, Path) else file
        self.name = name
        self.options = options
        self._read_bytes = 0
        self._once: Text | None = None
        with self._damage_named(), self._open(file) as (text, _):
            head = read_head(text.stream)
            self._header = read_header(head, self.name, options)
            self._has_cr = text.has_cr
            if self._path is None:
                self._once = text._replace(stream=as_stream(head, rest=text.stream))
            if shard:
                self._cut(text, shard)
        self._set_columns(clean_names(self.name, self._header.columns), options)

    def expected_rows(self) -> int | None:
        """The number of rows, estimated from the bytes read."""
        if not self._read_rows or not self._read_bytes:
            return None
        assert self._path is not None  # else nothing counts the bytes
        size = self.span.end - self.span.begin if self.span else self._path.stat().st_size
        return max(self._read_rows, round(self._read_rows * size / self._read_bytes))

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        if self._path is None:
            raise read_once(self.name)
        return fingerprint(self._path)

    def _cut(self, text: Text, shard: tuple[int, int]) -> None:
        stream = text.stream
        if self._path is None:
            raise read_once(self.name)
        if not stream.seekable():
            what, cure = "compressed", f"unpack it first: gunzip {self.name}"
            if not text.is_packed:
                what, cure = "not UTF-8 with LF", "write it anew first"
            raise TableError(f"{self.name} is {what} and cannot be read in parts; {cure}")
        first, size, of = self._header.size, self._path.stat().st_size, shard[1]

        def start(position: int) -> int:
            return first if position == first else row_start(stream, position)

        self._set_span(shard, size, "byte", lambda part: start(first + part * (size - first) // of))

    @contextmanager
    def _open(self, file: Path | io.BufferedReader | None) -> Iterator[tuple[Text, io.BufferedReader | None]]:
        """The text, and the file beneath it unless it is a stream."""
        if isinstance(file, Path):
            with file.open("rb") as opened:
                yield text_of(opened, self.name, self.options.encoding), opened
        elif file is not None:
            yield text_of(file, self.name, self.options.encoding), None
        elif self._once is None:
            raise TableError(f"{self.name} was read already, and can be read once only; open it anew.")
        else:
            text, self._once = self._once, None
            with self._file:
                yield text, None

    def _pieces(self, types: Types) -> Iterator[Piece]:
        """Parse several pieces of text at the same time; the rows come in order."""
        schemas, fastest = self._schemas(types), 0
        parsing: deque[tuple[bytes, int, Future[tuple[int, Piece | None]]]] = deque()
        with self._open(self._path) as (source, file), ThreadPoolExecutor(_THREADS, "ruo-read") as pool:
            stream = source.stream
            stream.read(self._header.size)
            begin, end, is_last = 0, sys.maxsize, True
            if self.span:
                begin, end, is_last = stream.seek(self.span.begin), self.span.end, self.span.end == self.span.size
            # a blank line of one column is a missing value; of several it means nothing, at the end of the file only
            are_rows = len(self._header.columns) == 1 or not is_last
            texts = cut_between_rows(stream, PIECE_BYTES, self.name, end, blank_lines_are_rows=are_rows)
            try:
                while True:
                    for text in itertools.islice(texts, _THREADS + 1 - len(parsing)):
                        future = pool.submit(self._parse, text, schemas, fastest, types)
                        parsing.append((text, file.tell() - begin if file else 0, future))
                    if not parsing:
                        return
                    text, self._read_bytes, future = parsing.popleft()
                    number, piece = future.result()
                    fastest = max(fastest, number)
                    if piece is None:
                        raise self._explain(text, types)
                    yield piece
            finally:
                pool.shutdown(cancel_futures=True)

    def _schemas(self, types: Types) -> list[Schema]:
        """From fast to slow: labels as small numbers, labels as any numbers, labels as text, all cells as text."""
        text: Schema = dict.fromkeys(self.names, pl.String)
        numbers: Schema = {name: _fast_type(dtype) for name, dtype in types.items()}
        one_hot = self.labels if self.options.label is None else []
        if self.options.null_values and self._verbatim(types):
            return [text]  # polars would take the cells of all columns for missing ones
        kinds = (pl.UInt8, pl.Float32, pl.String) if one_hot else (pl.Float32,)
        return [*({**text, **numbers, **dict.fromkeys(one_hot, kind)} for kind in kinds), text]

    def _verbatim(self, types: Types) -> list[str]:
        """The columns whose text has to be as it is in the file."""
        text = [name for name, dtype in types.items() if dtype == np.object_]
        return [*self.kept, *text, *([self.options.label] if self.options.label is not None else [])]

    def _parse(self, text: bytes, schemas: list[Schema], fastest: int, types: Types) -> tuple[int, Piece | None]:
        """The number of the first schema, from `fastest` on, that fits the text, and the rows, None if they are bad."""
        quote = '"' if b'"' in text else None
        has_lone_cr = b"\r" in text and _LONE_CR.search(text) is not None
        first = len(schemas) - 1 if has_lone_cr else fastest
        for number, schema in enumerate(schemas[first:], first):
            is_text = number == len(schemas) - 1
            try:
                if is_text and (quote or has_lone_cr):  # polars would drop quotes inside a cell
                    frame = pl.DataFrame(list(self._header.rows(text)), schema, orient="row")
                else:
                    frame = self._read_csv(text, schema, quote, is_text)
                # a short row is filled with nulls, so a null in the last column may be a missing cell
                if frame.to_series(-1).null_count() and self._header.has_ragged_rows(text, frame.height):
                    break
                return fastest if has_lone_cr else number, self._checked_piece(frame, text, types, is_text)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error):
                continue
            except CellError:
                break
        return fastest, None

    def _read_csv(self, text: bytes, schema: Schema, quote: str | None, is_text: bool) -> pl.DataFrame:
        return pl.read_csv(
            text,
            has_header=False,
            schema=schema,
            separator=self._header.separator,
            quote_char=quote,  # looking for quotes is a sixth of the work
            null_values=None if is_text else list(self.options.null_values) or None,
            encoding="utf8-lossy",
        )

    def _checked_piece(self, frame: pl.DataFrame, text: bytes, types: Types, is_text: bool) -> Piece:
        if is_text and self.options.null_values:
            numbers = pl.col([name for name, dtype in types.items() if dtype != np.object_])
            is_missing = numbers.str.strip_chars().is_in(list(self.options.null_values))
            frame = frame.with_columns(pl.when(is_missing).then(None).otherwise(numbers).name.keep())
        for name in self._verbatim(types):
            if frame[name].str.contains("\ufffd", literal=True).any() and not _is_utf8(text):
                raise CellError(0, name)  # `_explain` finds it
            if self._has_cr:
                frame = frame.with_columns(pl.col(name).str.replace_many(["\r", "\n"], ["\n", "\r"]))
        piece = self._piece(frame, types)
        return piece if piece.kept is None else piece._replace(kept=piece.kept.with_columns(pl.all().replace("", None)))

    def _explain(self, text: bytes, types: Types) -> TableError:
        """Which cell of the next piece cannot be read as it is, or the datatype cannot hold."""
        row, as_is = self._read_rows, set() if _is_utf8(text) else set(self._verbatim(types))
        positions = [(place, name) for place, name in enumerate(self.names) if name in types or name in as_is]
        has_lines = self.span is None and b'"' not in text  # a quoted cell may span lines
        try:
            for cells in self._header.rows(text):
                where = f"{self.name}, row {row:,}" + (f" (line {row + self._header.lines + 1:,})" if has_lines else "")
                if len(cells) != len(self.names):
                    message = f"{where} has {len(cells)} cells, the header has {len(self.names)}; mend the row."
                    return TableError(message, row=row)
                for place, name in positions:
                    cell = cells[place]
                    if name in as_is and "\ufffd" in cell:
                        message = f'{where}, column "{name}": {cell[:40]!r} is not UTF-8'
                        message += '; pass the encoding of the file, such as encoding="cp1252".'
                        return TableError(message, row=row, column=name)
                    is_missing = cell.strip() in self.options.null_values
                    if name in types and (why := why_unfit("" if is_missing else cell, types[name])):
                        return cell_error(where, row, name, cell, why)
                row += 1
        except csv.Error as error:
            return TableError(f"{self.name}, row {row:,} is not CSV ({error}); look for a stray quote.", row=row)
        return TableError(
            f"{self.name} cannot be read as CSV after row {self._read_rows:,}; look for unusual characters."
        )


def _fast_type(dtype: np.dtype[Any]) -> Any:
    return pl.String if dtype == np.object_ else pl.UInt8 if dtype.kind == "b" else polars_type(dtype)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True

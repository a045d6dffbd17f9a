"""CSV files and streams, packed or not.

Text is read in pieces of some megabytes, cut between rows, which threads parse in the order of the file.
"""

import codecs
import csv
import io
import itertools
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.tables.base import POLARS_ERRORS, Block, Shard, Table, Types, read_once
from ruo.tables.cells import CellError, is_number, polars_type
from ruo.tables.columns import clean_names
from ruo.tables.csvtext import PIECE_BYTES, cut_between_rows, read_head, read_header, read_lines, row_start, text_of
from ruo.tables.options import TableOptions

_THREADS = min(4, os.cpu_count() or 1) + 1  # one waits with its rows while the others keep every CPU busy
_LONE_CR = re.compile(rb"\r(?!\n)")  # ends a row for csv, and is part of a cell for polars
# Text that polars would unpack, or cut off, where a piece begins with it: packed by zlib, gzip or Zstandard, or a BOM
_MAGIC = (b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", codecs.BOM_UTF8)
_UNREADABLE = (*POLARS_ERRORS, csv.Error)

Schema = dict[str, Any]


class CsvTable(Table):
    """A CSV file, or a stream that can be read once, opened by `open_table`."""

    def __init__(self, source: Path | io.BufferedReader, options: TableOptions, shard: Shard, name: str) -> None:
        self.name, self.options, self._source = name, options, source
        self.path = source if isinstance(source, Path) else None
        self.is_once = self.path is None
        with self._errors_named(), self._open() as file:
            text = text_of(file, name, options.encoding)
            head = read_head(text.pieces)
            self._header = read_header(head, name, options)
            self._has_cr, self._has_quotes, self._level = text.has_cr, False, 0
            if self.is_once:
                self._once = itertools.chain([head[self._header.size :]], text.pieces)
            if shard:
                self._cut(file, shard, is_plain=text.is_plain)
        self._set_columns(clean_names(name, self._header.columns), options)

    def expected_rows(self) -> int | None:
        """The number of rows, estimated from the bytes read."""
        if not self._read_rows or self.path is None:
            return None
        size = self.span.end - self.span.begin if self.span else self._opened[0] if self._opened else 0
        return max(self._read_rows, round(self._read_rows * size / self._read_bytes))

    def _open(self) -> AbstractContextManager[io.BufferedReader]:
        return self._source.open("rb") if isinstance(self._source, Path) else nullcontext(self._source)

    def _cut(self, file: io.BufferedReader, shard: tuple[int, int], *, is_plain: bool) -> None:
        if self.path is None:
            raise read_once(self.name)
        if not is_plain:
            cure = f"unpack it first: gunzip {self.name}, or write it anew"
            raise TableError(f"{self.name} is compressed, or not UTF-8 with LF, and cannot be read in parts; {cure}.")
        size = self.path.stat().st_size
        self._set_span(shard, "byte", size, min(self._header.size, size), partial(row_start, file))

    def _pieces(self, types: Types) -> Iterator[Block]:
        """Parse several pieces of text at the same time; the rows come in order."""
        schemas = self._schemas(types)
        parsing: deque[tuple[bytes, int, Future[Block]]] = deque()
        with self._open() as file, ThreadPoolExecutor(_THREADS, "ruo-read") as pool:
            texts = self._texts(file)
            try:
                while True:
                    for text in itertools.islice(texts, _THREADS + 1 - len(parsing)):
                        read_bytes = file.tell() - (self.span.begin if self.span else 0) if self.path else 0
                        parsing.append((text, read_bytes, pool.submit(self._parse, text, schemas, types)))
                    if not parsing:
                        return
                    text, self._read_bytes, future = parsing.popleft()
                    try:
                        yield future.result()
                    except _UNREADABLE:
                        raise self._why_unreadable(text) from None
            finally:
                pool.shutdown(cancel_futures=True)
                if self.is_once and self._source is not getattr(sys.stdin, "buffer", None):
                    file.close()

    def _texts(self, file: io.BufferedReader) -> Iterator[bytes]:
        """Text of whole rows."""
        pieces: Iterator[bytes]
        begin, end, is_last = self._header.size, sys.maxsize, True
        if self.span:
            begin, end, is_last = self.span.begin, self.span.end, self.span.end == self.span.size
        if self.path is None:
            pieces = self._once
        elif (text := text_of(file, self.name, self.options.encoding)).is_plain:
            pieces = read_lines(file, PIECE_BYTES, begin, min(end, self.path.stat().st_size))
        else:
            pieces = itertools.chain([read_head(text.pieces)[begin:]], text.pieces)
        # a blank line of one column is a missing value; of several it means nothing, at the end of the file only
        are_rows = len(self._header.columns) == 1 or not is_last
        return cut_between_rows(pieces, self.name, blank_lines_are_rows=are_rows)

    def _schemas(self, types: Types) -> list[Schema]:
        """From fast to slow: labels as small numbers, labels as any numbers, labels as text, all cells as text."""
        text: Schema = dict.fromkeys(self.names, pl.String)
        numbers: Schema = {name: pl.UInt8 if dtype.kind == "b" else polars_type(dtype) for name, dtype in types.items()}
        as_is = dict.fromkeys(self._verbatim(types), pl.String)
        nulls = self.options.null_values
        # polars would take the cells of all columns for missing ones, and none with a blank beside it
        if nulls and (as_is or any(map(is_number, nulls))):
            return [text]
        one_hot = self.labels if self.options.label is None else []
        kinds = (pl.UInt8, pl.Float32, pl.String) if one_hot else (pl.Float32,)
        return [*({**text, **numbers, **dict.fromkeys(one_hot, kind), **as_is} for kind in kinds), text]

    def _verbatim(self, types: Types) -> list[str]:
        """The columns whose text has to be as it is in the file."""
        text = [name for name, dtype in types.items() if dtype == np.object_]
        label = [self.options.label] if self.options.label is not None else []
        return list(dict.fromkeys([*self.kept, *text, *label]))

    def _parse(self, text: bytes, schemas: list[Schema], types: Types) -> Block:
        """The rows of a text, by the first schema that fits, from the one on that the rows above needed."""
        if has_quotes := b'"' in text:
            self._has_quotes = True
        has_lone_cr = b"\r" in text and _LONE_CR.search(text) is not None
        if has_lone_cr or text.startswith(_MAGIC) or (has_quotes and self._header.has_misplaced_quotes(text)):
            frame = pl.DataFrame(list(self._header.rows(text)), schemas[-1], orient="row")  # polars would guess
            return self._to_block(frame, text, types, is_text=True)
        level = self._level
        while True:
            is_text = level == len(schemas) - 1
            try:
                frame = pl.read_csv(
                    text,
                    has_header=False,
                    schema=schemas[level],
                    separator=self._header.separator,
                    quote_char='"' if has_quotes else None,  # looking for quotes is a sixth of the work
                    null_values=None if is_text else list(self.options.null_values) or None,
                    encoding="utf8-lossy",
                )
                block = self._to_block(frame, text, types, is_text)
            except (*_UNREADABLE, CellError):
                if is_text:
                    raise
                level += 1
            else:
                self._level = max(self._level, level)
                return block

    def _to_block(self, frame: pl.DataFrame, text: bytes, types: Types, is_text: bool) -> Block:
        # a short row is filled with nulls, so a null in the last column may be a missing cell
        if frame.to_series(-1).null_count() and self._header.has_ragged_rows(text, frame.height):
            raise csv.Error("rows of other lengths")
        for name in self._verbatim(types):
            is_bad = frame[name].str.contains("\ufffd", literal=True).fill_null(value=False)
            if is_bad.any() and text.decode(errors="ignore").encode() != text:
                row = int(is_bad.arg_true()[0])
                cure = 'pass the encoding of the file, such as encoding="cp1252"'
                raise CellError(row, name, frame[row, name], "is not UTF-8", cure)
            as_is = pl.col(name).str.replace_many(["\r", "\n"], ["\n", "\r"]) if self._has_cr else pl.col(name)
            frame = frame.with_columns(as_is.replace("", None))
        kept = frame[self.kept] if self.kept else None
        if is_text and self.options.null_values:
            numbers = pl.col([name for name, dtype in types.items() if dtype != np.object_])
            is_missing = numbers.str.strip_chars().is_in(list(self.options.null_values))
            frame = frame.with_columns(pl.when(is_missing).then(None).otherwise(numbers).name.keep())
        return self._block(frame, types)._replace(kept=kept)

    def _where(self, row: int) -> str:
        has_lines = self.span is None and not self._has_quotes  # a quoted cell may span lines
        return super()._where(row) + (f" (line {row + self._header.lines + 1:,})" if has_lines else "")

    def _why_unreadable(self, text: bytes) -> TableError:
        row = self._read_rows
        try:
            for cells in self._header.rows(text):
                if len(cells) != len(self.names):
                    counts = f"{len(cells)} cells, the header has {len(self.names)}"
                    return TableError(f"{self._where(row)} has {counts}; mend the row, or the header.", row=row)
                row += 1
        except csv.Error as error:
            return TableError(f"{self.name}, row {row:,} is not CSV ({error}); look for a stray quote.", row=row)
        return TableError(f"{self.name} cannot be read as CSV after row {self._read_rows:,}; look for odd characters.")

"""CSV text (RFC 4180): its header, and where it may be cut. A newline inside a quoted cell does not end a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from ruo.errors import TableError
from ruo.table.cells import is_number

__all__ = ["PIECE_BYTES", "ByteRange", "CsvHeader", "cut_between_rows", "read_header", "row_start"]

PIECE_BYTES = 8 << 20
_LONGEST_CELL = 64 << 20


@dataclass(frozen=True)
class CsvHeader:
    """The column names in the first row, and its `size` in bytes."""

    columns: list[str]
    size: int

    def has_ragged_rows(self, piece: bytes, rows: int) -> bool:
        """Whether any of the `rows` rows of a piece has more or fewer cells than the header."""
        if b'"' not in piece:
            return piece.count(b",") != rows * (len(self.columns) - 1)
        return any(len(cells) != len(self.columns) for cells in self.rows(piece))

    def rows(self, piece: bytes, *, strict: bool = False) -> Iterator[list[str]]:
        """The cells of every row; `strict` raises csv.Error for malformed quotes."""
        blank = [""] if len(self.columns) == 1 else []  # with one column, a blank line is a row with an empty cell
        rows = csv.reader(io.StringIO(piece.decode("utf-8", errors="replace"), newline=""), strict=strict)
        return (cells or blank for cells in rows)


class ByteRange:
    """The bytes of a file from `begin` to `end`, read like a file."""

    def __init__(self, stream: IO[bytes], begin: int, end: int) -> None:
        stream.seek(begin)
        self._stream = stream
        self._left = end - begin

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        return self._count(self._stream.read(min(size, self._left)))

    def readline(self) -> bytes:
        """The rest of the line."""
        return self._count(self._stream.readline(self._left))

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


def read_header(stream: IO[bytes], name: str) -> CsvHeader:
    """Read the first row; raises TableError if there is none, or if it holds data."""
    line = b""
    while not _is_whole(line):
        more = stream.readline(_LONGEST_CELL)
        if not more or len(line) > _LONGEST_CELL:
            break
        line += more
    if not line.strip():
        raise TableError(f"{name} is empty; a CSV with a header and at least one row is needed.")
    if b"\0" in line:
        raise TableError(f"{name} is not a text file; pass a CSV or Parquet file.")
    columns = next(csv.reader(io.StringIO(line.decode("utf-8-sig", errors="replace"))))
    if all(is_number(column) for column in columns) and any("." in column for column in columns):
        raise TableError(f"{name} begins with a row of numbers; its first row must hold the column names.")
    return CsvHeader(columns, len(line))


def row_start(stream: IO[bytes], position: int) -> int:
    """Where the first line begins at or after `position`."""
    stream.seek(position - 1)
    stream.readline()
    return stream.tell()


def cut_between_rows(
    stream: IO[bytes] | ByteRange, size: int, name: str = "the CSV", *, blank_lines_are_rows: bool = False
) -> Iterator[bytes]:
    """Cut text into pieces of about `size` bytes, each of whole rows; raises TableError for an open quote.

    Blank lines at the end of the file are dropped unless they are rows.
    """
    blank = b""
    while piece := stream.read(_up_to_row_end(stream, size)):
        piece = blank + _to_row_end(piece, stream, size, name)
        blank = b""
        if not blank_lines_are_rows and (piece.endswith((b"\n\n", b"\n\r\n")) or piece[:3] in (b"\n", b"\r\n")):
            # blank lines are held back: at the end of the file they mean nothing, elsewhere the parser complains
            rows = len(piece.rstrip(b"\r\n"))
            end = piece.index(b"\n", rows) + 1 if rows else 0
            piece, blank = piece[:end], piece[end:]
        if piece:
            yield piece


def _up_to_row_end(stream: IO[bytes] | ByteRange, size: int) -> int:
    """About `size` bytes; in a plain file up to the end of a line, so that no piece is copied to complete it."""
    if not isinstance(stream, io.BufferedReader):
        return size
    begin = stream.tell()
    end = row_start(stream, begin + size)
    stream.seek(begin)
    return end - begin


def _to_row_end(piece: bytes, stream: IO[bytes] | ByteRange, size: int, name: str) -> bytes:
    """The piece, completed up to a newline with an even number of quotes before it, or to the file's end."""
    more = b"" if piece.endswith(b"\n") else stream.readline()
    while more or piece.endswith(b"\n"):
        piece += more
        if _is_whole(piece):
            return piece
        if len(piece) > size + _LONGEST_CELL:
            raise TableError(f'In {name} a quote (") is opened and not closed within 64 MB; look for a stray one.')
        more = stream.read(size) + stream.readline()
        if not more:
            break
    if piece.count(b'"') % 2:
        raise TableError(f'In {name} a quote (") is opened and not closed; look for a stray one, or use other parts.')
    return piece


def _is_whole(text: bytes) -> bool:
    # searching for a quote is eight times as fast as counting, and most tables have none
    return text.endswith(b"\n") and (b'"' not in text or text.count(b'"') % 2 == 0)

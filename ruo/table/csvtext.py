"""CSV text: its header, where it may be cut, and what is wrong with a piece that cannot be parsed.

Source: RFC 4180. A newline inside a quoted cell ends no row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ruo.errors import TableError
from ruo.table.cells import cell_error, is_number, why_unfit

__all__ = ["PIECE_BYTES", "ByteRange", "CsvHeader", "cut_between_rows", "explain_bad_piece", "read_header", "row_start"]

PIECE_BYTES = 8 << 20
_LONGEST_CELL = 64 << 20


@dataclass(frozen=True)
class CsvHeader:
    """The names in the first row, and how many bytes of the file it takes."""

    columns: list[str]
    size: int

    def has_ragged_rows(self, piece: bytes, rows: int) -> bool:
        """Whether some row of `piece`, which holds `rows` rows, has more or fewer cells than the header."""
        if b'"' not in piece:
            return piece.count(b",") != rows * (len(self.columns) - 1)
        return any(len(cells) != len(self.columns) for cells in self.rows(piece))

    def rows(self, piece: bytes, *, strict: bool = False) -> Iterator[list[str]]:
        """The cells of every row; in a table of one column a blank line is a row with an empty cell.

        `strict` raises csv.Error for malformed quotes.
        """
        blank = [""] if len(self.columns) == 1 else []
        rows = csv.reader(io.StringIO(piece.decode("utf-8", errors="replace"), newline=""), strict=strict)
        return (cells or blank for cells in rows)


class ByteRange:
    """The bytes of a file from `begin` to `end`, read like a file."""

    def __init__(self, stream: IO[bytes], begin: int, end: int) -> None:
        stream.seek(begin)
        self._stream = stream
        self._left = end - begin

    def read(self, size: int) -> bytes:
        """At most `size` bytes more."""
        return self._count(self._stream.read(min(size, self._left)))

    def readline(self) -> bytes:
        """The rest of the line."""
        return self._count(self._stream.readline(self._left))

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


def read_header(stream: IO[bytes], name: str) -> CsvHeader:
    """Read the first row of a CSV; raises TableError where there is none, or where it holds data."""
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
    """The place of the first line that begins at `position` or behind it."""
    stream.seek(position - 1)
    stream.readline()
    return stream.tell()


def cut_between_rows(
    stream: IO[bytes] | ByteRange, size: int, name: str = "the CSV", *, blank_lines_are_rows: bool = False
) -> Iterator[bytes]:
    """Cut text into pieces of about `size` bytes, each of whole rows.

    Blank lines at the end of the file are left out unless they are rows. Raises TableError where a quote is opened and
    not closed.
    """
    blank = b""
    while piece := stream.read(_up_to_row_end(stream, size)):
        piece = blank + _to_row_end(piece, stream, size, name)
        blank = b""
        if not blank_lines_are_rows and (piece.endswith((b"\n\n", b"\n\r\n")) or piece[:3] in (b"\n", b"\r\n")):
            # they wait: at the end of the file they mean nothing, elsewhere the parser complains
            rows = len(piece.rstrip(b"\r\n"))
            end = piece.index(b"\n", rows) + 1 if rows else 0
            piece, blank = piece[:end], piece[end:]
        if piece:
            yield piece


def _up_to_row_end(stream: IO[bytes] | ByteRange, size: int) -> int:
    """About `size` bytes; of a plain file those up to the end of a line, so that no piece is copied to complete it."""
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
        raise TableError(
            f'In {name} a quote (") is opened and not closed; look for a stray one, or ask for other parts.'
        )
    return piece


def _is_whole(text: bytes) -> bool:
    # looking for the first quote is eight times as fast as counting, and most tables have none
    return text.endswith(b"\n") and (b'"' not in text or text.count(b'"') % 2 == 0)


def explain_bad_piece(
    piece: bytes, header: CsvHeader, features: list[str], dtype: np.dtype[Any], row: int, name: str, has_lines: bool
) -> TableError:
    """Say which cell of a piece, whose first row is `row` of the table, the datatype cannot hold.

    `has_lines`: the table begins at the file's first line.
    """
    positions = [(header.columns.index(column), column) for column in features]
    for number, cells in enumerate(header.rows(piece), start=row):
        # the header is line 1; a quoted cell may span lines, and then the line number is not known
        line = f" (line {number + 2:,})" if has_lines and b'"' not in piece else ""
        where = f"{name}, row {number:,}{line}"
        if len(cells) != len(header.columns):
            return TableError(
                f"{where} has {len(cells)} cells, the header has {len(header.columns)}; mend the row.", row=number
            )
        for position, column in positions:
            if why := why_unfit(cells[position], dtype):
                return cell_error(where, number, column, cells[position], why)
    return TableError(f"{name} cannot be read as CSV somewhere after row {row:,}; look for stray quotes.", row=row)

"""CSV text (RFC 4180): its header, and where it may be cut. A newline inside a quoted cell does not end a row."""

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from ruo.errors import TableError
from ruo.tables.cells import is_number

PIECE_BYTES = 8 << 20
_LONGEST_CELL = 64 << 20
_MISSING = {"", "?", "-", ".", "na", "n/a", "#n/a", "<na>", "nan", "nil", "null", "none"}  # in any case


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

    def rows(self, piece: bytes) -> Iterator[list[str]]:
        """The cells of every row; raises csv.Error for malformed quotes."""
        blank = [""] if len(self.columns) == 1 else []  # with one column, a blank line is a row with an empty cell
        rows = csv.reader(io.StringIO(piece.decode("utf-8", errors="replace"), newline=""), strict=True)
        return (cells or blank for cells in rows)


def read_header(stream: IO[bytes], name: str) -> CsvHeader:
    """Read the first row; raises TableError if there is none, or if it holds data."""
    line = b""
    while not _is_whole(line):
        more = stream.readline(_LONGEST_CELL)
        if not more or len(line) > _LONGEST_CELL:
            break
        line += more
    if not line.strip():
        raise TableError(f"{name} is empty or begins with an empty line; a CSV with a header and rows is needed.")
    if b"\0" in line:
        raise TableError(f"{name} is not a text file; pass a CSV or Parquet file.")
    try:
        text = io.StringIO(line.decode("utf-8-sig", errors="backslashreplace"), newline="")
        (columns,) = csv.reader(text, strict=True)
    except (csv.Error, ValueError):  # several rows: a carriage return ends the first
        message = f"{name} has no readable first row; write the column names with closed quotes and end lines with LF."
        raise TableError(message) from None
    is_counted = columns == [str(number) for number in range(len(columns))]  # as tables without names are written
    if not is_counted and all(is_number(column) or column.strip().lower() in _MISSING for column in columns):
        shown = ",".join(columns)[:40]
        raise TableError(f"{name} begins with a row of data ({shown}); add a header line with the column names.")
    return CsvHeader(columns, len(line))


def row_start(stream: IO[bytes], position: int) -> int:
    """Where the first line begins at or after `position`."""
    stream.seek(position - 1)
    stream.readline()
    return stream.tell()


def cut_between_rows(
    stream: IO[bytes], size: int, name: str, end: int = sys.maxsize, *, blank_lines_are_rows: bool = False
) -> Iterator[bytes]:
    """Cut text up to `end` into pieces of about `size` bytes, each of whole rows; TableError for an open quote."""
    blank = b""
    while piece := _read_lines(stream, size, end):
        while not (is_whole := _is_whole(piece)) and (more := _read_lines(stream, size, end)):
            piece += more
            if len(piece) > size + _LONGEST_CELL:
                raise TableError(f'In {name} a quote (") is opened and not closed within 64 MB; look for a stray one.')
        if not is_whole and piece.count(b'"') % 2:
            message = f'In {name} a quote (") is opened and not closed; look for a stray one, or use other parts.'
            raise TableError(message)
        piece, blank = blank + piece, b""
        if not blank_lines_are_rows and (piece.endswith((b"\n\n", b"\n\r\n")) or piece[:3] in (b"\n", b"\r\n")):
            # blank lines are held back: at the end of the file they mean nothing, elsewhere the parser complains
            rows = len(piece.rstrip(b"\r\n"))
            cut = piece.index(b"\n", rows) + 1 if rows else 0
            piece, blank = piece[:cut], piece[cut:]
        if piece:
            yield piece


def _read_lines(stream: IO[bytes], size: int, end: int) -> bytes:
    """Whole lines of about `size` bytes."""
    begin = stream.tell()
    size = min(size, end - begin)
    if not isinstance(stream, io.BufferedReader):
        return stream.read(size) + stream.readline()
    size = (
        row_start(stream, begin + size) - begin
    )  # measured first, so that no piece is copied to complete its last line
    stream.seek(begin)
    return stream.read(size)


def _is_whole(text: bytes) -> bool:
    # searching for a quote is eight times as fast as counting, and most tables have none
    return text.endswith(b"\n") and (b'"' not in text or text.count(b'"') % 2 == 0)

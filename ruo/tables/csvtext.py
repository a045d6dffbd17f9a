"""A file's bytes as CSV text (RFC 4180) in UTF-8 whose lines end with LF, its header, and where it may be cut.

A newline inside a quoted cell does not end a row.
"""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import itertools
import lzma
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, NamedTuple

import numpy as np

from ruo.errors import TableError, needs, warn
from ruo.tables.cells import MISSING, is_number
from ruo.tables.columns import counted
from ruo.tables.options import TableOptions

PIECE_BYTES = 8 << 20
_HEAD = 1 << 20
_LONGEST_CELL = 64 << 20
_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SWAPPED = bytes.maketrans(b"\r\n", b"\n\r")
_NAMED_SEPARATOR = re.compile(rb'(?i)(?:\xef\xbb\xbf)?"?sep=(.)"?\r?\n')  # as Excel reads it


class Text(NamedTuple):
    """CSV text in pieces, to be read once.

    `is_plain` text is the bytes of the file; where its lines end with CR (`has_cr`), CR and LF have changed places.
    """

    pieces: Iterator[bytes]
    is_plain: bool
    has_cr: bool


def text_of(file: io.BufferedReader, name: str, encoding: str | None) -> Text:
    """The text of a file from its first byte on."""
    magic = file.peek(6)[:6]
    unpack = next((unpack for start, unpack in _UNPACK.items() if magic.startswith(start)), None)
    head, pieces = _with_first(unpack(file, name) if unpack else _read(file))
    coding = codecs.lookup(encoding or _BOMS.get(head[:2], "utf-8")).name
    if is_other := coding not in ("utf-8", "utf-8-sig", "ascii"):
        head, pieces = _with_first(_decoded(pieces, name, coding))
    if has_cr := b"\r" in head and b"\n" not in head:
        pieces = (piece.translate(_SWAPPED) for piece in pieces)
    return Text(pieces, not (unpack or is_other or has_cr), has_cr)


def _with_first(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first piece, and all of them."""
    pieces = filter(None, pieces)
    first = next(pieces, b"")
    return first, itertools.chain([first], pieces)


def _read(file: io.BufferedIOBase | IO[bytes]) -> Iterator[bytes]:
    yield file.read(_HEAD)
    yield from iter(partial(file.read, PIECE_BYTES), b"")


def _decoded(pieces: Iterator[bytes], name: str, encoding: str) -> Iterator[bytes]:
    try:
        yield from map(str.encode, codecs.iterdecode(pieces, encoding))
    except UnicodeError as error:
        raise TableError(f"{name} is not text in {encoding} ({error}); pass another encoding.") from None


def _unzip(file: io.BufferedReader, name: str) -> Iterator[bytes]:
    if not file.seekable():
        raise TableError(f"{name} is a zip file, which cannot be read from a pipe; unpack it first: unzip -p.")
    archive = zipfile.ZipFile(file)
    if "[Content_Types].xml" in archive.namelist():
        cure = "pass pandas.read_excel(...) in place of the path, or save it as CSV"
        raise TableError(f"{name} is an Excel workbook; {cure}.")
    if "model.weights.h5" in archive.namelist():
        raise TableError(f"{name} is a Keras model and no table; name the table, or put it in a folder of its own.")
    members = [member for member in archive.infolist() if not (member.is_dir() or "__MACOSX" in member.filename)]
    if len(members) != 1:
        names = ", ".join(member.filename for member in members[:5]) or "none"
        raise TableError(f"{name} has {len(members)} files, a zip file with one is needed ({names}); unpack it first.")
    try:
        return _read(archive.open(members[0]))
    except RuntimeError as error:  # a password, or an unknown method
        raise TableError(f"{name} cannot be unpacked ({error}); unpack it first.") from None


def _unzstd(file: io.BufferedReader, name: str) -> Iterator[bytes]:
    with needs("zstd"):
        import zstandard
    frame, new = None, zstandard.ZstdDecompressor().decompressobj
    for packed in iter(partial(file.read, 1 << 16), b""):  # little, since it may become a thousand times as much
        while packed:
            frame = new() if frame is None or frame.eof else frame
            try:
                yield frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise OSError(error) from None
            packed = frame.unused_data
    if frame is None or not frame.eof:  # the stream reader of the package takes a file that was cut short for whole
        raise EOFError("Compressed file ended before the end of its last frame")


_UNPACK: dict[bytes, Callable[[io.BufferedReader, str], Iterator[bytes]]] = {
    b"\x1f\x8b": lambda file, _: _read(gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file, _: _read(bz2.BZ2File(file)),
    b"\xfd7zXZ\x00": lambda file, _: _read(lzma.LZMAFile(file)),  # noqa: SIM115  as long as `file` is
    b"PK\x03\x04": _unzip,
    b"\x28\xb5\x2f\xfd": _unzstd,
}


class CsvHeader(NamedTuple):
    """The column names in the first row, what stands between cells, and the `size` in bytes of all before the data."""

    columns: list[str]
    separator: str
    size: int
    lines: int  # before the data

    def has_ragged_rows(self, piece: bytes, rows: int) -> bool:
        """Whether any of the `rows` rows of a piece has more or fewer cells than the header."""
        if b'"' not in piece:
            return piece.count(self.separator.encode()) != rows * (len(self.columns) - 1)
        return any(len(cells) != len(self.columns) for cells in self.rows(piece))

    def has_misplaced_quotes(self, piece: bytes) -> bool:
        """Whether a quote opens in the middle of a cell, or something follows one that closes; polars would guess."""
        cells = np.frombuffer(b"\n%b\n" % piece, np.uint8)
        quotes = np.flatnonzero(cells == ord('"'))  # opening and closing ones in turn, as a doubled one does both
        beside = np.concatenate((cells[quotes[::2] - 1], cells[quotes[1::2] + 1]))
        return not np.isin(beside, np.frombuffer(b'"\r\n%b' % self.separator.encode(), np.uint8)).all()

    def rows(self, piece: bytes) -> Iterator[list[str]]:
        """The cells of every row; raises csv.Error for malformed quotes."""
        blank = [""] if len(self.columns) == 1 else []  # with one column, a blank line is a row with an empty cell
        text = io.StringIO(piece.decode("utf-8", errors="replace"), newline="")
        return (cells or blank for cells in csv.reader(text, strict=True, delimiter=self.separator))


def read_head(pieces: Iterator[bytes]) -> bytes:
    """The first pieces: the first row, and most often the second; what has no line end gets one."""
    head = b""
    while len(_first_rows(head)[1]) < 2 and len(head) <= _LONGEST_CELL:
        if not (more := next(pieces, b"")):
            return head if head.endswith(b"\n") else head + b"\n"
        head += more
    return head


def _first_rows(head: bytes) -> tuple[list[bytes], list[bytes]]:
    """The blank lines at the top with one that names the separator, and up to two rows that are whole."""
    before, rows, lines, quotes = list[bytes](), list[bytes](), list[bytes](), 0
    for line in io.BytesIO(head):
        lines.append(line)
        quotes += line.count(b'"')
        if quotes % 2 or not line.endswith(b"\n"):
            continue
        row, lines, quotes = b"".join(lines), [], 0
        is_row = rows or not (row.strip() in (b"", codecs.BOM_UTF8) or _NAMED_SEPARATOR.fullmatch(row))
        (rows if is_row else before).append(row)
        if len(rows) == 2:
            break
    return before, rows


def read_header(head: bytes, name: str, options: TableOptions) -> CsvHeader:
    """Read what stands before the data; raises TableError if there is nothing, or if a header is data."""
    above, rows = _first_rows(head)
    if not rows and head.strip():
        raise TableError(f'{name} has a quote (") in its first row that is not closed; look for a stray one.')
    if not rows:
        raise TableError(f"{name} is empty or has only empty lines; a CSV with a header and rows is needed.")
    first, second = rows[0], rows[1] if len(rows) > 1 else b""
    before = b"".join(above)
    if b"\0" in first:
        raise TableError(f"{name} is not a text file, or not in UTF-8; pass a CSV or Parquet file, or its encoding.")
    named = _NAMED_SEPARATOR.search(before)
    separator = options.separator or (named[1].decode() if named else _find_separator(first, second, name))
    try:
        columns = _cells(first, separator)
    except (csv.Error, ValueError):  # several rows: a carriage return ends the first
        message = f"{name} has no readable first row; write the column names with closed quotes and end lines with LF."
        raise TableError(message) from None
    if options.header:
        _require_names(columns, first, separator, name)
        before += first
    else:
        if len(columns) == 1:  # a blank line is a row
            before = b"".join(line for line in above if _NAMED_SEPARATOR.fullmatch(line))
        before += codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) and not before else b""
        columns = counted(len(columns))
    return CsvHeader(columns, separator, len(before), before.count(b"\n"))


def _require_names(columns: list[str], first: bytes, separator: str, name: str) -> None:
    try:
        first.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8: its first row has the byte 0x{error.object[error.start]:02x}"
        raise TableError(f'{message}; pass its encoding, such as encoding="cp1252".') from None
    is_counted = columns == counted(len(columns))  # as tables without names are written
    shown = separator.join(columns)[:40]
    if not is_counted and all(is_number(column) or column.strip().lower() in MISSING for column in columns):
        what = f"{name} begins with a row of data ({shown})"
        raise TableError(f"{what}; add a header line with the column names, or pass header=False.")
    if is_counted and len(columns) < 3:  # no row of data counts further
        warn(f"{name} begins with names that count ({shown}); pass header=False if they are a row of data.")


def _find_separator(first: bytes, second: bytes, name: str) -> str:
    """The separator that cuts both rows alike; raises TableError if several do."""
    counts = [(one, _count(first, one)) for one in ",;\t|"]
    fitting = [one for one, count in counts if count > 1 and (not second.strip() or _count(second, one) == count)]
    if len(fitting) > 1:
        shown = " and ".join(map(repr, fitting))
        raise TableError(f"{name} may be separated by {shown}; pass the separator, such as separator={fitting[0]!r}.")
    return fitting[0] if fitting else ","


def _count(row: bytes, separator: str) -> int:
    with contextlib.suppress(csv.Error, ValueError):
        return len(_cells(row, separator))
    return 0


def _cells(row: bytes, separator: str) -> list[str]:
    text = io.StringIO(row.decode("utf-8-sig", errors="backslashreplace"), newline="")
    (cells,) = csv.reader(text, strict=True, delimiter=separator)
    return cells


def row_start(file: IO[bytes], position: int) -> int:
    """Where the first line begins at or after `position`."""
    if position <= 0:
        return 0
    file.seek(position - 1)
    file.readline()
    return file.tell()


def read_lines(file: IO[bytes], size: int, begin: int, end: int) -> Iterator[bytes]:
    """Pieces of about `size` bytes, which end with a line."""
    while begin < end:
        # measured first, so that no piece is copied to complete its last line
        stop = row_start(file, min(begin + size, end))
        file.seek(begin)
        yield file.read(stop - begin)
        begin = stop


def cut_between_rows(pieces: Iterator[bytes], name: str, *, blank_lines_are_rows: bool = False) -> Iterator[bytes]:
    """Cut text anew into pieces of whole rows; TableError for an open quote."""
    rest = b""
    for piece in pieces:
        text, begin = rest + piece, len(rest)
        end = text.rfind(b"\n", begin) + 1
        if b'"' in text:  # searching for a quote is eight times as fast as counting, and most tables have none
            quotes = text.count(b'"', 0, end)
            while quotes % 2:
                last, end = end, text.rfind(b"\n", begin, end - 1) + 1
                quotes -= text.count(b'"', end, last)
        if not blank_lines_are_rows:
            end = _without_blank_lines(text, end)
        if end:
            yield text[:end]
        rest = text[end:]
        if len(rest) > _LONGEST_CELL:
            raise TableError(f'In {name} a quote (") is opened and not closed within 64 MB; look for a stray one.')
    if rest.count(b'"') % 2:
        raise TableError(f'In {name} a quote (") is opened and not closed; look for a stray one, or use other parts.')
    if rest if blank_lines_are_rows else rest.strip(b"\r\n"):
        yield rest


def _without_blank_lines(text: bytes, end: int) -> int:
    """Where the rows end: blank lines mean nothing at the end of the file, elsewhere the parser complains."""
    if text.endswith((b"\n\n", b"\n\r\n"), 0, end) or (end < 3 and text[:end] in (b"\n", b"\r\n")):
        rows = len(text[:end].rstrip(b"\r\n"))
        return text.index(b"\n", rows) + 1 if rows else 0
    return end

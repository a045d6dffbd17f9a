"""A file's bytes as CSV text in UTF-8 whose lines end with LF, whatever it is packed and encoded in."""

import bz2
import codecs
import gzip
import io
import itertools
import lzma
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, NamedTuple

from ruo.errors import MissingPackageError, TableError

PIECE_BYTES = 8 << 20
_HEAD = 1 << 20
_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SWAPPED = bytes.maketrans(b"\r\n", b"\n\r")


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
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise TableError(f"{name} is not text in {encoding} ({error}); pass another encoding.") from None


def _unzip(file: io.BufferedReader, name: str) -> Iterator[bytes]:
    if not file.seekable():
        raise TableError(f"{name} is a zip file, which cannot be read from a pipe; unpack it first: unzip -p.")
    archive = zipfile.ZipFile(file)
    members = [member for member in archive.infolist() if not (member.is_dir() or "__MACOSX" in member.filename)]
    if len(members) != 1:
        names = ", ".join(member.filename for member in members[:5]) or "none"
        raise TableError(f"{name} has {len(members)} files, a zip file with one is needed ({names}); unpack it first.")
    try:
        return _read(archive.open(members[0]))
    except RuntimeError as error:  # a password, or an unknown method
        raise TableError(f"{name} cannot be unpacked ({error}); unpack it first.") from None


def _unzstd(file: io.BufferedReader, name: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ModuleNotFoundError:
        message = f"{name} is compressed with Zstandard, which needs a package: pip install 'ruo[zstd]', or zstandard"
        raise MissingPackageError(message) from None
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

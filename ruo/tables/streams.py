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
from typing import IO, Any, NamedTuple, cast

from ruo.errors import MissingPackageError, TableError

_CHUNK = 1 << 20
_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SWAPPED = bytes.maketrans(b"\r\n", b"\n\r")


class Text(NamedTuple):
    """CSV text to read once; `has_cr` says that its lines end with CR: there, CR and LF have changed places."""

    stream: io.BufferedReader
    has_cr: bool = False
    is_packed: bool = False


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def as_stream(*parts: bytes, rest: IO[bytes]) -> io.BufferedReader:
    """The parts and then the rest of a stream."""
    return _as_stream(itertools.chain(parts, _chunks(rest)))


def text_of(file: io.BufferedReader, name: str, encoding: str | None) -> Text:
    """The text of a file from its first byte on; `file` itself if it is plain text that can be read in parts."""
    magic = file.peek(6)[:6]
    unpack = next((unpack for start, unpack in _UNPACK.items() if magic.startswith(start)), None)
    packed = cast("IO[bytes]", unpack(file, name) if unpack else file)
    head = packed.read(_CHUNK)
    encoding = encoding or _BOMS.get(head[:2])
    is_utf8 = encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    if is_utf8 and not unpack and file.seekable() and not _has_cr(head):
        file.seek(0)
        return Text(file)
    chunks: Iterator[bytes] = itertools.chain([head], _chunks(packed))
    if encoding is not None and not is_utf8:
        chunks = _decoded(chunks, name, encoding)
    first = next(chunks, b"")
    chunks = itertools.chain([first], chunks)
    if not _has_cr(first):
        return Text(_as_stream(chunks), is_packed=unpack is not None)
    return Text(_as_stream(chunk.translate(_SWAPPED) for chunk in chunks), has_cr=True)


def _has_cr(head: bytes) -> bool:
    return b"\r" in head and b"\n" not in head


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(partial(stream.read, _CHUNK), b"")


def _as_stream(chunks: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Chunks(chunks), _CHUNK)


def _decoded(chunks: Iterator[bytes], name: str, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise TableError(f"{name} is not text in {encoding} ({error}); pass another encoding.") from None


def _unzip(file: io.BufferedReader, name: str) -> IO[bytes]:
    if not file.seekable():
        raise TableError(f"{name} is a zip file, which cannot be read from a pipe; unpack it first: unzip -p.")
    archive = zipfile.ZipFile(file)
    members = [member for member in archive.infolist() if not (member.is_dir() or "__MACOSX" in member.filename)]
    if len(members) != 1:
        names = ", ".join(member.filename for member in members[:5]) or "none"
        raise TableError(f"{name} has {len(members)} files, a zip file with one is needed ({names}); unpack it first.")
    try:
        return archive.open(members[0])
    except RuntimeError as error:  # a password, or an unknown method
        raise TableError(f"{name} cannot be unpacked ({error}); unpack it first.") from None


def _unzstd(file: io.BufferedReader, name: str) -> IO[bytes]:
    try:
        import zstandard
    except ModuleNotFoundError:
        message = f"{name} is compressed with Zstandard, which needs a package: pip install 'ruo[zstd]', or zstandard"
        raise MissingPackageError(message) from None

    def chunks() -> Iterator[bytes]:
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

    return _as_stream(chunks())


_UNPACK: dict[bytes, Callable[[io.BufferedReader, str], Any]] = {
    b"\x1f\x8b": lambda file, _: gzip.GzipFile(fileobj=file),
    b"BZh": lambda file, _: bz2.BZ2File(file),
    b"\xfd7zXZ\x00": lambda file, _: lzma.LZMAFile(file),  # noqa: SIM115  as long as `file` is
    b"PK\x03\x04": _unzip,
    b"\x28\xb5\x2f\xfd": _unzstd,
}

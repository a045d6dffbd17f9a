"""The body of a request: read within a size and a time, and decompressed where the client says it is.

Gunicorn reads a body through several buffers. A body of known length is instead received by one system call into
memory of that length: less copying, and the interpreter is not asked for again after every piece.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zstandard
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException

from ruo.model.compiled import ALIGNMENT
from ruo.wire import WireError
from ruo.wire.messages import Buffer

__all__ = ["CODINGS", "drain", "read_body"]

_DRAIN_S = 2.0  # for what is left of the body of a request that was refused
_PIECE = 1 << 20
_SLOWEST = float(1 << 20)  # bytes a second; a large body is given time accordingly
_LATE = "The body did not arrive in time; send fewer rows at once."


def read_body(environ: dict[str, Any], limit: int, timeout: float, head: int = 0) -> Buffer:
    """The decompressed body; raises WireError: 413 beyond `limit` bytes, 408 where it is too slow, 415, 400."""
    coding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if coding not in CODINGS:
        raise WireError(f"Content-Encoding {coding[:40]!r} is not known; {', '.join(CODINGS)[2:]} are.", 415)
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > limit:
        raise _too_large(limit)
    deadline = _deadline(length, timeout)
    body: Buffer
    if _is_plain(environ):
        body = _memory(length, head)
        _receive_into(body, environ, deadline)
    else:
        body = _read(environ, limit, deadline)
    return CODINGS[coding](body, limit)


def _memory(length: int, head: int) -> memoryview:
    """So many bytes, of which the one at `head` is aligned; not zeroed first, and no memory before they are written to."""
    memory = np.empty(length + ALIGNMENT, np.uint8)
    shift = -(memory.ctypes.data + head) % ALIGNMENT
    return memory.data[shift : shift + length]


def _deadline(length: int, timeout: float) -> float:
    return time.monotonic() + timeout + length / _SLOWEST


def drain(environ: dict[str, Any]) -> None:
    """Read on for a moment and throw away, so that a client that is still sending gets to see the answer."""
    if not _is_plain(environ):
        return
    deadline = time.monotonic() + _DRAIN_S
    with contextlib.suppress(WireError, OSError):
        while left := environ["wsgi.input"].reader.length:
            _receive_into(memoryview(bytearray(min(left, _PIECE))), environ, deadline)


def _is_plain(environ: dict[str, Any]) -> bool:
    """Whether the body's bytes are, untouched so far, on a socket that gives them as they are."""
    reader = getattr(environ.get("wsgi.input"), "reader", None)
    return isinstance(reader, LengthReader) and type(environ.get("gunicorn.socket")) is socket.socket


def _receive_into(body: memoryview, environ: dict[str, Any], deadline: float) -> None:
    """The next bytes of the body: those that came with the headers, and the rest from the socket."""
    reader, connection = environ["wsgi.input"].reader, environ["gunicorn.socket"]
    buffered = reader.unreader.take_buffered()
    if len(buffered) > len(body):  # more of this body, or another request on the same connection
        reader.unreader.unread(buffered[len(body) :])
    at = min(len(buffered), len(body))
    body[:at] = buffered[:at]
    reader.length -= at
    try:
        while at < len(body):
            _set_timeout(connection, deadline - time.monotonic())
            count = connection.recv_into(body[at:], len(body) - at, socket.MSG_WAITALL)
            if not count:
                raise WireError(f"The body ended {reader.length} bytes before the end that Content-Length names.")
            at += count
            reader.length -= count
    except (BlockingIOError, TimeoutError):
        raise WireError(_LATE, 408) from None
    finally:
        _set_timeout(connection, None)


def _set_timeout(connection: socket.socket, seconds: float | None) -> None:
    """Limit the socket's waiting in the kernel; Python's own timeout would end a call at every piece that comes."""
    if seconds is not None and seconds <= 0:
        raise TimeoutError
    micros = max(1, int((seconds or 0) * 1e6)) if seconds else 0
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", *divmod(micros, 1_000_000)))


def _read(environ: dict[str, Any], limit: int, deadline: float) -> Buffer:
    """A body that is sent in chunks of its own, or encrypted, or that is not on a socket at all."""
    # without a length and without chunks there is no body (RFC 9112, 6.3), and reading on would wait for ever
    if not environ.get("CONTENT_LENGTH") and not environ.get("wsgi.input_terminated"):
        return b""
    connection, stream = environ.get("gunicorn.socket"), environ["wsgi.input"]
    length = int(environ.get("CONTENT_LENGTH") or limit + 1)
    with _cut_off(connection, deadline):
        try:
            body: bytes = stream.read(length)
        except (OSError, ParseException) as error:
            if time.monotonic() >= deadline:
                raise WireError(_LATE, 408) from None
            raise WireError(f"The body breaks off, or its chunks are malformed ({error}).") from None
    if len(body) > limit:
        raise _too_large(limit)
    return body


@contextlib.contextmanager
def _cut_off(connection: socket.socket | None, deadline: float) -> Iterator[None]:
    """End the receiving side of a connection at the deadline; what waits for it sees an end. Answering goes on."""
    if connection is None:
        yield
        return
    timer = threading.Timer(deadline - time.monotonic(), connection.shutdown, [socket.SHUT_RD])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _too_large(limit: int) -> WireError:
    return WireError(
        f"The body is larger than {limit / 2**20:g} MB, the most this server takes; send fewer rows at once.", 413
    )


# --- decompression; one byte more than the limit is enough to know that there is too much


def _as_it_is(body: Buffer, limit: int) -> Buffer:
    return body


def _checked(name: str, open_body: Callable[[Buffer], Any]) -> Callable[[Buffer, int], Buffer]:
    def decompress(body: Buffer, limit: int) -> Buffer:
        try:
            plain: bytes = open_body(body).read(limit + 1)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError):
            raise WireError(f"The body is not {name}, although Content-Encoding says so.") from None
        if len(plain) > limit:
            raise _too_large(limit)
        return plain

    return decompress


class _Inflated(io.BytesIO):
    """zlib's format, which HTTP calls deflate, to be read like a file."""

    def read(self, size: int | None = -1, /) -> bytes:
        inflating = zlib.decompressobj()
        plain = inflating.decompress(self.getbuffer(), size or 0)
        if not inflating.eof and len(plain) < (size or 0):
            raise EOFError
        return plain


def _open_zstd(body: Buffer) -> Any:
    # a larger window than 128 MB would be memory that the limit does not count
    return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(bytes(body), read_across_frames=True)


CODINGS: dict[str, Callable[[Buffer, int], Buffer]] = {
    "": _as_it_is,
    "identity": _as_it_is,
    "gzip": _checked("gzip", lambda body: gzip.GzipFile(fileobj=io.BytesIO(body))),
    "deflate": _checked("deflate", _Inflated),
    "zstd": _checked("zstd", _open_zstd),
}

"""The body of a request: read within limits of size and time, and decompressed.

Gunicorn reads a body through several buffers. Here a body of known length is received by one system call into memory
of that length, which saves copies, and a wait for the interpreter after every piece.
"""

import contextlib
import math
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

from ruo.wire import WireError
from ruo.wire.messages import Buffer

_SLOWEST = 1 << 20  # bytes per second; a large body has more time accordingly
_DRAIN_S = 2.0
_PIECE = 1 << 20
_EITHER = zlib.MAX_WBITS | 32  # gzip's format or zlib's, whichever it is
_LATE = "The body did not arrive in time; send fewer rows at once."


def read_body(environ: dict[str, Any], limit: int, timeout: float, grow: Callable[[int], None] | None = None) -> Buffer:
    """The decompressed body of a WSGI request, of at most `limit` bytes before and after decompression.

    It must arrive within `timeout` seconds, and a second more for every megabyte of a known length. `grow` is called
    with the bytes that it takes before they are taken, and may refuse them.
    """
    coding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() or "identity"
    if coding not in CODINGS:
        raise WireError(f"Content-Encoding {coding[:40]!r} is not known; {', '.join(CODINGS)} are.", 415)
    if "," in environ.get("HTTP_TRANSFER_ENCODING", ""):  # which Gunicorn lets through, and does not unpack
        raise WireError("Transfer-Encoding must be chunked alone; name another coding in Content-Encoding.", 501)
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > limit:
        raise _too_large(limit)
    deadline = time.monotonic() + timeout + length / _SLOWEST
    if _is_plain(environ):
        body: Buffer = _receive(environ, length, deadline)
    else:
        connection = environ.get("gunicorn.socket")
        with _cut_off(connection, deadline) if connection else contextlib.nullcontext():
            body = _collect(_pieces(environ, limit, deadline), limit, grow, 0)
    if (unpack := CODINGS[coding]) is None:
        return body
    try:
        return _collect(unpack(memoryview(body)), limit, grow, len(body))
    except (EOFError, zlib.error, zstandard.ZstdError):
        raise WireError(f"The body is not {coding}, although Content-Encoding says so.") from None


def _collect(pieces: Iterator[bytes], limit: int, grow: Callable[[int], None] | None, beside: int) -> bytearray:
    """The pieces as one; `beside` are the bytes of what they are made from."""
    body = bytearray()
    for piece in pieces:
        if len(body) + len(piece) > limit:
            raise _too_large(limit)
        if grow:
            grow(beside + len(body) + len(piece))
        body += piece
    return body


def drain(environ: dict[str, Any]) -> None:
    """Discard the rest of a refused body for two seconds, so that its client sees the answer and keeps the connection."""
    deadline = time.monotonic() + _DRAIN_S
    with contextlib.suppress(WireError, OSError):
        while _is_plain(environ) and (rest := environ["wsgi.input"].reader.length):
            _receive(environ, min(rest, _PIECE), deadline)


def _is_plain(environ: dict[str, Any]) -> bool:
    """Whether the body has a known length and comes from a socket without TLS."""
    reader = getattr(environ.get("wsgi.input"), "reader", None)
    return isinstance(reader, LengthReader) and type(environ.get("gunicorn.socket")) is socket.socket


def _receive(environ: dict[str, Any], length: int, deadline: float) -> memoryview:
    """A body of known length: the bytes that came with the headers, and the rest from the socket."""
    body = np.empty(length, np.uint8).data  # not zeroed first, as a bytearray would be
    reader, connection = environ["wsgi.input"].reader, environ["gunicorn.socket"]
    buffered = reader.unreader.take_buffered()
    at = min(len(buffered), length)
    reader.unreader.unread(buffered[at:])  # the next request on this connection
    body[:at] = buffered[:at]
    try:
        while at < length:
            _limit_waiting(connection, deadline - time.monotonic())
            if not (received := connection.recv_into(body[at:], length - at, socket.MSG_WAITALL)):
                raise ConnectionError
            at += received
    except ConnectionError:
        raise WireError(f"The body ended {length - at} bytes before the end that Content-Length names.") from None
    except (BlockingIOError, TimeoutError):
        raise WireError(_LATE, 408) from None
    finally:
        reader.length -= at
        _limit_waiting(connection, None)
    return body


def _limit_waiting(connection: socket.socket, seconds: float | None) -> None:
    """Set the kernel's timeout of the socket, None for none; with Python's own, MSG_WAITALL would not wait for all."""
    if seconds is not None and seconds <= 0:
        raise TimeoutError
    micros = 0 if seconds is None else math.ceil(seconds * 1e6)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", *divmod(micros, 1_000_000)))


def _pieces(environ: dict[str, Any], limit: int, deadline: float) -> Iterator[bytes]:
    """A body in chunks, over TLS, or not from a socket at all."""
    # without a length and without chunks there is no body (RFC 9112, 6.3), and reading would wait forever
    if not environ.get("CONTENT_LENGTH") and not environ.get("wsgi.input_terminated"):
        return
    left = int(environ.get("CONTENT_LENGTH") or limit + 1)  # one byte more than the limit shows that there is too much
    try:
        while piece := environ["wsgi.input"].read(min(_PIECE, left)):
            left -= len(piece)
            yield piece
        if environ.get("CONTENT_LENGTH") and left:
            raise WireError(f"The body ended {left} bytes before the end that Content-Length names.")
    except (OSError, ParseException) as error:
        if time.monotonic() >= deadline:
            raise WireError(_LATE, 408) from None
        raise WireError(f"The body breaks off, or its chunks are malformed ({error}).") from None


@contextlib.contextmanager
def _cut_off(connection: socket.socket, deadline: float) -> Iterator[None]:
    """Shut down receiving at the deadline, so that the thread which reads sees the end and can still answer."""
    # a TLS socket's own method would end the encryption of the answer as well
    timer = threading.Timer(deadline - time.monotonic(), socket.socket.shutdown, [connection, socket.SHUT_RD])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _too_large(limit: int) -> WireError:
    return WireError(f"The body is larger than {limit / 2**20:g} MB, the server's limit; send fewer rows at once.", 413)


def _inflate(body: memoryview) -> Iterator[bytes]:
    """A body in the format of gzip, maybe in several parts, or of zlib."""
    unpacker = zlib.decompressobj(_EITHER)
    for start in range(0, len(body), _PIECE):
        rest: Buffer = body[start : start + _PIECE]
        while rest:
            if unpacker.eof:
                unpacker = zlib.decompressobj(_EITHER)
            yield unpacker.decompress(rest, _PIECE)
            rest = unpacker.unconsumed_tail or unpacker.unused_data
    if not unpacker.eof:
        raise EOFError


def _unpack_zstd(body: memoryview) -> Iterator[bytes]:
    """A body in the format of zstd (RFC 8878), maybe in several frames, by blocks: each is of 128 kB at most."""
    # a window larger than 128 MB would be memory beyond the limit
    begin = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj
    while body:
        unpacker, size = begin(), zstandard.frame_header_size(body)
        while not unpacker.eof:
            if not body:
                raise EOFError
            yield unpacker.decompress(body[:size])
            body = body[min(size, len(body)) - len(unpacker.unused_data) :]
            head = int.from_bytes(body[:3], "little")
            size = 3 + (1 if head & 6 == 2 else head >> 3)  # of a block that repeats one byte, that byte


CODINGS: dict[str, Callable[[memoryview], Iterator[bytes]] | None] = {
    "identity": None,
    "gzip": _inflate,
    "deflate": _inflate,  # HTTP's name for zlib's format
    "zstd": _unpack_zstd,
}

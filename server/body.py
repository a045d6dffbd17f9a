"""The body of a request: read within a size and a time, and decompressed where the client says it is.

Gunicorn reads a body through several buffers. A body of known length is instead received by one system call into
memory of that length: less copying, and no waiting for the interpreter after every piece.
"""

from __future__ import annotations

import contextlib
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

__all__ = ["CODINGS", "drain", "read_body"]

_SLOWEST = float(1 << 20)  # bytes a second; a large body is given time accordingly
_DRAIN_S = 2.0
_PIECE = 1 << 20
_LATE = "The body did not arrive in time; send fewer rows at once."


def read_body(environ: dict[str, Any], limit: int, timeout: float) -> Buffer:
    """Receive the body of a request and decompress it.

    Parameters
    ----------
    environ : dict
        The request (WSGI, PEP 3333).
    limit : int
        The most bytes it may have, before and after decompression.
    timeout : float
        Seconds in which it must arrive; a body of known length has a second more for every megabyte.

    Raises
    ------
    WireError
        With status 413 beyond the limit, 408 where it is too slow, 415 for an unknown coding, 400 where it breaks off.
    """
    coding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if coding not in CODINGS:
        raise WireError(f"Content-Encoding {coding[:40]!r} is not known; {', '.join(CODINGS)[2:]} are.", 415)
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > limit:
        raise _too_large(limit)
    deadline = time.monotonic() + timeout + length / _SLOWEST
    body = _receive(environ, length, deadline) if _is_plain(environ) else _read(environ, limit, deadline)
    return _decompress(body, coding, limit)


def drain(environ: dict[str, Any]) -> None:
    """Read the rest of a refused body and throw it away: its client sees the answer, and may use the connection again.

    What does not come within two seconds is left to the end of the connection.
    """
    deadline = time.monotonic() + _DRAIN_S
    with contextlib.suppress(WireError, OSError):
        while _is_plain(environ) and (rest := environ["wsgi.input"].reader.length):
            _receive(environ, min(rest, _PIECE), deadline)


def _is_plain(environ: dict[str, Any]) -> bool:
    """Whether the body's bytes are, untouched so far, on a socket that gives them as they are."""
    reader = getattr(environ.get("wsgi.input"), "reader", None)
    return isinstance(reader, LengthReader) and type(environ.get("gunicorn.socket")) is socket.socket


def _receive(environ: dict[str, Any], length: int, deadline: float) -> memoryview:
    """A body of known length: the bytes that came with the head, and the rest from the socket."""
    body = np.empty(length, np.uint8).data  # not zeroed first, as a bytearray would be
    reader, connection = environ["wsgi.input"].reader, environ["gunicorn.socket"]
    buffered = reader.unreader.take_buffered()
    at = min(len(buffered), length)
    reader.unreader.unread(buffered[at:])  # another request on the same connection
    body[:at] = buffered[:at]
    try:
        while at < length:
            _limit_waiting(connection, deadline - time.monotonic())
            received = connection.recv_into(body[at:], length - at, socket.MSG_WAITALL)
            if not received:
                raise WireError(f"The body ended {length - at} bytes before the end that Content-Length names.")
            at += received
    except (BlockingIOError, TimeoutError):
        raise WireError(_LATE, 408) from None
    finally:
        reader.length -= at
        _limit_waiting(connection, None)
    return body


def _limit_waiting(connection: socket.socket, seconds: float | None) -> None:
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
    length = int(environ.get("CONTENT_LENGTH") or limit + 1)
    with _cut_off(environ.get("gunicorn.socket"), deadline):
        try:
            body: bytes = environ["wsgi.input"].read(length)
        except (OSError, ParseException) as error:
            if time.monotonic() >= deadline:
                raise WireError(_LATE, 408) from None
            raise WireError(f"The body breaks off, or its chunks are malformed ({error}).") from None
    if len(body) > limit:
        raise _too_large(limit)
    return body


@contextlib.contextmanager
def _cut_off(connection: socket.socket | None, deadline: float) -> Iterator[None]:
    """End the receiving side of a connection at the deadline; a thread that reads sees an end, and can still answer."""
    if connection is None:
        yield
        return
    # not the method of a TLS socket, which would end the encryption of the answer as well
    timer = threading.Timer(deadline - time.monotonic(), socket.socket.shutdown, [connection, socket.SHUT_RD])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _too_large(limit: int) -> WireError:
    return WireError(
        f"The body is larger than {limit / 2**20:g} MB, the most this server takes; send fewer rows at once.", 413
    )


def _inflate(body: Buffer, size: int) -> bytes:
    """The first `size` bytes of a body in the formats of gzip, which may be several in a row, or zlib."""
    plain, rest = b"", bytes(body)
    while (not plain or rest) and len(plain) < size:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # which tells one from the other
        plain += unpacker.decompress(rest, size - len(plain))
        rest = unpacker.unused_data
        if not unpacker.eof and len(plain) < size:
            raise EOFError
    return plain


def _unpack_zstd(body: Buffer, size: int) -> bytes:
    # a larger window than 128 MB would be memory that the limit does not count
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return unpacker.stream_reader(bytes(body), read_across_frames=True).read(size)


CODINGS: dict[str, Callable[[Buffer, int], bytes] | None] = {
    "": None,
    "identity": None,
    "gzip": _inflate,
    "deflate": _inflate,  # HTTP's name for zlib's format
    "zstd": _unpack_zstd,
}


def _decompress(body: Buffer, coding: str, limit: int) -> Buffer:
    unpack = CODINGS[coding]
    if unpack is None:
        return body
    try:
        plain = unpack(body, limit + 1)  # one byte more than the limit is enough to know that there is too much
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        raise WireError(f"The body is not {coding}, although Content-Encoding says so.") from None
    if len(plain) > limit:
        raise _too_large(limit)
    return plain

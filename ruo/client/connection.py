"""A connection to an HTTP/1.1 server (RFC 9112): one exchange after the other, each a request and its whole answer.

llhttp, by way of httptools, parses what comes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple, Self

import httptools

from ruo.wire.messages import Buffer

__all__ = ["ConnectError", "Connection", "HttpAnswer", "Peer", "StaleError"]

_JOINED_BYTES = 1 << 16  # a small request is one call of the system, which costs more than copying it
_WRITE_BYTES = 1 << 18  # asyncio copies what the socket does not take at once, so a large one is offered piece by piece


class ConnectError(OSError):
    """No connection came about; the reason, an OSError or a TimeoutError, is its `__cause__`."""


class StaleError(OSError):
    """A connection that has served before was closed before anything of the next answer came."""


class Peer(NamedTuple):
    """Where to connect to. With `tls`, `name` is who has to be there."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    name: str


class HttpAnswer(NamedTuple):
    """What came back. The headers' names are written Like-This, however the server writes them."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """Made by `open`; `is_open` says whether there can be another exchange, `address` who is at the other end."""

    def __init__(self) -> None:
        self.is_open = False
        self.opened_at = 0.0
        self.address = ""
        self._has_served = False
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._may_write: asyncio.Future[None] | None = None
        self._begin()

    @classmethod
    async def open(cls, peer: Peer, timeout_s: float) -> Self:
        """Connect; raises ConnectError where that fails or takes too long, ssl.SSLError where the peer is not trusted."""
        loop = asyncio.get_running_loop()
        is_address = ":" in peer.host or peer.host.replace(".", "").isdigit()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    cls, peer.host, peer.port, ssl=peer.tls, server_hostname=peer.name if peer.tls else None,
                    happy_eyeballs_delay=None if is_address else 0.25,
                )  # fmt: skip
        except ssl.SSLError:
            raise
        except OSError as error:  # TimeoutError is one
            raise ConnectError(str(error)) from error
        return connection

    async def exchange(self, head: bytes, buffers: Sequence[Buffer], timeout_s: float) -> HttpAnswer:
        """Send a request, `head` and then the buffers one after the other, and give its answer.

        Raises TimeoutError where that takes too long, StaleError, and any other OSError where the connection breaks or
        what comes is not HTTP. The connection is closed then.
        """
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                if not self.is_open:
                    raise StaleError
                await self._send([memoryview(buffer) for buffer in (head, *buffers)])
                answer = await self._answer
        except BaseException:  # being cancelled is one
            self.abort()
            raise
        self._has_served = True
        return answer

    def close(self) -> None:
        """Close it once all is sent."""
        self.is_open = False
        if self._is_tls:
            self._transport.abort()  # without waiting for the other side's word
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self.is_open = False
        self._transport.abort()

    async def _send(self, views: list[memoryview]) -> None:
        """Write the request, as far as the other side takes it: it may answer before it has seen all."""
        if sum(map(len, views)) <= _JOINED_BYTES:
            self._transport.write(b"".join(views))
            return
        for view in views:
            for start in range(0, len(view), _WRITE_BYTES):
                if self._answer is None or self._answer.done() or self._transport.is_closing():
                    return
                self._transport.write(view[start : start + _WRITE_BYTES])
                if self._may_write is not None:
                    await self._may_write

    # --- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        self.opened_at = asyncio.get_running_loop().time()
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._is_answering = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"what came is not an answer in HTTP: {error}"))

    def pause_writing(self) -> None:
        """The other side is behind."""
        self._may_write = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """It has caught up, or nothing more is to be written."""
        if self._may_write is not None and not self._may_write.done():
            self._may_write.set_result(None)
        self._may_write = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, by `exc` or of itself."""
        self.is_open = False
        if exc is None and self._ends_with_connection:
            self.on_message_complete()
        if self._has_served and not self._is_answering:
            self._fail(StaleError())
        self._fail(exc or ConnectionError("the server closed it before its answer was complete"))

    # --- called by the parser

    def on_status(self, status: bytes) -> None:
        """Part of the reason."""
        self._reason += status.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._headers[name.decode("latin-1").title()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The body begins."""
        self._ends_with_connection = not {"Content-Length", "Transfer-Encoding"} & self._headers.keys()

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        status = self._parser.get_status_code()
        if status >= 200 and self._answer is not None and not self._answer.done():  # else a word in between
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self.is_open = self.is_open and self._parser.should_keep_alive()
            self._answer.set_result(HttpAnswer(status, self._reason, self._headers, body))
            self.resume_writing()
        self._begin()

    def _begin(self) -> None:
        self._is_answering = False
        self._reason = ""
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._ends_with_connection = False

    def _fail(self, error: Exception) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # it may be that nobody waits for it any more
        self.resume_writing()

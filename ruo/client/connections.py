"""The connections of a client, and the body that goes over one.

A large request gets a connection of its own, which goes to whichever server process or pod is free; a kept one stays
where it is. A new one costs a fraction of a millisecond, so small requests share one for a quarter of a second. Of
aiohttp only public names are used; little known are `connect` of a connector and `should_close` of a protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from ruo.wire import Encoded
from ruo.wire.messages import Buffer

_KEPT_S = 0.25
_JOINED_BYTES = 1 << 16  # up to here, joining the buffers costs less than a system call for each
_WRITE_BYTES = 1 << 18  # asyncio copies what the socket does not take at once, so a large buffer is written in pieces


class Upload(aiohttp.Payload):
    """The body of a request, sent buffer by buffer with its length; `keeps` lets it share a connection."""

    def __init__(self, body: Encoded, keeps: bool) -> None:
        super().__init__(body, headers=body.headers)
        self.keeps = keeps
        self.is_on_kept_connection = False  # known once it is sent, as `peer` is: the IP address at the other end
        self.peer = ""
        self._body = body

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self._body.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text, which only aiohttp's base class asks for."""
        return b"".join(self._body.buffers).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send as much as the server takes; where it stops reading, its answer says why."""
        with contextlib.suppress(ConnectionError):
            for piece in self._pieces():
                await writer.write(piece)
            await writer.drain()

    def _pieces(self) -> Iterator[Buffer]:
        if self.size <= _JOINED_BYTES:
            yield b"".join(self._body.buffers)
            return
        for buffer in self._body.buffers:
            view = memoryview(buffer).cast("B")
            for start in range(0, len(view), _WRITE_BYTES):
                yield view[start : start + _WRITE_BYTES]


class _Connector(aiohttp.BaseConnector):
    """Opens a new connection for each request, or shares a young one where the request allows it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEPT_S, **options)
        self._opened_at: WeakKeyDictionary[ResponseHandler, float] = WeakKeyDictionary()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection for a request; a kept one only if it is young and holds no unrequested bytes."""
        upload = req.body if isinstance(req.body, Upload) else None
        keeps = upload is not None and upload.keeps
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert protocol is not None
            is_kept = protocol in self._opened_at
            age_s = time.monotonic() - self._opened_at.setdefault(protocol, time.monotonic())
            if not is_kept or (keeps and age_s < _KEPT_S and not protocol.should_close):
                break
            connection.close()
        transport = connection.transport
        if transport is not None:  # or else the connection is lost, which aiohttp notices
            connection.add_callback(partial(_end, transport, keeps))
            if upload is not None:
                peer = transport.get_extra_info("peername")  # of a Unix socket: a path
                upload.is_on_kept_connection = is_kept
                upload.peer = peer[0] if isinstance(peer, tuple) else ""
        return connection


class TcpConnector(_Connector, aiohttp.TCPConnector):
    """To host names and IP addresses."""

    def __init__(self) -> None:
        super().__init__(
            resolver=aiohttp.ThreadedResolver(),  # the system's; aiohttp prefers another one where it is installed
            socket_factory=lambda address: _Socket(*address[:3]),
        )


class UnixConnector(_Connector, aiohttp.UnixConnector):
    """To the Unix socket at `path`."""


def _end(transport: asyncio.Transport, keeps: bool) -> None:
    """Abort a connection that is not to be shared, or whose body was not sent in full; do not wait for the server."""
    if not keeps or transport.get_write_buffer_size():
        transport.abort()


class _Socket(socket.socket):
    """Hides that the other side has closed until its answer has been read.

    A server may refuse a large body and close before it has read it all; asyncio would then drop the connection.
    """

    def send(self, data: Any, *flags: int) -> int:
        try:
            return super().send(data, *flags)
        except (BrokenPipeError, ConnectionResetError):
            return memoryview(data).nbytes

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        buffers = list(buffers)
        try:
            return super().sendmsg(buffers, *rest)
        except (BrokenPipeError, ConnectionResetError):
            return sum(memoryview(buffer).nbytes for buffer in buffers)

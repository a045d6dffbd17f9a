"""How aiohttp connects for this client: who shares a connection, and how a body goes out.

Of aiohttp it takes public names only, among them two that few know: `TCPConnector.connect`, overridden, and
`should_close` of a connection's protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import aiohttp

from ruo.wire.messages import Buffer

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import AddrInfoType, Connection
    from aiohttp.tracing import Trace

__all__ = ["Connector", "Upload"]

_KEPT_S = 0.25
_JOINED_BYTES = 1 << 16  # a small body is one call of the system, which costs more than copying it
_WRITE_BYTES = 1 << 18  # asyncio copies what the socket does not take at once, so a large one is offered piece by piece


class Upload(aiohttp.Payload):
    """The body of a request, sent buffer by buffer with its length.

    Parameters
    ----------
    buffers : sequence of bytes-like
        The body.
    size : int
        Its bytes.
    keeps : bool
        Whether the request may share a connection with others.

    Attributes
    ----------
    is_on_kept_connection : bool
        Whether the connection had served another request before.
    peer : str
        The IP address at the other end of the connection.
    """

    def __init__(self, buffers: Sequence[Buffer], size: int, keeps: bool) -> None:
        super().__init__(buffers)
        self.keeps = keeps
        self.is_on_kept_connection = False
        self.peer = ""
        self._buffers = buffers
        self._bytes = size

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return self._bytes

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text, which nothing asks for but aiohttp's base class."""
        return b"".join(self._buffers).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it, as far as the other side takes it: whoever reads the answer learns why it took no more."""
        with contextlib.suppress(ConnectionError):
            for piece in self._pieces():
                await writer.write(piece)
            await writer.drain()

    def _pieces(self) -> Iterator[Buffer]:
        if self._bytes <= _JOINED_BYTES:
            yield b"".join(self._buffers)
            return
        for buffer in self._buffers:
            view = memoryview(buffer).cast("B")
            for start in range(0, len(view), _WRITE_BYTES):
                yield view[start : start + _WRITE_BYTES]


class Connector(aiohttp.TCPConnector):
    """New connections, and kept ones for a moment where a request may share one."""

    def __init__(self) -> None:
        # of the system's names, as everything else on this machine has them; aiohttp takes another resolver if it can
        resolver = aiohttp.ThreadedResolver()
        super().__init__(limit=0, keepalive_timeout=_KEPT_S, resolver=resolver, socket_factory=_new_socket)
        self._opened_at: WeakKeyDictionary[ResponseHandler, float] = WeakKeyDictionary()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection for a request; a kept one only if it is young, and nothing came that nobody had asked for."""
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
        if transport is not None:  # else it is lost already, as aiohttp will notice
            connection.add_callback(partial(_end, transport, keeps))
            if upload is not None:
                upload.is_on_kept_connection = is_kept
                upload.peer = (transport.get_extra_info("peername") or ("",))[0]
        return connection


def _end(transport: asyncio.Transport, keeps: bool) -> None:
    """End a connection that nobody shares, or that is not sent out: at once, without waiting for the other side."""
    if not keeps or transport.get_write_buffer_size():
        transport.abort()


class _Socket(socket.socket):
    """Ends where its reader learns it.

    A server may refuse a large body, with a status, and close before it has read it all. Then sending fails although
    the answer is there to be read, and asyncio would give up the whole connection.
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


def _new_socket(address: AddrInfoType) -> socket.socket:
    return _Socket(*address[:3])

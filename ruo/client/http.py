"""One HTTP request and its whole answer, on aiohttp; every failure is a `RequestError`.

A large request gets a connection of its own, which goes to whichever server process or pod is free; a kept one stays
where it is. A new one costs a fraction of a millisecond, so small requests share one for a quarter of a second. Of
aiohttp only public names are used; little known are `TCPConnector.connect` and `should_close` of a protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache, partial
from typing import Any, Self
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from ruo.client.retry import RefusedError, failure, in_a_line, refusal
from ruo.errors import ArgumentError
from ruo.wire import Encoded, WireError
from ruo.wire.jsontext import loads
from ruo.wire.messages import Buffer

Response = tuple[Mapping[str, str], bytes]  # headers and body

_ADDRESS_S = 10.0  # how long a host name stands for the address that answered
_SMALL_BYTES = 1 << 20
_KEPT_S = 0.25
_JOINED_BYTES = 1 << 16  # up to here, joining the buffers costs less than a system call for each
_WRITE_BYTES = 1 << 18  # asyncio copies what the socket does not take at once, so a large buffer is written in pieces
_IN_PATHS = "/%:@!$&'()*+,;=~"  # characters that a path may hold unquoted (RFC 3986, section 3.3)


class HttpClient:
    """The connections of one client to all its servers; an async context manager."""

    def __init__(self, timeout_s: float, token: str | None, ca: str | None) -> None:
        self.timeout_s = timeout_s
        self._ca = ca
        self._headers = {"User-Agent": "ruo", "Accept-Encoding": "identity"}
        if token:
            if not token.isascii() or not token.isprintable():
                raise ArgumentError("The token has a character that no HTTP header can carry; correct it.")
            self._headers["Authorization"] = f"Bearer {token}"

    async def __aenter__(self) -> Self:
        # less than the time-out, so that "no connection" can be told from "no answer"; an address out of use never refuses
        connect_s = min(10.0, 0.9 * self.timeout_s)
        self.session = aiohttp.ClientSession(
            connector=Connector(),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=1 << 20,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await asyncio.sleep(0)  # closed transports end in the next iteration of the loop

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """The trusted certificate authorities: those in the file `ca`, or else the system's."""
        try:
            return ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            reason = in_a_line(error)
            raise ArgumentError(f"ca={self._ca!r} is not a file of certificates in PEM form ({reason}).") from None


class Endpoint:
    """Requests to one server, at one of its host's IP `address`es where one is given."""

    def __init__(self, http: HttpClient, url: str, address: str = "") -> None:
        self.keeps_connections = False  # until the server repeats ids, so that an answer to another request is noticed
        self._http = http
        self._url = url
        self._base = URL(url)
        self._proxy = proxy_of(url)
        self._address = address
        self._recent_address, self._recent_until = "", 0.0
        self._options: dict[str, Any] = {"proxy": self._proxy, "allow_redirects": False}
        if self._base.scheme == "https":
            self._options |= {"ssl": http.tls, "server_hostname": self._base.raw_host}

    async def ask(self, method: str, path: str, body: Encoded | None = None, most_bytes: int = 1 << 24) -> Response:
        """The answer with status 200 and at most `most_bytes`; anything else is a `RequestError`."""
        try:
            async with asyncio.timeout(self._http.timeout_s):
                return await self._exchange(method, path, body, most_bytes)
        except (aiohttp.ClientError, OSError) as error:
            self._recent_address = ""
            raise failure(self._url + path, error, self._http.timeout_s, self._proxy) from None

    async def ask_json(self, method: str, path: str) -> Any:
        """The answer, parsed; a POST sends an empty object, since some servers refuse a request without a body."""
        empty = Encoded({"Content-Type": "application/json"}, [b"{}"]) if method == "POST" else None
        _, text = await self.ask(method, path, empty)
        try:
            return loads(text)
        except WireError:
            raise RefusedError(
                f"{self._url}{path} did not answer JSON; is it the address of a model server?", 200
            ) from None

    async def _exchange(self, method: str, path: str, body: Encoded | None, most_bytes: int) -> Response:
        if body is None:
            return await self._send(method, path, None, most_bytes)
        upload = Upload(body, self.keeps_connections and body.size <= _SMALL_BYTES)
        try:
            answer = await self._send(method, path, upload, most_bytes)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            if not upload.is_on_kept_connection:
                raise
            # a server may close a kept connection at any time (RFC 9112, section 9.5)
            upload = Upload(body, keeps=False)
            answer = await self._send(method, path, upload, most_bytes)
        if upload.peer and not self._recent_address and not self._proxy:
            self._recent_address, self._recent_until = upload.peer, time.monotonic() + _ADDRESS_S
        return answer

    async def _send(self, method: str, path: str, upload: Upload | None, most_bytes: int) -> Response:
        if time.monotonic() > self._recent_until:
            self._recent_address = ""
        url = _joined(self._base, self._address or self._recent_address, path)
        headers = {"Host": self._base.host_port_subcomponent or ""}
        if upload is None or not upload.keeps:
            headers["Connection"] = "close"
        async with self._http.session.request(method, url, data=upload, headers=headers, **self._options) as response:
            if response.status != 200:
                raise refusal(self._url + path, response, await _read(response, 1 << 16))
            if (response.content_length or 0) <= most_bytes:
                body = await _read(response, most_bytes)
                if len(body) <= most_bytes:
                    return response.headers, body
            message = f"{self._url}{path} answered more than {most_bytes:,} bytes, the most that can be right."
            raise RefusedError(message, 200)


def proxy_of(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for an address."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


@lru_cache
def _joined(base: URL, address: str, path: str) -> URL:
    quoted = quote(base.raw_path.rstrip("/") + path, safe=_IN_PATHS)
    return (base.with_host(address) if address else base).with_path(quoted, encoded=True)


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body, until it is longer than `most_bytes`; that of a refusal may break off, since its status says enough."""
    pieces: list[bytes] = []
    size = 0
    with contextlib.suppress(*(() if response.status == 200 else (aiohttp.ClientError, ConnectionError))):
        while size <= most_bytes and (piece := await response.content.readany()):
            pieces.append(piece)
            size += len(piece)
    return b"".join(pieces)


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


class Connector(aiohttp.TCPConnector):
    """Opens a new connection for each request, or shares a young one where the request allows it."""

    def __init__(self) -> None:
        super().__init__(
            limit=0,
            keepalive_timeout=_KEPT_S,
            resolver=aiohttp.ThreadedResolver(),  # the system's; aiohttp prefers another one where it is installed
            socket_factory=lambda address: _Socket(*address[:3]),
        )
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
                upload.is_on_kept_connection = is_kept
                upload.peer = (transport.get_extra_info("peername") or ("",))[0]
        return connection


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

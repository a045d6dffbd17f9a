"""One HTTP request and its whole answer, on aiohttp; every failure is a `RequestError`.

A large request gets a connection of its own, which goes to whichever server process or pod is free; a kept one stays
where it is. A new one costs a fraction of a millisecond, so small requests share one for a quarter of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from ruo.client.retry import RefusedError, failure, refusal
from ruo.errors import ArgumentError, in_a_line
from ruo.wire import Encoded, WireError
from ruo.wire.jsontext import loads

Response = tuple[Mapping[str, str], bytes]  # headers and body

_KEPT_S = 0.25
_SMALL_BYTES = 1 << 20
_JOINED_BYTES = 1 << 16  # up to here, joining the buffers costs less than a system call for each
_WRITE_BYTES = 1 << 18  # asyncio copies what the socket does not take at once, so a large buffer is written in pieces
_NAME, _VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile("[ -~]*")  # of a header
# they say how a message is sent and answered
_OWN_HEADERS = {"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"}
_OWN_HEADERS |= {"inference-header-content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_IN_PATHS = "/%:@!$&'()*+,;=~"  # characters that a path may hold unquoted (RFC 3986, section 3.3)


class HttpClient(contextlib.AbstractAsyncContextManager["HttpClient"]):
    """The connections of one client to all its servers; an async context manager."""

    def __init__(
        self, timeout_s: float, token: str | None, ca: str | None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.timeout_s = timeout_s
        self.tls = True if ca is None else _authorities(ca)  # or else the system's
        self._headers = _headers(token, headers or {})
        self.host = self._headers.pop("Host", None)  # in place of the address's own
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()
        await asyncio.sleep(0)  # closed transports end in the next iteration of the loop

    def session(self, path: str | None) -> aiohttp.ClientSession:
        """The connections to the Unix socket at a path, or else to all hosts."""
        if path not in self._sessions:
            self._sessions[path] = aiohttp.ClientSession(
                connector=TcpConnector() if path is None else UnixConnector(path=path),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=1 << 20,
                # less than the time-out, to tell "no connection" from "no answer"; an address out of use never refuses
                timeout=aiohttp.ClientTimeout(total=None, connect=min(10.0, 0.9 * self.timeout_s)),
            )
        return self._sessions[path]


class Endpoint:
    """Requests to one server, at one of its host's IP `address`es where one is given."""

    def __init__(self, http: HttpClient, url: str, address: str = "") -> None:
        self.keeps_connections = False  # until the server repeats ids, so that an answer to another request is noticed
        self._http = http
        self._url = url
        scheme, _, path = url.partition(":")
        is_unix = scheme.lower() == "unix"
        self._session = http.session(path.removeprefix("//") if is_unix else None)  # Gunicorn writes unix:/path
        self._base = URL("http://localhost" if is_unix else url)
        self._proxy = proxy_of(url)
        self._host = http.host or self._base.host_port_subcomponent or ""
        self._given_address = address
        self._address = address  # or else the one that answered, until it fails
        self._options: dict[str, Any] = {"proxy": self._proxy, "allow_redirects": False}
        if self._base.scheme == "https":
            self._options |= {"ssl": http.tls, "server_hostname": self._base.raw_host}

    async def ask(self, method: str, path: str, body: Encoded | None = None, most_bytes: int = 1 << 24) -> Response:
        """The answer with status 200 and at most `most_bytes`; anything else is a `RequestError`."""
        try:
            async with asyncio.timeout(self._http.timeout_s):
                return await self._exchange(method, path, body, most_bytes)
        except (aiohttp.ClientError, OSError) as error:
            self._address = self._given_address
            raise failure(self._url + path, error, self._http.timeout_s, self._proxy) from None

    async def ask_json(self, method: str, path: str) -> Any:
        """The answer, parsed; a POST sends an empty object, since some servers refuse a request without a body."""
        empty = Encoded({"Content-Type": "application/json"}, [b"{}"]) if method == "POST" else None
        _, text = await self.ask(method, path, empty)
        try:
            return loads(text)
        except WireError:
            message = f"{self._url}{path} did not answer JSON; is it the address of a model server?"
            raise RefusedError(message, 200) from None

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
        self._address = self._address or ("" if self._proxy else upload.peer)
        return answer

    async def _send(self, method: str, path: str, upload: Upload | None, most_bytes: int) -> Response:
        url = _joined(self._base, self._address, path)
        headers = {"Host": self._host} | ({} if upload and upload.keeps else {"Connection": "close"})
        async with self._session.request(method, url, data=upload, headers=headers, **self._options) as response:
            if response.status != 200:
                raise refusal(self._url + path, response, await _read(response, 1 << 16))
            if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
                cure = "let it, or the proxy before it, answer as it is asked"
                raise RefusedError(f"{self._url}{path} answered in {coding}, which was not asked for; {cure}.", 200)
            body = await _read(response, most_bytes)
            if len(body) > most_bytes:
                message = f"{self._url}{path} answered more than {most_bytes:,} bytes, the most that can be right."
                raise RefusedError(message, 200)
            return response.headers, body


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
        buffers = self._body.buffers if self.size > _JOINED_BYTES else [b"".join(self._body.buffers)]
        with contextlib.suppress(ConnectionError):
            for view in (memoryview(buffer).cast("B") for buffer in buffers):
                for start in range(0, len(view), _WRITE_BYTES):
                    await writer.write(view[start : start + _WRITE_BYTES])
            await writer.drain()


class _Connector(aiohttp.BaseConnector):
    """Opens a new connection for each request, or shares a young one where the request allows it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEPT_S, **options)
        self._opened_at: WeakKeyDictionary[asyncio.Protocol, float] = WeakKeyDictionary()

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:
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
        if (transport := connection.transport) is not None:  # or else the connection is lost, which aiohttp notices
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
        except ConnectionError:
            return memoryview(data).nbytes

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        buffers = list(buffers)
        try:
            return super().sendmsg(buffers, *rest)
        except ConnectionError:
            return sum(memoryview(buffer).nbytes for buffer in buffers)


def _authorities(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        message = f"ca={ca!r} is not a file of certificates in PEM form ({in_a_line(error)})."
        raise ArgumentError(message) from None


def _headers(token: str | None, given: Mapping[str, str]) -> CIMultiDict[str]:
    """What every request carries; the messages leave the values out, which may be secrets."""
    headers = CIMultiDict({"User-Agent": "ruo", "Accept-Encoding": "identity"})
    if token:
        if not token.isprintable():  # as the server sees it; it is sent in UTF-8
            raise ArgumentError("The token has a character that no HTTP header can carry; correct it.")
        headers["Authorization"] = f"Bearer {token}"
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise ArgumentError(f"headers: {name!r:.60} is not a name that an HTTP header can have; correct it.")
        if not _VALUE.fullmatch(value):
            raise ArgumentError(f"headers: the value of {name} must be text that an HTTP header can carry; correct it.")
        if name.lower() in _OWN_HEADERS:
            raise ArgumentError(f"headers: {name} is set for each request by itself; leave it out.")
        if token and name.lower() == "authorization":
            raise ArgumentError("Give the token or the header Authorization, not both.")
        headers[name] = value
    return headers


def proxy_of(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for an address; ArgumentError for what is no HTTP proxy."""
    parts = urlsplit(url)
    if any(map(proxy_bypass, (parts.netloc, parts.hostname or ""))) or not (proxy := getproxies().get(parts.scheme)):
        return None  # none, or NO_PROXY names the host: with its port, or IPv6 without []
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    with contextlib.suppress(ValueError):
        if (parsed := URL(proxy)).scheme in ("http", "https") and parsed.host and parsed.port:
            return proxy
    # without its text, which may hold a password
    what = f"{parts.scheme.upper()}_PROXY is not the address of an HTTP proxy"
    raise ArgumentError(f"{what}; write it as http://host:port, or unset it.")


@lru_cache
def _joined(base: URL, address: str, path: str) -> URL:
    quoted = quote(base.raw_path.rstrip("/") + path, safe=_IN_PATHS)
    return (base.with_host(address) if address else base).with_path(quoted, encoded=True)


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body, until it is longer than `most_bytes`; that of a refusal may break off, since its status says enough."""
    pieces, size = list[bytes](), 0
    with contextlib.suppress(*(() if response.status == 200 else (aiohttp.ClientError, ConnectionError))):
        while size <= most_bytes and (piece := await response.content.readany()):
            pieces.append(piece)
            size += len(piece)
    return b"".join(pieces)

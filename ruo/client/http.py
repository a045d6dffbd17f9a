"""One HTTP request and its whole answer, on aiohttp; every failure is a `RequestError`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Self
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from ruo.client.connections import TcpConnector, UnixConnector, Upload
from ruo.client.retry import RefusedError, failure, in_a_line, refusal
from ruo.errors import ArgumentError
from ruo.wire import Encoded, WireError
from ruo.wire.jsontext import loads

Response = tuple[Mapping[str, str], bytes]  # headers and body

_ADDRESS_S = 10.0  # how long a host name stands for the address that answered
_SMALL_BYTES = 1 << 20
# they say how a message is sent and answered
_OWN_HEADERS = {"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"}
_OWN_HEADERS |= {"inference-header-content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_IN_PATHS = "/%:@!$&'()*+,;=~"  # characters that a path may hold unquoted (RFC 3986, section 3.3)


class HttpClient:
    """The connections of one client to all its servers; an async context manager."""

    def __init__(
        self, timeout_s: float, token: str | None, ca: str | None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.timeout_s = timeout_s
        self._ca = ca
        own = {"User-Agent": "ruo", "Accept-Encoding": "identity"}
        self._headers = CIMultiDict(own | ({"Authorization": f"Bearer {token}"} if token else {}))
        if token and not _is_printable(token):
            raise ArgumentError("The token has a character that no HTTP header can carry; correct it.")
        for name, value in (headers or {}).items():
            _require_header(name, value)
            if token and name.lower() == "authorization":
                raise ArgumentError("Give the token or the header Authorization, not both.")
            self._headers[name] = value
        self.host = self._headers.pop("Host", None)  # in place of the address's own
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        await asyncio.sleep(0)  # closed transports end in the next iteration of the loop

    def session(self, socket: str | None) -> aiohttp.ClientSession:
        """The connections to the Unix socket at a path, or else to all hosts."""
        if socket not in self._sessions:
            # less than the time-out, to tell "no connection" from "no answer"; an address out of use never refuses
            connect_s = min(10.0, 0.9 * self.timeout_s)
            self._sessions[socket] = aiohttp.ClientSession(
                connector=TcpConnector() if socket is None else UnixConnector(path=socket),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=1 << 20,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            )
        return self._sessions[socket]

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
        self._socket = socket_path(url)
        self._base = URL(url if self._socket is None else "http://localhost")
        self._proxy = proxy_of(url)
        self._host = http.host or self._base.host_port_subcomponent or ""
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
        headers = {"Host": self._host}
        if upload is None or not upload.keeps:
            headers["Connection"] = "close"
        session = self._http.session(self._socket)
        async with session.request(method, url, data=upload, headers=headers, **self._options) as response:
            if response.status != 200:
                raise refusal(self._url + path, response, await _read(response, 1 << 16))
            if (response.content_length or 0) <= most_bytes:
                body = await _read(response, most_bytes)
                if len(body) <= most_bytes:
                    return response.headers, body
            message = f"{self._url}{path} answered more than {most_bytes:,} bytes, the most that can be right."
            raise RefusedError(message, 200)


def socket_path(url: str) -> str | None:
    """The path of the Unix socket at an address such as unix:///run/ruo.sock."""
    return url.removeprefix("unix://") if url.startswith("unix://") else None


def _require_header(name: object, value: object) -> None:
    """The messages leave the value out, which may be a secret."""
    if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ArgumentError(f"headers: {name!r:.60} is not a name that an HTTP header can have; correct it.")
    if not isinstance(value, str) or not _is_printable(value):
        raise ArgumentError(f"headers: the value of {name} must be text that an HTTP header can carry; correct it.")
    if name.lower() in _OWN_HEADERS:
        raise ArgumentError(f"headers: {name} is set for each request by itself; leave it out.")


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def proxy_of(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for an address."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return None
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

"""One HTTP request and its whole answer, on aiohttp; every way in which it can fail is a `RequestError`.

A large request takes a connection of its own. A kept connection stays with the server process that accepted it, so
that some processes get several and others none, and behind a Service with the pod it was balanced to; a new connection
goes to whoever is free. It costs a fraction of a millisecond, so small requests share one for a quarter of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ruo.client.connector import Connector, Upload
from ruo.client.failures import failure, in_a_line, refusal
from ruo.client.retry import RefusedError
from ruo.errors import ArgumentError
from ruo.wire import Encoded, WireError
from ruo.wire.jsontext import loads

# the headers and the body
Answer = tuple[Mapping[str, str], bytes]

__all__ = ["Answer", "Endpoint", "HttpClient", "proxy_of"]

_LONGEST_CONNECT_S = 10.0  # an address that nobody has any more is absent
_CONNECT_SHARE = 0.9  # of the whole time-out, so that "no connection" can be told from "no answer"
_KNOWN_S = 10.0  # how long a name stands for the address that answered
_SMALL_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_LONGEST_ANSWER = 1 << 24
_LONGEST_REFUSAL = 1 << 16
_IN_PATHS = "/%:@!$&'()*+,;=~"  # what may stand in a path as it is (RFC 3986, section 3.3)


class HttpClient:
    """The connections of one client to all its servers.

    Parameters
    ----------
    timeout_s : float
        The seconds that a request may take, from connecting to the last byte of the answer.
    token : str or None
        Sent as a bearer token.
    ca : str or None
        A file of certificate authorities in PEM form, in place of the system's.
    keeps_connections : bool
        Whether small requests may share a connection; only where an answer names its request.
    """

    def __init__(self, timeout_s: float, token: str | None, ca: str | None, keeps_connections: bool) -> None:
        self.timeout_s = timeout_s
        self.keeps_connections = keeps_connections
        self._ca = ca
        self._headers = {"User-Agent": "ruo", "Accept-Encoding": "identity"}
        if token:
            if not token.isascii() or not token.isprintable():
                raise ArgumentError(
                    "The token has a character that no HTTP header can carry, or a line break; mend it."
                )
            self._headers["Authorization"] = f"Bearer {token}"

    async def open(self) -> None:
        """Take what the requests share."""
        connect_s = min(_LONGEST_CONNECT_S, _CONNECT_SHARE * self.timeout_s)
        self.session = aiohttp.ClientSession(
            connector=Connector(),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self.session.close()
        await asyncio.sleep(0)  # transports that have been closed end in the next turn of the loop

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Whom to trust."""
        try:
            return ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            reason = in_a_line(error)
            raise ArgumentError(f"ca={self._ca!r} is not a file of certificates in PEM form ({reason}).") from None


class Endpoint:
    """Requests to one server.

    Parameters
    ----------
    http : HttpClient
        What the servers share.
    url : str
        The server's address, such as http://host:8000.
    address : str
        The one of the host's IP addresses to connect to; "" for any.
    """

    def __init__(self, http: HttpClient, url: str, address: str = "") -> None:
        parts = urlsplit(url)
        self._http = http
        self._url = url
        self._netloc = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
        self._base = parts._replace(netloc=self._netloc, query="", fragment="")
        self._proxy = proxy_of(url)
        self._address = address
        self._known, self._known_until = "", 0.0
        self._options: dict[str, Any] = {"proxy": self._proxy, "allow_redirects": False}
        if parts.scheme == "https":
            name = urlsplit(f"//{self._netloc}").hostname
            self._options |= {"ssl": http.tls, "server_hostname": name}

    async def ask(
        self, method: str, path: str, body: Encoded | None = None, most_bytes: int = _LONGEST_ANSWER
    ) -> Answer:
        """The answer, where its status is 200.

        Parameters
        ----------
        method, path : str
            What to ask for; the path is below the server's address.
        body : Encoded, optional
            What to send.
        most_bytes : int
            The longest body that can be right.

        Raises
        ------
        RequestError
            Where there is no such answer.
        """
        try:
            async with asyncio.timeout(self._http.timeout_s):
                return await self._exchange(method, path, body, most_bytes)
        except (aiohttp.ClientError, OSError) as error:
            self._known = ""
            raise failure(self._url + path, error, self._http.timeout_s, self._proxy) from None

    async def ask_json(self, method: str, path: str) -> Any:
        """The answer, parsed; what is posted is an empty object, since some servers take no request without a body."""
        nothing = Encoded({"Content-Type": "application/json"}, [b"{}"]) if method == "POST" else None
        _, text = await self.ask(method, path, nothing)
        try:
            return loads(text)
        except WireError:
            raise RefusedError(f"{self._url}{path} did not answer JSON; is it the address of a model server?") from None

    async def _exchange(self, method: str, path: str, body: Encoded | None, most_bytes: int) -> Answer:
        if body is None:
            return await self._send(method, path, None, {}, most_bytes)
        keeps = self._http.keeps_connections and body.size <= _SMALL_BYTES
        upload = Upload(body.buffers, body.size, keeps)
        try:
            answer = await self._send(method, path, upload, body.headers, most_bytes)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            if not upload.is_on_kept_connection:
                raise
            # the server has closed the connection meanwhile, which is its right (RFC 9112, section 9.5)
            upload = Upload(body.buffers, body.size, keeps=False)
            answer = await self._send(method, path, upload, body.headers, most_bytes)
        if upload.peer and not self._known and not self._proxy:
            self._known, self._known_until = upload.peer, time.monotonic() + _KNOWN_S
        return answer

    async def _send(
        self, method: str, path: str, upload: Upload | None, headers: Mapping[str, str], most_bytes: int
    ) -> Answer:
        headers = {"Host": self._netloc, **headers}
        if upload is None or not upload.keeps:
            headers["Connection"] = "close"
        request = self._http.session.request(method, self._target(path), data=upload, headers=headers, **self._options)
        async with request as response:
            if response.status != 200:
                raise refusal(self._url + path, response, await _beginning(response))
            body = await _body(response, most_bytes)
            if body is None:
                message = f"{self._url}{path} answered more than {most_bytes:,} bytes, the most that can be right."
                raise RefusedError(message, 200)
            return response.headers, body

    def _target(self, path: str) -> URL:
        """Where to connect to: what a name stands for is asked once in a while only."""
        if time.monotonic() > self._known_until:
            self._known = ""
        return _joined(self._base, self._address or self._known, path)


def proxy_of(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for an address."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


@lru_cache
def _joined(base: SplitResult, address: str, path: str) -> URL:
    if address:
        host = f"[{address}]" if ":" in address else address
        base = base._replace(netloc=f"{host}:{base.port}" if base.port else host)
    return URL(base._replace(path=quote(base.path + path, safe=_IN_PATHS)).geturl(), encoded=True)


async def _body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """The whole body, None where it is longer than that."""
    pieces: list[bytes] = []
    size = response.content_length or 0
    while size <= most_bytes:
        piece = await response.content.readany()
        if not piece:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.append(piece)
        if response.content_length is None:
            size += len(piece)
    return None


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """As much of a refusal's body as comes, since its status says enough."""
    body = b""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        while len(body) < _LONGEST_REFUSAL and (piece := await response.content.readany()):
            body += piece
    return body

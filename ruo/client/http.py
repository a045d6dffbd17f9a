"""One HTTP request and its whole answer, on aiohttp; every way in which it can fail is a `RequestError`.

A large request takes a connection of its own. A kept connection stays with the server process that accepted it, so
that some processes get several and others none, and behind a Service with the pod it was balanced to; a new connection
goes to whoever is free. It costs a fraction of a millisecond, so small requests share one for a quarter of a second.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import re
import ssl
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ruo.client.connector import Connector, Upload
from ruo.client.retry import (
    AbsentError,
    BrokenError,
    OverloadedError,
    RefusedError,
    RequestError,
    SilentError,
)
from ruo.errors import ArgumentError
from ruo.wire import Encoded, WireError
from ruo.wire.jsontext import loads

__all__ = ["Endpoint", "HttpClient", "proxy_of"]

_LONGEST_CONNECT_S = 10.0  # an address that nobody has any more is absent
_CONNECT_SHARE = 0.9  # of the whole time-out, so that "no connection" can be told from "no answer"
_KNOWN_S = 10.0  # how long a name stands for the address that answered
_SMALL_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_LONGEST_ANSWER = 1 << 24
_LONGEST_REFUSAL = 1 << 16
_LONGEST_REASON = 300
_IN_PATHS = "/%:@!$&'()*+,;=~"  # what may stand in a path as it is (RFC 3986, section 3.3)


class _Answer(NamedTuple):
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


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
            reason = _in_a_line(error)
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
        self._base = parts._replace(netloc=self._netloc)
        self._proxy = proxy_of(url)
        self._address = address
        self._known, self._known_until = "", 0.0
        self._options: dict[str, Any] = {"proxy": self._proxy, "allow_redirects": False}
        if parts.scheme == "https":
            name = urlsplit(f"//{self._netloc}").hostname
            self._options |= {"ssl": http.tls, "server_hostname": name}

    async def ask(
        self, method: str, path: str, body: Encoded | None = None, most_bytes: int = _LONGEST_ANSWER
    ) -> tuple[Mapping[str, str], bytes]:
        """The headers and the body of an answer with status 200.

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
        url = self._url + path
        try:
            async with asyncio.timeout(self._http.timeout_s):
                answer = await self._exchange(method, path, body, most_bytes)
        except (aiohttp.ClientError, OSError) as error:
            self._known = ""
            raise self._failure(url, error) from None
        if answer.status != 200:
            raise _refusal(url, answer)
        return answer.headers, answer.body

    async def ask_json(self, method: str, path: str) -> Any:
        """The answer, parsed; what is posted is an empty object, since some servers take no request without a body."""
        nothing = Encoded({"Content-Type": "application/json"}, [b"{}"]) if method == "POST" else None
        _, text = await self.ask(method, path, nothing)
        try:
            return loads(text)
        except WireError:
            raise RefusedError(f"{self._url}{path} did not answer JSON; is it the address of a model server?") from None

    async def _exchange(self, method: str, path: str, body: Encoded | None, most_bytes: int) -> _Answer:
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
    ) -> _Answer:
        headers = {"Host": self._netloc, **headers}
        if upload is None or not upload.keeps:
            headers["Connection"] = "close"
        request = self._http.session.request(method, self._target(path), data=upload, headers=headers, **self._options)
        async with request as response:
            body = await _body(response, most_bytes, self._url + path)
            return _Answer(response.status, response.reason or "", response.headers, body)

    def _target(self, path: str) -> URL:
        """Where to connect to: what a name stands for is asked once in a while only."""
        if time.monotonic() > self._known_until:
            self._known = ""
        base, address = self._base, self._address or self._known
        if address:
            host = f"[{address}]" if ":" in address else address
            base = base._replace(netloc=f"{host}:{base.port}" if base.port else host)
        return URL(base._replace(path=quote(base.path + path, safe=_IN_PATHS)).geturl(), encoded=True)

    def _failure(self, url: str, error: Exception) -> RequestError:
        match error:
            case aiohttp.ClientSSLError():
                reason = getattr(error.os_error, "verify_message", "") or _in_a_line(error.os_error)
                mend = "name the certificate authority with ca=, or mend the address"
                return RefusedError(f"{url} cannot be trusted ({reason}); {mend}.")
            case aiohttp.ClientProxyConnectionError():
                proxy = urlsplit(self._proxy or "").hostname
                mend = "mend HTTP_PROXY or HTTPS_PROXY, or name the server in NO_PROXY"
                return AbsentError(f"The proxy {proxy} on the way to {url} does not answer ({_reason(error)}); {mend}.")
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                return AbsentError(
                    f"Nothing answers at {url} ({_reason(error)}); start the server, or check the address."
                )
            case TimeoutError():
                limit = f"{self._http.timeout_s:g} s"
                return SilentError(f"{url} gave no answer within {limit}; raise timeout, or send smaller chunks.")
            case aiohttp.ClientHttpProxyError():
                return _by_status(
                    error.status, f"The proxy on the way to {url} answered {error.status}: {error.message}"
                )
        return BrokenError(f"The connection to {url} broke ({_reason(error)}).")


def proxy_of(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for an address."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


async def _body(response: aiohttp.ClientResponse, most_bytes: int, url: str) -> bytes:
    """The body of an answer; of a refusal as much as came, since its status says enough."""
    pieces: list[bytes] = []
    size = 0
    if response.status != 200:
        try:
            while size < _LONGEST_REFUSAL and (piece := await response.content.readany()):
                pieces.append(piece)
                size += len(piece)
        except (aiohttp.ClientError, ConnectionError):
            pass
        return b"".join(pieces)
    size_told = response.content_length or 0
    while size_told <= most_bytes and size <= most_bytes:
        piece = await response.content.readany()
        if not piece:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
    raise RefusedError(f"{url} answered more than {most_bytes:,} bytes, the most that a right answer can have.", 200)


def _refusal(url: str, answer: _Answer) -> RequestError:
    status = answer.status
    if 300 <= status < 400:
        to = answer.headers.get("Location", "somewhere else")
        return RefusedError(f"{url} answered {status}, a redirect to {to}; use that address.", status)
    try:
        reason = str(loads(answer.body)["error"])
    except (WireError, KeyError, TypeError, IndexError):
        reason = answer.body.decode("utf-8", errors="replace").strip() or answer.reason or "no reason given"
    message = f"{url} answered {status}: {reason[:_LONGEST_REASON]}"
    return _by_status(status, message, _retry_after(answer.headers.get("Retry-After")))


def _by_status(status: int, message: str, wait_s: float | None = None) -> RequestError:
    """The server is overloaded, restarting or not ready; a proxy in front of it says so; or it is the request."""
    kind = {429: OverloadedError, 503: OverloadedError, 502: BrokenError, 504: BrokenError}.get(status, RefusedError)
    return kind(message, status, wait_s)


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _reason(error: BaseException) -> str:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "the server closed it before its answer was complete"
        case aiohttp.ClientResponseError():
            return f"what came is not an answer in HTTP: {_in_a_line(Exception(error.message))}"
        case aiohttp.ClientConnectorError():
            cause = error.os_error
            # of several addresses that were tried in vain, the text alone holds the numbers of the errors
            number = cause.errno or next(map(int, re.findall(r"\[Errno (\d+)\]", str(cause))), 0)
            return os.strerror(number).lower() if number > 0 else cause.strerror or _in_a_line(cause)
    return _in_a_line(error)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""One HTTP request and its whole answer; every way in which it can fail is a `RefusedError` with one sentence.

A large request takes a connection of its own. A kept-alive connection stays with the server process that accepted
it, so that some processes get several and others none, and behind a Service with the pod it was balanced to; a new
connection goes to whoever is free. It costs half a millisecond, so small requests share one for a quarter of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import re
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from ruo.client.connection import ConnectError, Connection, HttpAnswer, Peer, StaleError
from ruo.errors import ArgumentError
from ruo.wire import Encoded, WireError
from ruo.wire.jsontext import loads
from ruo.wire.messages import Buffer

__all__ = ["RefusedError", "Session"]

# Worth another try: the server is overloaded, restarting or not ready, or a proxy in front of it says so.
_RETRY_STATUS = frozenset({429, 502, 503, 504})
_LONGEST_CONNECT_S = 10.0  # an address that nobody has any more is silent
_KNOWN_S = 10.0  # how long a name stands for the address that answered
_SMALL_BYTES = 1 << 20
_REUSED_S = 0.25
_IN_PATHS = "/%:@!$&'()*+,;=~"  # what may stand in a path as it is (RFC 3986, section 3.3)
_LONGEST_REASON = 300


class RefusedError(Exception):
    """One try that failed; `again` says whether another may succeed, `wait_s` is the server's Retry-After.

    `absent`: nobody listens at the address. `silent`: somebody does, and gave no answer in time.
    """

    def __init__(
        self,
        message: str,
        again: bool,
        status: int | None = None,
        wait_s: float | None = None,
        absent: bool = False,
        silent: bool = False,
    ) -> None:
        super().__init__(message)
        self.again = again
        self.status = status
        self.wait_s = wait_s
        self.absent = absent
        self.silent = silent


class Session:
    """Requests to one server: `url` is http://host:port, `address` the one of the host's addresses to use, "" for any."""

    def __init__(self, url: str, address: str, timeout: float, token: str | None, ca: str | None) -> None:
        parts = urlsplit(url)
        self._url = url
        self._timeout = timeout
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _tls(ca) if parts.scheme == "https" else None
        self._address = address
        self._known, self._known_until = "", 0.0
        self._path = parts.path
        host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
        self._idle: list[Connection] = []
        self._headers = [f"Host: {host}", "User-Agent: ruo"]
        if token:
            if not token.isascii() or not token.isprintable():
                raise ArgumentError(
                    "The token has a character that no HTTP header can carry, or a line break; mend it."
                )
            self._headers.append(f"Authorization: Bearer {token}")

    def close(self) -> None:
        """Close the connections that are left."""
        while self._idle:
            self._idle.pop().close()

    async def ask(self, method: str, path: str, body: Encoded | None = None) -> tuple[Mapping[str, str], bytes]:
        """The headers and the body of an answer with status 200."""
        url = self._url + path
        try:
            answer = await self._exchange(method, path, body)
        except ConnectError as error:
            self._known = ""
            raise _absent(url, error) from None
        except TimeoutError:
            message = f"{url} gave no answer within {self._timeout:g} s; raise timeout, or send smaller chunks."
            raise RefusedError(message, again=True, silent=True) from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error
            message = (
                f"{url} cannot be trusted ({reason}); name the certificate authority with ca=, or mend the address."
            )
            raise RefusedError(message, again=False) from None
        except OSError as error:
            raise RefusedError(f"The connection to {url} broke ({_in_a_line(error)}).", again=True) from None
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
            message = f"{self._url}{path} did not answer JSON; is it the address of a model server?"
            raise RefusedError(message, again=False) from None

    async def _exchange(self, method: str, path: str, body: Encoded | None) -> HttpAnswer:
        is_small = body is not None and body.size <= _SMALL_BYTES
        head = self._head(method, path, body, is_small)
        buffers = body.buffers if body else []
        while (connection := self._take_idle() if is_small else None) is not None:
            with contextlib.suppress(StaleError):  # the server has closed it meanwhile
                return await self._ask_on(connection, head, buffers, is_small)
        connection = await Connection.open(self._peer(), min(self._timeout, _LONGEST_CONNECT_S))
        if not self._known:
            self._known, self._known_until = connection.address, time.monotonic() + _KNOWN_S
        return await self._ask_on(connection, head, buffers, is_small)

    async def _ask_on(self, connection: Connection, head: bytes, buffers: list[Buffer], keep: bool) -> HttpAnswer:
        answer = await connection.exchange(head, buffers, self._timeout)
        if keep and connection.is_open and not self._is_old(connection):
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and not self._is_old(connection):
                return connection
            connection.close()
        return None

    def _is_old(self, connection: Connection) -> bool:
        return asyncio.get_running_loop().time() - connection.opened_at > _REUSED_S

    def _head(self, method: str, path: str, body: Encoded | None, is_small: bool) -> bytes:
        lines = [f"{method} {quote(self._path + path, safe=_IN_PATHS)} HTTP/1.1", *self._headers]
        if not is_small:
            lines.append("Connection: close")
        if body is not None:
            lines += [f"{name}: {value}" for name, value in body.headers.items()]
            lines.append(f"Content-Length: {body.size}")
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")

    def _peer(self) -> Peer:
        """Where to connect to: what a name stands for is asked once in a while only."""
        if time.monotonic() > self._known_until:
            self._known = ""
        return Peer(self._address or self._known or self._host, self._port, self._tls, self._host)


def _tls(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ArgumentError(f"ca={ca!r} is not a file of certificates in PEM form ({_in_a_line(error)}).") from None


def _absent(url: str, error: ConnectError) -> RefusedError:
    """Nobody listens there, as far as can be told."""
    if isinstance(error.__cause__, TimeoutError):
        reason = "no connection in time"
    else:
        # of several addresses that were tried in vain, asyncio gives the numbers of the errors in its text only
        found = re.search(r"\[Errno (\d+)\]", str(error))
        reason = os.strerror(int(found[1])).lower() if found else _in_a_line(error)
    message = f"Nothing answers at {url} ({reason}); start the server, or check the address."
    return RefusedError(message, again=True, absent=True)


def _refusal(url: str, answer: HttpAnswer) -> RefusedError:
    status = answer.status
    if 300 <= status < 400:
        to = answer.headers.get("Location", "somewhere else")
        return RefusedError(f"{url} answered {status}, a redirect to {to}; use that address.", False, status)
    try:
        reason = str(loads(answer.body)["error"])
    except (WireError, KeyError, TypeError, IndexError):
        reason = answer.body.decode("utf-8", errors="replace").strip() or answer.reason or "no reason given"
    message = f"{url} answered {status}: {reason[:_LONGEST_REASON]}"
    return RefusedError(message, status in _RETRY_STATUS, status, _retry_after(answer.headers.get("Retry-After")))


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


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""One HTTP request and its whole answer; every way in which it can fail is a `RefusedError` with one sentence.

Every request takes a connection of its own. A kept-alive connection stays with the server process that accepted
it, so that some processes get several and others none, and behind a Service with the pod it was balanced to; a new
connection goes to whoever is free, and costs a tenth of a millisecond.
"""

from __future__ import annotations

import email.utils
import os
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from ruo.errors import ScoringError
from ruo.wire import Encoded, WireError
from ruo.wire.jsontext import loads

__all__ = ["RefusedError", "Session"]

# Worth another try: the server is overloaded, restarting or not ready, or a proxy in front of it says so.
_RETRY_STATUS = frozenset({429, 502, 503, 504})
_LONGEST_CONNECT_S = 10.0  # an address that nobody has any more is silent
_WRITE_BYTES = (
    1 << 18
)  # asyncio copies what the socket does not take at once, so a large body is offered piece by piece
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
        self._url = url
        self._timeout = timeout
        headers = {"User-Agent": "ruo"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                force_close=True,
                ssl=_tls(ca) if url.startswith("https:") else True,
                resolver=_OneAddress(address) if address else None,
            ),
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, _LONGEST_CONNECT_S)),
            headers=headers,
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._http.close()

    async def ask(self, method: str, path: str, body: Encoded | None = None) -> tuple[Mapping[str, str], bytes]:
        """The headers and the body of an answer with status 200."""
        url = self._url + path
        data = None if body is None else _Body(body.buffers)
        headers = None if body is None else body.headers
        try:
            # a redirect would turn POST into GET, or carry the token to somebody else
            async with self._http.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
                text = await response.read()
                if response.status != 200:
                    raise _refusal(response, text)
                return response.headers, text
        except aiohttp.ServerTimeoutError as error:
            if "connection timeout" in str(error).lower():
                raise RefusedError(
                    f"Nothing answers at {url} (no connection in time).", again=True, absent=True
                ) from None
            raise self._too_late(url) from None
        except TimeoutError:
            raise self._too_late(url) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError, ssl.SSLError) as error:
            reason = getattr(getattr(error, "certificate_error", None), "verify_message", "") or error
            message = (
                f"{url} cannot be trusted ({reason}); name the certificate authority with ca=, or mend the address."
            )
            raise RefusedError(message, again=False) from None
        except aiohttp.ClientConnectorError as error:
            code = error.os_error.errno
            reason = os.strerror(code).lower() if code and code > 0 else str(error.os_error)
            message = f"Nothing answers at {url} ({reason}); start the server, or check the address."
            raise RefusedError(message, again=True, absent=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise RefusedError(f"The connection to {url} broke ({_in_a_line(error)}).", again=True) from None

    async def ask_json(self, method: str, path: str) -> Any:
        """The answer, parsed; what is posted is an empty object, since some servers take no request without a body."""
        nothing = Encoded({"Content-Type": "application/json"}, [b"{}"]) if method == "POST" else None
        _, text = await self.ask(method, path, nothing)
        try:
            return loads(text)
        except WireError:
            message = f"{self._url}{path} did not answer JSON; is it the address of a model server?"
            raise RefusedError(message, again=False) from None

    def _too_late(self, url: str) -> RefusedError:
        message = f"{url} gave no answer within {self._timeout:g} s; raise timeout, or send smaller chunks."
        return RefusedError(message, again=True, silent=True)


class _OneAddress(aiohttp.abc.AbstractResolver):
    """Resolves every name to one address, so that the name still stands in the Host header and is what TLS verifies."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        flags = socket.AI_NUMERICHOST
        return [{"hostname": host, "host": self._address, "port": port, "family": family, "proto": 0, "flags": flags}]

    async def close(self) -> None:
        pass


class _Body(aiohttp.payload.Payload):
    """Buffers to be written one after the other, without being joined."""

    _autoclose = True

    def __init__(self, buffers: list[Any]) -> None:
        super().__init__(buffers)
        self._size = sum(memoryview(buffer).nbytes for buffer in buffers)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: aiohttp.abc.AbstractStreamWriter, content_length: int | None) -> None:
        for buffer in self._value:
            view = memoryview(buffer)
            for start in range(0, len(view), _WRITE_BYTES):
                await writer.write(view[start : start + _WRITE_BYTES])


def _tls(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ScoringError(f"ca={ca!r} is not a file of certificates in PEM form ({_in_a_line(error)}).") from None


def _refusal(response: aiohttp.ClientResponse, text: bytes) -> RefusedError:
    status = response.status
    if 300 <= status < 400:
        to = response.headers.get("Location", "somewhere else")
        return RefusedError(f"{response.url} answered {status}, a redirect to {to}; use that address.", False, status)
    try:
        reason = str(loads(text)["error"])
    except (WireError, KeyError, TypeError, IndexError):
        reason = text.decode("utf-8", errors="replace").strip() or response.reason or "no reason given"
    message = f"{response.url} answered {status}: {reason[:_LONGEST_REASON]}"
    return RefusedError(message, status in _RETRY_STATUS, status, _retry_after(response.headers.get("Retry-After")))


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

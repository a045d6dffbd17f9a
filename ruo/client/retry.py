"""How one try of a request can fail, each way with one sentence, and whether there is another try, after which pause."""

import contextlib
import email.utils
import errno
import math
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from ruo.errors import in_a_line
from ruo.wire import WireError
from ruo.wire.jsontext import loads

_PATIENCE_S = 60.0  # from the first failure to the last try
_START_PATIENCE_S = 3.0  # for servers that have never answered: the address may be wrong
_LONGEST_PAUSE_S = 5.0  # unless Retry-After asks for more
_LONGEST_WAIT_S = 30.0  # even where Retry-After asks for more
_NO_FILES = os.strerror(errno.EMFILE).lower()


class RequestError(Exception):
    """One try of a request failed: `status` is None without an answer, `wait_s` is what its Retry-After asks for."""

    def __init__(self, message: str, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.wait_s = wait_s


class AbsentError(RequestError):
    """Nothing listens at the address."""


class SilentError(RequestError):
    """The server accepted the connection, but did not answer in time."""


class BrokenError(RequestError):
    """The connection broke before the answer was complete, or a proxy says that it did."""


class OverloadedError(RequestError):
    """The server is overloaded or not ready yet, or this process has too much open."""


class RefusedError(RequestError):
    """The same request would get the same answer again."""


class GoneError(RequestError):
    """The server no longer has this version of the model; another server may have it."""


_KINDS = {429: OverloadedError, 503: OverloadedError, 502: BrokenError, 504: BrokenError, 408: SilentError}
# any other is a RefusedError; RFC 9110, section 15.5.9, of 408: "the client MAY repeat that request"


def failure(url: str, error: Exception, timeout_s: float, proxy: str | None) -> RequestError:
    """Why no complete answer came from `url`."""
    reason = _reason(error)
    match error:
        case aiohttp.ClientSSLError():
            cure = "name the certificate authority with ca=, or correct the address"
            return RefusedError(f"{url} cannot be trusted ({reason}); {cure}.")
        case aiohttp.ClientConnectorError() if reason == _NO_FILES:
            cure = "lower concurrency, or raise the limit with ulimit -n"
            return OverloadedError(f"No connection to {url} can be opened ({reason}); {cure}.")
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            what, cure = f"Nothing answers at {url}", "start the server, or check the address"
            if proxy:
                what = f"The proxy {urlsplit(proxy).hostname} on the way to {url} does not answer"
                cure = "correct HTTP_PROXY or HTTPS_PROXY, or name the server in NO_PROXY"
            return AbsentError(f"{what} ({reason}); {cure}.")
        case TimeoutError():
            return SilentError(f"{url} gave no answer within {timeout_s:g} s; raise timeout, or send smaller chunks.")
        case aiohttp.ClientHttpProxyError():
            message = f"The proxy on the way to {url} answered {error.status}: {error.message}"
            return _KINDS.get(error.status, RefusedError)(message)  # the status is not the server's
    return BrokenError(f"The connection to {url} broke ({reason}).")


def refusal(url: str, answer: aiohttp.ClientResponse, body: bytes) -> RequestError:
    """What an answer with a status other than 200 means."""
    status = answer.status
    if 300 <= status < 400:
        to = answer.headers.get("Location", "somewhere else")
        return RefusedError(f"{url} answered {status}, a redirect to {to}; use that address.", status)
    try:
        reason = str(loads(body)["error"])
    except (WireError, KeyError, TypeError, IndexError):
        reason = body.decode("utf-8", errors="replace") or answer.reason or ""
    reason = " ".join(reason.split()) or "no reason given"
    message = f"{url} answered {status}: {reason[:300]}"
    return _KINDS.get(status, RefusedError)(message, status, _retry_after(answer.headers.get("Retry-After", "")))


def _retry_after(value: str) -> float | None:
    """Seconds from a number or a date (RFC 9110, section 10.2.3), below 0 for one that is past."""
    with contextlib.suppress(ValueError):
        return float(value)
    with contextlib.suppress(ValueError, OverflowError):
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return None


def _reason(error: BaseException) -> str:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "the server closed it before its answer was complete"
        case aiohttp.ClientResponseError():
            return f"what came is not an answer in HTTP: {in_a_line(Exception(error.message))}"
        case aiohttp.ClientSSLError():
            return getattr(error.os_error, "verify_message", "") or in_a_line(error.os_error)
        case aiohttp.ClientConnectorError():
            cause = error.os_error
            # where several addresses were tried, only the text holds the error numbers
            number = cause.errno or next(map(int, re.findall(r"\[Errno (\d+)\]", str(cause))), 0)
            return os.strerror(number).lower() if number > 0 else cause.strerror or in_a_line(cause)
    return in_a_line(error)


@dataclass
class Retry:
    """Decides after each failed try of one request whether there is another one, at most `retries`, and after which pause.

    After failures that cost a whole time-out, or that only another server mends: `repeats`, or one each other server.
    """

    retries: int
    repeats: int
    has_answered: bool
    dead_since: Callable[[], float] = lambda: math.inf  # when all servers stopped answering, for all requests alike
    failures: int = 0
    slow_failures: int = 0

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self._until = self.began + _PATIENCE_S

    @property
    def until(self) -> float:
        """The time of the last try."""
        return min(self._until, self.dead_since() + _PATIENCE_S)

    def allows(self, error: RequestError, servers: int) -> bool:
        """Whether there is another try after this failure, given the number of servers."""
        self.failures += 1
        self.slow_failures += isinstance(error, SilentError | GoneError)
        if self.failures == 1:
            self._until = time.monotonic() + _PATIENCE_S
        if isinstance(error, AbsentError) and not self.has_answered:
            self._until = min(self._until, self.began + _START_PATIENCE_S)
        is_worth_it = self.slow_failures <= max(self.repeats, servers - 1) and self.failures <= self.retries
        return is_worth_it and not isinstance(error, RefusedError)

    def pause_s(self, error: RequestError) -> float | None:
        """Seconds to wait before the same server is tried again; None where that would be too late."""
        wait_s = back_off(self.failures, error.wait_s)
        return wait_s if time.monotonic() + wait_s <= self.until else None


def back_off(failures: int, asked_s: float | None) -> float:
    """Seconds to wait after so many failures in a row: doubling from 0.1 s, with jitter so that clients spread out."""
    own = min(_LONGEST_PAUSE_S, 0.1 * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.5)  # noqa: S311  not a secret
    return min(_LONGEST_WAIT_S, max(own, asked_s or 0.0))

"""What aiohttp and a server say went wrong with a request, as a `RequestError` with one sentence."""

from __future__ import annotations

import email.utils
import os
import re
import time
from urllib.parse import urlsplit

import aiohttp

from ruo.client.retry import AbsentError, BrokenError, OverloadedError, RefusedError, RequestError, SilentError
from ruo.wire import WireError
from ruo.wire.jsontext import loads

__all__ = ["failure", "in_a_line", "refusal"]

_LONGEST_REASON = 300


def failure(url: str, error: Exception, timeout_s: float, proxy: str | None) -> RequestError:
    """What it means that no whole answer came from `url`, by way of `proxy` if any."""
    match error:
        case aiohttp.ClientSSLError():
            reason = getattr(error.os_error, "verify_message", "") or in_a_line(error.os_error)
            mend = "name the certificate authority with ca=, or mend the address"
            return RefusedError(f"{url} cannot be trusted ({reason}); {mend}.")
        case aiohttp.ClientProxyConnectionError():
            way = f"The proxy {urlsplit(proxy or '').hostname} on the way to {url}"
            mend = "mend HTTP_PROXY or HTTPS_PROXY, or name the server in NO_PROXY"
            return AbsentError(f"{way} does not answer ({_reason(error)}); {mend}.")
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            mend = "start the server, or check the address"
            return AbsentError(f"Nothing answers at {url} ({_reason(error)}); {mend}.")
        case TimeoutError():
            mend = "raise timeout, or send smaller chunks"
            return SilentError(f"{url} gave no answer within {timeout_s:g} s; {mend}.")
        case aiohttp.ClientHttpProxyError():
            message = f"The proxy on the way to {url} answered {error.status}: {error.message}"
            return _by_status(error.status, message)
    return BrokenError(f"The connection to {url} broke ({_reason(error)}).")


def refusal(url: str, answer: aiohttp.ClientResponse, body: bytes) -> RequestError:
    """What an answer with another status than 200 means."""
    status = answer.status
    if 300 <= status < 400:
        to = answer.headers.get("Location", "somewhere else")
        return RefusedError(f"{url} answered {status}, a redirect to {to}; use that address.", status)
    try:
        reason = str(loads(body)["error"])
    except (WireError, KeyError, TypeError, IndexError):
        reason = body.decode("utf-8", errors="replace").strip() or answer.reason or "no reason given"
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
            return f"what came is not an answer in HTTP: {in_a_line(Exception(error.message))}"
        case aiohttp.ClientConnectorError():
            cause = error.os_error
            # of several addresses that were tried in vain, the text alone holds the numbers of the errors
            number = cause.errno or next(map(int, re.findall(r"\[Errno (\d+)\]", str(cause))), 0)
            return os.strerror(number).lower() if number > 0 else cause.strerror or in_a_line(cause)
    return in_a_line(error)


def in_a_line(error: BaseException) -> str:
    """An error's own words, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__

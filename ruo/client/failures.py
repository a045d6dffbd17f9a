"""What aiohttp's exceptions and a server's refusals mean, each as a `RequestError` with one sentence."""

from __future__ import annotations

import contextlib
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
_KINDS = {429: OverloadedError, 503: OverloadedError, 502: BrokenError, 504: BrokenError}  # else RefusedError


def failure(url: str, error: Exception, timeout_s: float, proxy: str | None) -> RequestError:
    """Why no complete answer came from `url`."""
    match error:
        case aiohttp.ClientSSLError():
            reason = getattr(error.os_error, "verify_message", "") or in_a_line(error.os_error)
            remedy = "name the certificate authority with ca=, or correct the address"
            return RefusedError(f"{url} cannot be trusted ({reason}); {remedy}.")
        case aiohttp.ClientProxyConnectionError():
            way = f"The proxy {urlsplit(proxy or '').hostname} on the way to {url}"
            remedy = "correct HTTP_PROXY or HTTPS_PROXY, or name the server in NO_PROXY"
            return AbsentError(f"{way} does not answer ({_reason(error)}); {remedy}.")
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return AbsentError(f"Nothing answers at {url} ({_reason(error)}); start the server, or check the address.")
        case TimeoutError():
            return SilentError(f"{url} gave no answer within {timeout_s:g} s; raise timeout, or send smaller chunks.")
        case aiohttp.ClientHttpProxyError():
            message = f"The proxy on the way to {url} answered {error.status}: {error.message}"
            return _KINDS.get(error.status, RefusedError)(message, error.status)
    return BrokenError(f"The connection to {url} broke ({_reason(error)}).")


def refusal(url: str, answer: aiohttp.ClientResponse, body: bytes) -> RequestError:
    """What an answer with a status other than 200 means."""
    status = answer.status
    if 300 <= status < 400:
        to = answer.headers.get("Location", "somewhere else")
        return RefusedError(f"{url} answered {status}, a redirect to {to}; use that address.", status)
    try:
        reason = str(loads(body)["error"])
    except (WireError, KeyError, TypeError, IndexError):
        reason = body.decode("utf-8", errors="replace").strip() or answer.reason or "no reason given"
    message = f"{url} answered {status}: {reason[:_LONGEST_REASON]}"
    return _KINDS.get(status, RefusedError)(message, status, _retry_after(answer.headers.get("Retry-After", "")))


def _retry_after(value: str) -> float | None:
    """Seconds from a number or a date (RFC 9110, section 10.2.3)."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
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
            # where several addresses were tried, only the text holds the error numbers
            number = cause.errno or next(map(int, re.findall(r"\[Errno (\d+)\]", str(cause))), 0)
            return os.strerror(number).lower() if number > 0 else cause.strerror or in_a_line(cause)
    return in_a_line(error)


def in_a_line(error: BaseException) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__

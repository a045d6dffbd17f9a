"""Who is let in: the token, and how many requests may wait in one worker."""

from __future__ import annotations

import hmac
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ruo.errors import RuoError

__all__ = ["Gate", "RefusedError", "check_token"]


class RefusedError(RuoError):
    """A request that is not even looked at: the status and headers of its answer."""

    def __init__(self, message: str, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class Gate:
    """Lets in one request to compute and `waiting` more, as long as their bodies together have at most `limit` bytes.

    The next one is refused at once, it does not queue. One request alone is always let in.
    """

    def __init__(self, waiting: int, limit: float = math.inf) -> None:
        self._places = waiting + 1
        self._limit = limit
        self._inside = 0
        self._bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def place(self, size: int = 0) -> Iterator[None]:
        """A place for the time of a block, for a body of `size` bytes; raises RefusedError (503) where there is none."""
        with self._lock:
            if self._inside >= self._places or (self._inside and self._bytes + size > self._limit):
                raise RefusedError(f"The server is busy with {self._inside} requests; try again in a moment.", 503)
            self._inside += 1
            self._bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self._bytes -= size


def check_token(token: str, authorization: str | None) -> None:
    """Raise RefusedError (401) unless the Authorization header carries the token."""
    scheme, _, given = (authorization or "").partition(" ")
    # compared in a time that does not tell how much of it is right
    right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())  # WSGI's way with bytes
    if scheme.lower() != "bearer" or not right:
        message = "This server needs a token: send the header Authorization: Bearer TOKEN, or pass token=."
        raise RefusedError(message, 401, {"WWW-Authenticate": 'Bearer realm="ruo"'})

"""Who is let in: the token, and how many requests may wait in one worker."""

from __future__ import annotations

import hmac
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
    """Lets in one request to compute and `waiting` more; the next is refused at once, it does not queue."""

    def __init__(self, waiting: int) -> None:
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._message = f"The server is busy: {waiting} requests wait in this worker already; try again in a moment."

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for the time of a block; raises RefusedError (503) where there is none."""
        if not self._places.acquire(blocking=False):
            raise RefusedError(self._message, 503)
        try:
            yield
        finally:
            self._places.release()


def check_token(token: str, authorization: str | None) -> None:
    """Raise RefusedError (401) unless the Authorization header carries the token."""
    scheme, _, given = (authorization or "").partition(" ")
    # compared in a time that does not tell how much of it is right
    right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())  # WSGI's way with bytes
    if scheme.lower() != "bearer" or not right:
        message = "This server needs a token: send the header Authorization: Bearer TOKEN, or pass token=."
        raise RefusedError(message, 401, {"WWW-Authenticate": 'Bearer realm="ruo"'})

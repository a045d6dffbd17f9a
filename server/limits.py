"""Which requests are admitted: the token, and how many may wait in one worker."""

from __future__ import annotations

import hmac
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import ServiceUnavailable, Unauthorized


class Gate:
    """Admits one request to compute and `waiting` more, with at most `limit` bytes in their bodies together.

    The next one is refused at once. A single request is always admitted.
    """

    def __init__(self, waiting: int, limit: float = math.inf) -> None:
        self._places = waiting + 1
        self._limit = limit
        self._requests = 0
        self._bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def place(self, size: int = 0) -> Iterator[None]:
        """A place for a block, for a body of `size` bytes; raises ServiceUnavailable if there is none."""
        with self._lock:
            if self._requests >= self._places or (self._requests and self._bytes + size > self._limit):
                raise ServiceUnavailable(f"The server is busy with {self._requests} requests; try again in a moment.")
            self._requests += 1
            self._bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1
                self._bytes -= size


def check_token(token: str, authorization: str | None) -> None:
    """Raise Unauthorized (401) unless the Authorization header carries the token."""
    scheme, _, given = (authorization or "").partition(" ")
    # the time of this comparison does not reveal how much of the token is right; WSGI's headers are latin-1
    is_right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())
    if scheme.lower() != "bearer" or not is_right:
        message = "This server requires a token: send the header Authorization: Bearer TOKEN, or pass token=."
        # RFC 9110 requires the quotes, which Werkzeug would leave out
        raise Unauthorized(message, www_authenticate=WWWAuthenticate("bearer", None, 'realm="ruo"'))

"""Which requests are admitted: the token, and how many may wait in one worker."""

import hmac
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import ServiceUnavailable, Unauthorized


class Gate:
    """Admits one request to compute and `waiting` more, with at most `limit` bytes in their bodies together.

    The next one is refused at once. A single request is always admitted.
    """

    def __init__(self, waiting: int, limit: float = math.inf) -> None:
        self._places = waiting + 1
        self._limit = limit
        self._sizes: dict[object, int] = {}  # of the bodies, by place
        self._lock = threading.Lock()

    @contextmanager
    def place(self, size: int = 0) -> Iterator[Callable[[int], None]]:
        """A place for a block, for a body of `size` bytes; what it gives raises the size as the body grows.

        Both raise ServiceUnavailable if there is no room.
        """
        place = object()
        self._take(place, size)
        try:
            yield partial(self._take, place)
        finally:
            with self._lock:
                del self._sizes[place]

    def _take(self, place: object, size: int) -> None:
        with self._lock:
            others = [taken for other, taken in self._sizes.items() if other is not place]
            if len(others) >= self._places or (others and sum(others) + size > self._limit):
                raise ServiceUnavailable(f"The server is busy with {len(others)} requests; try again in a moment.")
            self._sizes[place] = max(size, self._sizes.get(place, 0))


def check_token(token: str, authorization: str | None) -> None:
    """Raise Unauthorized (401) unless the Authorization header carries the token."""
    scheme, _, given = (authorization or "").partition(" ")
    # the time of this comparison does not reveal how much of the token is right; WSGI's headers are latin-1
    is_right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())
    if scheme.lower() != "bearer" or not is_right:
        message = "This server requires a token: send the header Authorization: Bearer TOKEN, or pass token=."
        # RFC 9110 requires the quotes, which Werkzeug would leave out
        raise Unauthorized(message, www_authenticate=WWWAuthenticate("bearer", None, 'realm="ruo"'))

"""How one try of a request can fail, and whether there is another try, after which pause."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

__all__ = [
    "AbsentError",
    "BrokenError",
    "GoneError",
    "OverloadedError",
    "RefusedError",
    "RequestError",
    "Retry",
    "SilentError",
    "back_off",
]

_PATIENCE_S = 60.0  # from the first failure to the last try
_START_PATIENCE_S = 3.0  # for servers that have never answered: the address may be wrong
_LONGEST_PAUSE_S = 5.0  # unless Retry-After asks for more
_LONGEST_WAIT_S = 30.0  # even where Retry-After asks for more


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
    """The server is overloaded or not ready yet."""


class RefusedError(RequestError):
    """The same request would get the same answer again."""


class GoneError(RequestError):
    """The server no longer has this version of the model; another server may have it."""


class Retry:
    """Decides after each failed try of one request whether there is another one, and after which pause.

    At most `retries` tries follow the first. After a failure that costs a whole time-out, or that only another server
    can mend, at most `repeats` do, or one for each other server.
    """

    def __init__(
        self, retries: int, repeats: int, has_answered: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._retries = retries
        self._repeats = repeats
        self._has_answered = has_answered
        self._clock = clock
        self._began = clock()
        self._failures = 0
        self._slow_failures = 0
        self.until = self._began + _PATIENCE_S

    @property
    def seconds(self) -> float:
        """Seconds since the first try began."""
        return self._clock() - self._began

    def allows(self, error: RequestError, servers: int) -> bool:
        """Whether there is another try after this failure, given the number of servers."""
        self._failures += 1
        if self._failures == 1:
            self.until = self._clock() + _PATIENCE_S
        if isinstance(error, AbsentError) and not self._has_answered:
            self.until = min(self.until, self._began + _START_PATIENCE_S)
        self._slow_failures += isinstance(error, SilentError | GoneError)
        if isinstance(error, RefusedError):
            return False
        return self._slow_failures <= max(self._repeats, servers - 1) and self._failures <= self._retries

    def pause_s(self, error: RequestError) -> float | None:
        """Seconds to wait before the same server is tried again; None where that would be too late."""
        wait_s = back_off(self._failures, error.wait_s)
        return wait_s if self._clock() + wait_s <= self.until else None


def back_off(failures: int, asked_s: float | None) -> float:
    """Seconds to wait after so many failures in a row: doubling from 0.1 s, with jitter so that clients spread out."""
    own = min(_LONGEST_PAUSE_S, 0.1 * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.5)  # noqa: S311  not a secret
    return min(_LONGEST_WAIT_S, max(own, asked_s or 0.0))

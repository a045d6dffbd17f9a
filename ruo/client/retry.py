"""How one try of a request can fail, and whether there is another try.

    RequestError
    ├── AbsentError      nobody listens at the address
    ├── SilentError      no answer came in time
    ├── BrokenError      the connection broke, or a proxy in front of the server says that it did
    ├── OverloadedError  the server asks for a pause
    └── RefusedError     the same request will get the same answer
        └── GoneError    ... from this server; another one may still have that version of the model

What may be tried again after which pause is the affair of `Retry` alone.
"""

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
_LONGEST_PAUSE_S = 5.0  # of our own accord
_LONGEST_WAIT_S = 30.0  # also where Retry-After asks for more


class RequestError(Exception):
    """One try of a request failed.

    Parameters
    ----------
    message : str
        The sentence.
    status : int, optional
        The HTTP status; None where no answer came.
    wait_s : float, optional
        The seconds that the server's Retry-After asks for.
    """

    def __init__(self, message: str, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.wait_s = wait_s


class AbsentError(RequestError):
    """Nobody listens at the address."""


class SilentError(RequestError):
    """Somebody listens, but no answer came in time."""


class BrokenError(RequestError):
    """The connection broke before the answer was complete."""


class OverloadedError(RequestError):
    """The server has too much to do, or is not ready yet."""


class RefusedError(RequestError):
    """The same request will get the same answer."""


class GoneError(RefusedError):
    """The server does not have the version of the model; another one may."""


class Retry:
    """Decides after each failed try of one request whether there is another one, and after which pause.

    Parameters
    ----------
    retries : int
        The most tries after the first one.
    repeats : int
        How many of them may follow a failure that costs a whole time-out, or that only another server can mend.
        There is one for each other server in any case.
    has_answered : bool
        Whether any server has answered in this run.
    clock : callable
        The time in seconds.
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
        """Whether there is another try after this failure, where there are so many servers."""
        self._failures += 1
        if self._failures == 1:
            self.until = self._clock() + _PATIENCE_S
        if isinstance(error, AbsentError) and not self._has_answered:
            self.until = min(self.until, self._began + _START_PATIENCE_S)
        self._slow_failures += isinstance(error, SilentError | GoneError)
        if isinstance(error, RefusedError) and not isinstance(error, GoneError):
            return False
        return self._slow_failures <= max(self._repeats, servers - 1) and self._failures <= self._retries

    def pause_s(self, error: RequestError) -> float | None:
        """Seconds to wait before the same server is tried again; None where that would be too late."""
        wait_s = back_off(self._failures, error.wait_s)
        return wait_s if self._clock() + wait_s <= self.until else None


def back_off(failures: int, asked_s: float | None) -> float:
    """Seconds to wait after so many failures in a row: doubling from 0.1 s, spread so that clients part ways."""
    own = min(_LONGEST_PAUSE_S, 0.1 * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.5)  # noqa: S311  not a secret
    return min(_LONGEST_WAIT_S, max(own, asked_s or 0.0))

"""Which request computes next: one call of a model at a time, since the threads inside a call use all CPUs.

A request is split into calls of as many rows as the model takes well. The next call belongs to the request that would have finished
first on an idle server (earliest due date first). So requests of one size finish one after the other, a short request
waits for one call of a long one, and a long request is not delayed forever, since later requests are due after it.
"""

import itertools
import math
import threading
import time
from bisect import insort
from weakref import WeakKeyDictionary

import numpy as np

from ruo.model.signature import Model
from ruo.wire import WireError
from ruo.wire.messages import Array


class Scheduler:
    """Runs models for the threads of one process, one call at a time, earliest due request first."""

    def __init__(self) -> None:
        self._turn = EarliestDue()
        self._call_s: WeakKeyDictionary[Model, float] = WeakKeyDictionary()  # seconds of a full call

    def run(self, model: Model, arrays: list[Array], deadline: float = math.inf) -> tuple[list[Array], float]:
        """The outputs for any number of rows, and the seconds spent waiting for other requests.

        Raises WireError (503) if the deadline, a time of `time.monotonic`, has passed before a call begins.
        """
        rows, most = len(arrays[0]), model.rows_per_call(arrays)
        # a model that has not been called yet is due at once, or a busy server would never warm it up
        due = time.monotonic() + rows / most * self._call_s.get(model, 0.0)
        pieces, waited, has_turn = [], 0.0, False
        try:
            for start in range(0, max(1, rows), most):
                if has_turn and self._turn.is_wanted_before(due):
                    self._turn.release()
                    has_turn = False
                if not has_turn:
                    began = time.monotonic()
                    has_turn = self._turn.acquire(due, deadline)
                    waited += time.monotonic() - began
                if not has_turn or time.monotonic() > deadline:
                    message = "The server did not get to compute this request in time; try again, or add replicas."
                    raise WireError(message, 503)
                pieces.append(self._call(model, [array[start : start + most] for array in arrays], most))
        finally:
            if has_turn:
                self._turn.release()
        if len(pieces) == 1:
            return pieces[0], waited
        try:
            return [np.concatenate(parts) for parts in zip(*pieces, strict=True)], waited
        except ValueError:
            message = "The model's answers have another width for some rows; send fewer rows at once, or pad them."
            raise WireError(message) from None

    def _call(self, model: Model, arrays: list[Array], most: int) -> list[Array]:
        began = time.monotonic()
        outputs = model.run(arrays)
        if len(arrays[0]) == most:  # shorter calls say little about a long request
            # a single slow call may have waited for a CPU, so the estimate grows slowly
            self._call_s[model] = min(time.monotonic() - began, 1.2 * self._call_s.get(model, math.inf))
        return outputs


class EarliestDue:
    """A lock whose next owner is the waiting thread that is due first, or arrived first among equals.

    `due` and `deadline` are times of `time.monotonic`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: list[tuple[float, int, threading.Condition]] = []  # the first is due first
        self._arrivals = itertools.count()

    def acquire(self, due: float, deadline: float = math.inf) -> bool:
        """Wait for the lock; False if the deadline passes first."""
        with self._lock:
            entry = (due, next(self._arrivals), threading.Condition(self._lock))
            insort(self._waiting, entry)
            timeout = None if deadline == math.inf else deadline - time.monotonic()
            is_next = entry[2].wait_for(lambda: not self._is_taken and self._waiting[0] is entry, timeout)
            self._waiting.remove(entry)
            self._is_taken |= is_next
            return is_next

    def release(self) -> None:
        """Let the waiting thread that is due first have the lock."""
        with self._lock:
            self._is_taken = False
            if self._waiting:
                self._waiting[0][2].notify()

    def is_wanted_before(self, due: float) -> bool:
        """Whether a waiting thread is due earlier."""
        with self._lock:
            return bool(self._waiting) and self._waiting[0][0] < due

"""Whose turn it is to compute: one call of a model at a time, since the threads inside a call use all CPUs.

Of those who wait, it is the turn of whoever would have been done first alone (earliest due date first). So requests of
one size are done one after the other, and the first is answered while the last still waits; a short one waits for one
call of a long one; and a long one is not put off for ever, since what comes late enough is due after it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time

__all__ = ["Turns"]


class Turns:
    """Turns that one thread at a time has; `due` is a time of `time.monotonic`, and so is `deadline`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: list[tuple[float, int, threading.Lock]] = []  # a heap; each waits for its lock
        self._count = itertools.count()

    def take(self, due: float, deadline: float = math.inf) -> bool:
        """Wait for a turn; False where there is none until `deadline`."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            entry = (due, next(self._count), mine)
            heapq.heappush(self._waiting, entry)
        # a lock takes no infinite timeout; -1 stands for it
        if mine.acquire(timeout=-1 if deadline == math.inf else max(0.0, deadline - time.monotonic())):
            return True
        with self._lock:
            if entry not in self._waiting:
                return True  # it was given in this very moment
            self._waiting.remove(entry)
            heapq.heapify(self._waiting)
        return False

    def give(self) -> None:
        """End a turn: the next is that of who is due first."""
        with self._lock:
            if self._waiting:
                heapq.heappop(self._waiting)[2].release()
            else:
                self._is_taken = False

    def is_wanted_before(self, due: float) -> bool:
        """Whether somebody waits who is due earlier."""
        with self._lock:
            return bool(self._waiting) and self._waiting[0][0] < due

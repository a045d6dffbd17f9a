"""What the workers of one server know of each other: who is ready, and who has how much to do.

A page of shared memory, made in Gunicorn's master before it forks. Every worker writes its own slot only, so no
lock is needed; the master clears the slot of a worker that has died.
"""

from __future__ import annotations

import mmap

__all__ = ["WorkerSlots"]

_TAKEN, _READY, _LOAD, _PID, _WIDTH = 0, 1, 2, 3, 4


class WorkerSlots:
    """A slot for every worker: its process id, whether its model is ready, and the connections it works on."""

    def __init__(self, size: int = 128) -> None:
        self._size = size
        self._cells = memoryview(mmap.mmap(-1, size * _WIDTH * 4)).cast("i")

    def take(self) -> int:
        """A free slot, for a worker about to be forked; raises RuntimeError where all are taken."""
        for slot in range(self._size):
            if not self._cells[slot * _WIDTH + _TAKEN]:
                self._cells[slot * _WIDTH + _TAKEN] = 1
                return slot
        raise RuntimeError(f"No more than {self._size} workers are possible; lower WEB_CONCURRENCY.")

    def clear(self, slot: int) -> None:
        """Forget a worker that has ended."""
        for cell in range(slot * _WIDTH, (slot + 1) * _WIDTH):
            self._cells[cell] = 0

    def set_pid(self, slot: int, pid: int) -> None:
        """Say which process this slot's worker is."""
        self._cells[slot * _WIDTH + _PID] = pid

    def set_ready(self, slot: int, ready: bool) -> None:
        """Say whether this worker's model is ready."""
        self._cells[slot * _WIDTH + _READY] = int(ready)

    def add_load(self, slot: int, change: int) -> None:
        """Count a connection that this worker has begun (1) or ended (-1) to work on."""
        self._cells[slot * _WIDTH + _LOAD] += change

    def ready(self) -> int:
        """How many workers are ready."""
        return sum(self.is_ready(slot) for slot in self._taken())

    def is_ready(self, slot: int) -> bool:
        """Whether this worker's model is ready."""
        return bool(self._cells[slot * _WIDTH + _READY])

    def pids(self) -> list[int]:
        """The processes of the workers that have begun to work."""
        return [pid for slot in self._taken() if (pid := self._cells[slot * _WIDTH + _PID])]

    def is_least_loaded(self, slot: int) -> bool:
        """Whether no ready worker has less to do than this one; a worker that is not ready gives way to all."""
        loads = [self._cells[other * _WIDTH + _LOAD] for other in self._taken() if self.is_ready(other)]
        if not loads:
            return True
        return self.is_ready(slot) and self._cells[slot * _WIDTH + _LOAD] <= min(loads)

    def _taken(self) -> list[int]:
        return [slot for slot in range(self._size) if self._cells[slot * _WIDTH + _TAKEN]]

"""What the workers of one server know of each other: who is ready, and who has how much to do.

A page of shared memory, made in Gunicorn's master before it forks. Every worker writes its own line only, so no
lock is needed; the master clears the line of a worker that has died.
"""

from __future__ import annotations

import mmap

__all__ = ["Board"]

_TAKEN, _READY, _LOAD, _PID, _WIDTH = 0, 1, 2, 3, 4


class Board:
    """A line a worker: its process id, whether its model is ready, and the connections it works on."""

    def __init__(self, lines: int = 128) -> None:
        self._lines = lines
        self._cells = memoryview(mmap.mmap(-1, lines * _WIDTH * 4)).cast("i")

    def take_line(self) -> int:
        """A free line, for a worker about to be forked; raises RuntimeError where all are taken."""
        for line in range(self._lines):
            if not self._cells[line * _WIDTH + _TAKEN]:
                self._cells[line * _WIDTH + _TAKEN] = 1
                return line
        raise RuntimeError(f"No more than {self._lines} workers are possible; lower WEB_CONCURRENCY.")

    def clear(self, line: int) -> None:
        """Forget a worker that has ended."""
        for cell in range(line * _WIDTH, (line + 1) * _WIDTH):
            self._cells[cell] = 0

    def set_pid(self, line: int, pid: int) -> None:
        """Say which process this line's worker is."""
        self._cells[line * _WIDTH + _PID] = pid

    def set_ready(self, line: int, ready: bool) -> None:
        """Say whether this worker's model is ready."""
        self._cells[line * _WIDTH + _READY] = int(ready)

    def add_load(self, line: int, change: int) -> None:
        """Count a connection that this worker has begun (1) or ended (-1) to work on."""
        self._cells[line * _WIDTH + _LOAD] += change

    def ready(self) -> int:
        """How many workers are ready."""
        return sum(1 for line in self._taken() if self._cells[line * _WIDTH + _READY])

    def is_ready(self, line: int) -> bool:
        """Whether this worker's model is ready."""
        return bool(self._cells[line * _WIDTH + _READY])

    def pids(self) -> list[int]:
        """The processes of the workers that have begun to work."""
        return [pid for line in self._taken() if (pid := self._cells[line * _WIDTH + _PID])]

    def is_least_loaded(self, line: int) -> bool:
        """Whether no ready worker has less to do than this one; a worker that is not ready gives way to all."""
        loads = [self._cells[other * _WIDTH + _LOAD] for other in self._taken() if self.is_ready(other)]
        if not loads:
            return True
        return self.is_ready(line) and self._cells[line * _WIDTH + _LOAD] <= min(loads)

    def _taken(self) -> list[int]:
        return [line for line in range(self._lines) if self._cells[line * _WIDTH + _TAKEN]]

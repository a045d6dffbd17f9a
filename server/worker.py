"""Gunicorn's threaded worker, but a new connection goes to the worker that has the least to do.

All workers of a server listen on one socket, and the first to wake gets the connection, whatever it is busy
with: some end up with three requests and some with none. Here a worker that has more to do than another leaves
the connection to that one. Probes are answered beside the work, by threads that a computing worker has free.
"""

from __future__ import annotations

import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from server.board import Board

__all__ = ["LeastLoadedWorker"]

_GIVE_WAY_S = 0.0005  # how long to look away from a connection that another worker should take
_LONGEST_WAY_S = 0.02  # after this long nobody has taken it: the other worker may be stuck


class LeastLoadedWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn is not typed
    """One process of the server. `board` and `line` are given to it by the hooks in gunicorn.conf.py."""

    board: Board
    line: int
    _gave_way_since = 0.0
    _gave_way_last = 0.0

    def accept(self, listener: Any) -> None:
        if self._should_give_way():
            time.sleep(_GIVE_WAY_S)
        else:
            super().accept(listener)

    def enqueue_req(self, conn: Any) -> None:
        self.board.add_load(self.line, 1)
        super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        self.board.add_load(self.line, -1)
        super().finish_request(conn, fs)

    def _should_give_way(self) -> bool:
        if self.board.is_least_loaded(self.line):
            return False
        now = time.monotonic()
        if now - self._gave_way_last > 10 * _GIVE_WAY_S:
            self._gave_way_since = now  # another connection than the one before
        self._gave_way_last = now
        return now - self._gave_way_since < _LONGEST_WAY_S

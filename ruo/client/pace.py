"""The request size and the number of requests in flight: as given, or adapted during the run ("auto").

A request gets enough rows to take about a tenth of a second, and more where its fixed cost weighs more. Requests get
smaller towards the end of the table, so that all servers finish together (guided self-scheduling; Polychronopoulos and
Kuck, 1987). Requests in flight grow in number as long as that raises the throughput; an overloaded server halves them.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from statistics import linear_regression
from typing import Literal

from ruo.client.records import RequestRecord

_AIM_S = 0.1
_FIXED_SHARE = 0.05  # of a request's time, at most
_FIRST_ROWS = 2_000
_MOST_ROWS = 50_000  # more rows only cost memory
_MOST_BYTES = 256 << 20  # in all requests in flight together
_FIRST_IN_FLIGHT = 8
_MOST_IN_FLIGHT = 64
_WORTH_IT = 1.05  # the gain in throughput that justifies more requests in flight
_PATIENCE = 16  # rounds until more are tried again
_SPREAD = 1.1  # the largest of recent requests to the smallest, from which their costs can be told
_RECENT = 12  # answers that tell the cost of a request
_TOGETHER_S = 0.5  # refusals within this time count as one

ChunkSize = int | Literal["auto"] | None
Concurrency = int | Literal["auto"]


class Gate:
    """A semaphore whose limit may change."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: asyncio.Condition = asyncio.Condition()

    async def enter(self, places: int = 1) -> None:
        """Take places once enough are free; more places than the limit wait for all of them."""
        async with self._waiting:
            await self._waiting.wait_for(lambda: self._inside + min(places, self._limit()) <= self._limit())
            self._inside += places

    async def leave(self) -> None:
        """Give one place back."""
        async with self._waiting:
            self._inside -= 1
            self._waiting.notify(max(1, self._limit() - self._inside))


class Pace:
    """The rows of a request (None: all) and the requests in flight; "auto" adapts them to the answers."""

    def __init__(
        self,
        chunk_size: ChunkSize,
        concurrency: Concurrency,
        servers: int = 1,
        row_bytes: int = 0,  # 0 for requests of any size
        most_bytes: float = math.inf,  # that the server takes in one request
    ) -> None:
        first = min(_MOST_IN_FLIGHT, max(_FIRST_IN_FLIGHT, 2 * servers))
        self._climb = _Climb(first) if concurrency == "auto" else None
        self._adapts_rows = chunk_size == "auto"
        self.in_flight = first if concurrency == "auto" else concurrency
        self.most_in_flight = _MOST_IN_FLIGHT if concurrency == "auto" else concurrency
        most = min(0.9 * most_bytes, math.inf if chunk_size is None else _MOST_BYTES / self.in_flight)
        self._most_rows = max(1.0, most // row_bytes) if row_bytes and most < math.inf else math.inf
        rows = min(self._most_rows, _FIRST_ROWS if chunk_size == "auto" else chunk_size or math.inf)
        self.rows = None if rows == math.inf else int(rows)
        self._largest = 0
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)  # rows and seconds
        self._cost = 1.0, 0.0  # of a row, and of a request besides its rows, in proportion

    def next_rows(self, rows_left: int | None) -> int | None:
        """The rows of the next request, when about `rows_left` rows of the table are left, None if unknown."""
        if not self._adapts_rows or self.rows is None or rows_left is None:
            return self.rows
        share = math.ceil(rows_left / (2 * self.in_flight))
        return max(1, min(self.rows, max(share, self.rows // 8)))

    def observe(self, record: RequestRecord) -> None:
        """Learn from an answer."""
        if self._adapts_rows and record.rows:
            self._recent.append((record.rows, record.seconds))
            self._largest = max(self._largest, record.rows)
            memory = _MOST_BYTES / max(1, record.bytes) * record.rows / self.in_flight
            most = min(_MOST_ROWS, 2 * self._largest, memory, self._most_rows)
            self.rows = max(1, int(min(self._best_rows(), most)))
        if self._climb:
            self.in_flight = self._climb.answered(record.rows)

    def overloaded(self) -> None:
        """Send less: a server refused a request because it has too many."""
        if self._climb:
            self.in_flight = self._climb.refused()

    def _best_rows(self) -> float:
        """The rows of a request that takes `_AIM_S`, or longer if the fixed cost would exceed its share."""
        rows, seconds = zip(*self._recent, strict=True)
        if max(rows) > _SPREAD * min(rows):  # requests of one size do not tell one cost from the other
            line = linear_regression(rows, seconds)
            self._cost = (line.slope, line.intercept) if min(line) > 0 else (1.0, 0.0)
        per_row, fixed = self._cost
        scale: float = sum(seconds) / (per_row * sum(rows) + fixed * len(rows))
        return max(_AIM_S / scale, fixed / _FIXED_SHARE) / per_row


class _Climb:
    """Hill climbing on the requests in flight: each limit is judged over twice as many answers."""

    def __init__(self, start: int) -> None:
        self._limit = start
        self._before: tuple[int, float] | None = None  # during a try: the limit before it, and its throughput
        self._wait = 0  # rounds until the next try
        self._refused_at = 0.0
        self._restart()

    def answered(self, rows: int) -> int:
        self._answers += 1
        self._rows += rows
        now = time.monotonic()
        if self._answers < 2 * self._limit or now - self._refused_at < 2 * _TOGETHER_S:
            return self._limit
        rate = self._rows / max(1e-9, now - self._began)
        if self._before and rate < _WORTH_IT * self._before[1]:
            self._limit, self._before, self._wait = self._before[0], None, _PATIENCE
        elif self._wait > 1:
            self._wait -= 1
        elif self._limit < _MOST_IN_FLIGHT:
            self._before, self._wait = (self._limit, rate), 0
            self._limit = min(_MOST_IN_FLIGHT, math.ceil(1.5 * self._limit))
        else:
            self._before = None
        return self._restart()

    def refused(self) -> int:
        if time.monotonic() - self._refused_at > _TOGETHER_S:
            self._refused_at = time.monotonic()
            self._limit, self._before, self._wait = max(1, self._limit // 2), None, _PATIENCE
        return self._restart()

    def _restart(self) -> int:
        self._answers, self._rows, self._began = 0, 0, time.monotonic()
        return self._limit

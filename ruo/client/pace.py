"""The request size and the number of requests in flight: as given, or adapted during the run ("auto").

A request gets enough rows to take about a tenth of a second, and more where its fixed cost weighs more. Requests get
smaller towards the end of the table, so that all servers finish together (guided self-scheduling; Polychronopoulos and
Kuck, 1987). Requests in flight grow in number as long as that raises the throughput; an overloaded server halves them.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Literal, Self

from ruo.client.records import RequestRecord

_AIM_S = 0.1
_FIXED_SHARE = 0.05  # of a request's time, at most
_FIRST_ROWS = 2_000
_MOST_ROWS = 50_000  # more rows only cost memory
_MOST_BYTES = 256 << 20  # in all requests in flight together
_FIRST_IN_FLIGHT = 8
_MOST_IN_FLIGHT = 64
_WORTH_IT = 1.05  # the gain in throughput that justifies more requests in flight
_FORGET = 0.9
_TOGETHER_S = 0.5  # refusals within this time count as one

ChunkSize = int | Literal["auto"] | None
Concurrency = int | Literal["auto"]


class Gate:
    """A semaphore whose limit may change; `async with gate:`."""

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

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()


class Pace:
    """The rows of a request (None: all) and the requests in flight; "auto" adapts them to the answers."""

    def __init__(self, chunk_size: ChunkSize, concurrency: Concurrency, servers: int = 1) -> None:
        self._adapts_rows = chunk_size == "auto"
        self._adapts_in_flight = concurrency == "auto"
        self.rows = _FIRST_ROWS if chunk_size == "auto" else chunk_size
        first = min(_MOST_IN_FLIGHT, max(_FIRST_IN_FLIGHT, 2 * servers))
        self.in_flight = first if concurrency == "auto" else concurrency
        self.most_in_flight = _MOST_IN_FLIGHT if concurrency == "auto" else concurrency
        self._cost = _Cost()
        self._largest = 0
        self._climb = _Climb(self.in_flight)

    def next_rows(self, rows_left: int | None) -> int | None:
        """The rows of the next request, when about `rows_left` rows of the table are left, None if unknown."""
        if not self._adapts_rows or self.rows is None or rows_left is None:
            return self.rows
        share = math.ceil(rows_left / (2 * self.in_flight))
        return max(1, min(self.rows, max(share, self.rows // 8)))

    def observe(self, record: RequestRecord) -> None:
        """Learn from an answer."""
        if self._adapts_rows and record.rows:
            self._cost.add(record.rows, record.seconds)
            self._largest = max(self._largest, record.rows)
            memory = _MOST_BYTES / max(1, record.bytes) * record.rows / self.in_flight
            wanted = min(self._cost.rows(), _MOST_ROWS, 2 * self._largest, memory)
            self.rows = max(1, int(wanted))
        if self._adapts_in_flight:
            self.in_flight = self._climb.next(record.rows)

    def overloaded(self) -> None:
        """Send less: a server refused a request because it has too many."""
        if self._adapts_in_flight:
            self.in_flight = self._climb.back_off()


class _Cost:
    """The seconds of a request as a linear function of its rows: least squares, with more weight on recent requests."""

    def __init__(self) -> None:
        self._sums = [0.0] * 5

    def add(self, rows: int, seconds: float) -> None:
        new = (1.0, rows, seconds, rows * rows, rows * seconds)
        self._sums = [_FORGET * old + value for old, value in zip(self._sums, new, strict=True)]

    def rows(self) -> float:
        """The rows of a request that takes `_AIM_S`, or longer if the fixed cost would exceed its share."""
        weight, x, y, xx, xy = self._sums
        spread = weight * xx - x * x
        per_row = (weight * xy - x * y) / spread if spread > 1e-6 * xx * weight else 0.0
        fixed = (y - per_row * x) / weight
        if per_row <= 0 or fixed < 0:  # requests of one size, or noise: only the mean is known
            per_row, fixed = y / x, 0.0
        return max(_AIM_S, fixed / _FIXED_SHARE) / per_row


class _Climb:
    """Hill climbing on the requests in flight: each limit is judged over twice as many answers."""

    def __init__(self, start: int) -> None:
        self._limit = start
        self._before: tuple[int, float] | None = None  # during a try: the limit before it, and its throughput
        self._patience = 1  # rounds until the next try
        self._rounds = 0
        self._backed_off = 0.0
        self._restart()

    def next(self, rows: int) -> int:
        self._answers += 1
        self._rows += rows
        if self._answers < 2 * self._limit or time.monotonic() - self._backed_off < 2 * _TOGETHER_S:
            return self._limit
        rate = self._rows / max(1e-9, time.monotonic() - self._began)
        if self._before is not None:
            limit, earlier = self._before
            self._before = None
            if rate < _WORTH_IT * earlier:
                self._limit, self._rounds, self._patience = limit, 0, min(32, 4 * self._patience)
                return self._restart()
            self._patience = 1
        self._rounds += 1
        if self._rounds >= self._patience and self._limit < _MOST_IN_FLIGHT:
            self._before, self._rounds = (self._limit, rate), 0
            self._limit = min(_MOST_IN_FLIGHT, math.ceil(1.5 * self._limit))
        return self._restart()

    def back_off(self) -> int:
        if time.monotonic() - self._backed_off > _TOGETHER_S:
            self._backed_off = time.monotonic()
            self._limit, self._before, self._rounds = max(1, self._limit // 2), None, 0
            self._patience = min(32, 4 * self._patience)
        return self._restart()

    def _restart(self) -> int:
        self._answers, self._rows, self._began = 0, 0, time.monotonic()
        return self._limit

"""Request size and requests in flight, found while the table is scored."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ruo import score_csv
from ruo.client.pace import Gate, Pace
from ruo.client.records import RequestRecord
from tests.client.conftest import Scoring, Scripted, too_large_if
from tests.conftest import Reply, row_sums


def answered(pace: Pace, rows: int, seconds: float, bytes_per_row: int = 256) -> None:
    """A request came back."""
    pace.observe(RequestRecord(0, rows, rows * bytes_per_row, seconds=seconds))


def learnt(pace: Pace, seconds: Callable[[int], float], bytes_per_row: int = 256, left: int | None = None) -> list[int]:
    """The rows of 30 requests, one after the other, each of which takes so many seconds."""
    sizes = []
    for _ in range(30):
        sizes.append(pace.next_rows(left) or 0)
        answered(pace, sizes[-1], seconds(sizes[-1]), bytes_per_row)
    return sizes


@pytest.mark.parametrize(
    ("fixed_s", "per_row_s", "least", "most"),
    [
        (0.001, 10e-6, 5_000, 20_000),  # a light model: a tenth of a second
        (0.001, 1e-3, 20, 200),  # a heavy one
        (0.1, 10e-6, 50_000, 50_000),  # dear requests: as many rows as there may be
        (0.0, 1e-9, 50_000, 50_000),
    ],
)
def test_the_size_follows_the_cost(fixed_s: float, per_row_s: float, least: int, most: int) -> None:
    """After some answers a request takes a tenth of a second, or so long that its fixed part is small."""
    sizes = learnt(Pace("auto", 8), lambda rows: fixed_s + per_row_s * rows, left=10_000_000)

    assert least <= sizes[-1] <= most


def test_the_size_grows_step_by_step() -> None:
    """No request has more than twice the rows of the largest that was answered."""
    sizes = learnt(Pace("auto", 8), lambda rows: 1e-7 * rows)

    assert 0 < sizes[0] < sizes[-1]
    assert all(rows <= 2 * max(sizes[:place]) for place, rows in enumerate(sizes) if place)


def test_wide_rows_make_short_requests() -> None:
    """All requests in flight together stay within a few hundred megabytes."""
    sizes = learnt(Pace("auto", 8), lambda rows: 1e-7 * rows, bytes_per_row=100_000)

    assert sizes[-1] == (256 << 20) // (100_000 * 8)


def test_a_request_is_within_the_servers_limit_and_its_share_of_the_memory() -> None:
    """Of a given number of rows, of the whole table and of what adapts itself; narrow rows keep the given number."""
    wide, limit = 1 << 20, 10 << 20

    assert [Pace(10_000, places, row_bytes=wide).rows for places in (1, 8, 1_000)] == [256, 32, 1]
    assert [Pace(size, 8, row_bytes=wide, most_bytes=limit).rows for size in (10_000, None, "auto", 5)] == [9, 9, 9, 5]
    assert [Pace(size, 8, row_bytes=wide).rows for size in (None, "auto", 5)] == [None, 32, 5]
    assert Pace(10_000, 8, row_bytes=256).rows == 10_000
    assert Pace(10_000, 8, row_bytes=0, most_bytes=limit).rows == 10_000
    assert max(learnt(Pace("auto", 8, row_bytes=256, most_bytes=1 << 18), lambda rows: 1e-7 * rows)) == 921


def test_the_end_is_shared() -> None:
    """Towards the end requests get smaller, so that no server has a long one left."""
    pace = Pace("auto", 4)
    learnt(pace, lambda rows: 1e-7 * rows)

    sizes = [pace.next_rows(rows) for rows in (10_000_000, 200_000, 80_000, 1)]
    assert sizes == [50_000, 25_000, 10_000, 6_250]  # half of an equal share, and an eighth at least


def test_what_is_given_stays() -> None:
    """A given size and a given number of requests in flight never change."""
    pace = Pace(1_234, 5)
    for _ in range(20):
        answered(pace, 1_234, 0.5)
        pace.overloaded()

    assert (pace.next_rows(10), pace.in_flight, pace.most_in_flight) == (1_234, 5, 5)
    assert Pace(None, 1).next_rows(10) is None


@pytest.mark.parametrize(("servers", "in_flight"), [(1, 8), (4, 8), (20, 40), (100, 64)])
def test_many_servers_begin_with_many_requests(servers: int, in_flight: int) -> None:
    """Each server has something to do from the start, and one has eight requests."""
    pace = Pace("auto", "auto", servers)
    assert (pace.in_flight, pace.most_in_flight) == (in_flight, 64)


class Run:
    """Requests in flight to servers that answer `capacity` requests of 100 rows at once, each in a second of a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capacity: int) -> None:
        self.now = 1000.0
        self.capacity = capacity
        monkeypatch.setattr("ruo.client.pace.time", self)
        self.pace = Pace(1_000, "auto")

    def monotonic(self) -> float:
        return self.now

    def limits(self, answers: int) -> list[int]:
        """The limits after these answers, without those that did not change."""
        limits = [self.pace.in_flight]
        for _ in range(answers):
            self.now += 1 / min(self.pace.in_flight, self.capacity)
            answered(self.pace, 100, 1.0)
            if self.pace.in_flight != limits[-1]:
                limits.append(self.pace.in_flight)
        return limits


def test_requests_in_flight_grow_while_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many answers as requests judge each limit; half as many more are tried while they bring 5 % more."""
    begins = [Run(monkeypatch, 1000).limits(answers) for answers in (15, 16, 16 + 24)]
    assert begins == [[8], [8, 12], [8, 12, 18]]
    limits = Run(monkeypatch, 1000).limits(1_000)
    assert limits[:7] == [8, 12, 18, 27, 41, 62, 64]
    assert max(limits) == 64


def test_what_does_not_pay_is_taken_back_and_tried_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit goes back to the one before; the next try comes after 16 rounds of twice as many answers."""
    run = Run(monkeypatch, 8)
    assert [run.limits(answers) for answers in (16, 24)] == [[8, 12], [12, 8]]
    for _ in range(3):
        assert [run.limits(answers) for answers in (16 * 16 - 1, 1, 24)] == [[8], [8, 12], [12, 8]]


def test_a_refusal_halves_the_requests_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals within half a second are one, down to one request; nothing more is tried for 16 rounds."""
    run = Run(monkeypatch, 1000)
    for seconds, limit in ((0, 4), (0.4, 4), (0.2, 2), (1, 1), (1, 1)):
        run.now += seconds
        run.pace.overloaded()
        assert run.pace.in_flight == limit
    assert [run.limits(answers) for answers in (2 * 16 - 1, 1)] == [[1], [1, 2]]


@pytest.mark.parametrize("fixed_s", [0.0, 0.001])
def test_only_recent_answers_count(fixed_s: float) -> None:
    """Where servers become ten times slower or faster in mid-run, requests soon have a tenth of the rows, or ten times."""
    pace = Pace("auto", 8)
    for per_row_s, rows in ((1e-5, 10_000), (1e-4, 1_000), (1e-5, 10_000)):
        sizes = learnt(pace, lambda rows, per_row_s=per_row_s: fixed_s + per_row_s * rows)
        assert sizes[15:] == pytest.approx([rows] * 15, rel=0.2)


@pytest.mark.slow
def test_an_overloaded_server_gets_fewer_at_once(long_csv: Path, scripted: Scripted) -> None:
    """A server that accepts two requests at a time scores everything, with few refusals in the end."""
    places, refused = threading.Semaphore(2), []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        if not places.acquire(blocking=False):
            refused.append(number)
            return Reply(503, headers={"Retry-After": "0"})
        time.sleep(0.01)
        places.release()
        return row_sums(body, headers)

    server = scripted(script)
    scores = score_csv(long_csv, server.url, chunk_size=100, concurrency="auto")

    assert (scores.predictions == 6).all()
    assert scores.choices.concurrency <= 6
    assert len(refused) < len(server.requests) / 2


def test_auto_stays_within_the_servers_limit(long_csv: Path, scripted: Scripted) -> None:
    """Adapted sizes are cut to what the server accepts."""
    server = scripted(too_large_if(lambda rows: len(rows) > 1_500))
    scores = score_csv(long_csv, server.url, chunk_size="auto", concurrency="auto")

    assert (scores.predictions == 6).all()
    assert scores.requests["rows"].max() <= 1_500


def test_auto_gives_what_fixed_sizes_give(demo_scores: Scoring) -> None:
    """Predictions do not depend on how the table was cut; the scores name what was chosen."""
    choices = demo_scores(chunk_size="auto", concurrency="auto").choices

    assert choices.wire == "v2"
    assert 1 <= choices.chunk_size <= 2_500
    assert choices.concurrency >= 1


def test_a_gate_follows_its_limit() -> None:
    """No more than the limit are inside, even if the limit changes."""
    limit, inside = 2, 0

    async def visit(gate: Gate) -> int:
        nonlocal inside
        await gate.enter()
        inside += 1
        found = inside
        await asyncio.sleep(0.001)
        inside -= 1
        await gate.leave()
        return found

    async def main() -> None:
        nonlocal limit
        gate = Gate(lambda: limit)
        for limit in (2, 5, 1):
            assert max(await asyncio.gather(*(visit(gate) for _ in range(20)))) == limit

    asyncio.run(main())

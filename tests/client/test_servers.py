"""Several servers with one model: how the work is shared, and what happens when one fails, comes, or goes."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from ruo import Scores, ScoringError, iter_scores, score_csv
from ruo.client.http import HttpClient
from ruo.client.retry import BrokenError, SilentError
from ruo.client.servers import Server, Servers
from tests.client.conftest import Names, Scripted, always, late
from tests.conftest import Reply, ScriptedServer, row_sums
from tests.proxy import UNAVAILABLE, Fault, Proxy

Takes = Callable[[float], ScriptedServer]

TABLE = pl.DataFrame({"a": range(300), "b": 0, "c": 0})
SUMS = np.arange(300, dtype=np.float32).reshape(-1, 1)


def score(urls: str | list[str], **options: Any) -> Scores:
    """Score the table, every row of which comes back right."""
    scores = score_csv(TABLE, urls, **options)
    np.testing.assert_array_equal(scores.predictions, SUMS)
    return scores


@pytest.fixture
def takes(scripted: Scripted) -> Takes:
    """Make a server that takes a given number of seconds for each request."""
    return lambda seconds: scripted(late(lambda number: seconds))


def test_a_slow_server_gets_less(takes: Takes) -> None:
    """Work goes to the server that is free: one that is ten times slower gets few requests, equal ones get equal work."""
    fast, other, slow = takes(0.02), takes(0.02), takes(0.2)

    scores = score([fast.url, other.url, slow.url], chunk_size=5, concurrency=6)
    rows = scores.balance().set_index("worker")["rows"].to_dict()
    assert rows[slow.url] < 0.5 * rows[fast.url]
    assert 0.5 < rows[fast.url] / rows[other.url] < 2


@pytest.mark.parametrize("in_order", [False, True])
def test_a_straggler_is_overtaken(scripted: Scripted, well: ScriptedServer, in_order: bool) -> None:
    """An overdue chunk is sent to an idle server too, and only the first answer counts."""
    urls = [scripted(late(lambda number: 20 if number == 1 else 0)).url, well.url]
    began = time.monotonic()
    if in_order:
        blocks = list(iter_scores(TABLE, urls, chunk_size=60, concurrency=4))
        np.testing.assert_array_equal(SUMS, np.concatenate([block.predictions for block in blocks]))
    else:
        requests = score(urls, chunk_size=60, concurrency=4).requests
        assert sum(requests["rows"]) == 300
        assert [2] == requests["attempts"][requests["attempts"] > 1].tolist()
    assert time.monotonic() - began < 10


def test_without_retries_nothing_is_sent_twice(takes: Takes) -> None:
    """retries=0 sends every chunk once, even where an idle server could help."""
    slow, fast = takes(0.3), takes(0)

    score_csv(TABLE, [slow.url, fast.url], chunk_size=50, concurrency=2, retries=0)

    assert len(slow.requests) + len(fast.requests) == 6


@pytest.mark.parametrize("status", [502, 503])
def test_a_server_that_only_refuses_is_left_out(scripted: Scripted, takes: Takes, status: int) -> None:
    """A server that answers 502 or 503 gets few requests."""
    bad = scripted(always(Reply(status)))
    score([bad.url, takes(0.01).url], chunk_size=3, concurrency=4)
    assert len(bad.requests) < 15


def test_an_error_of_the_model_ends_the_run(scripted: Scripted, takes: Takes) -> None:
    """No other server is asked where one answers 500."""
    with pytest.raises(ScoringError, match="answered 500"):
        score_csv(TABLE, [scripted(always(Reply(500))).url, takes(0.01).url], chunk_size=10)


def test_a_server_that_is_gone_is_left_out(well: ScriptedServer, gone: str) -> None:
    """An address where nothing listens costs a try now and then, wherever it is in the list."""
    for urls in ([well.url, gone], [gone, well.url]):
        score(urls, chunk_size=10)


def test_a_server_that_dies_during_a_run_is_left_out(takes: Takes) -> None:
    """The other servers score what it had not answered."""
    dying, other = takes(0.05), takes(0.05)
    blocks = iter_scores(TABLE, [dying.url, other.url], chunk_size=10, concurrency=4)
    predictions = [next(blocks).predictions]
    dying.close()
    predictions += [block.predictions for block in blocks]
    np.testing.assert_array_equal(SUMS, np.concatenate(predictions))


def test_patience_with_dead_servers_is_shared(takes: Takes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers any longer, the first chunks wait for it; the others fail with them, and all are named."""
    monkeypatch.setattr("ruo.client.retry._PATIENCE_S", 0.5)
    dying = takes(0.0)

    def frames() -> Iterator[pl.DataFrame]:
        yield TABLE[:3]
        while not dying.requests:
            time.sleep(0.001)
        dying.close()
        yield TABLE[3:]

    scores = score_csv(frames(), dying.url, chunk_size=3, concurrency=2, errors="collect")
    assert scores.failures["start"].tolist() == list(range(3, 300, 3))
    assert all("Nothing answers at" in str(error) for error in scores.errors)
    assert scores.requests["attempts"].sum() < 30


def test_a_server_that_may_still_answer_is_not_dead(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one request takes long and all others break off, chunks have patience one by one, and not the rest at once."""
    monkeypatch.setattr("ruo.client.retry._PATIENCE_S", 0.2)
    began: list[float] = []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        began.append(time.monotonic())
        is_cut = number > 0 and began[-1] < began[0] + 0.5
        return replace(row_sums(body, headers), wait_s=0 if number else 0.5, cut_after=3 if is_cut else None)

    scores = score_csv(TABLE, scripted(script).url, chunk_size=3, concurrency=2, errors="collect")
    assert 0 < len(scores.errors) < 20
    assert scores.requests["rows"].sum() == 300


def test_a_server_that_comes_back_is_used_again(takes: Takes) -> None:
    """A server that refused for a while gets work once it is available."""
    well = takes(0.05)
    with Proxy(takes(0).url, lambda number: UNAVAILABLE if number < 3 else Fault()) as proxy:
        scores = score([proxy.url, well.url], chunk_size=3, concurrency=2)
    assert proxy.url in set(scores.requests["server"])


@pytest.mark.slow
def test_one_that_is_silent_costs_one_time_out(well: ScriptedServer) -> None:
    """A server that accepts connections but does not answer is left out; its chunks go to the others."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        score([well.url, url], chunk_size=10, timeout=1)
    assert time.monotonic() - began < 5


def score_by_name(port: int | str, change: Callable[[], None], at: int) -> np.ndarray:
    """The predictions from ruo-headless.test, where something changes once `at` blocks of three rows are scored."""
    predictions = []
    for number, block in enumerate(iter_scores(TABLE, f"http://ruo-headless.test:{port}", chunk_size=3, concurrency=4)):
        if number == at:
            change()
            time.sleep(0.3)  # it is looked up in the meantime
        predictions.append(block.predictions)
    return np.concatenate(predictions)


@pytest.mark.slow
def test_the_addresses_of_a_name_are_servers(takes: Takes, names: Names) -> None:
    """As with a headless Kubernetes Service, each gets its share, also one that is added, and none once it is removed."""
    url = takes(0.05).url
    with Proxy(url, host="127.0.0.2") as one:
        port = int(one.url.rpartition(":")[2])
        with Proxy(url, host="127.0.0.3", port=port) as two, Proxy(url, host="127.0.0.4", port=port) as three:
            names.addresses = ["127.0.0.2", "127.0.0.3"]
            scores = score(f"http://ruo-headless.test:{port}", chunk_size=10, concurrency=4)
            balance = scores.balance().set_index("worker")["rows"]
            assert {f"http://127.0.0.2:{port}", f"http://127.0.0.3:{port}"} == set(balance.index)
            assert balance.min() > 90

            at_change = []

            def change() -> None:
                names.addresses = ["127.0.0.2", "127.0.0.4"]
                time.sleep(0.5)  # what was sent before is answered
                at_change.append(two.connections)

            np.testing.assert_array_equal(SUMS, score_by_name(port, change, at=20))
            assert two.connections <= at_change[0] + 1
            assert three.connections > 20


def test_a_name_that_is_lost_for_a_while_is_no_reason_to_stop(takes: Takes, names: Names) -> None:
    """While the name server fails, the known servers are used."""
    names.addresses = ["127.0.0.1", "127.0.0.9"]
    port = takes(0.02).url.rpartition(":")[2]
    np.testing.assert_array_equal(SUMS, score_by_name(port, names.addresses.clear, at=10))


@asynccontextmanager
async def one_taken() -> AsyncIterator[tuple[Servers, Server]]:
    """The servers at one address, and that one, which has been taken."""
    async with HttpClient(1, None, None) as http, Servers(["http://127.0.0.1:9"], http) as servers:
        server = await servers.take(0)
        yield servers, server


@pytest.mark.parametrize("iterations", range(6))
def test_waiting_for_a_server_can_always_be_cancelled(iterations: int) -> None:
    """A waiting request can be cancelled even at the moment in which a server becomes free."""

    async def wait_and_cancel() -> None:
        async with one_taken() as (servers, server):
            servers.failed(server, SilentError("silent", wait_s=60), time.monotonic())  # so that there is none to take
            waiting = asyncio.create_task(servers.take(time.monotonic() + 60))
            await asyncio.sleep(0.01)
            servers.release(server)
            for _ in range(iterations):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(waiting, 2)

    asyncio.run(wait_and_cancel())


@pytest.mark.parametrize(("first_s", "chunks", "concurrency"), [(0.5, 3, 2), (0, 4, 3)])
def test_a_chunk_is_not_sent_twice(scripted: Scripted, first_s: float, chunks: int, concurrency: int) -> None:
    """Neither to an idle server while it is not overdue, nor to a busy one where all are late alike."""
    servers = [scripted(late(lambda number: 0.5 if number else first_s)) for _ in range(2)]
    scores = score([server.url for server in servers], chunk_size=300 // chunks, concurrency=concurrency)
    assert sum(len(server.requests) for server in servers) == chunks
    assert scores.requests["attempts"].tolist() == [1] * chunks


def test_a_server_is_left_out_at_its_third_failure_in_a_row() -> None:
    """Of a server that accepts connections; before that it pauses, a tenth of a second at first, and an answer forgives all."""

    async def fail_and_answer() -> None:
        async with one_taken() as (servers, server):
            for _ in range(2):
                for failures in (1, 2, 3):
                    servers.failed(server, BrokenError("broken"), time.monotonic())
                    assert (server.failures, server.is_left_out) == (failures, failures == 3)
                    assert 0.05 <= (server.pause_until - server.failed_at) / 2 ** (failures - 1) <= 0.15
                servers.answered(server)

    asyncio.run(fail_and_answer())


@pytest.mark.slow
def test_an_unknown_host_name_is_an_error() -> None:
    """A wrong host name ends in one sentence within seconds."""
    began = time.monotonic()
    with pytest.raises(ScoringError, match=r"Nothing answers at http://no-such-host\.invalid:8000"):
        score_csv(TABLE, "http://no-such-host.invalid:8000")

    assert time.monotonic() - began < 20

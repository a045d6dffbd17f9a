"""Several servers with one model: how the work is shared, and what happens when one fails, comes, or goes."""

import asyncio
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import ScoringError, iter_scores, score_csv
from ruo.client.http import Endpoint, HttpClient
from ruo.client.retry import SilentError
from ruo.client.servers import Servers
from tests.proxy import UNAVAILABLE, Fault, Proxy

Scripted = Callable[[Callable[[int, bytes, dict[str, str]], Any]], Any]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """300 rows of three features."""
    path = tmp_path / "table.csv"
    path.write_text("a,b,c\n" + "".join(f"{i},0,0\n" for i in range(300)))
    return path


@pytest.fixture
def sums() -> np.ndarray:
    """The scripted model's predictions for `table`."""
    return np.arange(300, dtype=np.float32).reshape(-1, 1)


@pytest.fixture
def takes(scripted: Scripted, right_answer: Any) -> Callable[[float], Any]:
    """Make a server that takes a given number of seconds for each request."""

    def make(seconds: float) -> Any:
        def script(number: int, body: bytes, headers: dict[str, str]) -> Any:
            answer = right_answer(body, headers)
            answer.wait_s = seconds
            return answer

        return scripted(script)

    return make


def test_a_slow_server_gets_less(table: Path, sums: np.ndarray, takes: Callable[[float], Any]) -> None:
    """Work goes to the server that is free: one that is ten times slower gets few requests, equal ones get equal work."""
    fast, other, slow = takes(0.02), takes(0.02), takes(0.2)

    scores = score_csv(table, [fast.url, other.url, slow.url], chunk_size=5, concurrency=6)

    np.testing.assert_array_equal(sums, scores.predictions)
    rows = scores.balance().set_index("worker")["rows"].to_dict()
    assert rows[slow.url] < 0.5 * rows[fast.url]
    assert 0.5 < rows[fast.url] / rows[other.url] < 2


@pytest.mark.parametrize("in_order", [False, True])
def test_a_straggler_is_overtaken(
    table: Path, sums: np.ndarray, scripted: Scripted, right_answer: Any, takes: Callable[[float], Any], in_order: bool
) -> None:
    """An overdue chunk is sent to an idle server too, and only the first answer counts."""

    def stuck(number: int, body: bytes, headers: dict[str, str]) -> Any:
        answer = right_answer(body, headers)
        answer.wait_s = 20 if number == 1 else 0
        return answer

    urls = [scripted(stuck).url, takes(0).url]
    began = time.monotonic()
    if in_order:
        blocks = list(iter_scores(table, urls, chunk_size=10, concurrency=4))
        predictions = np.concatenate([block.predictions for block in blocks])
    else:
        scores = score_csv(table, urls, chunk_size=10, concurrency=4)
        predictions = scores.predictions
        assert sum(scores.requests["rows"]) == 300
        assert [2] == scores.requests["attempts"][scores.requests["attempts"] > 1].tolist()

    np.testing.assert_array_equal(sums, predictions)
    assert time.monotonic() - began < 10


def test_without_retries_nothing_is_sent_twice(table: Path, takes: Callable[[float], Any]) -> None:
    """retries=0 sends every chunk once, even where an idle server could help."""
    slow, fast = takes(0.3), takes(0)

    score_csv(table, [slow.url, fast.url], chunk_size=50, concurrency=2, retries=0)

    assert len(slow.requests) + len(fast.requests) == 6


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_that_only_refuses_is_left_out(
    table: Path, sums: np.ndarray, scripted: Scripted, reply: Any, takes: Callable[[float], Any], status: int
) -> None:
    """A server that answers 502 or 503 gets few requests; an error of the model itself (500) ends the run."""
    bad = scripted(lambda number, body, headers: reply(status))
    urls = [bad.url, takes(0.01).url]

    if status == 500:
        with pytest.raises(ScoringError, match="answered 500"):
            score_csv(table, urls, chunk_size=10)
        return
    scores = score_csv(table, urls, chunk_size=3, concurrency=4)

    np.testing.assert_array_equal(sums, scores.predictions)
    assert len(bad.requests) < 15


def test_a_server_that_is_gone_is_left_out(table: Path, sums: np.ndarray, takes: Callable[[float], Any]) -> None:
    """An address where nothing listens costs a try now and then, wherever it is in the list."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}"

    for urls in ([gone, takes(0).url], [takes(0).url, gone]):
        scores = score_csv(table, urls, chunk_size=10)
        np.testing.assert_array_equal(sums, scores.predictions)


def test_a_server_that_dies_during_a_run_is_left_out(
    table: Path, sums: np.ndarray, takes: Callable[[float], Any]
) -> None:
    """The other servers score what it had not answered."""
    dying, other = takes(0.05), takes(0.05)
    blocks = iter_scores(table, [dying.url, other.url], chunk_size=10, concurrency=4)
    first = next(blocks)
    dying.close()

    predictions = np.concatenate([first.predictions, *(block.predictions for block in blocks)])

    np.testing.assert_array_equal(sums, predictions)


def test_a_server_that_comes_back_is_used_again(table: Path, sums: np.ndarray, takes: Callable[[float], Any]) -> None:
    """A server that refused for a while gets work once it is available."""
    well = takes(0.05)
    with Proxy(takes(0).url, lambda number: UNAVAILABLE if number < 3 else Fault()) as proxy:
        scores = score_csv(table, [proxy.url, well.url], chunk_size=3, concurrency=2)

    np.testing.assert_array_equal(sums, scores.predictions)
    assert proxy.url in set(scores.requests["server"])


def test_one_that_is_silent_costs_one_time_out(table: Path, sums: np.ndarray, takes: Callable[[float], Any]) -> None:
    """A server that accepts connections but does not answer is left out; its chunks go to the others."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        scores = score_csv(table, [takes(0).url, url], chunk_size=10, timeout=1)

    np.testing.assert_array_equal(sums, scores.predictions)
    assert time.monotonic() - began < 5


class Names:
    """A fake name server: `addresses` are those of ruo-headless.test."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "ruo-headless.test":
            return self._real(host, port, *args, **kwargs)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [entry for address in self.addresses for entry in self._real(address, port, *args, **kwargs)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The name ruo-headless.test."""
    names = Names([])
    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr("ruo.client.servers._LOOK_UP_S", 0.1)
    return names


def test_a_name_with_several_addresses_is_several_servers(
    table: Path, sums: np.ndarray, takes: Callable[[float], Any], names: Names
) -> None:
    """As with a headless Kubernetes Service, each address gets its share and is named in the records."""
    target = takes(0.01)
    with Proxy(target.url, host="127.0.0.2") as one:
        port = int(one.url.rpartition(":")[2])
        with Proxy(target.url, host="127.0.0.3", port=port):
            names.addresses = ["127.0.0.2", "127.0.0.3"]
            scores = score_csv(table, f"http://ruo-headless.test:{port}", chunk_size=10, concurrency=4)

    np.testing.assert_array_equal(sums, scores.predictions)
    balance = scores.balance().set_index("worker")["rows"]
    assert {f"http://127.0.0.2:{port}", f"http://127.0.0.3:{port}"} == set(balance.index)
    assert balance.min() > 90


def test_an_address_that_comes_or_goes_is_used_or_left(
    table: Path, sums: np.ndarray, takes: Callable[[float], Any], names: Names
) -> None:
    """A replica that is added during a run gets work, and one that is removed gets no more."""
    target = takes(0.05)
    with Proxy(target.url, host="127.0.0.2") as one:
        port = int(one.url.rpartition(":")[2])
        with (
            Proxy(target.url, host="127.0.0.3", port=port) as two,
            Proxy(target.url, host="127.0.0.4", port=port) as three,
        ):
            names.addresses = ["127.0.0.2", "127.0.0.3"]
            predictions = []
            at_change = 0
            for number, block in enumerate(
                iter_scores(table, f"http://ruo-headless.test:{port}", chunk_size=2, concurrency=4)
            ):
                if number == 30:
                    names.addresses = ["127.0.0.2", "127.0.0.4"]
                    time.sleep(0.5)
                    at_change = two.connections
                predictions.append(block.predictions)
            assert two.connections <= at_change + 1
            assert three.connections > 20

    np.testing.assert_array_equal(sums, np.concatenate(predictions))


def test_a_name_that_is_lost_for_a_while_is_no_reason_to_stop(
    table: Path, sums: np.ndarray, takes: Callable[[float], Any], names: Names
) -> None:
    """While the name server fails, the known servers are used."""
    target = takes(0.02)
    port = target.url.rpartition(":")[2]
    names.addresses = ["127.0.0.1", "127.0.0.9"]
    predictions = []
    for number, block in enumerate(iter_scores(table, f"http://ruo-headless.test:{port}", chunk_size=3, concurrency=4)):
        if number == 10:
            names.addresses = []
            time.sleep(0.3)
        predictions.append(block.predictions)

    np.testing.assert_array_equal(sums, np.concatenate(predictions))


@pytest.mark.parametrize("iterations", range(6))
def test_waiting_for_a_server_can_always_be_cancelled(iterations: int) -> None:
    """A waiting request can be cancelled even at the moment in which a server becomes free."""

    async def wait_and_cancel() -> None:
        async with (
            HttpClient(1, None, None) as http,
            Servers(["http://127.0.0.1:9"], partial(Endpoint, http)) as servers,
        ):
            server = await servers.take(0)
            assert server is not None
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


def test_an_unknown_host_name_is_an_error(table: Path) -> None:
    """A wrong host name ends in one sentence within seconds."""
    began = time.monotonic()
    with pytest.raises(ScoringError, match=r"Nothing answers at http://no-such-host\.invalid:8000"):
        score_csv(table, "http://no-such-host.invalid:8000")

    assert time.monotonic() - began < 20

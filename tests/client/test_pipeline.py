"""What a run costs in tasks, sockets and memory, whatever the table's length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ruo import ScoringError, ascore_csv, iter_scores, score_csv
from ruo.errors import TableError


@pytest.fixture
def long_table(tmp_path: Path) -> Path:
    """20,000 rows."""
    path = tmp_path / "long.csv"
    path.write_text("a,b,c\n" + "1,2,3\n" * 20_000)
    return path


def test_the_tasks_are_as_many_as_senders(long_table: Path, scripted: Callable[..., Any], answers: Any) -> None:
    """Two hundred chunks take no more tasks and sockets than eight, at any time, and none stays."""
    server = scripted(answers)
    files = len(list(Path("/proc/self/fd").iterdir()))
    most = {"tasks": 0, "files": 0}

    async def watch() -> None:
        while True:
            most["tasks"] = max(most["tasks"], len(asyncio.all_tasks()))
            most["files"] = max(most["files"], len(list(Path("/proc/self/fd").iterdir())))
            await asyncio.sleep(0.002)

    async def main() -> int:
        watcher = asyncio.create_task(watch())
        scores = await ascore_csv(long_table, server.url, chunk_size=100, concurrency=8)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1
        return len(scores.records)

    assert asyncio.run(main()) == 200
    assert most["tasks"] < 30  # the senders, and what forms
    # the scripted server lives in this process too, so each connection counts twice
    assert most["files"] - files < 2 * 8 + 30


def test_an_early_end_leaves_nothing_behind(long_table: Path, scripted: Callable[..., Any], answers: Any) -> None:
    """A loop that is left, or that fails, ends the run: no thread and no socket stays."""
    import threading

    server = scripted(answers)
    for _ in range(3):
        for block in iter_scores(long_table, server.url, chunk_size=10):
            if block.start > 100:
                break
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("ruo")]

    assert names == []


def test_what_is_wrong_with_the_server_is_told_first(
    tmp_path: Path, scripted: Callable[..., Any], answers: Any
) -> None:
    """Rows are read while the server is asked for its model; still the same of two faults is told each time."""
    path = tmp_path / "bad.csv"
    path.write_text("a,b,c\n1,2,x\n")
    server = scripted(answers)
    with pytest.raises(TableError, match="'x' is not a number"):
        score_csv(path, server.url)
    server.pages["/v2/repository/index"] = b"[]"

    with pytest.raises(ScoringError, match="The server has 0 models"):
        score_csv(path, server.url)


@pytest.mark.parametrize("pipelined", [True, False])
def test_forming_first_gives_the_same(
    small_csv: Path, scripted: Callable[..., Any], answers: Any, small_sums: Any, tmp_path: Path, pipelined: bool
) -> None:
    """The order of the phases changes nothing but the time, also with a checkpoint."""
    server = scripted(answers)
    path = tmp_path / "run.ruo"

    for _ in range(2):
        scores = score_csv(small_csv, server.url, chunk_size=3, pipelined=pipelined, checkpoint=path)
        assert scores.predictions.tolist() == small_sums.tolist()

    assert len(server.requests) == 4


def test_the_balance_is_of_what_was_sent(small_csv: Path, scripted: Callable[..., Any], answers: Any) -> None:
    """Rows, requests, seconds and shares per server add up to the run's."""
    urls = [scripted(answers).url, scripted(answers).url]
    scores = score_csv(small_csv, urls, chunk_size=1, concurrency=2)
    balance = scores.balance()

    assert balance[["rows", "requests"]].sum().tolist() == [10, 10]
    assert balance["share"].sum() == pytest.approx(1)
    assert balance["seconds"].sum() == pytest.approx(scores.requests["seconds"].sum())
    assert set(balance["server"]) == set(urls)

"""What a run costs in tasks, sockets and memory, whatever the table's length."""

import asyncio
import gzip
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ruo import ScoringError, ascore_csv, iter_scores, score_csv
from ruo.client.event_loop import LoopLag
from ruo.errors import TableError
from ruo.table import open_table


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
    """A loop that is left early, or that fails, ends the run: no thread and no socket remains."""
    server = scripted(answers)
    for _ in range(3):
        for block in iter_scores(long_table, server.url, chunk_size=10):
            if block.start > 100:
                break
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("ruo")]

    assert names == []


def test_a_loop_that_is_left_writes_nothing(long_table: Path, scripted: Callable[..., Any], answers: Any) -> None:
    """Leaving `iter_scores` in mid-run prints no warning about an event loop or a generator."""
    program = f"""
        from ruo import iter_scores
        for number in range(5):
            for block in iter_scores({str(long_table)!r}, {scripted(answers).url!r}, chunk_size=50):
                if block.start > 500:
                    break
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_result_type_imports_no_machinery() -> None:
    """Importing `Scores` does not import what sends and reads."""
    program = "import sys, ruo.client.scores; print([name for name in sys.modules if name.startswith('ruo.client')])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert run.stdout == "['ruo.client', 'ruo.client.records', 'ruo.client.scores']\n"


def test_a_fault_of_the_server_is_reported_first(tmp_path: Path, scripted: Callable[..., Any], answers: Any) -> None:
    """If both the server and the table are at fault, the error is always that of the server."""
    path = tmp_path / "bad.csv"
    path.write_text("a,b,c\n1,2,x\n")
    server = scripted(answers)
    with pytest.raises(TableError, match="'x' is not a number"):
        score_csv(path, server.url)
    server.pages["/v2/repository/index"] = b"[]"

    with pytest.raises(ScoringError, match="The server has 0 models"):
        score_csv(path, server.url)


@pytest.fixture
def slow_table(tmp_path: Path) -> Path:
    """Six million rows that take more than a second to unpack and read."""
    path = tmp_path / "slow.csv.gz"
    path.write_bytes(gzip.compress(b"a,b,c\n" + b"1.25,2.5,3\n" * 6_000_000, 1))
    return path


def test_reading_and_its_end_never_block_the_loop(slow_table: Path, scripted: Callable[..., Any], answers: Any) -> None:
    """While a whole table is read for one request, and when that is cancelled, the event loop keeps running."""
    server = scripted(answers)
    began = time.monotonic()
    assert sum(len(block.features) for block in open_table(slow_table).blocks(None)) == 6_000_000
    whole_s = time.monotonic() - began

    async def main() -> tuple[float, float]:
        async with LoopLag() as lag:
            run = asyncio.create_task(ascore_csv(slow_table, server.url, chunk_size=None))
            await asyncio.sleep(whole_s / 4)
            began = time.monotonic()
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()
        return lag.seconds, time.monotonic() - began

    lag_s, end_s = asyncio.run(main())
    assert lag_s < whole_s / 4
    assert end_s < whole_s / 2  # the piece that is being read, not the table
    assert server.requests == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ruo")]


def test_ctrl_c_ends_the_reading(slow_table: Path, scripted: Callable[..., Any], answers: Any) -> None:
    """An interrupt while a whole table is read ends the run after the current piece."""
    program = f"""
        import threading
        from ruo import score_csv
        print("begin", flush=True)
        try:
            score_csv({str(slow_table)!r}, {scripted(answers).url!r}, chunk_size=None)
        except KeyboardInterrupt:
            print([thread.name for thread in threading.enumerate()])
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)

    assert output == "['MainThread']\n"


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
    assert set(balance["worker"]) == set(urls)

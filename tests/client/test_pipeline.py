"""What a run costs in tasks, sockets and memory, whatever the table's length."""

import asyncio
import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ruo import ScoringError, ascore_csv, iter_scores, score_csv
from ruo.errors import TableError
from ruo.tables import open_table
from tests.client.conftest import Scripted, interrupted, late, loop_lags, python
from tests.conftest import ScriptedServer
from tests.server.asking import wait_for


def test_the_tasks_are_as_many_as_senders(long_csv: Path, well: ScriptedServer) -> None:
    """Two hundred chunks take no more tasks and sockets than eight, at any time, and none stays."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    most = {"tasks": 0, "files": 0}

    async def watch() -> None:
        while True:
            most["tasks"] = max(most["tasks"], len(asyncio.all_tasks()))
            most["files"] = max(most["files"], len(list(Path("/proc/self/fd").iterdir())))
            await asyncio.sleep(0.002)

    async def main() -> int:
        watcher = asyncio.create_task(watch())
        scores = await ascore_csv(long_csv, well.url, chunk_size=100, concurrency=8)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1
        return len(scores.records)

    assert asyncio.run(main()) == 200
    assert most["tasks"] < 30  # the senders, and what forms
    # the scripted server lives in this process too, so each connection counts twice
    assert most["files"] - files < 2 * 8 + 30


def test_large_chunks_are_read_two_ahead(scripted: Scripted) -> None:
    """However long the servers take: those in flight, two that wait, and one behind the first that is answered."""
    read: list[int] = []

    def frames() -> Iterator[pl.DataFrame]:
        for number in range(40):
            read.append(number)
            yield pl.DataFrame({"a": np.full(20_000, 1.0), "b": 2.0, "c": 3.0})

    blocks = iter_scores(frames(), scripted(late(lambda _: 0.5)).url, chunk_size=20_000, concurrency=8)
    next(blocks)
    count = len(read)
    blocks.close()  # type: ignore[attr-defined]

    assert count <= 8 + 2 + 1


def test_an_early_end_leaves_nothing_behind(long_csv: Path, well: ScriptedServer) -> None:
    """A loop that is left in mid-run ends the run: no thread remains, and no warning about a loop or generator."""
    program = f"""
        import threading
        from ruo import iter_scores
        for number in range(5):
            for block in iter_scores({str(long_csv)!r}, {well.url!r}, chunk_size=50):
                if block.start > 500:
                    break
        print([thread.name for thread in threading.enumerate() if thread.name.startswith("ruo")])
    """
    assert python(program) == "[]\n"


def test_a_loop_that_is_left_halfway_holds_nothing_up(long_csv: Path, well: ScriptedServer) -> None:
    """The collector, in whichever thread it comes, and the end of the program do not wait for it."""
    program = f"""
        import gc, threading, time
        import polars as pl
        from ruo import ScoringError, iter_scores, score_csv
        left, row = threading.Event(), pl.DataFrame({{"a": [1.0], "b": [1.0], "c": [1.0]}})
        def frames():
            yield row
            left.wait()
            gc.collect()  # in a thread that the run's end waits for
            yield row
        def leave():
            cycle = [iter_scores(frames(), {well.url!r}, chunk_size=1, concurrency=1)]
            cycle.append(cycle)
            next(cycle[0])
        leave()
        left.set()
        until = time.monotonic() + 5
        while (names := [t.name for t in threading.enumerate() if t.name.startswith("ruo")]) and time.monotonic() < until:
            time.sleep(0.01)
        print(names)
        def late():
            threading.main_thread().join()
            try:
                score_csv({str(long_csv)!r}, {well.url!r})
            except ScoringError as error:
                print(error)
        threading.Thread(target=late).start()
        blocks = iter_scores({str(long_csv)!r}, {well.url!r}, chunk_size=50)
        print(next(blocks).start)
    """
    late = "The main thread ended before this run; let it join this thread."
    assert python(program) == f"[]\n0\n{late}\n"


def test_a_run_that_is_cancelled_twice_leaves_no_thread(long_csv: Path, scripted: Scripted, tmp_path: Path) -> None:
    """As by a second Ctrl-C, or by a group of tasks whose time is up."""
    server = scripted(late(lambda _: 0.05))

    async def main() -> None:
        run = asyncio.create_task(ascore_csv(long_csv, server.url, chunk_size=50, checkpoint=tmp_path / "run.ruo"))
        while not server.requests:
            await asyncio.sleep(0.01)
        for _ in range(2):
            run.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()

    asyncio.run(main())
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("ruo")], 5)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, CancelledError, asyncio.CancelledError])
def test_what_a_source_raises_ends_the_run(well: ScriptedServer, error: type[BaseException]) -> None:
    """It comes out of every call, also what otherwise ends an event loop or one of its tasks, and no thread is left."""

    def frames() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"a": [1.0], "b": [1.0], "c": [1.0]})
        raise error

    for call in (score_csv, lambda *given: [*iter_scores(*given)], lambda *given: asyncio.run(ascore_csv(*given))):
        with pytest.raises((error, CancelledError, asyncio.CancelledError)):
            call(frames(), well.url)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ruo")]


def test_a_source_that_gives_nothing_holds_up_no_end(well: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cancelled ends although its source waits; the thread ends once the source goes on."""
    monkeypatch.setattr("ruo.client.pipeline._PATIENCE_S", 0.1)
    goes_on = threading.Event()

    def frames() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"a": [1.0], "b": [1.0], "c": [1.0]})
        assert goes_on.wait(10)

    async def main() -> None:
        async with asyncio.timeout(0.1):
            await ascore_csv(frames(), well.url)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert not goes_on.is_set()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("ruo-form")]
    goes_on.set()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("ruo")], 5)


def test_the_result_type_imports_no_machinery() -> None:
    """Importing `Scores` does not import what sends and reads."""
    program = "import sys, ruo.client.scores; print([name for name in sys.modules if name.startswith('ruo.client')])"
    assert python(program) == "['ruo.client', 'ruo.client.layout', 'ruo.client.records', 'ruo.client.scores']\n"


def test_a_fault_of_the_server_is_reported_first(tmp_path: Path, well: ScriptedServer) -> None:
    """If both the server and the table are at fault, the error is always that of the well."""
    path = tmp_path / "bad.csv"
    path.write_text("a,b,c\n1,2,x\n")
    with pytest.raises(TableError, match="'x' is not a number"):
        score_csv(path, well.url)
    well.pages["/v2/repository/index"] = b"[]"

    with pytest.raises(ScoringError, match="The server has 0 models"):
        score_csv(path, well.url)


@pytest.fixture
def slow_csv(tmp_path: Path) -> Path:
    """Twenty million rows, which take about a second to unpack and read."""
    path = tmp_path / "slow.csv.gz"
    path.write_bytes(gzip.compress(b"a,b,c\n") + gzip.compress(b"1.25,2.5,3\n" * 1_000_000) * 20)
    return path


@pytest.mark.slow
def test_reading_and_its_end_never_block_the_loop(slow_csv: Path, well: ScriptedServer) -> None:
    """While a whole table is read for one request, and when that is cancelled, the event loop keeps running."""
    began = time.monotonic()
    assert sum(len(block.array) for block in open_table(slow_csv).blocks(None)) == 20_000_000
    whole_s = time.monotonic() - began

    async def main() -> tuple[float, float]:
        async with loop_lags() as lags:
            run = asyncio.create_task(ascore_csv(slow_csv, well.url, chunk_size=None))
            await asyncio.sleep(whole_s / 4)
            began = time.monotonic()
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        assert run.cancelled()
        return max(lags), time.monotonic() - began

    lag_s, end_s = asyncio.run(main())
    assert lag_s < whole_s / 4
    assert end_s < whole_s / 2  # the piece that is being read, not the table
    assert well.requests == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ruo")]


def test_ctrl_c_ends_the_reading(slow_csv: Path, well: ScriptedServer) -> None:
    """An interrupt while a whole table is read ends the run after the current piece."""
    assert interrupted(slow_csv, well.url, chunk_size=None, wait_s=0.3) == "['MainThread']\n"

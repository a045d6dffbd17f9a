"""What a container allows, and how much memory the client needs, measured in separate processes."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ruo.deploy.local import LocalServer, local_server
from ruo.learn.demo import Demo, make_testset
from ruo.machine import cpu_limit


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_quota_limits_the_cpus(tmp_path: Path, files: dict[str, str], cpus: float | None) -> None:
    """The quota of either version of control groups counts; without one, all visible CPUs may be used."""
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    assert cpu_limit(tmp_path) == (cpus or len(os.sched_getaffinity(0)))


@pytest.fixture(scope="module")
def four_workers(demo: Demo) -> Iterator[LocalServer]:
    with local_server(demo.models["mlp"]) as server:
        yield server


@pytest.fixture(scope="module", params=[500_000, 2_000_000])
def long_table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    path = tmp_path_factory.mktemp("long") / "testset.csv"
    make_testset(path, request.param)
    yield request.param, path
    path.unlink()


_PEAKS: dict[tuple[str, int], float] = {}


def _peak_mb(program: str) -> tuple[int, float]:
    program = "from ruo import iter_scores, score_csv\nfrom ruo.machine import peak_rss_mb\n" + textwrap.dedent(program)
    program += "\nimport json; print(json.dumps([rows, peak_rss_mb()]))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows, peak = json.loads(result.stdout)
    return rows, peak


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.parametrize("entry", ["iter_scores", "score_csv"])
def test_memory_is_bounded_whatever_the_length(
    long_table: tuple[int, Path], four_workers: LocalServer, entry: str
) -> None:
    """iter_scores needs no more for four times the rows; score_csv adds the predictions only."""
    count, path = long_table
    call = f"{entry}({str(path)!r}, {four_workers.url!r})"
    rows, peak = _peak_mb(
        f"rows = sum(len(block.predictions) for block in {call})" if entry == "iter_scores" else f"rows = len({call})"
    )

    print(f"{entry}, {count:,} rows: peak {peak:.0f} MB")
    _PEAKS[entry, count] = peak
    assert rows == count
    if count == 500_000:
        assert peak < 600
    elif entry == "iter_scores":
        assert peak <= 1.2 * _PEAKS[entry, 500_000]
    else:
        # 1.5 million rows more of 10 predictions and a label, in arrays that are an eighth too long at most
        assert peak <= 1.1 * _PEAKS[entry, 500_000] + 1.125 * 1.5e6 * (10 * 4 + 8) / 1e6

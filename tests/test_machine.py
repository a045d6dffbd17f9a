"""What a container allows, and how much memory the client needs, measured in separate processes."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from ruo.deploy.local import local_server
from ruo.learn.demo import Demo, make_testset
from ruo.machine import cpu_limit, peak_rss_mb, reset_peak_rss, session_cpu_s, wait_until_quiet


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


@pytest.mark.slow
def test_cpu_time_of_a_session_is_that_of_its_processes() -> None:
    """The CPU time of a session grows while one of its processes works, and stands still while it sleeps."""
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", work], **pipes, start_new_session=True) as process:
        process.stdout.readline()
        worked = session_cpu_s(process.pid)
        time.sleep(0.1)
        assert session_cpu_s(process.pid) == worked
        process.stdin.write(b"\n")
    assert worked >= 0.25


def test_waiting_for_a_quiet_machine_ends() -> None:
    """The wait for a machine that never gets quiet ends with the patience, and its load is returned."""
    share, waited_s = wait_until_quiet(limit=-1.0, patience_s=0.5)
    assert share >= 0
    assert waited_s >= 0.5


def test_a_peak_of_memory_from_before_is_no_peak(tmp_path: Path) -> None:
    """After a reset the peak is that of now; where the kernel cannot reset it, no number is given."""
    before = reset_peak_rss()
    large = np.ones(20_000_000)  # 160 MB
    assert peak_rss_mb() >= before + 150
    del large
    assert reset_peak_rss() < before + 50
    assert np.isnan(reset_peak_rss(tmp_path / "none"))


def _peak_mb(program: str) -> tuple[int, float]:
    program = "from ruo import iter_scores, score_csv\nfrom ruo.machine import peak_rss_mb\n" + textwrap.dedent(program)
    program += "\nimport json; print(json.dumps([rows, peak_rss_mb()]))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows, peak = json.loads(result.stdout)
    return rows, peak


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_memory_is_bounded_whatever_the_length(demo: Demo, tmp_path: Path) -> None:
    """iter_scores needs no more for four times the rows; score_csv adds the predictions only."""
    programs = {"iter_scores": "sum(len(block.predictions) for block in {})", "score_csv": "len({})"}
    peaks: dict[tuple[str, int], float] = {}
    path = tmp_path / "testset.csv"
    with local_server(demo.models["mlp"]) as server:
        for count in (500_000, 2_000_000):
            make_testset(path, count)
            for entry, count_rows in programs.items():
                call = f"{entry}({str(path)!r}, {server.url!r})"
                rows, peaks[entry, count] = _peak_mb(f"rows = {count_rows.format(call)}")
                assert rows == count
                print(f"{entry}, {count:,} rows: peak {peaks[entry, count]:.0f} MB")
    path.unlink()
    assert max(peaks["iter_scores", 500_000], peaks["score_csv", 500_000]) < 600
    assert peaks["iter_scores", 2_000_000] <= 1.2 * peaks["iter_scores", 500_000]
    # 1.5 million rows more of 10 predictions and a label, in arrays that are an eighth too long at most
    assert peaks["score_csv", 2_000_000] <= 1.1 * peaks["score_csv", 500_000] + 1.125 * 1.5e6 * (10 * 4 + 8) / 1e6

"""Whether the targets of speed are reached, from samples whose figures are known."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.bare_socket import CPUS
from benchmarks.groups import GROUPS, Files, Group
from benchmarks.targets import compare_with_targets, jobs_of, markdown, read_targets, select_jobs
from ruo.errors import ArgumentError

SIZES = (1_000, 5_000, 10_000, 50_000, 100_000)
SCALING_SIZES = (1_000, 5_000, 20_000)


def job(name: str, *seconds: float, **more: float) -> list[dict[str, Any]]:
    """A sample per block."""
    sample = {"job": name, "error": None, **more}
    return [{**sample, "block": block, "total_s": total_s} for block, total_s in enumerate(seconds, 1)]


def judge(samples: list[dict[str, Any]], cpus: int) -> pd.DataFrame:
    return compare_with_targets(pd.DataFrame(samples), cpus)


def row(samples: list[dict[str, Any]], begins: str, cpus: int = 4) -> Any:
    """The only row of the table whose target begins so."""
    table = judge(samples, cpus)
    [target] = table[table["what"].str.startswith(begins)].itertuples()
    return target


def test_a_ratio_is_of_medians_and_its_spread_of_blocks() -> None:
    """Medians 44 and 2 are 22 times; the blocks alone give 10 to 30."""
    samples = job("paper mlp 10000", 20, 44, 60) + job("TensorFlow mlp 10000", 2, 2.2, 2)
    target = row(samples, "mlp, 10,000 rows per request, against the system of 2023: TensorFlow")
    assert target.reached == pytest.approx(22)
    assert (target.least, target.most, target.blocks) == (pytest.approx(10), pytest.approx(30), 3)
    assert target.verdict == "pass"


def test_the_best_and_the_worst_size_are_found() -> None:
    """The bound is compared with the best size, and the worst size with the best."""
    samples = [sample for rows in SIZES for sample in job(f"TensorFlow mlp {rows}", 1.0 if rows == 50_000 else 1.4)]
    samples += job("bound TensorFlow mlp", 0.8)
    assert row(samples, "mlp, best request size, against no network at all: TensorFlow").reached == pytest.approx(1.25)
    worst = row(samples, "mlp, worst of")
    assert (worst.reached, worst.verdict) == (pytest.approx(1.4), "short")


def test_the_client_is_allowed_its_cpu_time() -> None:
    """With 4 CPUs and a client that needs a tenth of one worker's time, 4 / 1.1 times is the most that is possible."""
    samples = []
    for rows in SCALING_SIZES:
        samples += job(f"one worker cnn {rows}", 10.0)
        samples += job(f"4 workers cnn {rows}", 2.75, client_cpu_s=1.0, off_mean_percent=12.0)
    assert row(samples, "cnn, 4 one-core workers, 1,000 rows per request: times").reached == pytest.approx(1)
    assert row(samples, "cnn, 4 one-core workers, 1,000 rows per request: the worker").verdict == "short"


def test_a_ratio_may_be_of_another_column_and_a_figure_without_a_target() -> None:
    """Time per row grows by a tenth; rows per second are shown without a verdict, and large figures with commas."""
    samples = job("growth 10 iter_scores", 10.0, s_per_million=2.0)
    samples += job("growth 40 iter_scores", 40.0, s_per_million=2.2)
    target = row(samples, "growth: the test set 40 times by iter_scores, against 10 times: time per row")
    assert (target.reached, target.verdict) == (pytest.approx(1.1), "short")
    table = judge(job("source CSV", 1.0, rows_per_s=654_321.0), 4)
    assert "| sources: CSV, rows per second | (rows/s) | 654,321 | 654,321 to 654,321 | 1 |  |" in markdown(table)


def test_failed_runs_and_what_was_not_measured_are_no_figures() -> None:
    """A job that failed gives no figure, and a target without samples no row."""
    samples = job("import ruo", 0.01) + job("server memory", 1.0, server_growth_mb=300.0)
    samples[1]["error"] = "wrong: answers differ"
    assert judge(samples, 4)["what"].tolist() == ["import ruo"]


@pytest.fixture
def groups(tmp_path: Path) -> dict[str, Group]:
    """All groups; nothing is started, so no file needs to be there."""
    files = Files(*(tmp_path / name for name in ("testset.csv", "mlp.keras", "cnn.keras", "scratch")))
    return {name: make(files) for name, make in GROUPS.items()}


def test_the_targets_and_the_groups_agree(groups: dict[str, Group]) -> None:
    """A target's jobs are of one group, each group has a target, each job counts for one, and each need is known."""
    sets, targets = read_targets(CPUS)
    of_target = [jobs_of(target, sets) for target in targets]
    homes = [[name for name, group in groups.items() if wanted <= set(group.jobs)] for wanted in of_target]
    assert [len(found) for found in homes] == [1] * len(targets)
    assert {name for [name] in homes} == set(groups)
    assert {job for group in groups.values() for job in group.jobs} == set().union(*of_target)
    for group in groups.values():
        assert {task.need for task in group.jobs.values()} - {""} == set(group.needs)


def test_every_target_stands_in_the_table(groups: dict[str, Group]) -> None:
    """With samples of every job there is a row for each target, and a line in Markdown."""
    targets = read_targets(CPUS)[1]
    columns = {target["column"] for target in targets if "column" in target} | {"client_cpu_s"}
    columns |= {target["median"][1] for target in targets if "median" in target} - {"total_s"}
    names = [name for group in groups.values() for name in group.jobs]
    samples = [sample for name in names for sample in job(name, 1.0, **dict.fromkeys(columns, 1.0))]
    table = judge(samples, CPUS)
    assert table["what"].tolist() == [target["what"] for target in targets]
    assert len(markdown(table).splitlines()) == len(table) + 2


def test_some_groups_or_a_target_can_be_chosen(groups: dict[str, Group]) -> None:
    """Names of groups choose all of their jobs, a part of a target's name the jobs of its figure, nothing everything."""
    jobs = {name: set(group.jobs) for name, group in groups.items()}
    assert select_jobs("", jobs, CPUS) == jobs
    assert select_jobs("peers,start", jobs, CPUS) == {name: jobs[name] for name in ("peers", "start")}
    of_target = {"peers": {"peers KServe gRPC 100", "peers ruo 100"}}
    assert select_jobs("mlp, 100 rows per request, against kserve grpc", jobs, CPUS) == of_target
    with pytest.raises(ArgumentError, match="There is no group or target 'speed'; the groups are mlp, cnn, "):
        select_jobs("speed", jobs, CPUS)

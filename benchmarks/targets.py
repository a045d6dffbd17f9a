"""What the measurements of `benchmarks.__main__` must reach, and what they reached: samples in, a table out.

A sample is the seconds of one job in one block; a figure is a ratio of medians over the blocks, and its spread the
smallest and the largest ratio within a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

__all__ = ["SCALING_SIZES", "SIZES", "Figure", "judge", "markdown", "ratio", "targets"]

SIZES = (1_000, 5_000, 10_000, 50_000, 100_000)
SCALING_SIZES = (1_000, 5_000, 20_000)


class Figure(NamedTuple):
    """A value, the smallest and the largest that a single block gives, and the number of blocks; without samples NaN."""

    value: float
    least: float
    most: float
    blocks: int


class Target(NamedTuple):
    """A figure that must be `at_least` or else at most `limit`."""

    what: str
    limit: float
    at_least: bool
    unit: str
    figure: Callable[[pd.DataFrame], Figure]


def ratio(samples: pd.DataFrame, slow: str, fast: str) -> Figure:
    """How many times as long `slow` takes as `fast`."""
    one, other = _seconds(samples, slow), _seconds(samples, fast)
    pairs = (one / other).dropna()
    return Figure(one.median() / other.median(), pairs.min(), pairs.max(), len(pairs))


def targets(cpus: int) -> list[Target]:
    """All of them, for a machine with so many CPUs."""
    mlp = {rows: f"tensorflow mlp {rows}" for rows in (100, *SIZES)}
    whole = "tensorflow mlp whole"

    def at_best(slow: Sequence[str], fast: Sequence[str], pick: Callable[..., str] = min) -> Callable[..., Figure]:
        """The best of `fast` beside the best (or, with `pick` max, the worst) of `slow`."""

        def figure(samples: pd.DataFrame) -> Figure:
            median = lambda job: _seconds(samples, job).median()  # noqa: E731
            return ratio(samples, pick(slow, key=median), min(fast, key=median))

        return figure

    def against(slow: str, fast: str) -> Callable[[pd.DataFrame], Figure]:
        return lambda samples: ratio(samples, slow, fast)

    sizes = [mlp[rows] for rows in SIZES]
    bound = {
        (backend, model): f"bound {backend} {model}"
        for backend in ("tensorflow", "openvino")
        for model in ("mlp", "cnn")
    }
    openvino = [f"openvino mlp {rows}" for rows in (5_000, 10_000, 50_000)]
    table = [
        Target("mlp, 10,000 rows per request, against the system of 2023: TensorFlow", 22, True, "times as fast", against("paper mlp 10000", mlp[10_000])),
        Target("the same: OpenVINO", 25, True, "times as fast", against("paper mlp 10000", openvino[1])),
        Target("the system of 2023, against a bare socket in place of ruo, labels read too: TensorFlow", 22, True, "times as fast", against("paper mlp 10000", "bare socket tensorflow mlp")),
        Target("the same: OpenVINO", 25, True, "times as fast", against("paper mlp 10000", "bare socket openvino mlp")),
        Target("mlp, best request size, against no network at all: TensorFlow", 1.05, False, "times as long", at_best(sizes, [bound["tensorflow", "mlp"]])),
        Target("the same, where that reads the label columns too, as ruo does: TensorFlow", 1.05, False, "times as long", at_best(sizes, ["bound tensorflow mlp labels"])),
        Target("the same, against other processes behind a bare socket, labels read too: TensorFlow", 1.05, False, "times as long", at_best(sizes, ["bare socket tensorflow mlp"])),
        Target("mlp, best request size, against no network at all: OpenVINO", 1.05, False, "times as long", at_best(openvino, [bound["openvino", "mlp"]])),
        Target("the same, against other processes behind a bare socket, labels read too: OpenVINO", 1.05, False, "times as long", at_best(openvino, ["bare socket openvino mlp"])),
        Target("mlp, worst of 1,000 to 100,000 rows per request against the best", 1.3, False, "times as long", at_best(sizes, sizes, max)),
        Target("mlp, whole set in one request against the best", 1.8, False, "times as long", at_best([whole], sizes)),
        Target("mlp, 100 rows per request against the best", 4, False, "times as long", at_best([mlp[100]], sizes)),
        Target("server's memory for the whole set in one request, above idle", 150, False, "MB", partial(_column, job="server memory", column="mb")),
        Target("cnn, 10,000 rows per request, against no network at all", 1.05, False, "times as long", against("tensorflow cnn 10000", bound["tensorflow", "cnn"])),
    ]  # fmt: skip
    for rows in SCALING_SIZES:
        one, all_of_them = f"one worker cnn {rows}", f"{cpus} workers cnn {rows}"
        about = f"cnn, {cpus} one-core workers, {rows:,} rows per request"
        gained = partial(_share_of_speed_up, one=one, several=all_of_them, cpus=cpus)
        table.append(Target(f"{about}: times one worker, as a share of what the CPUs allow", 0.97, True, "", gained))
        off = partial(_column, job=all_of_them, column="off_mean_percent")
        table.append(Target(f"{about}: the worker whose rows are furthest from the mean", 10, False, "% off", off))
    table += [
        Target("the client of 2023, ruo's server instead of its own, 10,000 rows per request", 2.5, True, "times as fast", against("paper mlp 10000", "paper client mlp 10000")),
        *(
            Target(f"mlp, 10,000 rows per request, against {peer} with its own client", 1, True, "times as fast", against(f"peers {peer}", "peers ruo"))
            for peer in ("MLServer", "PyTriton")
        ),
        Target("client's memory, 5,000,000 rows", 500, False, "MB", partial(_column, job="client memory", column="mb")),
        Target("import ruo", 0.05, False, "s", partial(_column, job="import ruo", column="total_s")),
        Target("from ruo import score_csv", 0.4, False, "s", partial(_column, job="from ruo import score_csv", column="total_s")),
        Target("server ready from start, mlp: TensorFlow", 6, False, "s", partial(_column, job="ready tensorflow", column="total_s")),
        Target("the same: OpenVINO", 2.5, False, "s", partial(_column, job="ready openvino", column="total_s")),
    ]  # fmt: skip
    return table


def judge(samples: Sequence[dict[str, Any]], cpus: int) -> pd.DataFrame:
    """A row per target that was measured: what, limit, reached, least, most, blocks, unit and verdict (pass or short)."""
    runs = pd.DataFrame(samples)
    runs = runs[runs["error"].isna()] if "error" in runs else runs
    rows = []
    for target in targets(cpus):
        figure = target.figure(runs)
        if figure.blocks == 0:
            continue
        reached = figure.value >= target.limit if target.at_least else figure.value <= target.limit
        limit = f"{'at least' if target.at_least else 'at most'} {target.limit:g}"
        verdict = "pass" if reached else "short"
        rows.append([target.what, limit, figure.value, figure.least, figure.most, figure.blocks, target.unit, verdict])
    return pd.DataFrame(rows, columns=["what", "limit", "reached", "least", "most", "blocks", "unit", "verdict"])


def markdown(table: pd.DataFrame) -> str:
    """The table for reading."""
    lines = ["| what | must be | reached | single blocks | n | |", "|---|---|---:|---|---:|---|"]
    for row in table.itertuples():
        spread = f"{row.least:.3g} to {row.most:.3g}"
        lines.append(
            f"| {row.what} | {row.limit} {row.unit} | {row.reached:.3g} | {spread} | {row.blocks} | {row.verdict} |"
        )
    return "\n".join(lines)


def _seconds(samples: pd.DataFrame, job: str, column: str = "total_s") -> pd.Series[float]:
    """By block; empty where the job was not run."""
    mine = samples[samples["job"] == job] if len(samples) else samples
    if column not in samples:
        return pd.Series(dtype=float)
    return mine.set_index("block")[column].astype(float)


def _column(samples: pd.DataFrame, job: str, column: str) -> Figure:
    values = _seconds(samples, job, column).dropna()
    return Figure(values.median(), values.min(), values.max(), len(values))


def _share_of_speed_up(samples: pd.DataFrame, one: str, several: str, cpus: int) -> Figure:
    """The speed-up as a share of cpus / (1 + client CPU seconds / seconds with one worker): the client needs CPU, too."""
    alone = _seconds(samples, one)
    client = _seconds(samples, several, "client_cpu_s")
    allowed = cpus / (1 + client.median() / alone.median())
    gained = ratio(samples, one, several)
    return Figure(gained.value / allowed, gained.least / allowed, gained.most / allowed, gained.blocks)

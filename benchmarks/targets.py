"""The targets of speed, read from targets.toml, and what the measurements reached.

A sample is what one job took in one block. A figure is a median over the blocks, or a ratio of medians; its spread is
the smallest and the largest value of a single block.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

_FILE = Path(__file__).with_name("targets.toml")
_UNITS = {True: "times as fast", False: "times as long"}  # of ratios, by whether they must be large


class Figure(NamedTuple):
    """A value, the smallest and the largest of a single block, and the number of blocks; NaN without samples."""

    value: float
    least: float
    most: float
    blocks: int


def read_targets(cpus: int) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """The sets of jobs by name, and the targets, for a machine with `cpus` CPUs."""
    table = tomllib.loads(_FILE.read_text(encoding="utf-8").replace("{cpus}", str(cpus)))
    return table["sets"], table["target"]


def compare_with_targets(samples: pd.DataFrame, cpus: int) -> pd.DataFrame:
    """A row per target that was measured, from samples with a row per job and block, on a machine with `cpus` CPUs."""
    samples = samples[samples["error"].isna()]
    sets, targets = read_targets(cpus)
    rows = []
    for target in targets:
        figure = _figure(target, sets, samples, cpus)
        if figure.blocks == 0:
            continue
        at_least = "at_least" in target
        limit = target["at_least"] if at_least else target["at_most"]
        passed = figure.value >= limit if at_least else figure.value <= limit
        unit = target.get("unit", _UNITS[at_least] if "ratio" in target else "")
        words = f"{'at least' if at_least else 'at most'} {limit:g} {unit}".strip()
        rows.append([target["what"], words, *figure, "pass" if passed else "short"])
    return pd.DataFrame(rows, columns=["what", "limit", "reached", "least", "most", "blocks", "verdict"])


def markdown(table: pd.DataFrame) -> str:
    """The table of targets in Markdown."""
    lines = ["| what | must be | reached | single blocks | n | |", "|---|---|---:|---|---:|---|"]
    for row in table.itertuples():
        spread = f"{row.least:.3g} to {row.most:.3g}"
        lines.append(f"| {row.what} | {row.limit} | {row.reached:.3g} | {spread} | {row.blocks} | {row.verdict} |")
    return "\n".join(lines)


def _figure(target: dict[str, Any], sets: dict[str, list[str]], samples: pd.DataFrame, cpus: int) -> Figure:
    if "median" in target:
        values = _values(samples, *target["median"])
        return Figure(values.median(), values.min(), values.max(), len(values))
    if "share" in target:
        one, several = target["share"]
        return _share_of_speed_up(samples, one, several, cpus)
    medians = samples.groupby("job")["total_s"].median() if "total_s" in samples else pd.Series(dtype=float)
    slow, fast = (medians.reindex(sets.get(name, [name])).dropna() for name in target["ratio"])
    if slow.empty or fast.empty:
        return _ratio(samples, "", "")
    return _ratio(samples, str(slow.idxmax() if target.get("worst") else slow.idxmin()), str(fast.idxmin()))


def _ratio(samples: pd.DataFrame, slow: str, fast: str) -> Figure:
    """How many times as long the job `slow` takes as the job `fast`."""
    slow_s, fast_s = _values(samples, slow), _values(samples, fast)
    pairs = (slow_s / fast_s).dropna()
    return Figure(slow_s.median() / fast_s.median(), pairs.min(), pairs.max(), len(pairs))


def _share_of_speed_up(samples: pd.DataFrame, one: str, several: str, cpus: int) -> Figure:
    """The speed-up as a share of cpus / (1 + client CPU seconds / seconds of one worker): the client needs CPU too."""
    client = _values(samples, several, "client_cpu_s")
    allowed = cpus / (1 + client.median() / _values(samples, one).median())
    gain = _ratio(samples, one, several)
    return Figure(gain.value / allowed, gain.least / allowed, gain.most / allowed, gain.blocks)


def _values(samples: pd.DataFrame, job: str, column: str = "total_s") -> pd.Series[float]:
    """A column of a job's samples by block; empty where the job was not run."""
    if column not in samples:
        return pd.Series(dtype=float)
    return samples[samples["job"] == job].set_index("block")[column].dropna().astype(float)

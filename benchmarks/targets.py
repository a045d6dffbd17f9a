"""The targets of speed, read from targets.toml, and what the measurements reached.

A sample is what one job took in one block. A figure is a median over the blocks, or a ratio of medians; its spread is
the smallest and the largest value of a single block.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ruo.errors import ArgumentError

_FILE = Path(__file__).with_name("targets.toml")
_UNITS = {True: "times as fast", False: "times as long"}  # of ratios, by whether they must be large


def read_targets(cpus: int) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """The sets of jobs by name, and the targets, for a machine with `cpus` CPUs."""
    table, targets = tomllib.loads(_FILE.read_text(encoding="utf-8")), []
    for target in table["target"]:
        each = {"cpus": [cpus], **target.pop("for", {})}
        for values in product(*each.values()):
            names = dict(zip(each, values, strict=True))
            targets.append({name: _filled(value, names) for name, value in target.items()})
    return table["sets"], targets


def _filled(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_filled(one, names) for one in value]
    if isinstance(value, dict):
        return next(value[str(name)] for name in names.values() if str(name) in value)
    return value.format(**names) if isinstance(value, str) else value


def compare_with_targets(samples: pd.DataFrame, cpus: int) -> pd.DataFrame:
    """A row per target that was measured, from samples with a row per job and block, on a machine with `cpus` CPUs."""
    samples = samples[samples["error"].isna()]
    sets, targets = read_targets(cpus)
    rows = []
    for target in targets:
        figure, blocks = _figure(target, sets, samples, cpus)
        if blocks.empty:
            continue
        at_least = "at_least" in target
        unit = target.get("unit", _UNITS[at_least] if "ratio" in target else "")
        words, verdict = f"({unit})", ""  # a figure without a target
        if (limit := target.get("at_least", target.get("at_most"))) is not None:
            words = f"{'at least' if at_least else 'at most'} {limit:g} {unit}".strip()
            verdict = "pass" if (figure >= limit if at_least else figure <= limit) else "short"
        rows.append([target["what"], words, figure, blocks.min(), blocks.max(), len(blocks), verdict])
    return pd.DataFrame(rows, columns=["what", "limit", "reached", "least", "most", "blocks", "verdict"])


def jobs_of(target: dict[str, Any], sets: dict[str, list[str]]) -> set[str]:
    """The jobs from which a target's figure comes."""
    names = target["median"][:1] if "median" in target else target.get("ratio") or target["share"]
    return {job for name in names for job in sets.get(name, [name])}


def select_jobs(only: str, jobs: Mapping[str, Collection[str]], cpus: int) -> dict[str, set[str]]:
    """The jobs to measure, by group, of the `jobs` that there are.

    `only` names groups, with commas between them, or is a part of a target's name, and nothing means all of them.
    """
    names = only.split(",") if only else list(jobs)
    if set(names) <= set(jobs):
        return {name: set(jobs[name]) for name in names}
    sets, targets = read_targets(cpus)
    wanted = {job for target in targets if only.lower() in target["what"].lower() for job in jobs_of(target, sets)}
    if not wanted:
        raise ArgumentError(f"There is no group or target {only!r}; the groups are {', '.join(jobs)}.")
    return {group: wanted.intersection(there) for group, there in jobs.items() if wanted.intersection(there)}


def markdown(table: pd.DataFrame) -> str:
    """The table of targets in Markdown."""
    lines = ["| what | must be | reached | single blocks | n | |", "|---|---|---:|---|---:|---|"]
    for what, limit, *figures, blocks, verdict in table.to_numpy().tolist():
        reached, least, most = (f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}" for figure in figures)
        lines.append(f"| {what} | {limit} | {reached} | {least} to {most} | {blocks} | {verdict} |")
    return "\n".join(lines)


def _figure(
    target: dict[str, Any], sets: dict[str, list[str]], samples: pd.DataFrame, cpus: int
) -> tuple[float, pd.Series[float]]:
    """The figure of a target, and that of each block alone; there is none where a job was not run."""

    def values(job: str, column: str = target.get("column", "total_s")) -> pd.Series[float]:
        there = samples.reindex(columns=["job", "block", column])
        return there[there["job"] == job].set_index("block")[column].dropna().astype(float)

    if "median" in target:
        blocks = values(*target["median"])
        return blocks.median(), blocks
    allowed = 1.0
    if "share" in target:  # the client needs CPU too
        one, several = map(values, target["share"])
        allowed = cpus / (1 + values(target["share"][1], "client_cpu_s").median() / one.median())
    else:
        slow, fast = ([values(job) for job in sets.get(name, [name])] for name in target["ratio"])
        ran = [[job for job in jobs if len(job)] or jobs[:1] for jobs in (slow, fast)]
        one = (max if target.get("worst") else min)(ran[0], key=pd.Series.median)
        several = min(ran[1], key=pd.Series.median)
    return one.median() / several.median() / allowed, (one / several / allowed).dropna()

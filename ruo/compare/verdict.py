"""The runs of a comparison as a table: derived from the raw lines, and derivable again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ruo.compare.systems import BOUND, PAPER, PAPER_CLIENT, SYSTEMS, V2
from ruo.stats import compare

__all__ = ["markdown_table", "runs_for_figure", "summarise", "verdict_on_systems"]

_BUSY = 0.3  # CPUs that others used during a run

_HEADERS = {
    "system": "system",
    "rows_per_request": "rows per request",
    "median_s": "median, s",
    "mean_s": "mean, s",
    "min_s": "min, s",
    "max_s": "max, s",
    "times_faster": "times faster than the paper's",
    "times_bound": "times the bound",
    "n": "n",
    "note": "",
}


def summarise(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per system and request size: seconds over the runs that gave a result, and the two ratios of medians.

    `times_faster` is the paper's system at the same size over this one (the bound: at its best size), `times_bound`
    this one over the bound; NaN where there is no result to compare with.
    """
    runs = pd.DataFrame(lines)
    runs["total_s"] = runs["total_s"].astype(float)
    medians = runs.groupby(["system", "rows_per_request"])["total_s"].median()
    bound = medians.get(BOUND, pd.Series(dtype=float)).min()
    papers = medians.get(PAPER, pd.Series(dtype=float))
    rows = []
    for (system, size), group in runs.groupby(["system", "rows_per_request"]):
        times = group["total_s"].dropna()
        paper = papers.min() if system == BOUND else papers.get(size, float("nan"))
        rows.append({
            "system": system,
            "rows_per_request": None if system == BOUND else size,
            "median_s": times.median(),
            "mean_s": times.mean(),
            "min_s": times.min(),
            "max_s": times.max(),
            "times_faster": paper / times.median(),
            "times_bound": times.median() / bound,
            "n": len(times),
            "note": "; ".join(dict.fromkeys(group["error"].dropna())),
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=list(_HEADERS)).astype({"rows_per_request": "Int64"})
    order = {name: place for place, name in enumerate(SYSTEMS)}
    return table.sort_values(
        ["system", "rows_per_request"], key=lambda column: column.map(order).fillna(len(order)) if column.name == "system" else column,
        ignore_index=True,
    )  # fmt: skip


def markdown_table(summary: pd.DataFrame) -> str:
    """The summary as a Markdown table; a dash where there is no number."""
    lines = ["| " + " | ".join(_HEADERS.values()) + " |", "|---|" + "---:|" * (len(_HEADERS) - 2) + "---|"]
    cells = ([_cell(name, row[name]) for name in _HEADERS] for row in summary.to_dict("records"))
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])


def _cell(name: str, value: Any) -> str:
    if name in ("system", "note"):
        return str(value)
    if pd.isna(value):
        return "-"
    if name in ("rows_per_request", "n"):
        return f"{value:,}"
    return f"{value:.1f}" if name.startswith("times") else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def runs_for_figure(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per run: system, rows_per_request, rows (of the test set), total_s (NaN: no result)."""
    runs = pd.DataFrame(lines)
    runs = runs[runs["system"] != PAPER_CLIENT]
    runs = runs.assign(rows=runs["rows_wanted"], total_s=runs["total_s"].astype(float))
    return runs[["system", "rows_per_request", "rows", "total_s"]].reset_index(drop=True)


def verdict_on_systems(lines: Sequence[dict[str, Any]]) -> str:
    """VALID or INVALID with the reasons, and each system against ruo's fast wire, each at its best request size."""
    runs = pd.DataFrame(lines)
    runs["total_s"] = runs["total_s"].astype(float)
    best = {
        name: (mine["rows_per_request"] == mine.groupby("rows_per_request")["total_s"].mean().idxmin(), mine)
        for name, mine in runs.dropna(subset=["total_s"]).groupby("system")
    }
    seconds = {name: mine[where].set_index("block")["total_s"] for name, (where, mine) in best.items()}
    lines_of_text = [_validity(runs)]
    for name in dict.fromkeys(runs["system"]):
        if name not in seconds:
            lines_of_text.append(f"- {name}: no result at any request size.")
        elif name != V2 and V2 in seconds and set(seconds[name].index) & set(seconds[V2].index):
            lines_of_text.append(f"- {compare(seconds[V2], seconds[name]).sentence(V2, name)}")
    return "\n".join(lines_of_text)


def _validity(runs: pd.DataFrame) -> str:
    """The paper's system may fail, which is a result; ruo's may not."""
    ours = runs[~runs["system"].isin([PAPER, PAPER_CLIENT])]
    failed = ours["error"].dropna()
    busy = int((runs["others_cpus"].astype(float) > _BUSY).sum())
    reasons = []
    if len(failed):
        reasons.append(f"{len(failed)} runs failed ({failed.iloc[0]})")
    if busy > len(runs) / 4:
        reasons.append(f"the machine was busy with something else in {busy} of {len(runs)} runs")
    if reasons:
        return f"INVALID: {'; '.join(reasons)}."
    return "VALID: every run of ruo's scored every row, and every answer is that of the model in one process."

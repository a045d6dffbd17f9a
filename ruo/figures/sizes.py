"""The figures of seconds against the rows per request: of one system, and of several."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ruo.figures import style
from ruo.figures.style import BOLD, ORANGE, End, Line
from ruo.stats import digits, mean_interval

# name: its look, whether requests are sent while others are formed, and the column of seconds
_LINES = {
    "whole job, two phases": (style.BLACK_LINE, False, "total_s"),
    "sending to all results": (style.ORANGE_LINE, False, "sending_s"),
    "forming the requests": (style.GREEN_LINE, False, "forming_s"),
    "whole job, overlapped": (style.BLUE_LINE, True, "total_s"),
}
_OTHERS = [style.LIGHT_BLUE_LINE, style.PINK_LINE, style.GREEN_LINE, style.BROWN_LINE]


@style.house_style
def figure_of_sizes(runs: pd.DataFrame, bound_s: float | None = None) -> Figure:
    """Seconds against rows per request in the measured runs of a `Sweep`, as in the figure of 2023.

    The two phases are those of the runs that form all requests first. `bound_s` are the seconds that the job takes
    without a network, drawn as a bound.
    """
    rows = int(runs["rows"].max())
    title = f"Time to score {rows:,} rows against the rows that a request carries"
    figure, axes = style.one_panel(title)
    axes.set_ylabel("seconds (mean, 95 % interval, every run)")
    ends: list[End] = []
    for name, (look, pipelined, column) in _LINES.items():
        ends += _draw_line(axes, runs[runs["pipelined"].astype(bool) == pipelined], column, name, look)
    if bound_s is not None:
        ends.append(_draw_bound(axes, bound_s, "without a network"))
    # show intervals whole, except the very wide ones of few runs, which would press the points together
    highest = float(runs["total_s"].max())
    axes.set_ylim(0, min(1.08 * max(highest, axes.get_ylim()[1]), 1.8 * highest))
    _mark_failures(axes, runs)
    style.label_ends(axes, ends)
    _size_axis(axes, runs, rows)
    figure.set_label(f"{title}: {_extremes(runs)}.")
    return figure


def _extremes(runs: pd.DataFrame) -> str:
    """The fastest and the slowest request size of each way of sending, in words."""
    parts = []
    for pipelined, group in runs.groupby(runs["pipelined"].astype(bool)):
        means = group.groupby("rows_per_request")["total_s"].mean().dropna().sort_values()
        way = "overlapped" if pipelined else "in two phases"
        if len(means):
            fastest, slowest = (f"{digits(means.iloc[at])} s at {means.index[at]:,}" for at in (0, -1))
            parts.append(f"{way} between {fastest} and {slowest} rows per request")
    return "; ".join(parts) or "no run succeeded"


@style.house_style
def figure_of_systems(runs: pd.DataFrame, *, old: str, new: str, bound: str) -> Figure:
    """Seconds for the whole job against rows per request, a line per system.

    `runs` has a row per run: system, rows_per_request, rows, and total_s, which is NaN where there was no result. The
    title compares `old` and `new`; `bound` is the system without requests.
    """
    sized, rows = runs[runs["system"] != bound], int(runs["rows"].max())
    low, high = float(runs["total_s"].min()) / 1.5, float(runs["total_s"].max()) * 2.2
    title = _title(sized, old, new, rows)
    figure, axes = style.one_panel(title)
    axes.set(ylabel="seconds for the whole job (mean, every run)", yscale="log", ylim=(low, high))
    others = [name for name in dict.fromkeys(sized["system"]) if name not in (old, new)]
    looks = {old: style.ORANGE_LINE, **dict(zip(others, cycle(_OTHERS), strict=False)), new: style.BLUE_LINE}
    ends: list[End] = []
    for name, look in looks.items():
        ends += _draw_line(axes, runs[runs["system"] == name], "total_s", name, look)
    if (seconds := runs.loc[runs["system"] == bound, "total_s"].mean()) > 0:
        ends.append(_draw_bound(axes, float(seconds), bound))
    _mark_failures(axes, runs[runs["system"] == old])
    style.label_ends(axes, ends)
    style.log_ticks(axes, low, high)
    _size_axis(axes, sized, rows)
    figure.set_label(f"Seconds for the whole job against the rows per request, a line per system. {title}.")
    return figure


def _title(runs: pd.DataFrame, old: str, new: str, rows: int) -> str:
    if not {old, new} <= set(runs["system"]):
        return f"Time to score {rows:,} rows"
    means = runs.groupby(["system", "rows_per_request"])["total_s"].mean()
    slow, fast = means[old].min(), means[new].min()
    return f"The same {rows:,} rows: {slow:.1f} s with the system of 2023 at its best, {fast:.2f} s with ruo"


def _draw_line(axes: Any, runs: pd.DataFrame, column: str, name: str, look: Line) -> list[End]:
    """Draw `column` against the rows per request: every run, and a line through the means with their intervals."""
    runs = runs.dropna(subset=[column])
    if runs.empty:
        return []
    groups = runs.groupby("rows_per_request")[column]
    means = pd.DataFrame([mean_interval(seconds) for _, seconds in groups])
    # a single run has no interval; on a logarithmic axis none may reach 0
    below = (means["value"] - means["low"]).fillna(0).clip(upper=0.9 * means["value"])
    above = (means["high"] - means["value"]).fillna(0)
    axes.scatter(runs["rows_per_request"], runs[column], color=look["color"], **style.SAMPLES)
    axes.errorbar(list(groups.groups), means["value"], yerr=[below, above], elinewidth=1, **look)
    return [(float(means["value"].iloc[-1]), name, look["color"])]


def _draw_bound(axes: Any, value: float, name: str) -> End:
    """Draw a bound: a dotted line over the whole width."""
    axes.axhline(value, **style.DOTTED)
    return value, name, style.BLACK


def _size_axis(axes: Any, runs: pd.DataFrame, rows: int) -> None:
    """Set a logarithmic axis of the rows per request; the size of all `rows` is named as the whole set."""
    sizes = sorted(runs["rows_per_request"].unique())
    names = [f"whole set\n({size:,.0f})" if size == rows else f"{size:,.0f}" for size in sizes]
    # the limits come before the scale: a single size alone would span nothing
    axes.set(xlim=(sizes[0] / 1.25, sizes[-1] * 1.25), xscale="log", xlabel="rows per request")
    axes.set_xticks(sizes, names)
    axes.minorticks_off()


def _mark_failures(axes: Any, runs: pd.DataFrame) -> None:
    """Draw a cross near the top for each request size at which no run gave a result."""
    top = axes.get_ylim()[1]
    height = top / 1.25 if axes.get_yscale() == "log" else top * 0.95
    for size, group in runs.groupby("rows_per_request"):
        if group["total_s"].isna().all():
            axes.scatter([size], [height], marker="x", s=70, color=ORANGE, linewidths=2.5, zorder=4)
            place = {"xytext": (-10, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axes.annotate("no result", (size, height), **place, **BOLD, color=ORANGE)

"""The pictures of request sizes and of systems: they draw results and run nothing."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from ruo.figures.style import (
    BLACK,
    BLUE,
    DASHES,
    DOTS,
    GREEN,
    MIXED,
    ORANGE,
    STYLE,
    Look,
    Picture,
    draw_bound,
    draw_line,
    empty,
    label_ends,
    save_figure,
    seconds_ticks,
)  # fmt: skip

__all__ = ["Picture", "figure_of_sizes", "figure_of_systems", "save_figure"]

# name: its look, whether the requests were formed first, and the column of seconds
_SIZES = {
    "whole job, two phases": (Look(BLACK, "s", DOTS), False, "total_s"),
    "sending to all results": (Look(ORANGE, "^", DASHES), False, "sending_s"),
    "forming the requests": (Look(GREEN, "v", MIXED), False, "forming_s"),
    "whole job, overlapped": (Look(BLUE, "o", "solid"), True, "total_s"),
}
PAPER, BOUND = "paper's system", "no network at all"
_SYSTEMS = {
    PAPER: Look(ORANGE, "s", DASHES),
    "ruo, wire paper": Look(GREEN, "^", MIXED),
    "ruo, wire v2-json": Look("#56B4E9", "D", MIXED),
    "ruo, wire v1": Look("#CC79A7", "v", DASHES),
    "ruo, wire v2": Look(BLUE, "o", "solid"),
    BOUND: Look(BLACK, "", DOTS),
}


def figure_of_sizes(runs: pd.DataFrame, bound_s: float | None = None) -> Figure:
    """The figure of 2023 drawn anew: seconds against rows per request; `bound_s` is drawn as what no network can beat.

    `runs` are the measured runs of a `Sweep` (columns rows_per_request, pipelined, forming_s, sending_s, total_s, rows,
    error). The two phases come from the runs that formed all requests first; the whole job also from the others.
    """
    with mpl.rc_context(STYLE):
        figure, axes = empty(f"Time to score {_rows(runs):,} rows against the rows that a request carries")
        axes.set_ylabel("seconds (mean, 95 % interval, every run)")
        ends = []
        for name, (look, pipelined, column) in _SIZES.items():
            some = runs[runs["pipelined"].astype(bool) == pipelined].dropna(subset=[column])
            if len(some):
                ends.append(draw_line(axes, some, column, name, look))
        if bound_s is not None:
            ends.append(draw_bound(axes, bound_s, BOUND))
        # an interval is shown whole, unless so few runs make it that it would press the points together
        highest = float(runs["total_s"].max())
        axes.set_ylim(0, min(1.08 * max(highest, axes.get_ylim()[1]), 1.8 * highest))
        _mark_failures(axes, runs)
        label_ends(axes, ends)
        _size_axis(axes, runs)
    return figure


def figure_of_systems(runs: pd.DataFrame) -> Figure:
    """Seconds for the whole job of several systems against rows per request, both axes logarithmic.

    `runs` has a row per run: system, rows_per_request, rows, and total_s, which is NaN where no result came. The
    system "no network at all" is a bound and drawn over the whole width.
    """
    sized = runs[runs["system"] != BOUND]
    low, high = float(runs["total_s"].min()) / 1.5, float(runs["total_s"].max()) * 2.2
    with mpl.rc_context(STYLE):
        figure, axes = empty(_systems_title(sized))
        axes.set_ylabel("seconds for the whole job (mean, every run)")
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        ends = []
        others = {name: Look("#8B6914", "P", MIXED) for name in dict.fromkeys(runs["system"]) if name not in _SYSTEMS}
        for name, look in {**_SYSTEMS, **others}.items():
            some = runs[runs["system"] == name].dropna(subset=["total_s"])
            if name == BOUND and len(some):
                ends.append(draw_bound(axes, float(some["total_s"].mean()), name))
            elif len(some):
                ends.append(draw_line(axes, some, "total_s", name, look))
        _mark_failures(axes, runs[runs["system"] == PAPER])
        label_ends(axes, ends)
        seconds_ticks(axes, low, high)
        _size_axis(axes, sized)
    return figure


def _rows(runs: pd.DataFrame) -> int:
    return int(runs["rows"].max())


def _mark_failures(axes: Any, runs: pd.DataFrame) -> None:
    """A cross near the top for each size at which no run gave a result."""
    top = axes.get_ylim()[1]
    height = top / 1.25 if axes.get_yscale() == "log" else top * 0.95
    for size, group in runs.groupby("rows_per_request"):
        if group["total_s"].isna().all():
            axes.scatter([size], [height], marker="x", s=70, color=ORANGE, linewidths=2.5, zorder=4)
            axes.annotate(
                "no result", (size, height), xytext=(-10, 0), textcoords="offset points", ha="right", va="center",
                color=ORANGE, fontsize=9, weight="bold",
            )  # fmt: skip


def _size_axis(axes: Any, runs: pd.DataFrame) -> None:
    sizes = sorted(runs["rows_per_request"].unique())
    names = [f"whole set\n({size:,.0f})" if size == _rows(runs) else f"{size:,.0f}" for size in sizes]
    axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)  # before the scale: one size alone would span nothing
    axes.set_xscale("log")
    axes.set_xticks(sizes, names)
    axes.minorticks_off()
    axes.set_xlabel("rows per request")


def _systems_title(runs: pd.DataFrame) -> str:
    medians = runs.groupby(["system", "rows_per_request"])["total_s"].median()
    if {PAPER, "ruo, wire v2"} <= set(runs["system"]):
        old, new = medians[PAPER].min(), medians["ruo, wire v2"].min()
        return f"The same {_rows(runs):,} rows: {old:.1f} s with the system of 2023 at its best, {new:.2f} s with ruo"
    return f"Time to score {_rows(runs):,} rows"

"""The picture of request sizes: seconds against the rows that a request carries."""

from __future__ import annotations

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
    draw_bound,
    draw_line,
    empty,
    label_ends,
    mark_failures,
    size_axis,
)
from ruo.stats import digits

__all__ = ["figure_of_sizes"]

# name: its look, whether the requests overlap, and the column of seconds
_LINES = {
    "whole job, two phases": (Look(BLACK, "s", DOTS), False, "total_s"),
    "sending to all results": (Look(ORANGE, "^", DASHES), False, "sending_s"),
    "forming the requests": (Look(GREEN, "v", MIXED), False, "forming_s"),
    "whole job, overlapped": (Look(BLUE, "o", "solid"), True, "total_s"),
}


def figure_of_sizes(runs: pd.DataFrame, bound_s: float | None = None) -> Figure:
    """The figure of 2023 drawn anew: seconds against rows per request.

    Parameters
    ----------
    runs : DataFrame
        The measured runs of a `Sweep` (rows_per_request, pipelined, forming_s, sending_s, total_s, rows, error). The two
        phases are of the runs that form all requests first; the whole job is of both ways.
    bound_s : float, optional
        Seconds of the job without a network, drawn as a bound.
    """
    rows = int(runs["rows"].max())
    title = f"Time to score {rows:,} rows against the rows that a request carries"
    with mpl.rc_context(STYLE):
        figure, axes = empty(title)
        axes.set_ylabel("seconds (mean, 95 % interval, every run)")
        ends = []
        for name, (look, pipelined, column) in _LINES.items():
            selected = runs[runs["pipelined"].astype(bool) == pipelined].dropna(subset=[column])
            if len(selected):
                ends.append(draw_line(axes, selected, column, name, look))
        if bound_s is not None:
            ends.append(draw_bound(axes, bound_s, "without a network"))
        # an interval is shown whole, unless so few runs make it that it would press the points together
        highest = float(runs["total_s"].max())
        axes.set_ylim(0, min(1.08 * max(highest, axes.get_ylim()[1]), 1.8 * highest))
        mark_failures(axes, runs)
        label_ends(axes, ends)
        size_axis(axes, runs, rows)
    figure.set_label(f"{title}: {_in_words(runs)}.")
    return figure


def _in_words(runs: pd.DataFrame) -> str:
    """The fastest and the slowest request size of each way of sending."""
    parts = []
    for pipelined, group in runs.groupby(runs["pipelined"].astype(bool)):
        means = group.groupby("rows_per_request")["total_s"].mean().dropna().sort_values()
        way = "overlapped" if pipelined else "in two phases"
        if len(means):
            fastest, slowest = (f"{digits(means.iloc[at])} s at {means.index[at]:,}" for at in (0, -1))
            parts.append(f"{way} between {fastest} and {slowest} rows per request")
    return "; ".join(parts) or "no run succeeded"

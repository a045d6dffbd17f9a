"""The picture of several systems side by side: seconds against the rows that a request carries."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from ruo.figures.style import (
    BLUE,
    BROWN,
    DASHES,
    GREEN,
    LIGHT_BLUE,
    MIXED,
    ORANGE,
    PINK,
    STYLE,
    Look,
    draw_bound,
    draw_line,
    empty,
    label_ends,
    mark_failures,
    seconds_ticks,
    size_axis,
)

__all__ = ["figure_of_systems"]

_OLD, _NEW = Look(ORANGE, "s", DASHES), Look(BLUE, "o", "solid")
_OTHERS = [Look(LIGHT_BLUE, "D", MIXED), Look(PINK, "v", DASHES), Look(GREEN, "^", MIXED), Look(BROWN, "P", MIXED)]


def figure_of_systems(runs: pd.DataFrame, *, old: str, new: str, bound: str) -> Figure:
    """Seconds for the whole job of several systems against rows per request, both axes logarithmic.

    Parameters
    ----------
    runs : DataFrame
        A row per run: system, rows_per_request, rows, and total_s, which is NaN where there was no result.
    old, new : str
        The systems that the title compares; sizes at which `old` has no result are crossed out.
    bound : str
        The system without requests, drawn as a line over the whole width.
    """
    sized, rows = runs[runs["system"] != bound], int(runs["rows"].max())
    low, high = float(runs["total_s"].min()) / 1.5, float(runs["total_s"].max()) * 2.2
    title = _title(sized, old, new, rows)
    with mpl.rc_context(STYLE):
        figure, axes = empty(title)
        axes.set_ylabel("seconds for the whole job (mean, every run)")
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        ends = []
        for name, look in _looks(runs, old, new, bound).items():
            selected = runs[runs["system"] == name].dropna(subset=["total_s"])
            if len(selected):
                ends.append(draw_line(axes, selected, "total_s", name, look))
        if (seconds := runs.loc[runs["system"] == bound, "total_s"].mean()) > 0:
            ends.append(draw_bound(axes, float(seconds), bound))
        mark_failures(axes, runs[runs["system"] == old])
        label_ends(axes, ends)
        seconds_ticks(axes, low, high)
        size_axis(axes, sized, rows)
    figure.set_label(f"Seconds for the whole job against the rows per request, a line per system. {title}.")
    return figure


def _looks(runs: pd.DataFrame, old: str, new: str, bound: str) -> dict[str, Look]:
    others = [name for name in dict.fromkeys(runs["system"]) if name not in (old, new, bound)]
    looks = {name: _OTHERS[min(place, len(_OTHERS) - 1)] for place, name in enumerate(others)}
    return {old: _OLD, **looks, new: _NEW}


def _title(runs: pd.DataFrame, old: str, new: str, rows: int) -> str:
    means = runs.groupby(["system", "rows_per_request"])["total_s"].mean()
    if {old, new} <= set(runs["system"]):
        slow, fast = means[old].min(), means[new].min()
        return f"The same {rows:,} rows: {slow:.1f} s with the system of 2023 at its best, {fast:.2f} s with ruo"
    return f"Time to score {rows:,} rows"

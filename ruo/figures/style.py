"""The house style of all pictures, and how they are written to disk.

Every sample is shown behind its mean, lines are named where they end, units stand on the axes, the colours are those of
Okabe and Ito, and each line has its own marker and dashes, for print and for colour-blind eyes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ruo.stats import mean_interval

__all__ = [
    "BLACK",
    "BLUE",
    "BOLD",
    "BROWN",
    "DASHES",
    "DOTS",
    "GREEN",
    "LIGHT_BLUE",
    "MIXED",
    "ORANGE",
    "PINK",
    "STYLE",
    "End",
    "Look",
    "Picture",
    "draw_bound",
    "draw_line",
    "empty",
    "label_ends",
    "mark_failures",
    "save_figure",
    "seconds_ticks",
    "size_axis",
]


class Look(NamedTuple):
    """How a line is drawn."""

    color: str
    marker: str
    dashes: Any


BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
LIGHT_BLUE, PINK, BROWN = "#56B4E9", "#CC79A7", "#8B6914"
BOLD = {"weight": "bold", "fontsize": 9}
DOTS, DASHES, MIXED = (0, (1, 1.5)), (0, (5, 2)), (0, (3, 1, 1, 1))

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "svg.hashsalt": "ruo",  # the same picture is the same file
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Picture:
    """A figure on disk, as PNG and SVG; a notebook shows it."""

    png: Path
    svg: Path
    alt: str

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        return self.png.read_bytes(), {"width": 900, "alt": self.alt}


def save_figure(
    figure: Figure, path: str | os.PathLike[str], alt: str | None = None, data: pd.DataFrame | None = None
) -> Picture:
    """Write a figure as PNG (200 dots per inch) and, beside it, as SVG.

    Parameters
    ----------
    figure : Figure
        One of `ruo.figures`; its label is its alternative text.
    path : path
        Where to write; the suffixes are set.
    alt : str, optional
        Another alternative text: what the figure shows, in words.
    data : DataFrame, optional
        What the figure shows, written beside it as CSV.
    """
    path, alt = Path(path), alt or str(figure.get_label())
    if data is not None:
        data.to_csv(path.with_suffix(".csv"), index=False)
    about = {"Title": figure.axes[0].get_title(loc="left"), "Description": alt}
    with mpl.rc_context(STYLE):
        figure.savefig(path.with_suffix(".png"), dpi=200, metadata={**about, "Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={**about, "Date": None})
    return Picture(path.with_suffix(".png"), path.with_suffix(".svg"), alt)


End = tuple[float, str, str]  # the height at which a line ends, its name and its colour


def empty(title: str) -> tuple[Figure, Any]:
    """A figure with one pair of axes; to be called, and drawn on, within `rc_context(STYLE)`."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def draw_line(axes: Any, runs: pd.DataFrame, column: str, name: str, look: Look, x: str = "rows_per_request") -> End:
    """Samples of `column` against `x`, and the line through their means with the means' intervals."""
    places = sorted(runs[x].unique())
    means = [mean_interval(runs.loc[runs[x] == place, column]) for place in places]
    values = np.array([mean.value for mean in means])
    # a single run has no interval; on a logarithmic axis none may reach 0
    low = np.array([np.nan_to_num(mean.value - mean.low) for mean in means])
    high = np.array([np.nan_to_num(mean.high - mean.value) for mean in means])
    axes.scatter(runs[x], runs[column], s=14, color=look.color, alpha=0.35, linewidths=0, zorder=2)
    spread = [np.minimum(low, 0.9 * values), high]
    points = {"color": look.color, "marker": look.marker, "markersize": 6, "linestyle": look.dashes, "linewidth": 1.6}
    axes.errorbar(places, values, yerr=spread, **points, elinewidth=1, capsize=3, zorder=3)
    return float(values[-1]), name, look.color


def label_ends(axes: Any, ends: Iterable[End]) -> None:
    """Name each line at the right edge, at the height where it ends, moved up where two would overlap."""
    points = 72 / axes.figure.dpi
    last = -np.inf
    for value, name, color in sorted(ends):
        height = float(axes.transData.transform((1, value))[1]) * points
        last = max(height, last + 12)  # a line of text
        place = {"xycoords": axes.get_yaxis_transform(), "xytext": (6, last - height), "textcoords": "offset points"}
        axes.annotate(name, (1, value), **place, **BOLD, color=color, va="center", annotation_clip=False)


def draw_bound(axes: Any, value: float, name: str) -> End:
    """A dotted line over the whole width: a bound."""
    axes.axhline(value, color=BLACK, linestyle=DOTS, linewidth=1.4)
    return value, name, BLACK


def seconds_ticks(axes: Any, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten, for a logarithmic axis of seconds."""
    ticks = [step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])


def size_axis(axes: Any, runs: pd.DataFrame, rows: int) -> None:
    """A logarithmic axis of the rows per request; that of all `rows` is named as the whole set."""
    sizes = sorted(runs["rows_per_request"].unique())
    names = [f"whole set\n({size:,.0f})" if size == rows else f"{size:,.0f}" for size in sizes]
    axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)  # before the scale: one size alone would span nothing
    axes.set_xscale("log")
    axes.set_xticks(sizes, names)
    axes.minorticks_off()
    axes.set_xlabel("rows per request")


def mark_failures(axes: Any, runs: pd.DataFrame) -> None:
    """A cross near the top for each request size at which no run gave a result."""
    top = axes.get_ylim()[1]
    height = top / 1.25 if axes.get_yscale() == "log" else top * 0.95
    for size, group in runs.groupby("rows_per_request"):
        if group["total_s"].isna().all():
            axes.scatter([size], [height], marker="x", s=70, color=ORANGE, linewidths=2.5, zorder=4)
            place = {"xytext": (-10, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axes.annotate("no result", (size, height), **place, **BOLD, color=ORANGE)

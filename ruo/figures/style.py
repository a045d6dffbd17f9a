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
    "BLACK", "BLUE", "DASHES", "DOTS", "GREEN", "MIXED", "ORANGE", "STYLE", "End", "Look", "Picture",
    "draw_bound", "draw_line", "empty", "label_ends", "save_figure", "seconds_ticks",
]  # fmt: skip


class Look(NamedTuple):
    """How a line is drawn."""

    color: str
    marker: str
    dashes: Any


BLUE, ORANGE, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
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
    """Write a figure as PNG (200 dots per inch), beside it as SVG, and the `data` that it shows as CSV.

    `alt` says in words what it shows; by default it is the figure's title.
    """
    path = Path(path)
    alt = alt or figure.axes[0].get_title(loc="left")
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
    axes.errorbar(
        places, values, yerr=[np.minimum(low, 0.9 * values), high], color=look.color, marker=look.marker,
        markersize=6, linestyle=look.dashes, linewidth=1.6, elinewidth=1, capsize=3, zorder=3,
    )  # fmt: skip
    return float(values[-1]), name, look.color


def label_ends(axes: Any, ends: Iterable[End]) -> None:
    """Name each line at the right edge, at the height where it ends, moved up where two would overlap."""
    points = 72 / axes.figure.dpi
    last = -np.inf
    for value, name, color in sorted(ends):
        height = float(axes.transData.transform((1, value))[1]) * points
        last = max(height, last + 12)  # a line of text
        axes.annotate(
            name, (1, value), xycoords=axes.get_yaxis_transform(), xytext=(6, last - height),
            textcoords="offset points", color=color, va="center", annotation_clip=False, weight="bold", fontsize=9,
        )  # fmt: skip


def draw_bound(axes: Any, value: float, name: str) -> End:
    """A dotted line over the whole width: what nothing can be better than."""
    axes.axhline(value, color=BLACK, linestyle=DOTS, linewidth=1.4)
    return value, name, BLACK


def seconds_ticks(axes: Any, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten, for a logarithmic axis of seconds."""
    ticks = [step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])

"""The pictures: they draw results and run nothing.

House style: every sample is shown behind its mean, lines are named where they end, units stand on the axes, the
colours are those of Okabe and Ito, and each line has its own marker and dashes, for print and for colour-blind eyes.
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

__all__ = ["Picture", "figure_of_sizes", "figure_of_systems", "save_figure"]


class _Look(NamedTuple):
    color: str
    marker: str
    dashes: Any


_BLUE, _ORANGE, _GREEN, _BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
_DOTS, _DASHES, _MIXED = (0, (1, 1.5)), (0, (5, 2)), (0, (3, 1, 1, 1))

# name: its look, whether the requests were formed first, and the column of seconds
_SIZES = {
    "whole job, two phases": (_Look(_BLACK, "s", _DOTS), False, "total_s"),
    "sending to all results": (_Look(_ORANGE, "^", _DASHES), False, "sending_s"),
    "forming the requests": (_Look(_GREEN, "v", _MIXED), False, "forming_s"),
    "whole job, overlapped": (_Look(_BLUE, "o", "solid"), True, "total_s"),
}
PAPER, BOUND = "paper's system", "no network at all"
_SYSTEMS = {
    PAPER: _Look(_ORANGE, "s", _DASHES),
    "ruo, wire paper": _Look(_GREEN, "^", _MIXED),
    "ruo, wire v2": _Look(_BLUE, "o", "solid"),
    BOUND: _Look(_BLACK, "", _DOTS),
}
_STYLE = {
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


def figure_of_sizes(runs: pd.DataFrame) -> Figure:
    """The figure of 2023 drawn anew: seconds against rows per request.

    `runs` are the measured runs of a `Sweep` (columns rows_per_request, pipelined, forming_s, sending_s, total_s, rows,
    error). The two phases come from the runs that formed all requests first; the whole job also from the others.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _empty(f"Time to score {_rows(runs):,} rows against the rows that a request carries")
        axes.set_ylabel("seconds (mean, 95 % interval, every run)")
        ends = []
        for name, (look, pipelined, column) in _SIZES.items():
            some = runs[runs["pipelined"].astype(bool) == pipelined].dropna(subset=[column])
            if len(some):
                ends.append(_draw_line(axes, some, column, name, look))
        # an interval is shown whole, unless so few runs make it that it would press the points together
        highest = float(runs["total_s"].max())
        axes.set_ylim(0, min(1.08 * max(highest, axes.get_ylim()[1]), 1.8 * highest))
        _mark_failures(axes, runs)
        _label_ends(axes, ends)
        _size_axis(axes, runs)
    return figure


def figure_of_systems(runs: pd.DataFrame) -> Figure:
    """Seconds for the whole job of several systems against rows per request, both axes logarithmic.

    `runs` has a row per run: system, rows_per_request, rows, and total_s, which is NaN where no result came. The
    system "no network at all" is a bound and drawn over the whole width.
    """
    sized = runs[runs["system"] != BOUND]
    low, high = float(runs["total_s"].min()) / 1.5, float(runs["total_s"].max()) * 2.2
    with mpl.rc_context(_STYLE):
        figure, axes = _empty(_systems_title(sized))
        axes.set_ylabel("seconds for the whole job (mean, every run)")
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        ends = []
        for name, look in _SYSTEMS.items():
            some = runs[runs["system"] == name].dropna(subset=["total_s"])
            if name == BOUND and len(some):
                bound = float(some["total_s"].mean())
                axes.axhline(bound, color=look.color, linestyle=look.dashes, linewidth=1.4)
                ends.append((bound, name, look.color))
            elif len(some):
                ends.append(_draw_line(axes, some, "total_s", name, look))
        _mark_failures(axes, runs[runs["system"] == PAPER])
        _label_ends(axes, ends)
        _seconds_ticks(axes, low, high)
        _size_axis(axes, sized)
    return figure


@dataclass(frozen=True)
class Picture:
    """A figure on disk, as PNG and SVG; a notebook shows it."""

    png: Path
    svg: Path
    alt: str

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        return self.png.read_bytes(), {"width": 900, "alt": self.alt}


def save_figure(figure: Figure, path: str | os.PathLike[str], alt: str) -> Picture:
    """Write a figure as PNG (200 dots per inch) and beside it as SVG; `alt` says in words what it shows."""
    path = Path(path)
    about = {"Title": figure.axes[0].get_title(loc="left"), "Description": alt}
    with mpl.rc_context(_STYLE):
        figure.savefig(path.with_suffix(".png"), dpi=200, metadata={**about, "Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={**about, "Date": None})
    return Picture(path.with_suffix(".png"), path.with_suffix(".svg"), alt)


_End = tuple[float, str, str]  # the height at which a line ends, its name and its colour


def _empty(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _rows(runs: pd.DataFrame) -> int:
    return int(runs["rows"].max())


def _draw_line(axes: Any, runs: pd.DataFrame, column: str, name: str, look: _Look) -> _End:
    """Samples, and the line through their means with the means' intervals."""
    sizes = sorted(runs["rows_per_request"].unique())
    means = [mean_interval(runs.loc[runs["rows_per_request"] == size, column]) for size in sizes]
    values = np.array([mean.value for mean in means])
    # a single run has no interval; on a logarithmic axis none may reach 0
    low = np.array([np.nan_to_num(mean.value - mean.low) for mean in means])
    high = np.array([np.nan_to_num(mean.high - mean.value) for mean in means])
    axes.scatter(runs["rows_per_request"], runs[column], s=14, color=look.color, alpha=0.35, linewidths=0, zorder=2)
    axes.errorbar(
        sizes, values, yerr=[np.minimum(low, 0.9 * values), high], color=look.color, marker=look.marker,
        markersize=6, linestyle=look.dashes, linewidth=1.6, elinewidth=1, capsize=3, zorder=3,
    )  # fmt: skip
    return float(values[-1]), name, look.color


def _label_ends(axes: Any, ends: Iterable[_End]) -> None:
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


def _mark_failures(axes: Any, runs: pd.DataFrame) -> None:
    """A cross near the top for each size at which no run gave a result."""
    top = axes.get_ylim()[1]
    height = top / 1.25 if axes.get_yscale() == "log" else top * 0.95
    for size, group in runs.groupby("rows_per_request"):
        if group["total_s"].isna().all():
            axes.scatter([size], [height], marker="x", s=70, color=_ORANGE, linewidths=2.5, zorder=4)
            axes.annotate(
                "no result", (size, height), xytext=(-10, 0), textcoords="offset points", ha="right", va="center",
                color=_ORANGE, fontsize=9, weight="bold",
            )  # fmt: skip


def _size_axis(axes: Any, runs: pd.DataFrame) -> None:
    sizes = sorted(runs["rows_per_request"].unique())
    names = [f"whole set\n({size:,.0f})" if size == _rows(runs) else f"{size:,.0f}" for size in sizes]
    axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)  # before the scale: one size alone would span nothing
    axes.set_xscale("log")
    axes.set_xticks(sizes, names)
    axes.minorticks_off()
    axes.set_xlabel("rows per request")


def _seconds_ticks(axes: Any, low: float, high: float) -> None:
    ticks = [step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])


def _systems_title(runs: pd.DataFrame) -> str:
    medians = runs.groupby(["system", "rows_per_request"])["total_s"].median()
    if {PAPER, "ruo, wire v2"} <= set(runs["system"]):
        old, new = medians[PAPER].min(), medians["ruo, wire v2"].min()
        return f"The same {_rows(runs):,} rows: {old:.1f} s with the system of 2023 at its best, {new:.2f} s with ruo"
    return f"Time to score {_rows(runs):,} rows"

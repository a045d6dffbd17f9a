"""The pictures of a model's quality: which class it takes for which, and whether its confidence is calibrated."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ruo.figures.style import BLACK, BLUE, DOTS, ORANGE, STYLE, empty
from ruo.learn.evaluation import Evaluation

__all__ = ["figure_of_calibration", "figure_of_confusion"]

_MOST_WRITTEN = 40  # with more classes, a number would not fit its cell
_LONGEST_NAME = 24
_RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", BLUE])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["#ffffff", ORANGE])
_DIGIT = 0.64  # the width of a digit over the height of its line


def figure_of_confusion(evaluation: Evaluation) -> Figure:
    """The confusion matrix: rows by true class and by answer, right answers blue and wrong ones orange.

    A darker cell has a larger share of the rows of its class; wrong answers have a scale of their own, since they are
    few. Beside each class stands its recall.
    """
    counts = evaluation.confusion.to_numpy()
    names, size = [_short(str(name)) for name in evaluation.classes], len(counts)
    side = float(np.clip(0.36 * size, 3.2, 14))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        room = 0.09 * max(map(len, names))  # inches, for the names of the classes
        figure = Figure(figsize=(side + 3.4 + room, side + 1.7 + room), layout="constrained")
        axes = figure.subplots()
        axes.set_title(f"{evaluation.rows:,} rows, answered rightly: {100 * evaluation.accuracy.value:.1f} %")
        _paint(axes, counts)
        cell = 72 * side / size  # points
        if size <= _MOST_WRITTEN:
            _write_counts(axes, counts, cell)
        _name_classes(axes, counts, names, cell)
    figure.set_label(evaluation.verdict())
    return figure


def figure_of_calibration(evaluation: Evaluation) -> Figure:
    """The share of right answers against confidence, with 95 % intervals, over the rows that each point rests on.

    Below the dotted diagonal the model is over-confident. Without probabilities the figure only says that.
    """
    with mpl.rc_context(STYLE):
        if evaluation.calibration.bins.empty:
            figure, axes = empty("The outputs are not probabilities, so there is no confidence to judge")
            axes.set_axis_off()
            figure.set_label(evaluation.verdict())
            return figure
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        axes, below = figure.subplots(2, height_ratios=[3, 1], sharex=True)
        error = evaluation.calibration.error
        axes.set_title(f"Confidence against truth, {evaluation.rows:,} rows: expected calibration error {error:.3f}")
        _draw_bins(axes, evaluation.calibration.bins)
        _draw_rows(below, evaluation.calibration.bins)
    figure.set_label(evaluation.verdict())
    return figure


def _paint(axes: Any, counts: np.ndarray[Any, Any]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=bool)
    worst = max(float(shares[~diagonal].max(initial=0)), 1e-9)
    # the darkest still leaves black figures readable
    axes.imshow(np.where(diagonal, shares, np.nan), cmap=_RIGHT, vmin=0, vmax=1.8)
    axes.imshow(np.where(diagonal, np.nan, shares), cmap=_WRONG, vmin=0, vmax=1.4 * worst)
    axes.set_xticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.grid(which="minor", axis="both", linewidth=0.5)
    axes.tick_params(which="both", length=0)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _write_counts(axes: Any, counts: np.ndarray[Any, Any], cell: float) -> None:
    """The rows of every cell that has some; `cell` is its width in points."""
    longest = len(f"{counts.max():,}")
    font = min(11.0, 0.9 * cell / (_DIGIT * longest))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            weight = "bold" if row == column else "normal"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=font, weight=weight)


def _name_classes(axes: Any, counts: np.ndarray[Any, Any], names: list[str], cell: float) -> None:
    """Names on both axes, upright where a cell is too narrow, and at the right how many rows of each class are found."""
    size, rows = len(counts), counts.sum(axis=1)
    places = np.arange(0, size, -(-size // _MOST_WRITTEN))
    axes.set_xticks(places, [names[place] for place in places], rotation=90 if 8 * max(map(len, names)) > cell else 0)
    axes.set_yticks(places, [names[place] for place in places])
    axes.set_xlabel("answer of the model\nblue: right, orange: wrong\ndarker: a larger share of the class")
    axes.set_ylabel("true class")
    beside = axes.secondary_yaxis("right")
    recalls = [f"{100 * counts[at, at] / rows[at]:.1f} % of {rows[at]:,}" if rows[at] else "no rows" for at in places]
    beside.set_yticks(places, recalls)
    beside.tick_params(length=0)
    beside.set_ylabel("rows of the class that are found", labelpad=10)
    for spine in [*axes.spines.values(), *beside.spines.values()]:
        spine.set_visible(False)


def _draw_bins(axes: Any, bins: pd.DataFrame) -> None:
    axes.plot([0, 1], [0, 1], color=BLACK, linestyle=DOTS, linewidth=1.4)
    around = [bins["right"] - bins["right_low"], bins["right_high"] - bins["right"]]
    points = {"color": BLUE, "marker": "o", "markersize": 6, "linewidth": 1.6}
    axes.errorbar(bins["confidence"], bins["right"], yerr=around, **points, elinewidth=1, capsize=3)
    axes.set_ylim(0, 1.04)
    axes.set_ylabel("share of right answers (95 % interval)")
    axes.text(0.02, 0.98, "under-confident:\nright more often than it is sure", va="top", fontsize=9)
    axes.text(0.98, 0.02, "over-confident:\nright less often than it is sure", ha="right", fontsize=9)
    _percent_ticks(axes.yaxis)


def _draw_rows(axes: Any, bins: pd.DataFrame) -> None:
    """How many rows each bin has, with the number on the bar."""
    middles, widths = (bins["low"] + bins["high"]) / 2, 0.92 * (bins["high"] - bins["low"])
    bars = axes.bar(middles, bins["rows"], widths, color=BLUE, alpha=0.55)
    axes.bar_label(bars, [f"{rows:,.0f}" for rows in bins["rows"]], fontsize=9, padding=1)
    axes.set_ylim(0, 1.25 * bins["rows"].max())
    axes.set_yticks([])
    axes.set_ylabel("rows")
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("confidence of the answer (mean of the rows in the bin)")
    _percent_ticks(axes.xaxis)


def _percent_ticks(axis: Any) -> None:
    axis.set_ticks(np.linspace(0, 1, 11), [f"{percent} %" for percent in range(0, 101, 10)])

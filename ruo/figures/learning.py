"""The figures of a model: its learning curves, which classes it confuses, and whether its confidence is calibrated."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ruo.errors import count
from ruo.figures import style
from ruo.figures.style import BLACK, BLUE, End
from ruo.learn.evaluation import Evaluation, percent
from ruo.learn.training import Trained

_MOST_WRITTEN = 40  # with more classes, a number would not fit its cell


@style.house_style
def figure_of_learning(trained: Trained) -> Figure:
    """Loss and accuracy against epochs, and at the best epoch the test accuracy with its 95 % interval."""
    figure = Figure((7.2, 5.6), label=trained.verdict())
    top, bottom = figure.subplots(2, sharex=True, gridspec_kw={"hspace": 0.08})
    best, last = trained.best_epoch, len(trained.history)
    top.set_title(f"Learning curves: the validation loss is lowest at epoch {best} of {last}")
    losses, shares = _draw_curves(top, trained, "loss"), _draw_curves(bottom, trained, "accuracy")
    accuracy, low, high = trained.accuracy
    point = {"color": BLACK, "marker": "D", "linestyle": "none", "zorder": 3}
    bottom.errorbar([best], [accuracy], yerr=[[accuracy - low], [high - accuracy]], elinewidth=1, **point)
    shares.append((accuracy, f"test {percent(accuracy)}", BLACK))
    _loss_axis(top, trained)
    _accuracy_axis(bottom)
    bottom.set(xlabel="epoch", xlim=(0.5, last + 0.5))
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left = best > (last + 1) / 2
    place = {"xytext": (-6 if left else 6, -2), "textcoords": "offset points", "ha": "right" if left else "left"}
    top.annotate(f"best epoch: {best}", (best, 1), xycoords=top.get_xaxis_transform(), va="top", **place, **style.BOLD)
    figure.draw_without_rendering()  # the layout moves the axes, and names stand where lines end
    style.label_ends(top, losses)
    style.label_ends(bottom, shares)
    return figure


def _draw_curves(axes: Any, trained: Trained, column: str) -> list[End]:
    ends = []
    for name, prefix, look in (("training", "", style.ORANGE_LINE), ("validation", "validation_", style.BLUE_LINE)):
        values = trained.history[prefix + column]
        axes.plot(trained.history["epoch"], values, markevery=1 + len(values) // 50, **look)
        ends.append((float(values.iloc[-1]), name, look["color"]))
    axes.axvline(trained.best_epoch, **style.DOTTED, zorder=1)
    return ends


def _loss_axis(axes: Any, trained: Trained) -> None:
    losses = trained.history[["loss", "validation_loss"]].to_numpy()
    shown = losses[np.isfinite(losses) & (losses > 0)]
    low, high = float(shown.min()) / 1.3, float(shown.max()) * 1.3
    high = max(high * (high / low) ** 0.1, 6 * low)  # room for a line of text, and for two ticks
    axes.set(yscale="log", ylim=(low, high), ylabel="loss (cross-entropy)")
    style.log_ticks(axes.yaxis, low, high)


def _accuracy_axis(axes: Any) -> None:
    low, high = axes.get_ylim()
    high = min(high, 1.0)
    ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high))
    ticks = ticks[(ticks >= max(low, 0)) & (ticks <= 1 + 1e-9)].clip(max=1)
    axes.set_yticks(ticks, [f"{100 * tick:.4g} %" for tick in ticks])
    # room for three names where all end at the top
    axes.set(ylim=(low, high + 0.17 * (high - low)), ylabel="accuracy")


@style.house_style
def figure_of_confusion(evaluation: Evaluation) -> Figure:
    """The confusion matrix, with the recall of each class beside it; wrong answers have a scale of their own."""
    counts = evaluation.confusion.to_numpy()
    texts, size = map(str, evaluation.classes), len(counts)
    names = [text if len(text) <= 24 else text[:23] + "…" for text in texts]
    side = float(np.clip(0.36 * size, 3.2, 14))
    room = 0.09 * max(map(len, names))  # inches, for the names of the classes
    figure = Figure((side + 3.4 + room, side + 1.7 + room), label=evaluation.verdict())
    axes = figure.subplots()
    axes.set_title(f"{count(evaluation.rows, 'row')}: accuracy {percent(evaluation.accuracy.value)}")
    cell = 72 * side / size  # points
    _paint(axes, counts, cell)
    _name_classes(axes, evaluation, names, cell)
    return figure


def _paint(axes: Any, counts: np.ndarray[Any, Any], cell: float) -> None:
    """Paint each cell, which is `cell` points wide, and write how many rows it has."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=bool)
    worst = max(float(shares[~diagonal].max(initial=0)), 1e-9)
    # even the darkest cell leaves black numbers readable
    axes.imshow(np.where(diagonal, shares, np.nan), cmap="Blues", vmin=0, vmax=1.8)
    axes.imshow(np.where(diagonal, np.nan, shares), cmap="Oranges", vmin=0, vmax=1.4 * worst)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", axis="both", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    font = min(11.0, 0.9 * cell / (0.64 * len(f"{counts.max():,}")))  # the width of a digit over the height of its line
    for (row, column), rows in np.ndenumerate(counts) if len(counts) <= _MOST_WRITTEN else ():
        if rows:
            weight = "bold" if row == column else "normal"
            axes.text(column, row, f"{rows:,}", ha="center", va="center", fontsize=font, weight=weight)


def _name_classes(axes: Any, evaluation: Evaluation, names: list[str], cell: float) -> None:
    """Name the classes on both axes, upright where a cell is too narrow, and write their recall at the right."""
    shown = slice(None, None, -(-len(names) // _MOST_WRITTEN))
    places, names = np.arange(len(names))[shown], names[shown]
    axes.set_xticks(places, names, rotation=90 if 8 * max(map(len, names)) > cell else 0)
    axes.set_yticks(places, names)
    axes.set_xlabel("predicted class\nblue: right, orange: wrong\ndarker: a larger share of the class")
    axes.set_ylabel("true class")
    beside = axes.secondary_yaxis("right")
    measures = evaluation.by_class[["recall", "support"]].to_numpy()[shown]
    recalls = [f"{percent(recall)} of {rows:,.0f}" if rows else "no rows" for recall, rows in measures]
    beside.set_yticks(places, recalls)
    beside.tick_params(length=0)
    beside.set_ylabel("recall", labelpad=10)
    for spine in [*axes.spines.values(), *beside.spines.values()]:
        spine.set_visible(False)


@style.house_style
def figure_of_calibration(evaluation: Evaluation) -> Figure:
    """The share of right answers against confidence, with 95 % intervals, above the number of rows of each bin.

    Below the dotted diagonal the model is over-confident. Outputs that are not probabilities give an empty figure.
    """
    bins, error = evaluation.calibration.bins, evaluation.calibration.error
    if bins.empty:
        figure, axes = style.one_panel("The outputs are not probabilities, so there is no confidence to judge")
        axes.set_axis_off()
    else:
        figure = Figure((7.2, 5.6))
        axes, below = figure.subplots(2, height_ratios=[3, 1], sharex=True)
        title = f"Confidence against truth, {count(evaluation.rows, 'row')}"
        axes.set_title(f"{title}: expected calibration error {error:.3f}")
        axes.plot([0, 1], [0, 1], **style.DOTTED)
        around = [bins["right"] - bins["right_low"], bins["right_high"] - bins["right"]]
        axes.errorbar(bins["confidence"], bins["right"], yerr=around, elinewidth=1, **style.BLUE_LINE)
        axes.set(ylim=(0, 1.04), ylabel="share of right answers (95 % interval)")
        axes.text(0.02, 0.98, "under-confident:\nright more often than it is sure", va="top", fontsize=9)
        axes.text(0.98, 0.02, "over-confident:\nright less often than it is sure", ha="right", fontsize=9)
        middles, widths = (bins["low"] + bins["high"]) / 2, 0.92 * (bins["high"] - bins["low"])
        bars = below.bar(middles, bins["rows"], widths, color=BLUE, alpha=0.55)
        below.bar_label(bars, [f"{rows:,.0f}" for rows in bins["rows"]], fontsize=9, padding=1)
        below.set(ylim=(0, 1.25 * bins["rows"].max()), yticks=[], ylabel="rows", xlim=(0, 1.02))
        below.set(xlabel="confidence of the answer (mean of the rows in the bin)")
        for axis in (axes.yaxis, below.xaxis):
            axis.set_ticks(np.linspace(0, 1, 11), [f"{percent} %" for percent in range(0, 101, 10)])
    figure.set_label(evaluation.verdict())
    return figure

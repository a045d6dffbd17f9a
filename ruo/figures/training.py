"""The picture of a training: its learning curves."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ruo.figures.style import BLACK, BLUE, BOLD, DASHES, DOTS, ORANGE, STYLE, End, Look, label_ends, seconds_ticks
from ruo.learn.training import Trained

__all__ = ["figure_of_learning"]

_CURVES = {"training": ("", Look(ORANGE, "^", DASHES)), "validation": ("validation_", Look(BLUE, "o", "solid"))}


def figure_of_learning(trained: Trained) -> Figure:
    """Loss and accuracy of the training and the validation part against epochs, the best epoch, and the test accuracy.

    The loss has a logarithmic axis; the test accuracy stands at the best epoch, with its 95 % interval.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        top, bottom = figure.subplots(2, sharex=True, gridspec_kw={"hspace": 0.08})
        best, last = trained.best_epoch, len(trained.history)
        top.set_title(f"Learning curves: the validation loss is lowest at epoch {best} of {last}")
        losses = _draw(top, trained, "loss")
        shares = [*_draw(bottom, trained, "accuracy"), _draw_test(bottom, trained)]
        _loss_axis(top, trained)
        _share_axis(bottom)
        _epoch_axis(bottom, last)
        _mark_best(top, bottom, best, last)
        figure.draw_without_rendering()  # the layout moves the axes, and names go by where lines end
        label_ends(top, losses)
        label_ends(bottom, shares)
    figure.set_label(trained.verdict())
    return figure


def _draw(axes: Any, trained: Trained, column: str) -> list[End]:
    ends = []
    for name, (prefix, look) in _CURVES.items():
        values = trained.history[prefix + column]
        line = {"color": look.color, "marker": look.marker, "markersize": 5, "linestyle": look.dashes}
        axes.plot(trained.history["epoch"], values, **line, linewidth=1.6, zorder=3)
        ends.append((float(values.iloc[-1]), name, look.color))
    return ends


def _draw_test(axes: Any, trained: Trained) -> End:
    low, high = trained.interval
    spread = [[trained.accuracy - low], [high - trained.accuracy]]
    point = {"color": BLACK, "marker": "D", "markersize": 6, "linestyle": "none"}
    axes.errorbar([trained.best_epoch], [trained.accuracy], yerr=spread, **point, elinewidth=1, capsize=3, zorder=4)
    return trained.accuracy, f"test {100 * trained.accuracy:.3g} %", BLACK


def _mark_best(top: Any, bottom: Any, best: int, last: int) -> None:
    for axes in (top, bottom):
        axes.axvline(best, color=BLACK, linestyle=DOTS, linewidth=1.4, zorder=1)
    left = best > (last + 1) / 2
    place = {"xytext": (-6 if left else 6, -2), "ha": "right" if left else "left", "va": "top"}
    corner = {"xycoords": top.get_xaxis_transform(), "textcoords": "offset points"}
    top.annotate(f"best epoch: {best}", (best, 1), **corner, **place, **BOLD)


def _loss_axis(axes: Any, trained: Trained) -> None:
    losses = trained.history[["loss", "validation_loss"]].to_numpy()
    shown = losses[np.isfinite(losses) & (losses > 0)]
    low, high = float(shown.min()) / 1.3, float(shown.max()) * 1.3
    high = max(high * (high / low) ** 0.1, 6 * low)  # room for a line of text, and for two ticks
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    seconds_ticks(axes, low, high)
    axes.minorticks_off()
    axes.set_ylabel("loss (cross-entropy)")


def _share_axis(axes: Any) -> None:
    low, high = axes.get_ylim()
    high = min(high, 1.0)
    ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high))
    ticks = ticks[(ticks >= max(low, 0)) & (ticks <= 1 + 1e-9)].clip(max=1)
    axes.set_yticks(ticks, [f"{100 * tick:.4g} %" for tick in ticks])
    axes.set_ylim(low, high + 0.17 * (high - low))  # room for three names where all end at the top
    axes.set_ylabel("rows answered rightly")


def _epoch_axis(axes: Any, last: int) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

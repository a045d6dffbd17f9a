"""The figure of a training: its learning curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ruo.figures import style
from ruo.figures.style import BLACK, End
from ruo.learn.training import Trained

__all__ = ["figure_of_learning"]

# name: the prefix of its columns, and its look
_CURVES = {"training": ("", style.ORANGE_LINE), "validation": ("validation_", style.BLUE_LINE)}


@style.house_style
def figure_of_learning(trained: Trained) -> Figure:
    """Loss and accuracy against epochs for the training and the validation part, and the test accuracy.

    The test accuracy, with its 95 % interval, stands at the best epoch. The axis of the loss is logarithmic.
    """
    figure = Figure(figsize=(9, 6.5), layout="constrained", label=trained.verdict())
    top, bottom = figure.subplots(2, sharex=True, gridspec_kw={"hspace": 0.08})
    best, last = trained.best_epoch, len(trained.history)
    top.set_title(f"Learning curves: the validation loss is lowest at epoch {best} of {last}")
    losses = _draw_curves(top, trained, "loss")
    shares = [*_draw_curves(bottom, trained, "accuracy"), _draw_test(bottom, trained)]
    _loss_axis(top, trained)
    _accuracy_axis(bottom)
    bottom.set(xlabel="epoch", xlim=(0.5, last + 0.5))
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _mark_best(top, bottom, best, last)
    figure.draw_without_rendering()  # the layout moves the axes, and names stand where lines end
    style.label_ends(top, losses)
    style.label_ends(bottom, shares)
    return figure


def _draw_curves(axes: Any, trained: Trained, column: str) -> list[End]:
    ends = []
    for name, (prefix, look) in _CURVES.items():
        values = trained.history[prefix + column]
        axes.plot(trained.history["epoch"], values, **look.line())
        ends.append((float(values.iloc[-1]), name, look.color))
    return ends


def _draw_test(axes: Any, trained: Trained) -> End:
    accuracy, low, high = trained.accuracy
    point = {"color": BLACK, "marker": "D", "markersize": 6, "linestyle": "none", "zorder": 4}
    spread = [[accuracy - low], [high - accuracy]]
    axes.errorbar([trained.best_epoch], [accuracy], yerr=spread, **point, **style.INTERVAL)
    return accuracy, f"test {100 * accuracy:.3g} %", BLACK


def _mark_best(top: Any, bottom: Any, best: int, last: int) -> None:
    for axes in (top, bottom):
        axes.axvline(best, **style.DOTTED, zorder=1)
    left = best > (last + 1) / 2
    place = {"xytext": (-6 if left else 6, -2), "ha": "right" if left else "left", "va": "top"}
    corner = {"xycoords": top.get_xaxis_transform(), "textcoords": "offset points"}
    top.annotate(f"best epoch: {best}", (best, 1), **corner, **place, **style.BOLD)


def _loss_axis(axes: Any, trained: Trained) -> None:
    losses = trained.history[["loss", "validation_loss"]].to_numpy()
    shown = losses[np.isfinite(losses) & (losses > 0)]
    low, high = float(shown.min()) / 1.3, float(shown.max()) * 1.3
    high = max(high * (high / low) ** 0.1, 6 * low)  # room for a line of text, and for two ticks
    axes.set(yscale="log", ylim=(low, high), ylabel="loss (cross-entropy)")
    style.log_ticks(axes, low, high)
    axes.minorticks_off()


def _accuracy_axis(axes: Any) -> None:
    low, high = axes.get_ylim()
    high = min(high, 1.0)
    ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high))
    ticks = ticks[(ticks >= max(low, 0)) & (ticks <= 1 + 1e-9)].clip(max=1)
    axes.set_yticks(ticks, [f"{100 * tick:.4g} %" for tick in ticks])
    # room for three names where all end at the top
    axes.set(ylim=(low, high + 0.17 * (high - low)), ylabel="accuracy")

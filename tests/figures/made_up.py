"""Made-up results to draw, and what a drawn figure shows."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ruo.figures import figure_of_systems as draw_systems
from ruo.learn.evaluation import Evaluation, judge
from ruo.learn.training import Parts, Trained

SIZES = [1_000, 10_000, 100_000, 500_000]


def sweep_runs(spread: float = 0.03, runs: int = 5) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for size, forming, sending in zip(SIZES, (0.5, 0.45, 0.46, 0.5), (0.8, 0.35, 0.6, 1.6), strict=True):
        for _ in range(runs):
            a, b = forming * random.normal(1, spread), sending * random.normal(1, spread)
            for way in (True, False):
                total = max(a, b) + 0.1 if way else a + b
                rows.append((size, way, a, b, total, 500_000, None))
    names = ["rows_per_request", "pipelined", "forming_s", "sending_s", "total_s", "rows", "error"]
    return pd.DataFrame(rows, columns=names)


def systems() -> pd.DataFrame:
    rows = [("paper's system", size, 13.0 if size < 500_000 else np.nan) for size in SIZES]
    rows += [("ruo, wire v2", size, seconds) for size, seconds in zip(SIZES, (0.9, 0.7, 0.9, 2.0), strict=True)]
    rows += [("no network at all", 500_000, 0.65)]
    return pd.DataFrame(rows, columns=["system", "rows_per_request", "total_s"]).assign(rows=500_000)


def figure_of_systems(runs: pd.DataFrame) -> Figure:
    return draw_systems(runs, old="paper's system", new="ruo, wire v2", bound="no network at all")


def training(epochs: int = 12, best: int = 7, right: int = 90, easy: bool = False) -> Trained:
    epoch = np.arange(1, epochs + 1)
    accuracy = np.ones(epochs) if easy else 1 - 0.4 * 0.8**epoch
    curves = {"loss": 0.7 * 0.8**epoch, "validation_loss": 0.2 + 0.02 * np.abs(epoch - best), "accuracy": accuracy}
    history = pd.DataFrame({"epoch": epoch, **curves})
    history["validation_accuracy"] = accuracy if easy else np.minimum(accuracy, 0.88)
    parts = Parts(np.arange(300), np.arange(300, 400), np.arange(400, 500))
    labels = np.arange(100) % 2
    outputs = np.eye(2)[np.where(np.arange(100) < right, labels, 1 - labels)]
    tested = judge(parts.test, outputs, labels, ("0", "1"))
    return Trained(None, history, ("a",), ("0", "1"), parts, tested, 0, epochs)


def evaluated(classes: int, rows: int = 3_000, names: list[str] | None = None, scale: float = 1.0) -> Evaluation:
    """An evaluation of a made-up model; with a scale other than 1 its outputs are no probabilities."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, rows)
    outputs = np.exp(random.normal(size=(rows, classes)) + 3 * np.eye(classes)[labels])
    outputs *= scale / outputs.sum(axis=1, keepdims=True)
    return judge(np.arange(rows), outputs, labels, names or range(classes))


def shown(figure: Figure) -> list[mpl.text.Text]:
    """Every text that can be seen, once the figure is laid out."""
    FigureCanvasAgg(figure).draw()  # a figure alone does no layout
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, *axes.texts]
        for part in (axes, *axes.child_axes):
            texts.append(part.yaxis.label)
            for way, axis in enumerate((part.xaxis, part.yaxis)):
                low, high = sorted(axis.get_view_interval())  # ticks beyond it are not drawn
                texts += [label for label in axis.get_ticklabels() if low <= label.get_position()[way] <= high]
    return list(dict.fromkeys(text for text in texts if text.get_text() and text.get_visible()))


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in shown(figure)]

"""The figure of learning curves: what it shows, and that it is readable; drawn from made-up trainings."""

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ruo.figures import figure_of_learning, save_figure
from ruo.learn.training import Parts, Trained


def made_up(epochs: int = 12, best: int = 7, right: int = 90, easy: bool = False) -> Trained:
    epoch = np.arange(1, epochs + 1)
    loss = 0.7 * 0.8**epoch
    validation_loss = 0.2 + 0.02 * np.abs(epoch - best)
    accuracy = np.ones(epochs) if easy else 1 - 0.4 * 0.8**epoch
    history = pd.DataFrame(
        {
            "epoch": epoch,
            "loss": loss,
            "validation_loss": validation_loss,
            "accuracy": accuracy,
            "validation_accuracy": accuracy if easy else np.minimum(accuracy, 0.88),
        }
    )
    parts = Parts(np.arange(300), np.arange(300, 400), np.arange(400, 500))
    return Trained(None, history, ("a",), ("0", "1"), parts, right, 0, "1", 0.5, epochs)


MANY = {
    "usual": made_up(),
    "best is last": made_up(best=12),
    "best is first": made_up(best=1),
    "one epoch": made_up(epochs=1, best=1),
    "nothing wrong": made_up(right=100, easy=True),
    "nothing right": made_up(right=0),
    "long": made_up(epochs=200, best=150),
}
with_every_training = pytest.mark.parametrize("trained", MANY.values(), ids=MANY)


def test_every_epoch_is_shown_and_the_best_is_marked() -> None:
    """Both axes have the two curves with a point for every epoch, and a line at the best one."""
    trained = made_up()
    for axes, column in zip(figure_of_learning(trained).axes, ("loss", "accuracy"), strict=True):
        drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
        for name in (column, f"validation_{column}"):
            assert any(len(values) == 12 and np.allclose(values, trained.history[name]) for values in drawn)
        assert any(list(line.get_xdata()) == [7, 7] for line in axes.lines)


def test_the_test_accuracy_stands_at_the_best_epoch_with_its_interval() -> None:
    """A mark at the best epoch, its bar from the interval's low to its high."""
    trained = made_up()
    bars = figure_of_learning(trained).axes[1].collections
    segments = [segment for bar in bars if hasattr(bar, "get_segments") for segment in bar.get_segments()]
    bar = [[7, trained.accuracy.low], [7, trained.accuracy.high]]
    assert any(np.allclose(segment, bar) for segment in segments)


def test_the_words_say_what_is_what() -> None:
    """The title, the axes and the ends of the lines are named."""
    figure = figure_of_learning(made_up())
    FigureCanvasAgg(figure).draw()
    words = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    assert words.count("training") == words.count("validation") == 2
    for name in ("test 90 %", "best epoch: 7", "epoch", "loss (cross-entropy)", "accuracy"):
        assert name in words
    assert any("lowest at epoch 7 of 12" in word for word in words)


@with_every_training
def test_names_do_not_overlap_and_are_not_cut(trained: Trained) -> None:
    """No two names overlap, in either axes or between them, and none leaves the figure."""
    figure = figure_of_learning(trained)
    FigureCanvasAgg(figure).draw()
    names = [text for axes in figure.axes for text in axes.texts]
    boxes = [text.get_window_extent() for text in names]
    assert len(boxes) == 6
    assert not any(one.overlaps(two) for one, two in combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


@with_every_training
def test_points_lie_within_the_axes(trained: Trained) -> None:
    """No epoch is cut off, no tick is above 1, and the axis of the loss has two ticks or more."""
    top, bottom = figure_of_learning(trained).axes
    for axes, columns in ((top, ["loss", "validation_loss"]), (bottom, ["accuracy", "validation_accuracy"])):
        low, high = axes.get_ylim()
        assert low <= trained.history[columns].min().min() <= trained.history[columns].max().max() <= high
    assert max(bottom.get_yticks()) <= 1
    assert len(top.get_yticks()) >= 2


def test_lines_differ_without_colour() -> None:
    """Each curve has its own marker and dashes."""
    for axes in figure_of_learning(made_up()).axes:
        lines = [line for line in axes.lines if len(line.get_xdata()) == 12]
        assert len({line.get_marker() for line in lines}) == len({str(line.get_linestyle()) for line in lines}) == 2


def test_a_loss_that_is_no_number_is_left_out() -> None:
    """A training whose loss became infinite can still be drawn."""
    trained = made_up()
    trained.history.loc[11, ["loss", "validation_loss"]] = np.inf, np.nan
    low, high = figure_of_learning(trained).axes[0].get_ylim()
    assert np.isfinite([low, high]).all()


def test_saved_with_its_numbers(tmp_path: Path) -> None:
    """PNG, SVG and CSV lie side by side; the same figure gives the same files."""
    for name in ("one", "two"):
        save_figure(figure_of_learning(made_up()), tmp_path / f"{name}.png", "what it shows", data=made_up().history)
    assert len(pd.read_csv(tmp_path / "one.csv")) == 12
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_style_is_left_as_it_was() -> None:
    """Drawing changes nothing of matplotlib's settings."""
    before = dict(mpl.rcParams)
    figure_of_learning(made_up())
    assert dict(mpl.rcParams) == before

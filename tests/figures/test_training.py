"""The figure of learning curves: what it shows, drawn from made-up trainings."""

import numpy as np
import pytest

from ruo.figures import figure_of_learning
from ruo.learn.training import Trained
from tests.figures.made_up import training, words
from tests.figures.test_every_figure import TRAININGS


def test_every_epoch_is_shown_and_the_best_is_marked() -> None:
    """Both axes have the two curves with a point for every epoch, and a line at the best one."""
    trained = training()
    for axes, column in zip(figure_of_learning(trained).axes, ("loss", "accuracy"), strict=True):
        drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
        for name in (column, f"validation_{column}"):
            assert any(len(values) == 12 and np.allclose(values, trained.history[name]) for values in drawn)
        assert any(list(line.get_xdata()) == [7, 7] for line in axes.lines)


def test_the_test_accuracy_stands_at_the_best_epoch_with_its_interval() -> None:
    """A mark at the best epoch, its bar from the interval's low to its high."""
    trained = training()
    bars = figure_of_learning(trained).axes[1].collections
    segments = [segment for bar in bars if hasattr(bar, "get_segments") for segment in bar.get_segments()]
    bar = [[7, trained.accuracy.low], [7, trained.accuracy.high]]
    assert any(np.allclose(segment, bar) for segment in segments)


def test_the_words_say_what_is_what() -> None:
    """The title, the axes and the ends of the lines are named."""
    named = words(figure_of_learning(training()))
    assert named.count("training") == named.count("validation") == 2
    assert {"test 90 %", "best epoch: 7", "epoch", "loss (cross-entropy)", "accuracy"} < set(named)
    assert any("lowest at epoch 7 of 12" in word for word in named)


@pytest.mark.parametrize("trained", TRAININGS.values(), ids=TRAININGS)
def test_points_lie_within_the_axes(trained: Trained) -> None:
    """No epoch is cut off, six lines and marks are named, no tick is above 1, and the loss has two ticks or more."""
    top, bottom = figure_of_learning(trained).axes
    for axes, columns in ((top, ["loss", "validation_loss"]), (bottom, ["accuracy", "validation_accuracy"])):
        low, high = axes.get_ylim()
        assert low <= trained.history[columns].min().min() <= trained.history[columns].max().max() <= high
    assert len([*top.texts, *bottom.texts]) == 6
    assert max(bottom.get_yticks()) <= 1
    assert len(top.get_yticks()) >= 2


def test_lines_differ_without_colour() -> None:
    """Each curve has its own marker and dashes."""
    for axes in figure_of_learning(training()).axes:
        lines = [line for line in axes.lines if len(line.get_xdata()) == 12]
        assert len({line.get_marker() for line in lines}) == len({str(line.get_linestyle()) for line in lines}) == 2


def test_a_loss_that_is_no_number_is_left_out() -> None:
    """A training whose loss became infinite can still be drawn."""
    trained = training()
    trained.history.loc[11, ["loss", "validation_loss"]] = np.inf, np.nan
    low, high = figure_of_learning(trained).axes[0].get_ylim()
    assert np.isfinite([low, high]).all()

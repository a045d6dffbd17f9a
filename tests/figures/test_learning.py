"""The figures of a training and of an evaluation: what they show, drawn from made-up ones."""

import numpy as np
import pytest

from ruo.figures import figure_of_calibration, figure_of_confusion, figure_of_learning
from ruo.learn.evaluation import judge
from ruo.learn.training import Trained
from tests.figures.made_up import evaluated, shown, training, words
from tests.figures.test_every_figure import TRAININGS


def test_every_epoch_is_shown_and_the_best_is_marked() -> None:
    """Both axes have two curves of their own look, a point for every epoch; the test's interval stands at the best."""
    trained = training()
    figure = figure_of_learning(trained)
    for axes, column in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 12]
        for name in (column, f"validation_{column}"):
            assert any(np.allclose(np.asarray(line.get_ydata(), float), trained.history[name]) for line in lines)
        assert any(list(line.get_xdata()) == [7, 7] for line in axes.lines)
        assert len({line.get_marker() for line in lines}) == len({str(line.get_linestyle()) for line in lines}) == 2
    bars = figure.axes[1].collections
    segments = [segment for bar in bars if hasattr(bar, "get_segments") for segment in bar.get_segments()]
    bar = [[7, trained.accuracy.low], [7, trained.accuracy.high]]
    assert any(np.allclose(segment, bar) for segment in segments)
    named = words(figure)
    assert named.count("training") == named.count("validation") == 2
    assert {"test 90.0 %", "best epoch: 7", "epoch", "loss (cross-entropy)", "accuracy"} < set(named)
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


def test_a_loss_that_is_no_number_is_left_out() -> None:
    """A training whose loss became infinite can still be drawn."""
    trained = training()
    trained.history.loc[11, ["loss", "validation_loss"]] = np.inf, np.nan
    assert np.isfinite(figure_of_learning(trained).axes[0].get_ylim()).all()


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_every_count_is_written_in_its_cell(classes: int) -> None:
    """Each cell with rows has their number in the middle, no wider than the cell."""
    evaluation = evaluated(classes)
    figure = figure_of_confusion(evaluation)
    shown(figure)
    axes = figure.axes[0]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    counts = evaluation.confusion.to_numpy()
    assert {(column, row): f"{counts[row, column]:,}" for row, column in zip(*counts.nonzero(), strict=True)} == written
    cell = axes.get_window_extent().width / classes
    assert all(text.get_window_extent().width < cell for text in axes.texts)


def test_each_class_has_its_recall_and_support() -> None:
    """The names are on both axes, recall and support beside them; a class without rows says so."""
    evaluation = judge(np.arange(4), np.eye(3)[[0, 0, 1, 1]], np.array([0, 0, 0, 1]), ["cat", "dog", "owl"])
    named = words(figure_of_confusion(evaluation))
    assert {"66.7 % of 3", "100.0 % of 1", "no rows", "true class"} <= set(named)
    assert all(named.count(name) == 2 for name in ("cat", "dog", "owl"))


def test_too_many_classes_are_drawn_without_numbers() -> None:
    """A hundred classes are shown in colours alone, and not all are named."""
    figure = figure_of_confusion(evaluated(100))
    assert not figure.axes[0].texts
    assert 20 <= len(figure.axes[0].get_xticks()) <= 40


def test_calibration_shows_every_bin_with_its_rows() -> None:
    """A point for each bin at its confidence and share, the interval around it, and the number of rows below."""
    evaluation = evaluated(10)
    bins, (above, below) = evaluation.calibration.bins, figure_of_calibration(evaluation).axes
    line = next(line for line in above.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xydata(), bins[["confidence", "right"]])
    intervals = [part[:, 1] for part in above.collections[0].get_segments()]
    np.testing.assert_allclose(intervals, bins[["right_low", "right_high"]])
    assert [text.get_text() for text in below.texts] == [f"{rows:,}" for rows in bins["rows"]]
    assert "confidence" in below.get_xlabel()
    assert "95 % interval" in above.get_ylabel()


def test_no_confidence_to_judge() -> None:
    """Where the outputs are not probabilities, the figure says just that."""
    assert "not probabilities" in figure_of_calibration(evaluated(3, scale=7)).get_suptitle()

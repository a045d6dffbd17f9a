"""The figures of an evaluation: what they show."""

import numpy as np
import pytest

from ruo import Scores
from ruo.client.records import ModelInfo
from ruo.client.scores import Timings
from ruo.figures import figure_of_calibration, figure_of_confusion
from ruo.learn.evaluation import evaluate
from tests.figures.made_up import evaluated, shown, words


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_every_count_is_written_in_its_cell(classes: int) -> None:
    """Each cell with rows has their number in the middle, no wider than the cell."""
    evaluation = evaluated(classes)
    figure = figure_of_confusion(evaluation)
    shown(figure)
    axes = figure.axes[0]
    written = {text.get_position(): text for text in axes.texts}
    counts = evaluation.confusion.to_numpy()
    assert {(column, row): f"{counts[row, column]:,}" for row, column in zip(*counts.nonzero(), strict=True)} == {
        place: text.get_text() for place, text in written.items()
    }
    cell = axes.get_window_extent().width / classes
    assert all(text.get_window_extent().width < cell for text in written.values())


def test_each_class_has_its_recall_and_support() -> None:
    """The names are on both axes, recall and support beside them; a class without rows says so."""
    predictions = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
    model = ModelInfo("model", "1", "test")
    scores = Scores(predictions, np.array([0, 0, 0, 1]), timings=Timings(1, 1, 1, 1), model=model)
    named = words(figure_of_confusion(evaluate(scores, ["cat", "dog", "owl"])))
    assert {"66.7 % of 3", "100.0 % of 1", "no rows"} <= set(named)
    assert all(named.count(name) == 2 for name in ("cat", "dog", "owl"))
    assert "true class" in named


def test_too_many_classes_are_drawn_without_numbers() -> None:
    """A hundred classes are shown in colours alone, and not all are named."""
    figure = figure_of_confusion(evaluated(100))
    assert not figure.axes[0].texts
    assert 20 <= len(figure.axes[0].get_xticks()) <= 40


def test_calibration_shows_every_bin_with_its_rows() -> None:
    """A point for each bin at its confidence and share, the interval around it, and the number of rows below."""
    evaluation = evaluated(10)
    figure = figure_of_calibration(evaluation)
    bins, (above, below) = evaluation.calibration.bins, figure.axes
    line = next(line for line in above.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xydata(), bins[["confidence", "right"]])
    segments = above.collections[0].get_segments()
    np.testing.assert_allclose([part[:, 1] for part in segments], bins[["right_low", "right_high"]])
    assert [text.get_text() for text in below.texts] == [f"{rows:,}" for rows in bins["rows"]]
    assert "confidence" in below.get_xlabel()
    assert "95 % interval" in above.get_ylabel()


def test_no_confidence_to_judge() -> None:
    """Where the outputs are not probabilities, the figure says just that."""
    figure = figure_of_calibration(evaluated(3, scale=7))
    assert "not probabilities" in figure.axes[0].get_title(loc="left")

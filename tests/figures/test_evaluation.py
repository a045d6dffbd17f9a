"""The figures of an evaluation: what they show, and that they are readable with two classes and with thirty."""

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ruo import Scores
from ruo.client.records import ModelInfo
from ruo.client.scores import Timings
from ruo.figures import figure_of_calibration, figure_of_confusion, save_figure
from ruo.learn.evaluation import Evaluation, evaluate

DRAW = [figure_of_confusion, figure_of_calibration]


def made(classes: int, rows: int = 3_000, names: list[str] | None = None, scale: float = 1.0) -> Evaluation:
    """An evaluation of a made-up model; with a scale other than 1 its outputs are no probabilities."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, rows)
    outputs = np.exp(random.normal(size=(rows, classes)) + 3 * np.eye(classes)[labels])
    predictions = (scale * outputs / outputs.sum(axis=1, keepdims=True)).astype(np.float32)
    return evaluate(Scores(predictions, labels, Timings(1, 1, 1, 1), ModelInfo("model", "1", "test")), names)


def shown(figure: Figure) -> list[mpl.text.Text]:
    """Every text that can be seen, once the figure is laid out."""
    FigureCanvasAgg(figure).draw()  # a figure alone does no layout
    texts = []
    for axes in figure.axes:
        near = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for part in (axes, *axes.child_axes):
            near += [part.yaxis.label, *part.get_yticklabels(), *part.get_xticklabels()]
        texts += [text for text in near if text.get_text() and text.get_visible()]
    return list(dict.fromkeys(texts))


CASES = [
    made(2, 500_000),
    made(2, names=["a cat that is asleep now", "a cat that is not asleep"]),
    made(6, names=["aeroplane", "automobile", "bird", "cat", "an extraordinarily long name of a class", "deer"]),
    made(10),
    made(30, 100_000),
]


@pytest.mark.parametrize("draw", DRAW)
@pytest.mark.parametrize("evaluation", CASES, ids=["2", "2 long", "6 long", "10", "30"])
def test_no_text_overlaps_or_is_cut(draw, evaluation: Evaluation) -> None:
    """Whatever the classes are, no texts overlap, and all are within the figure."""
    figure = draw(evaluation)
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in shown(figure)]
    assert [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)] == []
    inside = figure.bbox.padded(1)
    assert [a for a, box in boxes if not (inside.contains(*box.min) and inside.contains(*box.max))] == []


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_every_count_is_written_in_its_cell(classes: int) -> None:
    """Each cell with rows has their number in the middle, no wider than the cell."""
    evaluation = made(classes)
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
    scores = Scores(predictions, np.array([0, 0, 0, 1]), Timings(1, 1, 1, 1), ModelInfo("model", "1", "test"))
    words = [text.get_text() for text in shown(figure_of_confusion(evaluate(scores, ["cat", "dog", "owl"])))]
    assert {"66.7 % of 3", "100.0 % of 1", "no rows"} <= set(words)
    assert all(words.count(name) == 2 for name in ("cat", "dog", "owl"))
    assert "true class" in words


def test_too_many_classes_are_drawn_without_numbers() -> None:
    """A hundred classes are shown in colours alone, and not all are named."""
    figure = figure_of_confusion(made(100))
    assert not figure.axes[0].texts
    assert 20 <= len(figure.axes[0].get_xticks()) <= 40


def test_calibration_shows_every_bin_with_its_rows() -> None:
    """A point for each bin at its confidence and share, the interval around it, and the number of rows below."""
    evaluation = made(10)
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
    figure = figure_of_calibration(made(3, scale=7))
    assert "not probabilities" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("draw", DRAW)
def test_saved_with_its_numbers(draw, tmp_path: Path) -> None:
    """PNG, SVG and CSV lie side by side, and drawing changes nothing of matplotlib's settings."""
    before = dict(mpl.rcParams)
    evaluation = made(3)
    numbers = evaluation.confusion.reset_index() if draw is figure_of_confusion else evaluation.calibration.bins
    save_figure(draw(evaluation), tmp_path / "picture.png", "what it shows", numbers)
    assert {path.name for path in tmp_path.iterdir()} == {"picture.png", "picture.svg", "picture.csv"}
    assert pd.read_csv(tmp_path / "picture.csv").shape == numbers.shape
    assert dict(mpl.rcParams) == before

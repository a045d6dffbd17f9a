"""How good a model's predictions are: checked against hand-computed and published numbers and scikit-learn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from ruo import Scores, ScoringError, score_csv
from ruo.client.layout import Layout
from ruo.client.records import ModelInfo
from ruo.client.scores import Timings
from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError, RuoError
from ruo.learn.demo import Demo
from ruo.learn.evaluation import evaluate, wilson_interval


def scores_of(
    predictions: Sequence | np.ndarray, labels: Sequence | np.ndarray | None, lost: Sequence[tuple[int, int]] = ()
) -> Scores:
    """The scores of a run; `lost` are the ranges of rows that were not scored."""
    errors = [ScoringError("The server was away.", start, stop, 503) for start, stop in lost]
    classes = None if labels is None else np.asarray(labels, np.int64)
    away = {"errors": errors, "not_scored": sum(stop - start for start, stop in lost)}
    model = ModelInfo("model", "1", "test")
    return Scores(np.asarray(predictions, np.float32), classes, timings=Timings(1, 1, 1, 1), model=model, **away)


def sure_of(answers: Sequence[int], classes: int, confidence: float = 1.0) -> np.ndarray:
    """Predictions that give each answer with this confidence and share the rest among the other classes."""
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.eye(classes, dtype=bool)[list(answers)], confidence, rest)


def random_scores(rows: int = 4_000, classes: int = 5, sharpness: float = 1.0, seed: int = 0) -> Scores:
    """Labels drawn from a model's true probabilities, and predictions that are sharper than these."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * 1.5
    true, stated = (np.exp(scale * logits) for scale in (1, sharpness))
    true, stated = (odds / odds.sum(axis=1, keepdims=True) for odds in (true, stated))
    labels = (true.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)
    return scores_of(stated, labels)


# Three classes: of 4 rows of class 0, 3 are found; of 4 of class 1, 2; both of class 2
LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
ANSWERS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_by_hand(tmp_path: Path) -> None:
    """Ten rows worked out by hand: accuracy 7/10, and each class's precision, recall and F1; they are saved."""
    evaluation = evaluate(scores_of(sure_of(ANSWERS, 3), LABELS))

    assert (evaluation.rows, evaluation.left_out) == (10, 0)
    assert evaluation.accuracy.value == 0.7
    found = [[4, 1, 3 / 4, 6 / 7], [4, 2 / 3, 1 / 2, 4 / 7], [2, 1 / 2, 1, 2 / 3]]
    expected = pd.DataFrame(found, columns=["support", "precision", "recall", "f1"]).astype({"support": int})
    expected.insert(0, "class", [0, 1, 2])
    pd.testing.assert_frame_equal(evaluation.by_class, expected)
    assert evaluation.confusion.to_numpy().tolist() == [[3, 1, 0], [0, 2, 2], [0, 0, 2]]
    assert (evaluation.confusion.index.name, evaluation.confusion.columns.name) == ("true class", "answer")
    evaluation.save(tmp_path)
    assert (tmp_path / "verdict.txt").read_text() == evaluation.verdict() + "\n"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "classes.csv"), expected)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_accuracy_has_the_published_interval(right: int, rows: int, low: float, high: float) -> None:
    """The intervals of Newcombe's four examples; those of the opposite share are their mirror images."""
    share, *bounds = wilson_interval(right, rows)
    assert share == right / rows
    assert bounds == pytest.approx([low, high], abs=5e-5)
    accuracy = evaluate(scores_of(sure_of([0] * rows, 2), [1] * right + [0] * (rows - right))).accuracy
    assert accuracy == pytest.approx((1 - share, 1 - high, 1 - low), abs=5e-5)


def test_calibration_by_hand() -> None:
    """Ten rows at 0.95 of which 7 are right, ten at 0.65 of which 5 are: each bin, and (0.25 + 0.15) / 2 as the error."""
    predictions = [*sure_of([0] * 10, 2, 0.95), *sure_of([0] * 10, 2, 0.65)]
    evaluation = evaluate(scores_of(predictions, [0] * 7 + [1] * 3 + [0] * 5 + [1] * 5)).calibration

    bins = [
        [10, 0.65, 0.5, 0.6, 0.7, wilson_interval(5, 10).low],
        [10, 0.95, 0.7, 0.9, 1.0, wilson_interval(7, 10).low],
    ]
    columns = ["rows", "confidence", "right", "low", "high", "right_low"]
    np.testing.assert_allclose(evaluation.bins[columns], bins)
    assert evaluation.error == pytest.approx((0.15 + 0.25) / 2)
    assert evaluation.overconfidence.value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("sharpness", "word"), [(3.0, "is over-confident by"), (0.3, "is under-confident by"), (1.0, "is not seen to be")]
)
def test_confidence_in_words(sharpness: float, word: str) -> None:
    """The verdict says whether the model is over-confident, under-confident or neither."""
    evaluation = evaluate(random_scores(sharpness=sharpness))
    assert word in evaluation.verdict()
    gap = evaluation.calibration.overconfidence
    assert (gap.low > 0, gap.high < 0) == (sharpness > 1, sharpness < 1)


def test_a_calibrated_model_shows_the_error_that_is_expected() -> None:
    """Over many tables, the mean error of a calibrated model is the expected one."""
    calibrations = [evaluate(random_scores(rows=500, seed=seed)).calibration for seed in range(20)]
    errors, expected = np.mean([(one.error, one.error_if_calibrated) for one in calibrations], axis=0)
    assert errors == pytest.approx(expected, rel=0.2)


def test_rounding_above_one_is_a_confidence_of_one() -> None:
    """A probability of 1.0000001, as float32 sums are, is in the last bin."""
    evaluation = evaluate(scores_of([[1.0000001, 0], [0.75, 0.25]], [0, 0]))
    assert evaluation.calibration.bins["high"].tolist() == pytest.approx([0.8, 1.0])
    assert evaluation.calibration.bins["confidence"].max() == 1


def test_outputs_that_are_no_probabilities() -> None:
    """Accuracy is reported; calibration is not, and the verdict says so."""
    evaluation = evaluate(scores_of(5 * sure_of(ANSWERS, 3), LABELS))
    assert evaluation.accuracy.value == 0.7
    assert evaluation.calibration.bins.empty
    assert np.isnan(evaluation.calibration.error)
    assert "confident" not in evaluation.verdict()
    assert "Nothing about confidence" in evaluation.verdict()


def test_worst_first() -> None:
    """The wrong answers, the most certain first, by their row and with the classes' names; or that none is wrong."""
    predictions = [sure_of([0], 2, confidence)[0] for confidence in (0.9, 0.6, 0.99, 0.8)]
    evaluation = evaluate(scores_of(predictions, [1, 1, 0, 1]), ["cat", "dog"])
    worst = evaluation.worst(2)
    assert worst.columns.tolist() == ["row", "label", "answer", "confidence"]
    assert worst.drop(columns="confidence").to_numpy().tolist() == [[0, "dog", "cat"], [3, "dog", "cat"]]
    assert worst["confidence"].tolist() == pytest.approx([0.9, 0.8])
    assert len(evaluation.worst(100)) == 3
    right = evaluate(scores_of(sure_of(LABELS, 3), LABELS))
    assert right.worst().columns.tolist() == worst.columns.tolist()
    assert right.worst().empty
    assert "No answer is wrong." in right.sentences()


def test_rows_left_out_are_counted_and_keep_the_others_numbers() -> None:
    """Rows that were not scored, or whose prediction is not a number, are left out and counted in the verdict."""
    predictions = sure_of([0, 0, 1, 1, 0, 0], 2)
    predictions[[0, 1, 4]] = np.nan
    evaluation = evaluate(scores_of(predictions, [0, 0, 0, 1, 0, 0], lost=[(0, 2)]))
    assert (evaluation.rows, evaluation.left_out) == (3, 3)
    assert evaluation.answers["row"].tolist() == [2, 3, 5]
    assert evaluation.worst()["row"].tolist() == [2]
    assert "Nothing about the rows left out: 3 rows (not scored, or" in evaluation.verdict()


@pytest.mark.parametrize(
    ("own", "layout", "classes", "labels", "answers"),
    [
        (["b", "c"], Layout(), ["a", "b", "c"], [0, 1], [1, 2]),  # a column of text without one of the classes
        (["a", "b", "c"], Layout(), ["c", "a", "b"], [1, 2], [2, 0]),
        (["c", "b", "a"], Layout(classes=["c", "b", "a"]), ["a", "b", "c"], [1, 0], [1, 2]),  # columns in another order
        (["c", "b", "a"], Layout(["a", "b", "c"], classes=["c", "b", "a"]), None, [1, 0], [1, 2]),
        (["0", "1", "2"], Layout(classes=["0", "1", "2"]), np.array(["cat", "dog", "emu"]), [0, 2], [0, 2]),
        (None, Layout(), ["1", "2", "3"], [1, 2], [0, 1]),  # names that are numbers
        (None, Layout(["1", "0", "2"]), None, [1, 0], [0, 1]),
        (None, Layout(), ["True", "False", "?"], [0, 1], [0, 1]),
        (None, Layout(["1990", "1991", "1992"]), None, [0, 2], [0, 2]),
        (None, Layout(["1990", "1991", "1992"]), None, [1990, 1992], [0, 2]),
    ],
)
def test_labels_are_numbered_by_the_names_of_the_outputs(
    own: list[str] | None, layout: Layout, classes: Any, labels: list[int], answers: list[int]
) -> None:
    """Whatever the order of the label columns, or the text that a column of labels happens to hold, or its numbers."""
    scores = replace(scores_of(sure_of(answers, 3), labels), classes=own, layout=layout)
    evaluation = evaluate(scores, classes)
    assert evaluation.accuracy.value == 1
    assert list(evaluation.classes) == list(layout.names or classes)


def test_a_label_that_is_no_class_is_refused() -> None:
    """It would be counted as another one."""
    scores = replace(scores_of(sure_of([0, 1], 3), [0, 1]), classes=["b", "d"])
    with pytest.raises(ArgumentError, match="The label 'd' is none of the classes a, b, c"):
        evaluate(scores, ["a", "b", "c"])
    with pytest.raises(ArgumentError, match="The label 'b' is none of the classes 1, 2, 3"):
        evaluate(scores, [1, 2, 3])
    with pytest.raises(ArgumentError, match="The label '0' is none of the classes 1, 2, 3"):
        evaluate(scores_of(sure_of([0, 1], 3), [0, 1]), [1, 2, 3])


@pytest.mark.parametrize("rows", [50, 200, 1_000])
def test_a_calibrated_model_that_hardly_errs_is_seldom_called_over_or_under_confident(rows: int) -> None:
    """In at most a twentieth of the tables; without an error, the sample's own scatter would say so in a third of them."""
    random, alarms = np.random.default_rng(0), 0
    for _ in range(100):
        confidence = 1 - random.exponential(0.005, rows).clip(max=0.4)
        answers = (random.random(rows) < confidence).astype(int)
        outputs = np.where(np.eye(2, dtype=bool)[1], confidence[:, None], 1 - confidence[:, None])
        gap = evaluate(scores_of(outputs, answers)).calibration.overconfidence
        alarms += gap.low > 0 or gap.high < 0
    assert alarms <= 7


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_one_sigmoid_output_is_two_classes(shape: tuple[int, ...]) -> None:
    """Above 0.5 the answer is 1; the confidence is that of the answer; the output's own name is none of a class."""
    outputs = np.array([0.9, 0.5, 0.51, 0.1, 0.2, 0.7, 0.3, 1.0])
    scores = scores_of(outputs.reshape(shape), [1, 0, 1, 0, 1, 0, 0, 1])
    evaluation = evaluate(replace(scores, layout=Layout(["p"])))

    assert evaluation.classes == (0, 1)
    assert evaluation.answers["answer"].tolist() == [1, 0, 1, 0, 0, 1, 0, 1]
    assert evaluation.answers["confidence"].tolist() == pytest.approx([0.9, 0.5, 0.51, 0.9, 0.8, 0.7, 0.7, 1.0])
    assert evaluation.accuracy.value == 6 / 8
    assert evaluation.worst()["row"].tolist() == [4, 5]
    assert not evaluation.calibration.bins.empty


def test_classes_that_never_occur() -> None:
    """A class without rows has no recall, does not count in the mean, and is named; so is one with few rows."""
    labels = [0] * 40 + [1] * 5
    evaluation = evaluate(scores_of(sure_of([*[0] * 39, 2, *[1] * 5], 4), labels))

    assert evaluation.by_class["support"].tolist() == [40, 5, 0, 0]
    assert evaluation.by_class["recall"].isna().tolist() == [False, False, True, True]
    assert " is 98.8 %." in evaluation.sentences()[2]  # (39 / 40 + 1) / 2
    assert "do not occur in the table: 2, 3." in evaluation.verdict()
    assert "under 30 rows: 1 (5 rows)." in evaluation.verdict()
    years = evaluate(scores_of(sure_of([1990, 1991], 2_000), [1990, 1991])).verdict()
    assert "do not occur in the table: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19" in years
    assert " 19 and 1,978 more." in years


def test_what_is_seen_in_words() -> None:
    """The verdict names the best and worst class, the most frequent confusion, and the baseline."""
    labels = [0] * 100 + [1] * 60 + [2] * 40
    answers = [0] * 99 + [1] + [1] * 60 + [2] * 30 + [1] * 10
    words = evaluate(scores_of(sure_of(answers, 3), labels), ["cat", "dog", "owl"]).verdict()
    for sentence in (
        "Accuracy on 200 rows: 94.5 % (95 % interval 90.4 % to 96.9 %).",
        "Always answering cat, the most frequent class, would reach 50.0 %.",
        "Class cat is recognised best, with an F1 of 0.99: the recall on its 100 rows is 99.0 %",
        "Class owl is recognised worst, with an F1 of 0.86: the recall on its 40 rows is 75.0 %",
        "The most frequent confusion is owl taken for dog: 10 rows, 25.0 % of that class and 90.9 % of all errors.",
    ):
        assert sentence in words
    alike = evaluate(scores_of(sure_of([0] * 901 + [1] * 999 + [0] * 100, 2), [0] * 1_000 + [1] * 1_000)).verdict()
    assert "No class with 30 rows or more is recognised better than another." in alike  # by the same two digits
    one_row = evaluate(scores_of([[0.2, 0.8]], [1])).verdict()
    assert "Accuracy on 1 row: 100.0 % (95 % interval 20.7 % to 100.0 %)." in one_row
    assert "not seen to be over- or under-confident" in one_row


@pytest.mark.parametrize(
    ("predictions", "labels", "names", "words"),
    [
        (sure_of(ANSWERS, 3), None, None, "no labels"),
        (np.full((3, 2), np.nan), [0, 1, 0], None, "No row can be evaluated"),
        (np.empty((3, 0)), [0, 1, 0], None, "No row can be evaluated"),
        (np.zeros((0, 2)), [], None, "No row can be evaluated"),
        (sure_of(ANSWERS, 3), np.array(LABELS) + 1, None, "'3' is none of the classes 0, 1, 2; .* number the"),
        (sure_of(ANSWERS, 3), LABELS, ["a", "b"], r"3 outputs cannot have 2 names \(a, b\); name one for each output"),
        (sure_of(ANSWERS, 3), LABELS, ["a", "a", "b"], "classes=a, a, b has a name twice; name each output once"),
        ([[3.5], [-1.0]], [0, 1], None, "sigmoid"),
        (np.zeros((2, 3, 4)), [0, 1], None, "shape"),
    ],
)
def test_what_cannot_be_evaluated(predictions: Any, labels: Any, names: list[str] | None, words: str) -> None:
    """It is refused, and the error says why."""
    with pytest.raises(RuoError, match=words):
        evaluate(scores_of(predictions, labels), names)


def test_a_served_model(demo: Demo, server: LocalServer, expected: np.ndarray, labels: np.ndarray) -> None:
    """A served model has the same accuracy as the same model in this process."""
    evaluation = evaluate(score_csv(demo.testset, server.url))
    assert evaluation.classes == tuple("0123456789")
    assert evaluation.accuracy.value == metrics.accuracy_score(labels, expected.argmax(axis=1))
    assert evaluation.sentences()[0] in repr(evaluation)
    assert "<td>10</td> <td>0</td> <td>" in " ".join(evaluation._repr_html_().split())

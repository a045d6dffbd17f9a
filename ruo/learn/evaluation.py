"""How good a model's predictions are: measures computed from predictions and labels, and what they say in words."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ruo.client.scores import Scores
from ruo.errors import ArgumentError, TableError, needs
from ruo.stats import Interval, mean_interval
from ruo.tables import Source, TableOptions, open_table
from ruo.wire.messages import Array

_BINS = ["low", "high", "rows", "confidence", "right", "right_low", "right_high"]
_FEW_ROWS = 30  # with fewer, the 95 % interval of a share may be more than a third wide
_ROUNDING = 0.01  # the sum of half-precision probabilities is no closer to 1 than this


class Share(NamedTuple):
    """A share of rows, from 0 to 1, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{percent(self.value)} (95 % interval {percent(self.low)} to {percent(self.high)})"


class Calibration(NamedTuple):
    """Whether confidence matches accuracy; empty if the outputs are not probabilities."""

    bins: pd.DataFrame = pd.DataFrame(columns=_BINS, dtype=float)  # mean confidence and accuracy, per non-empty bin
    error: float = np.nan  # the expected calibration error
    error_if_calibrated: float = np.nan  # what a perfectly calibrated model would show with as many rows
    overconfidence: Interval = Interval(np.nan, np.nan, np.nan, 0, np.nan)  # the mean of confidence minus correctness


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """How a model's predictions compare with the labels."""

    classes: tuple[int | str, ...]
    answers: pd.DataFrame  # the evaluated rows: row (in the table, from 0), label, answer (indices), confidence
    rows: int
    not_scored: int  # rows left out because they have no prediction
    not_numbers: int  # rows left out because their prediction is not a number
    accuracy: Share
    by_class: pd.DataFrame  # class, support (rows), precision, recall, f1
    confusion: pd.DataFrame  # numbers of rows, a row per true class and a column per predicted one
    calibration: Calibration

    def worst(self, n: int = 10) -> pd.DataFrame:
        """Return the n wrong answers with the highest confidence, with the names of their classes."""
        wrong = self.answers[self.answers["label"] != self.answers["answer"]]
        worst = wrong.sort_values("confidence", ascending=False, kind="stable", ignore_index=True).head(n)
        return worst.assign(**{name: [self.classes[number] for number in worst[name]] for name in ("label", "answer")})

    def sentences(self) -> list[str]:
        """Say what is seen: accuracy, best and worst class, the most frequent confusion, calibration."""
        support, recall = self.by_class["support"], self.by_class["recall"]
        frequent = self.classes[support.argmax()]
        return [
            f"Accuracy on {_rows(self.rows)}: {self.accuracy}.",
            f"Always answering {frequent}, the most frequent class, would reach {percent(support.max() / self.rows)}.",
            f"The mean recall, which counts every class alike whatever its rows, is {percent(recall.mean())}.",
            *_on_classes(self.by_class),
            _on_confusion(self.confusion),
            *_on_calibration(self.calibration, self.accuracy.value),
        ]

    def verdict(self) -> str:
        """Say what is seen, and what may not be concluded and why."""
        support, lost = self.by_class.set_index("class")["support"], self.not_scored + self.not_numbers
        rare = ", ".join(f"{name} ({_rows(rows)})" for name, rows in support.items() if 0 < rows < _FEW_ROWS)
        absent = ", ".join(str(name) for name, rows in support.items() if not rows)
        reasons = f"{self.not_scored:,} not scored, {self.not_numbers:,} with a prediction that is not a number"
        no_confidence = "Nothing about confidence: a row's outputs are not probabilities that add up to 1."
        cautions = {
            f"Nothing about the rows left out: {_rows(lost)} ({reasons}).": lost,
            f"Nothing about classes with under {_FEW_ROWS} rows: {rare}.": rare,
            f"Nothing about classes that do not occur in the table: {absent}.": absent,
            no_confidence: self.calibration.bins.empty,
            "The intervals assume independent rows: with repeated or related rows they are too narrow.": True,
        }
        return verdict_text(self.sentences(), [sentence for sentence, applies in cautions.items() if applies])

    def save(self, results_dir: str | os.PathLike[str]) -> None:
        """Write classes.csv and verdict.txt into an existing folder."""
        self.by_class.to_csv(Path(results_dir) / "classes.csv", index=False)
        (Path(results_dir) / "verdict.txt").write_text(self.verdict() + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return f"Evaluation({_rows(self.rows)}, {len(self.classes)} classes, accuracy {self.accuracy})"


@needs("server,notebooks")
def evaluate(scores: Scores, classes: Sequence[str] | None = None) -> Evaluation:
    """Compare the predictions of a table with its labels.

    The answer to a row is the class with the largest output, and that output is its confidence. A single output from 0
    to 1 is the probability of class 1 of two. Rows without a prediction that is a number are left out.
    Raises TableError without labels, ArgumentError where predictions, labels and names do not fit together.

    Parameters
    ----------
    scores : Scores
        The scores of a labelled table; the predictions are (rows, classes), (rows, 1) or (rows,).
    classes : sequence of str, optional
        The names of the classes, in the order of the model's outputs; by default those of `scores.classes`, else numbers.

    Examples
    --------
    >>> result = evaluate(scores, class_names("testset.csv"))
    >>> result.accuracy, result.by_class, result.worst(10)
    """
    if scores.labels is None:
        hint = "give each class a column Label_..., 1 in the rows of the class and 0 elsewhere, or pass label_prefix"
        raise TableError(f"There are no labels to compare with: {hint} to score_csv.")
    kept, lost = _complete(scores)
    labels = scores.labels[kept]
    outputs, names = _outputs(scores.predictions[kept], labels, classes or scores.classes)
    answers = outputs.argmax(axis=1)
    confidence = outputs.max(axis=1).astype(float)
    right = labels == answers
    table = pd.DataFrame({"row": np.flatnonzero(kept), "label": labels, "answer": answers, "confidence": confidence})
    are_probabilities = outputs.min() >= -_ROUNDING and np.abs(outputs.sum(axis=1) - 1).max() <= _ROUNDING
    calibration = _calibrate(confidence.clip(0, 1), right) if are_probabilities else Calibration()
    accuracy = wilson_interval(right.sum(), len(right))
    return Evaluation(names, table, len(table), *lost, accuracy, *_tables(labels, answers, names), calibration)


def class_names(source: Source, label_prefix: str = "Label_") -> list[str] | None:
    """Return the names of a table's one-hot label columns without their prefix; None if there are fewer than two."""
    return open_table(source, TableOptions(label_prefix=label_prefix)).classes


def wilson_interval(right: int, rows: int) -> Share:
    """Return the share of `right` among `rows` (at least 1) with its interval (Wilson, JASA 1927)."""
    interval = stats.binomtest(int(right), int(rows)).proportion_ci(method="wilson")
    return Share(float(right / rows), float(interval.low), float(interval.high))


def percent(share: float) -> str:
    """Write a share with one decimal, or with three where one would round it to 0 or 100 %."""
    return f"{100 * share:.{3 if 0 < min(share, 1 - share) < 0.0005 else 1}f} %"


def verdict_text(seen: Sequence[str], unknown: Sequence[str]) -> str:
    """Return two lists of sentences: what is seen, and what may not be concluded."""
    parts = {"We see that": seen, "What may not be concluded": unknown}
    return "\n\n".join("\n- ".join([f"{head}:", *lines]) for head, lines in parts.items())


def _calibrate(confidence: Array, right: Array) -> Calibration:
    """Use bins of equal width, closed above: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""
    edges = np.linspace(0, 1, 11)
    used, place, rows = np.unique(np.searchsorted(edges[1:-1], confidence), return_inverse=True, return_counts=True)
    weights = (confidence, right, confidence * (1 - confidence))
    stated, correct, variance = (np.bincount(place, weight) for weight in weights)
    bins = pd.DataFrame({"low": edges[used], "high": edges[used + 1], "rows": rows, "confidence": stated / rows})
    bins[_BINS[4:]] = [wilson_interval(*pair) for pair in zip(correct, rows, strict=True)]
    error = np.abs(stated - correct).sum() / len(right)
    if_calibrated = np.sqrt(2 / np.pi * variance).sum() / len(right)  # the mean of |x| for a normal x, bin by bin
    return Calibration(bins, float(error), float(if_calibrated), mean_interval(confidence - right))


def _complete(scores: Scores) -> tuple[Array, tuple[int, int]]:
    """Return which rows have a prediction, how many were not scored, and how many predictions are not numbers."""
    flat = scores.predictions.reshape(len(scores), int(np.prod(scores.predictions.shape[1:])))
    kept = np.all(np.isfinite(flat), axis=1) & (flat.shape[1] > 0)  # a row that was not scored has NaN
    lost = scores.not_scored, int((~kept).sum()) - scores.not_scored
    if not kept.any():
        counts = f"{lost[0]:,} rows were not scored, {lost[1]:,} have a prediction that is not a number"
        raise ArgumentError(f"No row can be evaluated: {counts}; scores.failures says why rows were not scored.")
    return kept, lost


def _outputs(predictions: Array, labels: Array, names: Sequence[str] | None) -> tuple[Array, tuple[int | str, ...]]:
    """Return outputs with a column per class, and the classes' names or numbers."""
    outputs = predictions[:, None] if predictions.ndim == 1 else predictions
    if outputs.ndim != 2:
        raise ArgumentError(f"Predictions have the shape {outputs.shape[1:]}; end the model with one number per class.")
    if outputs.shape[1] == 1:
        if outputs.min() < 0 or outputs.max() > 1:
            seen = f"The model's one output ranges from {outputs.min():g} to {outputs.max():g}"
            raise ArgumentError(f"{seen}, so it is not a probability; end the model with a sigmoid.")
        outputs = np.hstack([1 - outputs, outputs])
    count = outputs.shape[1]
    if names is not None and len(names) != count:
        seen = f"There are {len(names)} classes ({', '.join(map(str, names[:5]))}), and {count} outputs"
        raise ArgumentError(f"{seen}; name one for each output, with prediction_names= for names in a label column.")
    if labels.min() < 0 or labels.max() >= count:
        seen = f"The labels go from {labels.min()} to {labels.max()}, the model's classes from 0 to {count - 1}"
        raise ArgumentError(f"{seen}; number the labels as the model does, or use the model that fits this table.")
    return outputs, tuple(range(count) if names is None else names)


def _tables(labels: Array, answers: Array, names: tuple[int | str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    from sklearn import metrics

    numbers = range(len(names))
    measures = metrics.precision_recall_fscore_support(labels, answers, labels=numbers, zero_division=np.nan)
    precision, recall, f1, support = measures
    by_class = pd.DataFrame({"class": names, "support": support, "precision": precision, "recall": recall, "f1": f1})
    counts = metrics.confusion_matrix(labels, answers, labels=numbers)
    return by_class, pd.DataFrame(counts, pd.Index(names, name="true class"), pd.Index(names, name="answer"))


def _on_classes(by_class: pd.DataFrame) -> list[str]:
    judged = by_class[by_class["support"] >= _FEW_ROWS].sort_values("f1", ascending=False, kind="stable")
    if judged["f1"].nunique() < 2:
        return [f"No class with {_FEW_ROWS} rows or more is recognised better than another."]
    sentences = []
    for which, row in zip(("best", "worst"), judged.iloc[[0, -1]].to_dict("records"), strict=True):
        recall = wilson_interval(round(row["recall"] * row["support"]), row["support"])
        rows = f"the recall on its {row['support']:,} rows is {recall}"
        sentences.append(f"Class {row['class']} is recognised {which}, with an F1 of {row['f1']:.2f}: {rows}.")
    return sentences


def _on_confusion(confusion: pd.DataFrame) -> str:
    wrong = confusion.to_numpy(copy=True)
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return "No answer is wrong."
    true, answer = divmod(int(wrong.argmax()), len(wrong))
    most, names = wrong[true, answer], confusion.index
    of_class, of_wrong = percent(most / confusion.iloc[true].sum()), percent(most / wrong.sum())
    seen = f"{_rows(most)}, {of_class} of that class and {of_wrong} of all errors"
    return f"The most frequent confusion is {names[true]} taken for {names[answer]}: {seen}."


def _on_calibration(calibration: Calibration, accuracy: float) -> list[str]:
    if calibration.bins.empty:
        return []
    gap = calibration.overconfidence
    word, low, high = ("over", gap.low, gap.high) if gap.value > 0 else ("under", -gap.high, -gap.low)
    means = f"mean confidence {percent(gap.value + accuracy)}, accuracy {percent(accuracy)}"
    seen = f"not seen to be over- or under-confident on the whole: {means}"
    if low > 0:
        interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f}"
        seen = f"{word}-confident by {100 * abs(gap.value):.1f} points ({interval}): {means}"
    expected = f"a calibrated model would show about {calibration.error_if_calibrated:.3f} on as many rows"
    return [f"The model is {seen}.", f"The expected calibration error is {calibration.error:.3f}; {expected}."]


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"

"""How good a model's predictions are: measures computed from predictions and labels, and what they say in words."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ruo.answer import Answer, Shown
from ruo.client.scores import Scores
from ruo.errors import ArgumentError, TableError, count, needs
from ruo.stats import Interval, mean_interval
from ruo.tables import Labels, names_of_labels
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
class Evaluation(Shown):
    """How a model's predictions compare with the labels."""

    classes: tuple[int | str, ...]
    answers: pd.DataFrame  # the evaluated rows: row (in the table, from 0), label, answer (indices), confidence
    left_out: int  # rows without a prediction that is a number
    accuracy: Share
    by_class: pd.DataFrame  # class, support (rows), precision, recall, f1
    confusion: pd.DataFrame  # numbers of rows, a row per true class and a column per predicted one
    calibration: Calibration

    @property
    def rows(self) -> int:
        """The number of evaluated rows."""
        return len(self.answers)

    @property
    def baseline(self) -> tuple[int | str, float]:
        """The most frequent class, and the accuracy of always answering it."""
        support = self.by_class["support"]
        return self.classes[support.argmax()], float(support.max() / self.rows)

    def worst(self, n: int = 10) -> pd.DataFrame:
        """Return the n wrong answers with the highest confidence, with the names of their classes."""
        wrong = self.answers[self.answers["label"] != self.answers["answer"]]
        worst = wrong.sort_values("confidence", ascending=False, kind="stable", ignore_index=True).head(n)
        return worst.assign(**{name: [self.classes[number] for number in worst[name]] for name in ("label", "answer")})

    def sentences(self) -> list[str]:
        """Say what is seen: accuracy, best and worst class, the most frequent confusion, calibration."""
        frequent, share = self.baseline
        recall = percent(self.by_class["recall"].mean())
        return [
            f"Accuracy on {count(self.rows, 'row')}: {self.accuracy}.",
            f"Always answering {frequent}, the most frequent class, would reach {percent(share)}.",
            f"The mean recall, which counts every class alike whatever its rows, is {recall}.",
            *_on_classes(self.by_class),
            _on_confusion(self.confusion),
            *_on_calibration(self.calibration, self.accuracy.value),
        ]

    def verdict(self) -> str:
        """Say what is seen, and what may not be concluded and why."""
        support = self.by_class.set_index("class")["support"]
        rare = _list(f"{name} ({count(rows, 'row')})" for name, rows in support.items() if 0 < rows < _FEW_ROWS)
        absent = _list(str(name) for name, rows in support.items() if not rows)
        without = "not scored, or with a prediction that is not a number"
        no_confidence = "Nothing about confidence: a row's outputs are not probabilities that add up to 1."
        cautions = {
            f"Nothing about the rows left out: {count(self.left_out, 'row')} ({without}).": self.left_out,
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

    def _shown(self) -> Answer:
        facts = {"classes": len(self.classes), "rows left out": self.left_out, "baseline": percent(self.baseline[1])}
        facts |= {"mean recall": percent(self.by_class["recall"].mean()), "calibration_error": self.calibration.error}
        return Answer(self.sentences()[0], "", pd.DataFrame([facts]))


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
        The names of the classes, in the order of the model's outputs; by default the `prediction_names` of the
        scores, those of `scores.classes`, or numbers. Labels that have these names, also as numbers, are numbered by them.

    Examples
    --------
    >>> result = evaluate(score_csv("testset.csv", "http://localhost:8000"))
    >>> result.accuracy, result.by_class, result.worst(10)
    """
    if scores.labels is None:
        hint = "give each class a column Label_..., 1 in the rows of the class and 0 elsewhere, or pass label_prefix"
        raise TableError(f"There are no labels to compare with, or not for every row: {hint} to score_csv.")
    outputs = np.atleast_2d(scores.predictions.T).T  # (rows,) are (rows, 1)
    if outputs.ndim != 2:
        raise ArgumentError(f"Predictions have the shape {outputs.shape[1:]}; end the model with one number per class.")
    kept = np.isfinite(outputs).all(axis=1)  # a row that was not scored has NaN
    if not kept.any() or not outputs.size:
        why = "none has a prediction that is a number"
        raise ArgumentError(f"No row can be evaluated: {why}; scores.failures says why rows were not scored.")
    outputs = outputs[kept]
    if outputs.shape[1] == 1:
        if outputs.min() < 0 or outputs.max() > 1:
            seen = f"The model's one output ranges from {outputs.min():g} to {outputs.max():g}"
            raise ArgumentError(f"{seen}, so it is not a probability; end the model with a sigmoid.")
        outputs = np.hstack([1 - outputs, outputs])
    number, of_outputs = outputs.shape[1], scores.layout.names or ()
    # one name is that of a single output, which two classes share
    given = (of_outputs if len(of_outputs) > 1 else scores.classes) if classes is None else classes
    names: list[int | str] = [*(range(number) if given is None else given)]
    if len(set(names)) < len(names):
        raise ArgumentError(f"classes={_list(names)} has a name twice; name each output once.")
    if len(names) != number:
        seen = f"{count(number, 'output')} cannot have {count(len(names), 'name')} ({_list(names)})"
        raise ArgumentError(f"{seen}; name one for each output, with prediction_names= for names in a label column.")
    labels = _numbered(scores.labels[kept], scores, [*map(str, names)])
    return judge(np.flatnonzero(kept), outputs, labels, names, int((~kept).sum()))


def judge(rows: Array, outputs: Array, labels: Array, names: Sequence[int | str], left_out: int = 0) -> Evaluation:
    """Compare the outputs, (n, classes), of these `rows` of a table with their labels, which are class indices."""
    from sklearn import metrics

    numbers, answers, confidence = range(len(names)), outputs.argmax(axis=1), outputs.max(axis=1).astype(float)
    are_probabilities = outputs.min() >= -_ROUNDING and np.abs(outputs.sum(axis=1) - 1).max() <= _ROUNDING
    measures = metrics.precision_recall_fscore_support(labels, answers, labels=numbers, zero_division=np.nan)
    precision, recall, f1, support = measures
    support = support.astype(int)  # which scikit-learn makes floats of where no answer is right
    counts = metrics.confusion_matrix(labels, answers, labels=numbers)
    return Evaluation(
        classes=tuple(names),
        answers=pd.DataFrame({"row": rows, "label": labels, "answer": answers, "confidence": confidence}),
        left_out=left_out,
        accuracy=wilson_interval(counts.trace(), len(rows)),
        by_class=pd.DataFrame({"class": names, "support": support, "precision": precision, "recall": recall, "f1": f1}),
        confusion=pd.DataFrame(counts, pd.Index(names, name="true class"), pd.Index(names, name="answer")),
        calibration=_calibrate(confidence.clip(0, 1), labels == answers) if are_probabilities else Calibration(),
    )


def _list(names: Iterable[int | str]) -> str:
    """The names with commas between them; of many, the first twenty and how many more there are."""
    first, rest = (all_ := list(map(str, names)))[:20], len(all_) - 20
    return ", ".join(first) + (f" and {rest:,} more" if rest > 0 else "")


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
    from sklearn.calibration import calibration_curve

    edges = np.linspace(0, 1, 11)
    used, place, rows = np.unique(np.searchsorted(edges[1:-1], confidence), return_inverse=True, return_counts=True)
    shares, means = calibration_curve(right, confidence, n_bins=10)  # of the same bins
    bins = pd.DataFrame({"low": edges[used], "high": edges[used + 1], "rows": rows, "confidence": means})
    bins[_BINS[4:]] = [wilson_interval(round(share * n), n) for share, n in zip(shares, rows, strict=True)]
    error = np.average(np.abs(means - shares), weights=rows)
    variance = np.bincount(place, confidence * (1 - confidence))
    if_calibrated = np.sqrt(2 / np.pi * variance).sum() / len(right)  # the mean of |x| for a normal x, bin by bin
    gap, n = mean_interval(confidence - right), len(right)
    # where hardly an answer is wrong, the scatter of the sample says too little: that of a calibrated model is the least
    std = max(gap.std, float(np.sqrt(variance.sum() / n)))
    half = stats.t.ppf(0.975, n - 1) * std / n**0.5
    return Calibration(
        bins, float(error), float(if_calibrated), Interval(gap.value, gap.value - half, gap.value + half, n, std)
    )


def _numbered(labels: Labels, scores: Scores, names: list[str]) -> Labels:
    """The labels as places of the model's outputs, by the names of these, which may be numbers."""
    own, are_columns = scores.classes, scores.layout.classes is not None
    meant = names_of_labels(names, own) if are_columns or own is None else dict(enumerate(own))
    places = {name: place for place, name in enumerate(names)}
    present, inverse = np.unique(labels, return_inverse=True)
    found = [meant.get(label, str(label)) for label in present.tolist()]
    if unknown := [name for name in found if name not in places]:
        what = f"The label {unknown[0]!r} is none of the classes {_list(names)}"
        raise ArgumentError(f"{what}; name it as well, number the labels as the model does, or use another model.")
    return np.array([places[name] for name in found], np.int64)[inverse]


def _on_classes(by_class: pd.DataFrame) -> list[str]:
    judged = by_class[by_class["support"] >= _FEW_ROWS].sort_values("f1", ascending=False, kind="stable")
    if judged["f1"].round(2).nunique() < 2:  # as they are written
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
    seen = f"{count(most, 'row')}, {of_class} of that class and {of_wrong} of all errors"
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

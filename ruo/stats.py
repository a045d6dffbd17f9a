"""Means, intervals and comparisons of repeated runs, in numbers and in words. Knows nothing of servers.

Costs (seconds) are averaged by the arithmetic mean and rates (rows/s) by the harmonic mean: Hoefler and Belli,
"Scientific Benchmarking of Parallel Computing Systems", SC'15, rule 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ruo.errors import ArgumentError

__all__ = [
    "MIN_RUNS",
    "Comparison",
    "Interval",
    "compare",
    "compare_unpaired",
    "count",
    "digits",
    "harmonic_rate",
    "mean_interval",
    "sentence_case",
]

Values = Sequence[float] | np.ndarray[Any, Any] | pd.Series

# Fewer pairs that all point the same way do so by chance in one case of eight or more (2 / 2**4); and fewer unpaired
# runs say too little about their own scatter, on which the interval rests.
MIN_RUNS = 5

_RESAMPLES = 20_000


class Interval(NamedTuple):
    """A mean, its interval and the standard deviation, in the unit of the values; bounds are NaN where n is 1."""

    value: float
    low: float
    high: float
    n: int
    std: float


class Comparison(NamedTuple):
    """The times of a setting A over those of a setting B.

    Attributes
    ----------
    ratio : float
        The ratio of their geometric means; below 1, A is faster.
    low, high : float
        The 95 % interval of the ratio; NaN where one run cannot give one.
    n_a, n_b : int
        The number of runs of each; of pairs, where the runs are paired.
    is_paired : bool
        Whether each run of A has a counterpart in B, from the same block.
    """

    ratio: float
    low: float
    high: float
    n_a: int
    n_b: int
    is_paired: bool = False

    @property
    def has_enough_runs(self) -> bool:
        """Whether there are enough runs of both to show a difference."""
        return min(self.n_a, self.n_b) >= MIN_RUNS

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1 and rests on enough runs."""
        return self.has_enough_runs and (self.low > 1 or self.high < 1)

    @property
    def word(self) -> str:
        """What A is beside B: "faster", "slower" or "no difference seen"."""
        if not self.differs:
            return "no difference seen"
        return "faster" if self.ratio < 1 else "slower"

    def sentence(self, name_a: str, name_b: str) -> str:
        """The comparison in words."""
        ratio = "there is none to compare with" if np.isnan(self.ratio) else f"ratio of the times {digits(self.ratio)}"
        runs = count(self.n_a, "pair") if self.is_paired else f"{self.n_a} and {self.n_b} runs"
        interval = f"95 % interval {digits(self.low)} to {digits(self.high)}, {runs}"
        no_difference = f"No difference seen between {name_a} and {name_b}"
        if not self.has_enough_runs:
            few, enough = (f"{runs} of runs", "or more") if self.is_paired else (runs, "or more of each")
            return f"{no_difference}: {few} cannot show one, {MIN_RUNS} {enough} can ({ratio})."
        if not self.differs:
            return f"{no_difference}: {ratio} ({interval})."
        took = f"it takes {digits(self.ratio)} times as long ({interval})"
        return sentence_case(f"{name_a} is {self.word} than {name_b}: {took}.")


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """The arithmetic mean and its interval by Student's t distribution, which takes the values to be normal.

    Source: Student, "The Probable Error of a Mean", Biometrika 1908. Raises ArgumentError for no values.
    """
    array = _checked(values, confidence)
    n, mean = len(array), float(array.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), 1, float("nan"))
    std = float(array.std(ddof=1))
    low, high = stats.t.interval(confidence, n - 1, mean, std / n**0.5) if std else (mean, mean)
    return Interval(mean, float(low), float(high), n, std)


def harmonic_rate(amount: float, seconds: Values) -> float:
    """The mean rate, per second, of runs that each did `amount`: the harmonic mean of amount / seconds."""
    return amount * len(seconds) / float(np.sum(np.asarray(seconds, float)))


def compare(a: Values, b: Values, *, seed: int = 0, confidence: float = 0.95) -> Comparison:
    """The times `a` over the times `b` of runs in the same blocks.

    The ratio is the geometric mean of a / b over the pairs: what slows down a block cancels out, and one disturbed run
    weighs little. The interval is a bootstrap over the pairs, with percentiles widened for few of them,
    Phi(-sqrt(n / (n - 1)) t(n - 1)): Hesterberg, "What Teachers Should Know About the Bootstrap", The American
    Statistician 2015.

    Parameters
    ----------
    a, b : sequence of float, or Series
        Seconds. Series are paired by their index (the block), and blocks of only one of them are left out; anything
        else is paired by position.
    seed : int
        The same seed gives the same interval.
    confidence : float
        The coverage of the interval.

    Raises
    ------
    ArgumentError
        There is no pair.
    """
    first, second = _paired(a, b)
    n = len(first)
    logs = np.log(first / second)
    ratio = float(np.exp(logs.mean()))
    if n == 1:
        return Comparison(ratio, float("nan"), float("nan"), 1, 1, is_paired=True)
    draws = np.random.default_rng(seed).integers(0, n, (_RESAMPLES, n))
    ratios = np.exp(logs[draws].mean(axis=1))
    tail = float(stats.norm.cdf(stats.t.ppf((1 - confidence) / 2, n - 1) * (n / (n - 1)) ** 0.5))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Comparison(ratio, float(low), float(high), n, n, is_paired=True)


def compare_unpaired(a: Values, b: Values, *, confidence: float = 0.95) -> Comparison:
    """The times `a` over the times `b` of runs that have nothing in common but the setting; any number of each.

    The interval is Welch's, of the difference of the mean logarithms, since times are skewed to the right and a ratio
    is asked for: Welch, "The Generalization of 'Student's' Problem when Several Different Population Variances are
    Involved", Biometrika 1947. Raises ArgumentError for no times, and for times that are not above 0.
    """
    logs_a, logs_b = (np.log(_checked(values, confidence, above=0.0)) for values in (a, b))
    difference = float(logs_a.mean() - logs_b.mean())
    low = high = float("nan")
    if np.ptp(logs_a) == np.ptp(logs_b) == 0 and min(len(logs_a), len(logs_b)) > 1:
        low = high = difference
    elif min(len(logs_a), len(logs_b)) > 1:
        low, high = stats.ttest_ind(logs_a, logs_b, equal_var=False).confidence_interval(confidence)
    ratio, low, high = (float(np.exp(value)) for value in (difference, low, high))
    return Comparison(ratio, low, high, len(logs_a), len(logs_b))


def _paired(a: Values, b: Values) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        pairs = pd.concat([a, b], axis=1, join="inner").dropna()
        first, second = pairs.iloc[:, 0].to_numpy(float), pairs.iloc[:, 1].to_numpy(float)
    else:
        first, second = np.asarray(a, float), np.asarray(b, float)
    if len(first) != len(second):
        raise ArgumentError(f"{len(first)} values cannot be paired with {len(second)}; pass as many of each.")
    if not len(first):
        raise ArgumentError("There is nothing to compare; pass two settings that were run in the same blocks.")
    return first, second


def _checked(values: Values, confidence: float, above: float = -np.inf) -> np.ndarray[Any, Any]:
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence={confidence} must lie between 0 and 1, such as 0.95.")
    array = np.asarray(values, float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or not (array > above).all():
        kind = "a finite number" if above == -np.inf else f"a finite number above {above:g}"
        raise ArgumentError(f"values must be a sequence of one value or more, with every value {kind}.")
    return array


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it must be: "1 run", "2 runs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def digits(number: float) -> str:
    """Three significant digits, never as a power of ten; whole digits are all kept."""
    if not np.isfinite(number) or number == 0:
        return f"{number:g}"
    return f"{number:,.{max(0, 2 - int(np.floor(np.log10(abs(number)))))}f}"


def sentence_case(text: str) -> str:
    """The text with a capital letter first, and the rest as it is."""
    return text[:1].upper() + text[1:]

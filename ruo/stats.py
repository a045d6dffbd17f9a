"""Means, intervals and comparisons of repeated runs, in numbers and in words.

Costs (seconds) are averaged by the arithmetic mean and rates (rows/s) by the harmonic mean, which is the rows over the
mean seconds: Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems", SC'15, rule 3.
"""

import warnings
from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ruo.errors import ArgumentError

Array = np.ndarray[Any, Any]
Values = Sequence[float] | Array | pd.Series

# Four pairs all point the same way by chance in one case of eight (2 / 2**4); and four unpaired runs say too little
# about their own scatter, on which the interval rests.
MIN_RUNS = 5


class Interval(NamedTuple):
    """A mean with its 95 % interval and standard deviation; these are NaN where n is 1."""

    value: float
    low: float
    high: float
    n: int
    std: float


class Comparison(NamedTuple):
    """The `ratio` of the times of A over those of B (geometric means) with its 95 % interval; below 1, A is faster."""

    ratio: float
    low: float
    high: float
    n_a: int  # runs, or pairs of runs from the same block
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
        """How A compares with B: "faster", "slower" or "no difference seen"."""
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
        return f"{name_a[:1].upper()}{name_a[1:]} is {self.word} than {name_b}: {took}."


def mean_interval(values: Values) -> Interval:
    """The arithmetic mean with its 95 % interval by Student's t distribution, which assumes normal values."""
    array = _checked(values)
    n, mean = len(array), float(array.mean())
    if n == 1:
        return Interval(mean, nan, nan, 1, nan)
    std = float(array.std(ddof=1))
    low, high = stats.t.interval(0.95, n - 1, mean, std / n**0.5) if std else (mean, mean)
    return Interval(mean, float(low), float(high), n, std)


def compare(a: Values, b: Values, *, confidence: float = 0.95) -> Comparison:
    """Compare the times `a` with the times `b` of runs in the same blocks; Series are paired by index.

    The ratio is the geometric mean of a / b over the pairs, the interval a bootstrap with percentiles widened for few
    pairs: Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 2015.
    """
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        a, b = pd.concat([a, b], axis=1, join="inner").dropna().to_numpy(float).T
    first, second = np.asarray(a, float), np.asarray(b, float)
    n = len(first)
    if n != len(second):
        raise ArgumentError(f"{n} values cannot be paired with {len(second)}; pass as many of each.")
    if not n:
        raise ArgumentError("There is nothing to compare; pass two settings that were run in the same blocks.")
    logs = np.log(first / second)
    ratio = float(np.exp(logs.mean()))
    if n == 1:
        return Comparison(ratio, nan, nan, 1, 1, is_paired=True)
    draws = np.random.default_rng(0).integers(0, n, (20_000, n))  # the same runs always give the same interval
    ratios = np.exp(logs[draws].mean(axis=1))
    tail = float(stats.norm.cdf(stats.t.ppf((1 - confidence) / 2, n - 1) * (n / (n - 1)) ** 0.5))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Comparison(ratio, float(low), float(high), n, n, is_paired=True)


def compare_unpaired(a: Values, b: Values) -> Comparison:
    """Compare the times `a` with the times `b` of runs that have nothing in common but the setting; any number of each.

    The interval is Welch's, of the difference of the mean logarithms, since times are skewed to the right: Welch, "The
    Generalization of 'Student's' Problem when Several Different Population Variances are Involved", Biometrika 1947.
    """
    logs_a, logs_b = (np.log(_checked(values, above=0.0)) for values in (a, b))
    difference = logs_a.mean() - logs_b.mean()
    low = high = nan
    if min(len(logs_a), len(logs_b)) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where all runs of one took the same time
            low, high = stats.ttest_ind(logs_a, logs_b, equal_var=False).confidence_interval()
        if np.ptp(logs_a) == np.ptp(logs_b) == 0:
            low = high = difference
    ratio, low, high = (float(np.exp(value)) for value in (difference, low, high))
    return Comparison(ratio, low, high, len(logs_a), len(logs_b))


def r_squared(values: Array, fitted: Array) -> float:
    """The share of the variance of `values` that the `fitted` ones explain."""
    return 1 - float(((values - fitted) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def _checked(values: Values, above: float = -np.inf) -> Array:
    array = np.asarray(values, float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or not (array > above).all():
        kind = "a finite number" if above == -np.inf else f"a finite number above {above:g}"
        raise ArgumentError(f"values must be a sequence of one value or more, with every value {kind}.")
    return array


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where needed: "1 run", "2 runs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def digits(number: float) -> str:
    """A number to three significant digits, with all its whole digits and never as a power of ten."""
    if not np.isfinite(number) or number == 0:
        return f"{number:g}"
    return f"{number:,.{max(0, 2 - int(np.floor(np.log10(abs(number)))))}f}"

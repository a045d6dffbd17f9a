"""Means, intervals and comparisons of repeated runs, in numbers and in words.

Costs (seconds) are averaged by the arithmetic mean and rates (rows/s) by the harmonic mean, which is the rows over the
mean seconds; comparisons are of logarithms, since times are skewed to the right: Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems", SC'15, rule 3.
"""

import warnings
from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ruo.errors import count

Array = np.ndarray[Any, Any]
Values = Sequence[float] | Array | pd.Series

# Four pairs all point the same way by chance in one case of eight (2 / 2**4); and four unpaired runs say too little
# about their own scatter, on which the interval rests.
MIN_RUNS = 5


class Interval(NamedTuple):
    """A mean with its 95 % interval and standard deviation; these are NaN where n is 1, and all are where it is 0."""

    value: float
    low: float
    high: float
    n: int
    std: float


class Comparison(NamedTuple):
    """The `ratio` of the times of A over those of B (geometric means) with its interval; below 1, A is faster."""

    ratio: float
    low: float
    high: float
    n_a: int  # runs, or pairs of runs from the same block
    n_b: int
    is_paired: bool = False
    confidence: float = 0.95

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
        """How A compares with B: "faster", "slower", "no difference seen" or "too few runs"."""
        if not self.has_enough_runs:
            return "too few runs"
        if not self.differs:
            return "no difference seen"
        return "faster" if self.ratio < 1 else "slower"

    def sentence(self, name_a: str, name_b: str) -> str:
        """The comparison in words, with no digit that the runs do not support."""
        a = name_a[:1].upper() + name_a[1:]
        runs = count(self.n_a, "pair") if self.is_paired else f"{self.n_a} and {self.n_b} runs"
        if np.isnan(self.ratio):
            return f"{a} cannot be compared with {name_b}: there are {runs}."
        if not self.has_enough_runs:
            enough = "five" if self.is_paired else "five of each"
            return f"{a} {in_words(self.ratio)} {name_b} in {runs}; {enough} would rule out chance."
        texts = (to_noise(self.ratio, self.low, self.high, more) for more in range(9))
        ratio, *bounds = next(
            all_ for all_ in texts if not self.differs or 1 not in (float(text.replace(",", "")) for text in all_)
        )
        interval = f"{100 * self.confidence:.4g} % interval {' to '.join(bounds)}, {runs}"
        if not self.differs:
            return f"No difference seen between {name_a} and {name_b}: ratio of the times {ratio} ({interval})."
        return f"{a} is {self.word} than {name_b}: it takes {ratio} times as long ({interval})."


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """The arithmetic mean with its interval by Student's t distribution, which assumes normal values."""
    array = np.asarray(values, float)
    n, mean = len(array), float(array.mean()) if len(array) else nan
    if n < 2:
        return Interval(mean, nan, nan, n, nan)
    std = float(array.std(ddof=1))
    low, high = stats.t.interval(confidence, n - 1, mean, std / n**0.5) if std else (mean, mean)
    return Interval(mean, float(low), float(high), n, std)


def time_interval(times: Values) -> Interval:
    """The arithmetic mean of times with its 95 % interval, which is computed of their logarithms and so never below 0.

    Times are skewed to the right: Olsson, "Confidence Intervals for the Mean of a Log-Normal Distribution", Journal of
    Statistics Education 2005, whose interval here always holds the mean itself.
    """
    mean, _, _, n, _ = interval = mean_interval(times)
    if n < 2:
        return interval
    variance = np.log(np.asarray(times)).var(ddof=1)
    error = stats.t.ppf(0.975, n - 1) * (variance / n + variance**2 / (2 * (n - 1))) ** 0.5
    return interval._replace(low=mean * float(np.exp(-error)), high=mean * float(np.exp(error)))


def compare(a: pd.Series, b: pd.Series, *, confidence: float = 0.95, among: int = 1) -> Comparison:
    """Compare the times `a` with the times `b` of runs in the same blocks, which are the index of both.

    The ratio is the geometric mean of a / b over the pairs, the interval that of Student for the mean logarithm: what
    slows down a block cancels out, and the ratio of two times is lognormal where the times are. Where the two were
    picked `among` many pairs, some of which differ by chance, the interval is as much wider (Bonferroni).
    """
    confidence = 1 - (1 - confidence) / among
    mean = mean_interval(np.log((a / b).dropna()), confidence)
    ratio, low, high = map(float, np.exp(mean[:3]))
    return Comparison(ratio, low, high, mean.n, mean.n, is_paired=True, confidence=confidence)


def compare_unpaired(a: Values, b: Values) -> Comparison:
    """Compare the times `a` with the times `b` of runs that have nothing in common but the setting; any number of each.

    The interval is Welch's, of the difference of the mean logarithms, since times are skewed to the right: Welch, "The
    Generalization of 'Student's' Problem when Several Different Population Variances are Involved", Biometrika 1947.
    """
    if not len(a) or not len(b):
        return Comparison(nan, nan, nan, len(a), len(b))
    logs_a, logs_b = (np.log(np.asarray(values)) for values in (a, b))
    difference = logs_a.mean() - logs_b.mean()
    low = high = nan
    if min(len(logs_a), len(logs_b)) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where all runs of one took the same time
            low, high = stats.ttest_ind(logs_a, logs_b, equal_var=False).confidence_interval()
        if np.ptp(logs_a) == np.ptp(logs_b) == 0:
            low = high = difference
    ratio, low, high = map(float, np.exp([difference, low, high]))
    return Comparison(ratio, low, high, len(logs_a), len(logs_b))


def r_squared(values: Array, fitted: Array) -> float:
    """The share of the variance of `values` that the `fitted` ones explain."""
    scatter = float(((values - values.mean()) ** 2).sum())
    return 1 - float(((values - fitted) ** 2).sum()) / scatter if scatter else 1.0


def digits(number: float, significant: int = 3) -> str:
    """A number to some significant digits, with all its whole digits and never as a power of ten."""
    if not np.isfinite(number) or number == 0:
        return f"{number:g}"
    return f"{number:,.{max(0, significant - 1 - int(np.floor(np.log10(abs(number)))))}f}"


def to_noise(value: float, low: float, high: float, more: int = 0) -> list[str]:
    """A value and its interval without the digits that the interval makes meaningless, or with so many `more` of them.

    NaN bounds leave two digits.
    """
    half = (high - low) / 2
    if not np.isfinite(half) or half <= 0:
        return [digits(number, 2 if np.isnan(half) else 3 + more) for number in (value, low, high)]
    # from a leading 4 on, one digit of the noise is as fine as two of a smaller one
    decimals = more + max(0, -int(np.floor(np.log10(half / 3.5))), -int(np.floor(np.log10(abs(value)))))
    return [f"{number:,.{decimals}f}" for number in (value, low, high)]


def in_words(ratio: float) -> str:
    """A ratio of times as a verb: "is 22 times as fast as" or "takes 1.1 times as long as"."""
    return f"is {digits(1 / ratio, 2)} times as fast as" if ratio < 1 else f"takes {digits(ratio, 2)} times as long as"


def about(number: float) -> str:
    """A number to two significant digits: "150,000"."""
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else digits(number, 2)


def in_seconds(mean: Interval) -> str:
    """A mean time without the digits that its runs do not support."""
    return f"{to_noise(*mean[:3])[0] if mean.n >= MIN_RUNS else digits(mean.value, 2)} s"

"""Means, intervals and comparisons of repeated runs, and what they say in words. Knows nothing of servers.

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
    "MIN_PAIRS", "Comparison", "Interval", "MedianInterval", "compare", "digits", "harmonic_rate", "mean_interval",
    "median_interval", "verdict_on_sizes",
]  # fmt: skip

Values = Sequence[float] | np.ndarray[Any, Any] | pd.Series

# Fewer pairs that all point the same way do so by chance in one case of eight or more (2 / 2**4).
MIN_PAIRS = 5

_RESAMPLES = 20_000


class Interval(NamedTuple):
    """An estimate and the interval around it, all in the unit of the values; NaN bounds where n is 1."""

    value: float
    low: float
    high: float
    n: int
    std: float


class MedianInterval(NamedTuple):
    """A median, the two runs that bound it, and `coverage`: the chance that such an interval holds the true median."""

    value: float
    low: float
    high: float
    n: int
    coverage: float
    confidence: float

    @property
    def reached(self) -> bool:
        """Whether so many runs can give an interval of the confidence asked for."""
        return self.coverage >= self.confidence

    def sentence(self) -> str:
        """The median with its interval, and, where there are too few runs, how many would do."""
        text = f"median {digits(self.value)}, {_percent(self.coverage)} interval "
        text += f"{digits(self.low)} to {digits(self.high)}"
        if self.reached:
            return f"{text} (n={self.n})."
        enough = next(n for n in range(2, 1000) if _rank_coverage(n, 1) >= self.confidence)
        return (
            f"{text}: n={self.n} cannot give a rank interval of {_percent(self.confidence)}, since even the smallest and "
            f"the largest run hold the median with {_percent(self.coverage)} only; n={enough} can "
            f"({_percent(_rank_coverage(enough, 1))})."
        )


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """The arithmetic mean and its interval by Student's t distribution, which takes the values to be normal.

    mean ± t(n - 1) * s / sqrt(n), Student, "The Probable Error of a Mean", Biometrika 1908. Raises ValueError for
    no values.
    """
    array = _checked(values, confidence)
    n, mean = len(array), float(array.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), 1, float("nan"))
    std = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / n**0.5
    return Interval(mean, mean - half, mean + half, n, std)


def median_interval(values: Values, confidence: float = 0.95) -> MedianInterval:
    """The median and its interval between two ranks, which holds for any distribution.

    The k-th smallest and k-th largest of n values hold the median with 1 - 2 P(Binomial(n, 1/2) < k) (Conover,
    "Practical Nonparametric Statistics", section 3.2); k is the largest that reaches `confidence`. Five values cannot
    reach 95 %: the smallest and the largest hold the median with 93.75 %; six can, with 96.9 %. Where it is not
    reached, the interval is the widest there is and `coverage` says what it is worth. Raises ValueError for no values.
    """
    array = np.sort(_checked(values, confidence))
    n = len(array)
    ranks = [k for k in range(1, n // 2 + 1) if _rank_coverage(n, k) >= confidence]
    k = max(ranks, default=1)
    return MedianInterval(
        float(np.median(array)), float(array[k - 1]), float(array[n - k]), n, _rank_coverage(n, k), confidence
    )


def _rank_coverage(n: int, k: int) -> float:
    return max(0.0, 1 - 2 * float(stats.binom.cdf(k - 1, n, 0.5)))


def harmonic_rate(amount: float, seconds: Values) -> float:
    """The rate at which `amount` was done again and again, per second: the harmonic mean of amount / seconds."""
    return amount * len(seconds) / float(np.sum(np.asarray(seconds, float)))


class Comparison(NamedTuple):
    """The times of one setting over those of another: `ratio` of their means, its 95 % interval, and the pairs."""

    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 1 out, and rests on enough pairs to say so."""
        return self.pairs >= MIN_PAIRS and (self.low > 1 or self.high < 1)

    def sentence(self, name_a: str, name_b: str) -> str:
        """What the ratio says of the two, in words."""
        if self.pairs < MIN_PAIRS:
            return (
                f"No difference seen between {name_a} and {name_b}: {_count(self.pairs, 'pair')} of runs cannot show "
                f"one, {MIN_PAIRS} or more can (ratio of the times {digits(self.ratio)})."
            )
        bounds = f"95 % interval {digits(self.low)} to {digits(self.high)}, {self.pairs} pairs"
        if not self.differs:
            return (
                f"No difference seen between {name_a} and {name_b}: ratio of the times {digits(self.ratio)} ({bounds})."
            )
        word = "faster" if self.ratio < 1 else "slower"
        return _sentence(f"{name_a} is {word} than {name_b}: it takes {digits(self.ratio)} times as long ({bounds}).")


def compare(a: Values, b: Values, *, seed: int = 0, confidence: float = 0.95) -> Comparison:
    """The times `a` over the times `b`, paired: two Series by their index (the block), anything else by position.

    The geometric mean of a / b over the pairs, so that what slows down a block cancels out and one run that was
    disturbed weighs little, with a bootstrap interval that draws pairs.
    The percentiles are widened for few pairs, Phi(-sqrt(n / (n - 1)) t(n - 1)): Hesterberg, "What Teachers Should Know
    About the Bootstrap", The American Statistician 2015. The same `seed` gives the same interval. A Series' block
    that the other lacks is left out. Raises ValueError where nothing is left to pair.
    """
    first, second = _paired(a, b)
    n = len(first)
    logs = np.log(first / second)
    ratio = float(np.exp(logs.mean()))
    if n == 1:
        return Comparison(ratio, float("nan"), float("nan"), 1)
    draws = np.random.default_rng(seed).integers(0, n, (_RESAMPLES, n))
    ratios = np.exp(logs[draws].mean(axis=1))
    tail = float(stats.norm.cdf(stats.t.ppf((1 - confidence) / 2, n - 1) * (n / (n - 1)) ** 0.5))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Comparison(ratio, float(low), float(high), n)


def _paired(a: Values, b: Values) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if isinstance(a, pd.Series) and isinstance(b, pd.Series):
        both = pd.concat([a, b], axis=1, join="inner")
        both = both[both.notna().all(axis=1)]
        first, second = both.iloc[:, 0].to_numpy(float), both.iloc[:, 1].to_numpy(float)
    else:
        first, second = np.asarray(a, float), np.asarray(b, float)
    if len(first) != len(second):
        raise ArgumentError(f"{len(first)} values cannot be paired with {len(second)}; pass as many of each.")
    if not len(first):
        raise ArgumentError("There is nothing to compare; pass two settings that were run in the same blocks.")
    return first, second


def _checked(values: Values, confidence: float) -> np.ndarray[Any, Any]:
    array = np.asarray(values, float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ArgumentError("There must be one value or more in a row, and every value a number.")
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence={confidence} must lie between 0 and 1, such as 0.95.")
    return array


def verdict_on_sizes(runs: pd.DataFrame) -> str:
    """Which request size is fastest, by how much, and whether the claim of 2023 holds: "the whole set in one request".

    `runs` has a row per run: block, rows, rows_per_request, pipelined, forming_s, sending_s, total_s, and where it
    applies warmup and error; warm-ups do not count, failed runs only as failures. The time of a two-phase run is
    forming + sending, which is what was measured in 2023; that of a pipelined run is the whole job. Seconds.
    """
    if "warmup" in runs:
        runs = runs[~runs["warmup"].astype(bool)]
    if not len(runs):
        return "Nothing was measured, so nothing can be said."
    parts = []
    for pipelined in (False, True):
        mine = runs[runs["pipelined"].astype(bool) == pipelined]
        if len(mine):
            name = "Pipelined (the whole job)" if pipelined else "Two phases, as in 2023 (forming + sending)"
            parts.append(f"{name}:\n{_SizeTimes(mine, pipelined).text()}")
    return "\n\n".join(parts)


class _SizeTimes:
    """The times of the runs of one way of sending: a column per request size, a row per block."""

    def __init__(self, runs: pd.DataFrame, pipelined: bool) -> None:
        self.rows = int(runs["rows"].max())
        failed = runs["error"].notna() if "error" in runs else pd.Series(False, runs.index)
        self.failed = runs[failed].groupby("rows_per_request").size()
        good = runs[~failed]
        seconds = good["total_s"] if pipelined else good["forming_s"] + good["sending_s"]
        self.seconds = good.assign(seconds=seconds).pivot_table(
            index="block", columns="rows_per_request", values="seconds", aggfunc="mean"
        )
        self.means = self.seconds.mean().sort_values(kind="stable")

    def text(self) -> str:
        """The fastest, its lead over the next and the slowest, what failed, and the verdict on the claim."""
        lines = [*self._ranking(), *self._failures(), self._claim()]
        return "\n".join(f"- {line}" for line in lines)

    def _ranking(self) -> list[str]:
        if not len(self.means):
            return ["No run succeeded."]
        fastest, *others = self.means.index
        mean = mean_interval(self.seconds[fastest].dropna())
        rate = harmonic_rate(self.rows, self.seconds[fastest].dropna())
        around = "" if mean.n == 1 else f", 95 % interval {digits(mean.low)} to {digits(mean.high)}"
        runs = "one run" if mean.n == 1 else f"mean of {mean.n}{around}"
        lines = [_sentence(f"{self._name(fastest)} is fastest: {digits(mean.value)} s ({runs}), {rate:,.0f} rows/s.")]
        for which, size in zip(("next", "slowest"), [*others[:1], *others[1:][-1:]], strict=False):
            lead = self.means[size] / self.means[fastest] - 1
            about = self._compare(fastest, size).sentence(self._name(fastest), self._name(size))
            lines.append(f"The {which}, {self._name(size)}, takes {digits(100 * lead)} % longer. {about}")
        return lines

    def _failures(self) -> list[str]:
        return [
            _sentence(f"{self._name(size)}: {_count(int(count), 'run')} failed.") for size, count in self.failed.items()
        ]

    def _claim(self) -> str:
        verdict, reason = self._judge()
        return f'"The whole set in one request is fastest" (2023): {verdict}, since {reason}.'

    def _judge(self) -> tuple[str, str]:
        whole = self.rows
        if whole not in self.means.index:
            failed = whole in self.failed.index
            why = "the whole set in one request failed" if failed else "the whole set was not sent in one request"
            return ("not reproduced" if failed and len(self.means) else "cannot tell"), why
        others = [size for size in self.means.index if size != whole]
        if not others:
            return "cannot tell", "no smaller request was measured"
        against = {size: self._compare(whole, size) for size in others}
        faster = [size for size in others if against[size].differs and against[size].ratio > 1]
        if faster:
            return "not reproduced", f"{self._name(faster[0])} is faster"
        if all(comparison.differs for comparison in against.values()):
            return "reproduced", "it is faster than every other size"
        unclear = next(size for size in others if not against[size].differs)
        if against[unclear].pairs < MIN_PAIRS:
            return "cannot tell", f"{_count(against[unclear].pairs, 'block')} cannot show a difference; run {MIN_PAIRS}"
        return "cannot tell", f"no difference is seen between it and {self._name(unclear)}"

    def _compare(self, a: Any, b: Any) -> Comparison:
        both = self.seconds[[a, b]].dropna()
        if not len(both):
            return Comparison(float(self.means[a] / self.means[b]), float("nan"), float("nan"), 0)
        return compare(both[a], both[b])

    def _name(self, size: Any) -> str:
        return "the whole set in one request" if size == self.rows else f"{int(size):,} rows per request"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def digits(number: float) -> str:
    """Three significant digits, never as a power of ten; whole digits are all kept."""
    if not np.isfinite(number) or number == 0:
        return f"{number:g}"
    return f"{number:,.{max(0, 2 - int(np.floor(np.log10(abs(number)))))}f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"

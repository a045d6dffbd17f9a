"""Request sizes in words: which is fastest, whether the claim of 2023 holds, and what a request costs.

The claim of 2023 is that the whole set in one request is fastest.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize

from ruo.errors import count
from ruo.experiment.validity import WHOLE, name_of_size
from ruo.stats import MIN_RUNS, about, compare, digits, in_seconds, r_squared, time_interval, to_noise

_FITS = 0.5  # of the variance, which the costs have to explain


def verdict_on_sizes(runs: pd.DataFrame, confidence: float = 0.95) -> str:
    """The fastest request size of measured runs, its lead, and whether the claim of 2023 holds, by way of sending."""
    if not len(runs):
        return "Nothing was measured, so nothing can be said."
    names = {False: "Two phases, as in 2023 (forming + sending)", True: "Pipelined (the whole job)"}
    ways = {bool(way): _SizeTimes(of_way, bool(way), confidence) for way, of_way in runs.groupby("pipelined")}
    return "\n\n".join(f"{names[way]}:\n{times.text()}" for way, times in ways.items())


class RequestCost(NamedTuple):
    """What a job takes: `request_s` for every request and `row_s` for every row, in seconds of wall clock."""

    request_s: float
    row_s: float
    r_squared: float

    def sentence(self) -> str:
        """The cost in words, with the number of rows whose cost is ten times that of their request."""
        if self.request_s <= 0:
            return "In these runs small requests cost no more than large ones."
        fit = f"(R² {self.r_squared:.2f})"
        if self.r_squared < _FITS:
            return f"No cost is fitted: the times vary for other reasons than requests and rows {fit}."
        request_ms, row_us = digits(1e3 * self.request_s, 2), digits(1e6 * self.row_s, 2)
        if self.row_s <= 0:
            return f"A request costs {request_ms} ms, beside which its rows' cost is not seen {fit}."
        text = f"A request costs {request_ms} ms and a row {row_us} µs {fit}"
        rows = float(f"{10 * self.request_s / self.row_s:.1g}")
        return f"{text}: from about {rows:,.0f} rows on, a request's own cost is under a tenth of its rows'."


def fit_request_cost(requests: pd.Series, rows: int, seconds: pd.Series) -> RequestCost:
    """Fit seconds = requests * request_s + rows * row_s to runs over one table, neither cost below 0.

    The errors are relative, since a run of many requests takes longer. It takes two request sizes or more, without the
    whole table in one request, in which nothing overlaps.
    """
    times, columns = seconds.to_numpy(), np.column_stack([requests, np.full(len(requests), float(rows))])
    (request_s, row_s), _ = optimize.nnls(columns / times[:, None], np.ones(len(times)))
    return RequestCost(float(request_s), float(row_s), r_squared(times, columns @ [request_s, row_s]))


class _SizeTimes:
    """The times of the runs of one way of sending: a column per request size, by its name, and a row per block."""

    def __init__(self, runs: pd.DataFrame, pipelined: bool, confidence: float) -> None:
        self.compare = partial(compare, confidence=confidence)
        self.rows = int(runs["rows"].max())
        seconds = runs["total_s"] if pipelined else runs["forming_s"] + runs["sending_s"]
        runs = runs.assign(seconds=seconds, size=[name_of_size(size, self.rows) for size in runs["rows_per_request"]])
        self.failed = runs[runs["error"].notna()].groupby("size", sort=False).size()
        self.seconds = runs[runs["error"].isna()].pivot_table("seconds", "block", "size")
        self.means = self.seconds.mean().sort_values(kind="stable")

    def text(self) -> str:
        """The fastest, its lead over the next and the slowest, what failed, and the verdict on the claim."""
        verdict, reason = self._verdict_on_claim()
        lines = [
            *self._ranking(),
            *(f"{size}: {count(int(runs), 'run')} failed." for size, runs in self.failed.items()),
            f'"The whole set in one request is fastest" (2023): {verdict}, since {reason}.',
        ]
        return "\n".join(f"- {line[:1].upper()}{line[1:]}" for line in lines)

    def _ranking(self) -> list[str]:
        if not len(self.means):
            return ["No run succeeded."]
        fastest, *others = self.means.index
        mean = time_interval(self.seconds[fastest].dropna())
        bounds = to_noise(*mean[:3])[1:]
        interval = "" if mean.n < MIN_RUNS else f", 95 % interval {' to '.join(bounds)}"
        runs = "one run" if mean.n == 1 else f"mean of {mean.n}{interval}"
        rate = f"{in_seconds(mean)} ({runs}), {about(self.rows / mean.value)} rows/s"
        lines, words = [], set()
        pairs = (1, len(others) * len(self.means) // 2)  # of all pairs the fastest and the slowest differ most
        for which, size, among in zip(("next", "slowest"), [*others[:1], *others[1:][-1:]], pairs, strict=False):
            comparison = self.compare(self.seconds[fastest], self.seconds[size], among=among)
            words.add(comparison.word)
            lines.append(f"The {which} is {size}. {comparison.sentence(fastest, size)}")
        verb = " is fastest" if words == {"faster"} else " takes the least time on average" if words else ""
        return [f"{fastest}{verb}: {rate}.", *lines]

    def _verdict_on_claim(self) -> tuple[str, str]:
        if WHOLE not in self.means and WHOLE in self.failed:
            return "not reproduced" if len(self.means) else "cannot tell", f"{WHOLE} failed"
        if WHOLE not in self.means:
            return "cannot tell", "the whole set was not sent in one request"
        # the fastest first, so that it is named and not just any that is faster
        others = [size for size in self.means.index if size != WHOLE]
        if not others:
            return "cannot tell", f"no smaller request {'succeeded' if len(self.failed) else 'was measured'}"
        whole, among = self.seconds[WHOLE], len(others)
        comparisons = {size: self.compare(whole, self.seconds[size], among=among) for size in others}
        for size, comparison in comparisons.items():
            if comparison.word == "slower":
                return "not reproduced", f"{size} is faster"
        for size, comparison in comparisons.items():
            if not comparison.differs:
                few = f"{count(comparison.n_a, 'block')} cannot show a difference; run {MIN_RUNS}"
                unseen = f"no difference is seen between it and {size}"
                return "cannot tell", unseen if comparison.has_enough_runs else few
        return "reproduced", "it is faster than every other size"

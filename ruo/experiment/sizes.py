"""Which request size is fastest, and whether the claim of 2023 holds: "the whole set in one request"."""

from __future__ import annotations

from math import nan
from typing import Any

import pandas as pd

from ruo.stats import MIN_RUNS, Comparison, compare, count, digits, harmonic_rate, mean_interval, sentence_case

__all__ = ["verdict_on_sizes"]


def verdict_on_sizes(runs: pd.DataFrame) -> str:
    """The fastest request size, its lead, and whether the claim of 2023 holds, for each way of sending.

    The time of a two-phase run is forming + sending, as in 2023; that of a pipelined run is the whole job.
    """
    runs = runs[~runs["warmup"]]
    if not len(runs):
        return "Nothing was measured, so nothing can be said."
    parts = []
    for pipelined in (False, True):
        selected = runs[runs["pipelined"] == pipelined]
        if len(selected):
            name = "Pipelined (the whole job)" if pipelined else "Two phases, as in 2023 (forming + sending)"
            parts.append(f"{name}:\n{_SizeTimes(selected, pipelined).text()}")
    return "\n\n".join(parts)


class _SizeTimes:
    """The times of the runs of one way of sending: a column per request size, a row per block."""

    def __init__(self, runs: pd.DataFrame, pipelined: bool) -> None:
        self.rows = int(runs["rows"].max())
        failed = runs["error"].notna()
        self.failed = runs[failed].groupby("rows_per_request").size()
        good = runs[~failed]
        good = good.assign(seconds=good["total_s"] if pipelined else good["forming_s"] + good["sending_s"])
        self.seconds = good.pivot_table(index="block", columns="rows_per_request", values="seconds", aggfunc="mean")
        self.means = self.seconds.mean().sort_values(kind="stable")

    def text(self) -> str:
        """The fastest, its lead over the next and the slowest, what failed, and the verdict on the claim."""
        verdict, reason = self._verdict_on_claim()
        lines = [
            *self._ranking(),
            *(f"{self._name(size)}: {count(int(runs), 'run')} failed." for size, runs in self.failed.items()),
            f'"The whole set in one request is fastest" (2023): {verdict}, since {reason}.',
        ]
        return "\n".join(f"- {sentence_case(line)}" for line in lines)

    def _ranking(self) -> list[str]:
        if not len(self.means):
            return ["No run succeeded."]
        fastest, *others = self.means.index
        seconds = self.seconds[fastest].dropna()
        mean, rate = mean_interval(seconds), harmonic_rate(self.rows, seconds)
        interval = f", 95 % interval {digits(mean.low)} to {digits(mean.high)}"
        runs = "one run" if mean.n == 1 else f"mean of {mean.n}{interval}"
        lines = [f"{self._name(fastest)} is fastest: {digits(mean.value)} s ({runs}), {rate:,.0f} rows/s."]
        for which, size in zip(("next", "slowest"), [*others[:1], *others[1:][-1:]], strict=False):
            lead = self.means[size] / self.means[fastest] - 1
            comparison = self._compare(fastest, size).sentence(self._name(fastest), self._name(size))
            lines.append(f"The {which}, {self._name(size)}, takes {digits(100 * lead)} % longer. {comparison}")
        return lines

    def _verdict_on_claim(self) -> tuple[str, str]:
        whole = self.rows
        if whole not in self.means.index:
            failed = whole in self.failed.index
            reason = "the whole set in one request failed" if failed else "the whole set was not sent in one request"
            return ("not reproduced" if failed and len(self.means) else "cannot tell"), reason
        comparisons = {size: self._compare(whole, size) for size in self.means.index if size != whole}
        if not comparisons:
            return "cannot tell", "no smaller request was measured"
        faster = [size for size, comparison in comparisons.items() if comparison.differs and comparison.ratio > 1]
        if faster:
            return "not reproduced", f"{self._name(faster[0])} is faster"
        unclear = next((size for size, comparison in comparisons.items() if not comparison.differs), None)
        if unclear is None:
            return "reproduced", "it is faster than every other size"
        if not comparisons[unclear].has_enough_runs:
            blocks = count(comparisons[unclear].n_a, "block")
            return "cannot tell", f"{blocks} cannot show a difference; run {MIN_RUNS}"
        return "cannot tell", f"no difference is seen between it and {self._name(unclear)}"

    def _compare(self, a: Any, b: Any) -> Comparison:
        pairs = self.seconds[[a, b]].dropna()
        if not len(pairs):
            return Comparison(float(self.means[a] / self.means[b]), nan, nan, 0, 0, is_paired=True)
        return compare(pairs[a], pairs[b])

    def _name(self, size: Any) -> str:
        return "the whole set in one request" if size == self.rows else f"{int(size):,} rows per request"

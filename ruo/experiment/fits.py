"""Laws fitted to runs: what a request and a row cost, and how throughput grows with the number of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

__all__ = ["MIN_POINTS", "RequestCost", "ScalingLaw", "fit_amdahl", "fit_request_cost", "fit_usl"]

# Three parameters through three numbers of replicas fit anything; with twice as many a bad fit shows.
MIN_POINTS = 6


@dataclass(frozen=True)
class ScalingLaw:
    """Throughput over replicas N: gamma N / (1 + alpha (N - 1) + beta N (N - 1)).

    `gamma` is one replica's throughput where nothing is in the way, `alpha` the share of the work that waits for one
    another (contention), `beta` what replicas cost one another (coherency), 0 by Amdahl's law. `r_squared` is the share
    of the variation that the law explains. Gunther, "Guerrilla Capacity Planning", 2007; Amdahl, AFIPS 1967.
    """

    gamma: float
    alpha: float
    beta: float
    r_squared: float
    points: int

    def throughput(self, replicas: float) -> float:
        """The throughput of so many replicas, in the unit of the points."""
        return self.gamma * replicas / (1 + self.alpha * (replicas - 1) + self.beta * replicas * (replicas - 1))

    @property
    def peak(self) -> float:
        """The number of replicas beyond which throughput falls: sqrt((1 - alpha) / beta); infinite where beta is 0."""
        return float(np.sqrt((1 - self.alpha) / self.beta)) if self.beta > 0 else np.inf

    def sentence(self) -> str:
        """The law in words."""
        limit = f"at most {1 / self.alpha:,.1f} times one replica" if self.alpha > 0 else "without a limit"
        end = f"throughput falls beyond {self.peak:,.0f} replicas" if self.beta > 0 else f"it grows to {limit}"
        return (
            f"The fitted law (alpha {self.alpha:.3g}, beta {self.beta:.3g}, R² {self.r_squared:.3f}, {self.points} points) "
            f"says: {end}."
        )


def fit_usl(replicas: Sequence[float], throughput: Sequence[float]) -> ScalingLaw:
    """The Universal Scalability Law through points of throughput over replicas, by least squares.

    Raises ValueError for fewer than 6 different numbers of replicas.
    """
    return _fit(replicas, throughput, with_beta=True)


def fit_amdahl(replicas: Sequence[float], throughput: Sequence[float]) -> ScalingLaw:
    """Amdahl's law through points of throughput over replicas: `fit_usl` with beta 0."""
    return _fit(replicas, throughput, with_beta=False)


def _fit(replicas: Sequence[float], throughput: Sequence[float], with_beta: bool) -> ScalingLaw:
    n, x = np.asarray(replicas, float), np.asarray(throughput, float)
    if len(n) != len(x):
        raise ValueError(f"{len(n)} numbers of replicas do not go with {len(x)} throughputs.")
    points = len(np.unique(n))
    if points < MIN_POINTS:
        raise ValueError(
            f"{points} numbers of replicas cannot show a law; {MIN_POINTS} or more can, from one to as many as there are."
        )

    def law(n: Any, gamma: float, alpha: float, beta: float = 0.0) -> Any:
        return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))

    begin = [float((x / n).max()), 0.05, *([1e-3] if with_beta else [])]
    high = [np.inf, 1.0, *([1.0] if with_beta else [])]
    found, _ = optimize.curve_fit(law, n, x, begin, bounds=([0.0] * len(begin), high), x_scale=begin)
    gamma, alpha, beta = (*map(float, found), 0.0)[:3]
    rest = float(((x - law(n, *found)) ** 2).sum()) / float(((x - x.mean()) ** 2).sum())
    return ScalingLaw(gamma, alpha, beta, 1 - rest, points)


@dataclass(frozen=True)
class RequestCost:
    """What a job takes: `request_s` for every request and `row_s` for every row, in seconds of wall clock."""

    request_s: float
    row_s: float
    r_squared: float

    def sentence(self) -> str:
        """The cost in words: how many rows a request must carry for its own cost to be a tenth of theirs."""
        text = f"A request costs {1e3 * self.request_s:.3g} ms and a row {1e6 * self.row_s:.3g} µs (R² {self.r_squared:.2f})"
        if self.request_s <= 0:
            return f"{text}: in these runs small requests cost no more than large ones."
        rows = 10 * self.request_s / self.row_s
        return f"{text}: from {rows:,.0f} rows on, a request's own cost is under a tenth of its rows'."


def fit_request_cost(requests: Sequence[float], rows: int, seconds: Sequence[float]) -> RequestCost:
    """Seconds of a job = requests * request_s + rows * row_s, by least squares, neither below 0.

    `requests` and `seconds` are of the runs of one table with `rows` rows. The fit is of relative errors, since a run of
    many requests takes longer. Leave out the run with the whole table in one request, in which nothing overlaps.
    Raises ValueError where all runs have as many requests.
    """
    counts, times = np.asarray(requests, float), np.asarray(seconds, float)
    if len(np.unique(counts)) < 2:
        raise ValueError("One request size cannot tell what a request costs and what a row; measure two or more.")
    columns = np.column_stack([counts, np.full(len(counts), float(rows))]) / times[:, None]
    (request_s, row_s), _ = optimize.nnls(columns, np.ones(len(times)))
    rest = times - counts * request_s - rows * row_s
    r_squared = 1 - float((rest**2).sum()) / float(((times - times.mean()) ** 2).sum())
    return RequestCost(float(request_s), float(row_s), r_squared)

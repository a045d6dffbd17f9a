"""Laws fitted to runs: what a request and a row cost, and how throughput grows with the number of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from ruo.errors import ExperimentError

__all__ = ["MIN_POINTS", "RequestCost", "ScalingLaw", "fit_request_cost", "fit_usl"]

# Three parameters through three numbers of replicas fit anything; with twice as many a bad fit shows.
MIN_POINTS = 6


@dataclass(frozen=True)
class ScalingLaw:
    """Throughput over replicas N: gamma N / (1 + alpha (N - 1) + beta N (N - 1)).

    `gamma` is one replica's throughput without contention, `alpha` the share of the work that is done one after the
    other (contention), `beta` the cost of keeping replicas in step (coherency). `r_squared` is the share of the
    variation that the law explains. Source: Gunther, "Guerrilla Capacity Planning", 2007.
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

    Raises ExperimentError for fewer than 6 different numbers of replicas.
    """
    n, x = np.asarray(replicas, float), np.asarray(throughput, float)
    points = len(np.unique(n))
    if points < MIN_POINTS:
        raise ExperimentError(
            f"{points} numbers of replicas cannot show a law; {MIN_POINTS} or more can, from one to as many as there are."
        )

    def law(n: Any, gamma: float, alpha: float, beta: float) -> Any:
        return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))

    start = [float((x / n).max()), 0.05, 1e-3]
    bounds = ([0.0, 0.0, 0.0], [np.inf, 1.0, 1.0])
    parameters, _ = optimize.curve_fit(law, n, x, start, bounds=bounds, x_scale=start)
    residual = float(((x - law(n, *parameters)) ** 2).sum()) / float(((x - x.mean()) ** 2).sum())
    gamma, alpha, beta = map(float, parameters)
    return ScalingLaw(gamma, alpha, beta, 1 - residual, points)


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
    Raises ExperimentError where all runs have the same number of requests.
    """
    counts, times = np.asarray(requests, float), np.asarray(seconds, float)
    if len(np.unique(counts)) < 2:
        raise ExperimentError("One request size cannot tell what a request costs and what a row; measure two or more.")
    columns = np.column_stack([counts, np.full(len(counts), float(rows))]) / times[:, None]
    (request_s, row_s), _ = optimize.nnls(columns, np.ones(len(times)))
    residuals = times - counts * request_s - rows * row_s
    r_squared = 1 - float((residuals**2).sum()) / float(((times - times.mean()) ** 2).sum())
    return RequestCost(float(request_s), float(row_s), r_squared)

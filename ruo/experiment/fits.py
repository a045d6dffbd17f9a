"""Laws fitted to runs: what a request and a row cost, and how throughput grows with the number of replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from ruo.errors import ExperimentError

__all__ = ["RequestCost", "ScalingLaw", "fit_request_cost", "fit_usl"]

# Three parameters fit any three numbers of replicas; with twice as many, a bad fit shows.
_MIN_POINTS = 6


@dataclass(frozen=True)
class ScalingLaw:
    """The Universal Scalability Law: Gunther, "Guerrilla Capacity Planning", 2007.

    Throughput over N replicas is gamma N / (1 + alpha (N - 1) + beta N (N - 1)): gamma is that of one replica without
    contention, alpha the share of the work that is serial, and beta the cost of keeping replicas in step.
    """

    gamma: float
    alpha: float
    beta: float
    r_squared: float
    points: int

    @property
    def peak(self) -> float:
        """The number of replicas beyond which throughput falls; infinite where beta is 0."""
        return float(np.sqrt((1 - self.alpha) / self.beta)) if self.beta > 0 else np.inf

    def sentence(self) -> str:
        """The law in words."""
        limit = f"at most {1 / self.alpha:,.1f} times one replica" if self.alpha > 0 else "without a limit"
        end = f"throughput falls beyond {self.peak:,.0f} replicas" if self.beta > 0 else f"it grows to {limit}"
        return (
            f"The fitted law (alpha {self.alpha:.3g}, beta {self.beta:.3g}, R² {self.r_squared:.3f}, {self.points} "
            f"points) says: {end}."
        )


def fit_usl(replicas: ArrayLike, throughput: ArrayLike) -> ScalingLaw:
    """Fit the Universal Scalability Law to points of throughput over replicas, by least squares."""
    n, x = np.asarray(replicas, float), np.asarray(throughput, float)
    points = len(np.unique(n))
    if points < _MIN_POINTS:
        raise ExperimentError(
            f"{points} numbers of replicas cannot show a law; "
            f"{_MIN_POINTS} or more can, from one to as many as there are."
        )

    def usl(n: Any, gamma: float, alpha: float, beta: float) -> Any:
        return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))

    start = [float((x / n).max()), 0.05, 1e-3]
    parameters, _ = optimize.curve_fit(usl, n, x, start, bounds=(0, [np.inf, 1, 1]), x_scale=start)
    gamma, alpha, beta = map(float, parameters)
    return ScalingLaw(gamma, alpha, beta, _r_squared(x, usl(n, *parameters)), points)


@dataclass(frozen=True)
class RequestCost:
    """What a job takes: `request_s` for every request and `row_s` for every row, in seconds of wall clock."""

    request_s: float
    row_s: float
    r_squared: float

    def sentence(self) -> str:
        """The cost in words, with the number of rows whose cost is ten times that of their request."""
        request_ms, row_us = 1e3 * self.request_s, 1e6 * self.row_s
        text = f"A request costs {request_ms:.3g} ms and a row {row_us:.3g} µs (R² {self.r_squared:.2f})"
        if self.request_s <= 0:
            return f"{text}: in these runs small requests cost no more than large ones."
        rows = 10 * self.request_s / self.row_s
        return f"{text}: from {rows:,.0f} rows on, a request's own cost is under a tenth of its rows'."


def fit_request_cost(requests: ArrayLike, rows: int, seconds: ArrayLike) -> RequestCost:
    """Fit seconds = requests * request_s + rows * row_s to runs over one table, neither cost below 0.

    The errors are relative, since a run of many requests takes longer. Leave out the run with the whole table in one
    request, in which nothing overlaps.
    """
    counts, times = np.asarray(requests, float), np.asarray(seconds, float)
    if len(np.unique(counts)) < 2:
        raise ExperimentError("One request size cannot tell what a request costs and what a row; measure two or more.")
    columns = np.column_stack([counts, np.full(len(counts), float(rows))]) / times[:, None]
    (request_s, row_s), _ = optimize.nnls(columns, np.ones(len(times)))
    return RequestCost(float(request_s), float(row_s), _r_squared(times, counts * request_s + rows * row_s))


def _r_squared(values: np.ndarray[Any, Any], fitted: np.ndarray[Any, Any]) -> float:
    return 1 - float(((values - fitted) ** 2).sum()) / float(((values - values.mean()) ** 2).sum())

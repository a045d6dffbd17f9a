"""The laws: published data give the published parameters, and too few points give none."""

from __future__ import annotations

import numpy as np
import pytest

from ruo.errors import ExperimentError
from ruo.experiment.fits import fit_request_cost, fit_usl

# SPEC SDM91, from Gunther, "Guerrilla Capacity Planning", chapter 4; also in the R package usl
SDM91 = ([1, 18, 36, 72, 108, 144, 216], [64.9, 995.9, 1652.4, 1853.2, 1828.9, 1775.0, 1702.2])


def test_published_data_give_the_published_law() -> None:
    """The Universal Scalability Law of SPEC SDM91 has the parameters that the R package gives."""
    law = fit_usl(*SDM91)

    assert law.gamma == pytest.approx(90.0, abs=0.05)
    assert law.alpha == pytest.approx(0.0277, abs=5e-5)
    assert law.beta == pytest.approx(0.000104, abs=1e-6)
    assert law.peak == pytest.approx(96.5, abs=0.5)
    assert law.r_squared > 0.98
    assert "throughput falls beyond 97 replicas" in law.sentence()


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.1, 0.0), (0.05, 0.002)])
def test_a_law_is_found_again(alpha: float, beta: float) -> None:
    """Throughputs that follow a law, with a little noise, give it back."""
    n = np.arange(1, 13)
    exact = 1_000 * n / (1 + alpha * (n - 1) + beta * n * (n - 1))
    law = fit_usl(n, exact * np.random.default_rng(0).normal(1, 0.005, len(n)))

    assert law.alpha == pytest.approx(alpha, abs=0.02)
    assert law.beta == pytest.approx(beta, abs=1e-3)
    assert law.r_squared > 0.999


def test_five_points_are_refused() -> None:
    """Fewer than six different numbers of replicas cannot show a law, however often each was run."""
    with pytest.raises(ExperimentError, match="5 numbers of replicas cannot show a law; 6 or more can"):
        fit_usl([1, 2, 3, 4, 5] * 3, [1, 2, 3, 4, 5] * 3)


def test_the_cost_of_a_request_and_of_a_row_is_found_again() -> None:
    """Runs that cost 1 ms a request and 2 µs a row say so."""
    requests = np.array([500, 100, 50, 10, 5] * 5)
    seconds = (requests * 1e-3 + 500_000 * 2e-6) * np.random.default_rng(0).normal(1, 0.01, len(requests))
    cost = fit_request_cost(requests, 500_000, seconds)

    assert cost.request_s == pytest.approx(1e-3, rel=0.05)
    assert cost.row_s == pytest.approx(2e-6, rel=0.05)
    assert "a request's own cost is under a tenth" in cost.sentence()


def test_requests_that_cost_nothing() -> None:
    """Where small requests are even faster, a request costs nothing, never less."""
    cost = fit_request_cost([500, 50, 5], 500_000, [1.0, 1.1, 1.2])

    assert cost.request_s == 0
    assert "no more than large ones" in cost.sentence()


def test_one_size_tells_no_cost() -> None:
    """One request size cannot tell the two costs apart."""
    with pytest.raises(ExperimentError, match="measure two or more"):
        fit_request_cost([50, 50], 500_000, [1.0, 1.1])

"""Intervals and comparisons against published numbers, closed forms and simulation; verdicts on made-up runs."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from ruo.stats import MIN_RUNS, compare, compare_unpaired, mean_interval

# Cushny and Peebles 1905, the sleep data of Student's paper of 1908; R prints for t.test(sleep, paired): mean 1.58,
# 95 % interval 0.7001142 to 2.4598858
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_student_interval_is_the_published_one() -> None:
    """The interval of Student's own data is the one that R prints; a single value has no bounds."""
    result = mean_interval(SLEEP)
    assert result.value == pytest.approx(1.58)
    assert (result.low, result.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert result.n == 10
    assert result.std == pytest.approx(1.229995, abs=1e-6)
    one = mean_interval([2.0])
    assert one.value == 2
    assert np.isnan([one.low, one.high, one.std]).all()


def test_the_interval_is_the_same_each_time_and_widens_with_the_confidence() -> None:
    """The bootstrap draws the same resamples each time; more confidence needs a wider interval."""
    a, b = np.random.default_rng(0).random((2, 12)) + 1
    assert compare(a, b) == compare(a, b)
    assert compare(a, b, confidence=0.99).low < compare(a, b, confidence=0.9).low


def test_bootstrap_agrees_with_all_resamples() -> None:
    """The bounds are percentiles of the ratios of all 3,125 resamples of five pairs, widened as Hesterberg says."""
    a, b = np.array([1.0, 1.3, 1.1, 1.6, 1.2]), np.array([1.0, 1.1, 1.2, 1.1, 1.3])
    draws = np.array(list(itertools.product(range(5), repeat=5)))
    ratios = np.exp(np.log(a / b)[draws].mean(axis=1))
    result = compare(a, b)
    # Phi(-sqrt(5 / 4) * 2.776445) = 0.000953
    assert result.low == pytest.approx(np.quantile(ratios, 0.000953), abs=0.02)
    assert result.high == pytest.approx(np.quantile(ratios, 1 - 0.000953), abs=0.02)
    assert result.ratio == pytest.approx(float(np.prod(a / b)) ** 0.2)


def test_interval_holds_the_truth_often_enough() -> None:
    """Of 300 intervals from five pairs of equal settings, nine in ten or more hold 1."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        blocks = random.normal(1, 0.1, 5)
        result = compare(blocks + random.normal(0, 0.03, 5), blocks + random.normal(0, 0.03, 5))
        held += result.low <= 1 <= result.high
    assert held >= 270


def test_series_are_paired_by_block() -> None:
    """Blocks that one setting lacks are left out and order does not count; of equal ratios the interval is the ratio."""
    a = pd.Series({1: 1.0, 2: 2.0, 3: 4.0, 9: 100.0, 4: 5.0, 5: 7.0})
    b = pd.Series({3: 8.0, 2: 4.0, 1: 2.0, 7: 100.0, 5: 14.0, 4: 10.0})
    assert compare(a, b)[:4] == pytest.approx((0.5, 0.5, 0.5, 5))
    assert compare(a, b).differs


@pytest.mark.parametrize(
    ("function", "samples", "sentence"),
    [
        *((mean_interval, [values], "one value or more") for values in ([], [np.nan, 1], [[1, 2]])),
        *((compare, pair, "pass") for pair in ([[1, 2], [1]], [[], []])),
        *(
            (compare_unpaired, [values, [1.0, 2.0]], "every value a finite number above 0")
            for values in ([], [1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf], [[1.0]])
        ),
    ],
)
def test_what_has_no_interval(function: Callable, samples: list, sentence: str) -> None:
    """No values, values without a pair, and values that are no numbers, or no times, are refused."""
    with pytest.raises(ValueError, match=sentence):
        function(*samples)


@pytest.mark.parametrize(
    ("factor", "runs", "words"),
    [
        (0.5, 6, "Big is faster than small: it takes 0.500 times as long"),
        (2.0, 6, "Big is slower than small: it takes 2.00 times as long"),
        (1.0, 6, "No difference seen between big and small"),
        (0.5, 4, "4 pairs of runs cannot show one, 5 or more can"),
        (0.5, 1, "1 pair of runs cannot show one"),
    ],
)
def test_sentence(factor: float, runs: int, words: str) -> None:
    """A comparison says faster, slower, or that no difference is seen, and too few pairs never see one."""
    times = np.linspace(1, 2, runs)
    assert words in compare(factor * times, times).sentence("big", "small")


def test_interval_is_that_of_welch() -> None:
    """The interval is that which SciPy computes of the logarithms; swapping the two gives the reciprocal."""
    random = np.random.default_rng(3)
    a, b = random.lognormal(0.2, 0.1, 7), random.lognormal(0, 0.4, 13)
    expected = scipy_stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    result, swapped = compare_unpaired(a, b), compare_unpaired(b, a)
    assert result[1:3] == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert result.ratio == pytest.approx(scipy_stats.gmean(a) / scipy_stats.gmean(b))
    assert result[3:5] == (7, 13)
    assert swapped[:3] == pytest.approx((1 / result.ratio, 1 / result.high, 1 / result.low))


def test_runs_without_scatter() -> None:
    """Runs that all take the same time have an interval of no width."""
    result = compare_unpaired([2.0] * 5, [1.0] * 5)
    assert result[:3] == pytest.approx((2, 2, 2))
    assert result.word == "slower"
    one_steady = compare_unpaired([2.0] * 5, [1.0, 1.1, 1.2, 1.3, 1.25])
    assert 1 < one_steady.low < one_steady.ratio < one_steady.high


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 10), (4, 10), (10, 4), (2, 2)])
def test_few_runs_cannot_show_a_difference(n_a: int, n_b: int) -> None:
    """With fewer than five runs of one of them no difference is seen, however large, and the sentence says why."""
    result = compare_unpaired(np.linspace(9, 10, n_a), np.linspace(1, 1.1, n_b))
    assert result.word == "no difference seen"
    assert f"{n_a} and {n_b} runs cannot show one, {MIN_RUNS} or more of each can (ratio of the times" in result.sentence("B", "A")  # fmt: skip


def unpaired(random: np.random.Generator, factor: float, n: int) -> Any:
    """Two systems, each measured `n` times for itself with 3 % of noise."""
    return compare_unpaired(factor * random.lognormal(0, 0.03, n), random.lognormal(0, 0.03, n))


def paired(random: np.random.Generator, factor: float, n: int) -> Any:
    """Two systems in the same blocks, which add 5 % of noise to both."""
    blocks = random.lognormal(0, 0.05, n)
    return compare(factor * blocks * random.lognormal(0, 0.03, n), blocks * random.lognormal(0, 0.03, n))


both = pytest.mark.parametrize("measure", [unpaired, paired])


@both
def test_identical_systems_show_no_difference(measure: Callable) -> None:
    """Of 20 comparisons of a system with itself, 18 or more see no difference."""
    random = np.random.default_rng(20)
    assert sum(not measure(random, 1.0, 10).differs for _ in range(20)) >= 18


@both
@pytest.mark.parametrize("factor", [1.1, 1 / 1.1])
def test_a_change_of_a_tenth_is_seen(measure: Callable, factor: float) -> None:
    """Of 20 comparisons with a system that is 10 % slower, or faster, 18 or more see it, and the right way round."""
    random = np.random.default_rng(21)
    results = [measure(random, factor, 10) for _ in range(20)]
    assert sum(result.differs and (result.ratio > 1) == (factor > 1) for result in results) >= 18


@pytest.mark.soak
@both
@pytest.mark.parametrize("n", [5, 10, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(measure: Callable, n: int) -> None:
    """Of 2,000 intervals of 95 %, 93 to 97 % hold the true ratio."""
    random = np.random.default_rng(22)
    held = sum(result.low <= 1.1 <= result.high for result in (measure(random, 1.1, n) for _ in range(2000)))
    assert 0.93 <= held / 2000 <= 0.97

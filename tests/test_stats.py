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
    """The interval of Student's own data is the one that R prints."""
    result = mean_interval(SLEEP)
    assert result.value == pytest.approx(1.58)
    assert (result.low, result.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert result.n == 10
    assert result.std == pytest.approx(1.229995, abs=1e-6)


def test_one_value_has_no_interval() -> None:
    """One value is its own mean, without bounds."""
    result = mean_interval([2.0])
    assert result.value == 2
    assert np.isnan([result.low, result.high, result.std]).all()


@pytest.mark.parametrize("values", [[], [np.nan, 1], [[1, 2]]])
def test_what_has_no_mean(values: list) -> None:
    """No values, and values that are not numbers, are refused."""
    with pytest.raises(ValueError, match="one value or more"):
        mean_interval(values)


def test_ratio_of_a_scaled_copy_is_exact() -> None:
    """Where each pair has the same ratio, the interval is that ratio: what slows a block down cancels out."""
    slow = pd.Series([1.0, 5.0, 2.0, 9.0, 3.0], index=[1, 2, 3, 4, 5])
    result = compare(slow * 1.25, slow.sample(frac=1, random_state=0))
    assert result[:4] == pytest.approx((1.25, 1.25, 1.25, 5))
    assert result.differs


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


def test_the_same_runs_give_the_same_interval() -> None:
    """The bootstrap draws the same resamples each time."""
    a, b = np.random.default_rng(0).random((2, 12)) + 1
    assert compare(a, b) == compare(a, b)


def test_confidence_widens_the_interval() -> None:
    """More confidence needs a wider interval."""
    a, b = np.random.default_rng(0).random((2, 12)) + 1
    assert compare(a, b, confidence=0.99).low < compare(a, b, confidence=0.9).low


def test_series_are_paired_by_block() -> None:
    """Blocks that one setting lacks are left out, and the order of rows does not count."""
    a = pd.Series({1: 1.0, 2: 2.0, 3: 4.0, 9: 100.0})
    b = pd.Series({3: 8.0, 2: 4.0, 1: 2.0, 7: 100.0})
    assert compare(a, b)[:4] == pytest.approx((0.5, 0.5, 0.5, 3))


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1]), ([], [])])
def test_what_cannot_be_paired(a: list, b: list) -> None:
    """Settings without pairs are refused."""
    with pytest.raises(ValueError, match="pass"):
        compare(a, b)


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


# ---- unpaired ----


def test_interval_is_that_of_welch() -> None:
    """The interval is that which SciPy computes of the logarithms, for samples of different size and scatter."""
    random = np.random.default_rng(3)
    a, b = random.lognormal(0.2, 0.1, 7), random.lognormal(0, 0.4, 13)
    expected = scipy_stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    result = compare_unpaired(a, b)
    assert result[1:3] == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert result.ratio == pytest.approx(scipy_stats.gmean(a) / scipy_stats.gmean(b))
    assert result[3:5] == (7, 13)


def test_the_other_way_round_is_the_reciprocal() -> None:
    """Swapping the two gives the reciprocal ratio and interval."""
    a, b = np.random.default_rng(0).lognormal(0, 0.1, (2, 9))
    result, swapped = compare_unpaired(a, b), compare_unpaired(b, a)
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


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf], [[1.0]]])
def test_what_has_no_logarithm(values: list) -> None:
    """No times, and times that are not above 0, are refused."""
    with pytest.raises(ValueError, match="every value a finite number above 0"):
        compare_unpaired(values, [1.0, 2.0])


# ---- how often it is right ----


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

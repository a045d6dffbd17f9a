"""Intervals and comparisons against published numbers, closed forms and simulation; verdicts on made-up runs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from ruo.stats import Comparison, compare, compare_unpaired, mean_interval, time_interval, to_noise

# Cushny and Peebles 1905, the sleep data of Student's paper of 1908; R prints for t.test(sleep, paired): mean 1.58,
# 95 % interval 0.7001142 to 2.4598858
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_student_interval_is_the_published_one() -> None:
    """The interval of Student's own data is the one that R prints; a single value has no bounds."""
    result = mean_interval(SLEEP)
    assert (result.low, result.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert (result.n, result.value, result.std) == pytest.approx((10, 1.58, 1.229995), abs=1e-6)
    one = mean_interval([2.0])
    assert [one.value, one.low, one.high, one.std] == pytest.approx([2, *[np.nan] * 3], nan_ok=True)


def test_the_interval_of_pairs_is_students_and_widens_with_the_confidence() -> None:
    """The interval of paired times is Student's of the logarithms of their ratios; more confidence needs more room."""
    a, b = map(pd.Series, np.random.default_rng(0).random((2, 12)) + 1)
    expected = scipy_stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    assert compare(a, b)[1:3] == pytest.approx(np.exp(expected))
    assert compare(a, b).ratio == pytest.approx(float(np.prod(a / b)) ** (1 / 12))
    assert compare(a, b, confidence=0.99).low < compare(a, b, confidence=0.9).low


@pytest.mark.parametrize("times", [[0.05, 0.4], [1.0, 1.1, 0.9, 30.0], [0.6] * 5])
def test_no_interval_of_times_reaches_zero(times: list[float]) -> None:
    """The interval of times holds their mean and lies above 0, however much they scatter."""
    result = time_interval(times)
    assert result.value == pytest.approx(np.mean(times))
    assert 0 < result.low <= result.value <= result.high


def test_interval_of_times_holds_the_mean_often_enough() -> None:
    """Of 1,000 intervals of six skewed times, 93 % or more hold the true mean."""
    samples = np.random.default_rng(4).lognormal(0, 0.3, (1_000, 6))
    held = [result.low <= np.exp(0.3**2 / 2) <= result.high for result in map(time_interval, samples)]
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize(
    ("numbers", "written"),
    [
        ((0.04612, 0.0421, 0.0503), ["0.046", "0.042", "0.050"]),
        ((1.0234, 0.98, 1.07), ["1.02", "0.98", "1.07"]),
        ((291_381.652, 280_000.0, 300_000.0), ["291,382", "280,000", "300,000"]),
        ((0.0461, np.nan, np.nan), ["0.046", "nan", "nan"]),
    ],
)
def test_no_digit_is_written_beyond_the_noise(numbers: tuple, written: list[str]) -> None:
    """The last digit of a value and of its bounds is that of half the interval; without one there are two digits."""
    assert to_noise(*numbers) == written


def test_series_are_paired_by_block() -> None:
    """Blocks that one setting lacks are left out and order does not count; of equal ratios the interval is the ratio."""
    a = pd.Series({1: 1.0, 2: 2.0, 3: 4.0, 9: 100.0, 4: 5.0, 5: 7.0})
    b = pd.Series({3: 8.0, 2: 4.0, 1: 2.0, 7: 100.0, 5: 14.0, 4: 10.0})
    assert compare(a, b)[:4] == pytest.approx((0.5, 0.5, 0.5, 5))
    assert compare(a, b).differs


@pytest.mark.parametrize(
    ("factor", "runs", "words"),
    [
        (0.5, 6, "Big is faster than small: it takes 0.500 times as long"),
        (2.0, 6, "Big is slower than small: it takes 2.00 times as long"),
        (1.0, 6, "No difference seen between big and small"),
        (0.5, 4, "Big is 2.0 times as fast as small in 4 pairs; five would rule out chance."),
        (0.0461, 1, "Big is 22 times as fast as small in 1 pair; five would rule out chance."),
        (1.5, 1, "Big takes 1.5 times as long as small in 1 pair"),
    ],
)
def test_sentence(factor: float, runs: int, words: str) -> None:
    """A comparison says faster, slower, or that no difference is seen, and too few pairs never see one."""
    times = pd.Series(np.linspace(1, 2, runs))
    assert words in compare(factor * times, times).sentence("big", "small")


def test_what_has_no_pair_cannot_be_compared() -> None:
    """Without a common block, or without any run of one, there is no ratio, and the sentence says how many there are."""
    alone = compare(pd.Series({1: 1.0}), pd.Series({2: 1.0}))
    assert alone.sentence("a", "b") == "A cannot be compared with b: there are 0 pairs."
    assert compare_unpaired([], [1.0]).sentence("a", "b") == "A cannot be compared with b: there are 0 and 1 runs."
    assert not alone.differs


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
    """With fewer than five runs of one of them nothing is said, however large the difference; the sentence says why."""
    result = compare_unpaired(np.linspace(9, 10, n_a), np.linspace(1, 1.1, n_b))
    assert result.word == "too few runs"
    assert f"in {n_a} and {n_b} runs; five of each would rule out chance" in result.sentence("B", "A")


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(1.004, 1.12, "1.004 to 1.120"), (0.90, 0.997, "0.900 to 0.997"), (1.3, 28, "1.3 to 28.0")],
)
def test_a_difference_is_never_shown_as_an_interval_that_holds_one(low: float, high: float, shown: str) -> None:
    """It gets as many digits as it takes."""
    sentence = Comparison((low * high) ** 0.5, low, high, 10, 10, is_paired=True).sentence("A", "B")
    assert f"interval {shown}, 10 pairs" in sentence


def unpaired(random: np.random.Generator, factor: float, n: int) -> Any:
    """Two systems, each measured `n` times for itself with 3 % of noise."""
    return compare_unpaired(factor * random.lognormal(0, 0.03, n), random.lognormal(0, 0.03, n))


def paired(random: np.random.Generator, factor: float, n: int) -> Any:
    """Two systems in the same blocks, which add 5 % of noise to both."""
    blocks = pd.Series(random.lognormal(0, 0.05, n))
    return compare(factor * blocks * random.lognormal(0, 0.03, n), blocks * random.lognormal(0, 0.03, n))


both = pytest.mark.parametrize("measure", [unpaired, paired])


@both
@pytest.mark.parametrize(("factor", "word"), [(1.0, "no difference seen"), (1.1, "slower"), (1 / 1.1, "faster")])
def test_a_change_of_a_tenth_is_seen_and_none_where_there_is_none(measure: Callable, factor: float, word: str) -> None:
    """Of 20 comparisons with a system that is 10 % slower, or faster, or with itself, 18 or more say just that."""
    random = np.random.default_rng(20)
    assert sum(measure(random, factor, 10).word == word for _ in range(20)) >= 18


@pytest.mark.soak
@both
@pytest.mark.parametrize("n", [5, 10, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(measure: Callable, n: int) -> None:
    """Of 2,000 intervals of 95 %, 93 to 97 % hold the true ratio."""
    random = np.random.default_rng(22)
    held = sum(result.low <= 1.1 <= result.high for result in (measure(random, 1.1, n) for _ in range(2000)))
    assert 0.93 <= held / 2000 <= 0.97

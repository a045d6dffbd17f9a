"""Intervals and comparisons against published numbers, closed forms and simulation; verdicts on made-up runs."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from ruo.stats import compare, harmonic_rate, mean_interval, median_interval, verdict_on_sizes

# Cushny and Peebles 1905, the sleep data of Student's paper of 1908; R prints for t.test(sleep, paired): mean 1.58,
# 95 % interval 0.7001142 to 2.4598858
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_student_interval_is_the_published_one() -> None:
    """The interval of Student's own data is the one that R prints."""
    found = mean_interval(SLEEP)
    assert found.value == pytest.approx(1.58)
    assert (found.low, found.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert found.n == 10
    assert found.std == pytest.approx(1.229995, abs=1e-6)


def test_student_interval_for_another_confidence() -> None:
    """At 90 % and five values t is 2.132."""
    found = mean_interval([1.0, 2, 3, 4, 5], confidence=0.90)
    assert found.high - found.value == pytest.approx(2.131847 * 2.5**0.5 / 5**0.5, rel=1e-6)


def test_one_value_has_no_interval() -> None:
    """One value is its own mean, without bounds."""
    found = mean_interval([2.0])
    assert found.value == 2
    assert np.isnan([found.low, found.high, found.std]).all()


@pytest.mark.parametrize("values", [[], [np.nan, 1], [[1, 2]]])
def test_what_has_no_mean(values: list) -> None:
    """No values, and values that are not numbers, are refused."""
    with pytest.raises(ValueError, match="one value or more"):
        mean_interval(values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_share(confidence: float) -> None:
    """A confidence that is not between 0 and 1 is refused."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        median_interval([1, 2], confidence)


@pytest.mark.parametrize(
    ("n", "low", "high", "coverage"),
    [(5, 1, 5, 0.9375), (6, 1, 6, 0.96875), (8, 1, 8, 0.9921875), (9, 2, 8, 0.9609375), (10, 2, 9, 0.978515625), (20, 6, 15, 0.958610535)],
)  # fmt: skip
def test_rank_interval_is_the_tabled_one(n: int, low: int, high: int, coverage: float) -> None:
    """The ranks that bound a median at 95 %, and what they cover, are those of the tables of the sign test."""
    found = median_interval(np.random.default_rng(0).permutation(n) + 1.0)
    assert found[:4] == (np.median(np.arange(1, n + 1)), low, high, n)
    assert found.coverage == pytest.approx(coverage)
    assert found.reached == (n > 5)


def test_five_runs_cannot_and_six_can() -> None:
    """Five runs say that they cannot give a 95 % rank interval, and how many can."""
    sentence = median_interval([1, 2, 3, 4, 5]).sentence()
    assert "n=5 cannot give a rank interval of 95 %" in sentence
    assert "93.75 %" in sentence
    assert "n=6 can (96.88 %)" in sentence
    assert median_interval([1, 2, 3, 4, 5, 6]).sentence() == "median 3.50, 96.88 % interval 1.00 to 6.00 (n=6)."


def test_harmonic_rate() -> None:
    """The mean of rates over the same rows is all rows over all seconds: 60 and 30 km/h make 40."""
    assert harmonic_rate(60, [1, 2]) == pytest.approx(40)


def test_ratio_of_a_scaled_copy_is_exact() -> None:
    """Where each pair has the same ratio, the interval is that ratio: what slows a block down cancels out."""
    slow = pd.Series([1.0, 5.0, 2.0, 9.0, 3.0], index=[1, 2, 3, 4, 5])
    found = compare(slow * 1.25, slow.sample(frac=1, random_state=0))
    assert found == pytest.approx((1.25, 1.25, 1.25, 5))
    assert found.differs


def test_bootstrap_agrees_with_all_resamples() -> None:
    """The bounds are percentiles of the ratios of all 3,125 resamples of five pairs, widened as Hesterberg says."""
    a, b = np.array([1.0, 1.3, 1.1, 1.6, 1.2]), np.array([1.0, 1.1, 1.2, 1.1, 1.3])
    draws = np.array(list(itertools.product(range(5), repeat=5)))
    ratios = np.exp(np.log(a / b)[draws].mean(axis=1))
    found = compare(a, b)
    # Phi(-sqrt(5 / 4) * 2.776445) = 0.000953
    assert found.low == pytest.approx(np.quantile(ratios, 0.000953), abs=0.02)
    assert found.high == pytest.approx(np.quantile(ratios, 1 - 0.000953), abs=0.02)
    assert found.ratio == pytest.approx(float(np.prod(a / b)) ** 0.2)


def test_interval_holds_the_truth_often_enough() -> None:
    """Of 300 intervals from five pairs of equal settings, nine in ten or more hold 1."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        blocks = random.normal(1, 0.1, 5)
        found = compare(blocks + random.normal(0, 0.03, 5), blocks + random.normal(0, 0.03, 5))
        held += found.low <= 1 <= found.high
    assert held >= 270


def test_seed_makes_the_interval() -> None:
    """The same seed gives the same interval, another seed another one."""
    a, b = np.random.default_rng(0).random((2, 12)) + 1
    assert compare(a, b, seed=3) == compare(a, b, seed=3) != compare(a, b, seed=4)


def test_confidence_widens_the_interval() -> None:
    """More confidence needs a wider interval."""
    a, b = np.random.default_rng(0).random((2, 12)) + 1
    assert compare(a, b, confidence=0.99).low < compare(a, b, confidence=0.9).low


def test_series_are_paired_by_block() -> None:
    """Blocks that one setting lacks are left out, and the order of rows does not count."""
    a = pd.Series({1: 1.0, 2: 2.0, 3: 4.0, 9: 100.0})
    b = pd.Series({3: 8.0, 2: 4.0, 1: 2.0, 7: 100.0})
    assert compare(a, b)[:] == pytest.approx((0.5, 0.5, 0.5, 3))


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


def frame(seconds: dict[int, float], runs: int = 6, pipelined: bool = True, rows: int = 1000) -> pd.DataFrame:
    """A sweep in which a size takes its seconds, give or take what the block adds."""
    return pd.DataFrame(
        [
            {
                "block": block, "warmup": block == 0, "rows": rows, "rows_per_request": size, "pipelined": pipelined,
                "forming_s": 0.25 * total * (1 + block / 50), "sending_s": 0.75 * total * (1 + block / 50),
                "total_s": total * (1 + block / 50) if block else 1e6, "error": None,
            }
            for block in range(runs + 1)
            for size, total in seconds.items()
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "runs", "verdict"),
    [
        ({10: 3.0, 100: 2.0, 1000: 1.0}, 6, "reproduced, since it is faster than every other size"),
        ({10: 3.0, 100: 1.0, 1000: 2.0}, 6, "not reproduced, since 100 rows per request is faster"),
        ({10: 3.0, 100: 1.0, 1000: 1.0}, 6, "cannot tell, since no difference is seen between it and 100 rows"),
        ({10: 3.0, 100: 2.0, 1000: 1.0}, 3, "cannot tell, since 3 blocks cannot show a difference; run 5"),
        ({10: 3.0, 100: 2.0}, 6, "cannot tell, since the whole set was not sent in one request"),
        ({1000: 2.0}, 6, "cannot tell, since no smaller request was measured"),
    ],
)
@pytest.mark.parametrize("pipelined", [True, False])
def test_claim_of_2023(seconds: dict[int, float], runs: int, verdict: str, pipelined: bool) -> None:
    """The claim of 2023 is reproduced, not reproduced, or cannot be told, as the numbers say."""
    assert f'fastest" (2023): {verdict}' in verdict_on_sizes(frame(seconds, runs, pipelined))


def test_verdict_names_the_lead() -> None:
    """The verdict says which size is fastest, how fast, and what the next and the slowest take longer."""
    text = verdict_on_sizes(frame({10: 3.0, 100: 1.0, 1000: 1.5}))
    # the mean over blocks 1 to 6 is 1.07 times the size's seconds
    assert "- 100 rows per request is fastest: 1.07 s (mean of 6, 95 % interval 1.03 to 1.11), 935 rows/s." in text
    assert "The next, the whole set in one request, takes 50.0 % longer. 100 rows per request is faster" in text
    assert "The slowest, 10 rows per request, takes 200 % longer." in text


def test_the_two_ways_are_judged_apart() -> None:
    """Two phases and the pipelined job each get their own verdict; two phases count forming and sending."""
    two = frame({100: 2.0, 1000: 1.0}, pipelined=False)
    two["total_s"] = 77.0
    text = verdict_on_sizes(pd.concat([two, frame({100: 1.0, 1000: 2.0})]))
    phases, whole_job = text.split("\n\n")
    assert phases.startswith("Two phases, as in 2023")
    assert "(2023): reproduced" in phases
    assert "77" not in phases
    assert "(2023): not reproduced" in whole_job


def test_failed_whole_set_is_not_the_fastest() -> None:
    """A whole set that fails in one request is counted as failed and does not reproduce the claim."""
    runs = frame({100: 1.0, 1000: 0.5})
    whole = runs["rows_per_request"] == 1000
    runs.loc[whole, "error"] = "Too large."
    runs.loc[whole, ["forming_s", "sending_s", "total_s"]] = np.nan
    text = verdict_on_sizes(runs)
    assert "The whole set in one request: 6 runs failed." in text
    assert "not reproduced, since the whole set in one request failed" in text


def test_nothing_measured() -> None:
    """Warm-ups alone, and runs that all failed, give no number."""
    runs = frame({100: 1.0})
    assert verdict_on_sizes(runs[runs["warmup"]]) == "Nothing was measured, so nothing can be said."
    assert "No run succeeded." in verdict_on_sizes(runs.assign(error="Refused."))

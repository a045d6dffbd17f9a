"""The verdict on request sizes, and what a request costs, for made-up runs."""

import numpy as np
import pandas as pd
import pytest

from ruo.experiment.sizes import fit_request_cost, verdict_on_sizes


def frame(seconds: dict[int, float], runs: int = 6, pipelined: bool = True, rows: int = 1000) -> pd.DataFrame:
    """A sweep in which a size takes its seconds, give or take what the block adds."""
    return pd.DataFrame(
        [
            {
                "block": block, "rows": rows, "rows_per_request": size, "pipelined": pipelined, "error": None,
                "forming_s": 0.25 * total * (1 + block / 50), "sending_s": 0.75 * total * (1 + block / 50),
                "total_s": total * (1 + block / 50),
            }
            for block in range(1, runs + 1)
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
    """The claim of 2023 is reproduced, not reproduced, or undecided, as the numbers say."""
    assert f'fastest" (2023): {verdict}' in verdict_on_sizes(frame(seconds, runs, pipelined))


def test_verdict_names_the_lead() -> None:
    """The verdict says which size is fastest, how fast, and what the next and the slowest take longer."""
    text = verdict_on_sizes(frame({10: 3.0, 100: 1.0, 1000: 1.5}))
    # the mean over blocks 1 to 6 is 1.07 times the size's seconds
    assert "- 100 rows per request is fastest: 1.07 s (mean of 6, 95 % interval 1.03 to 1.11), 930 rows/s." in text
    assert "The next is the whole set in one request. 100 rows per request is faster than the whole set in" in text
    assert "The slowest is 10 rows per request." in text
    assert "- 100 rows per request: 1.07 s (mean of 6," in verdict_on_sizes(frame({100: 1.0}))
    assert "- 1 row per request: 1.07 s" in verdict_on_sizes(frame({1: 1.0}))
    few = verdict_on_sizes(frame({100: 1.0, 1000: 1.5}, runs=2))
    assert "- 100 rows per request takes the least time on average: 1.0 s (mean of 2), " in few


def test_a_size_is_not_called_fastest_beside_one_that_is_as_fast() -> None:
    """Where no difference is seen between the best two, the first has only the least mean."""
    runs = frame({100: 1.0, 1000: 1.001})
    runs["total_s"] *= np.random.default_rng(0).normal(1, 0.02, len(runs))
    text = verdict_on_sizes(runs)
    assert "is fastest:" not in text
    assert " takes the least time on average: " in text
    assert "No difference seen between" in text


def test_of_many_equal_sizes_none_is_called_faster() -> None:
    """Among six sizes that take the same time, the fastest and the slowest differ by chance; it is said in one of twenty."""
    random, sizes = np.random.default_rng(1), [10, 50, 100, 200, 500, 1000]
    texts = []
    for _ in range(40):
        runs = frame(dict.fromkeys(sizes, 1.0), runs=10)
        runs["total_s"] *= random.lognormal(0, 0.03, len(runs))
        texts.append(verdict_on_sizes(runs))
    assert sum("is faster" in text for text in texts) <= 4
    assert all("(99.67 % interval " in text for text in texts)  # of 15 pairs


def test_the_two_ways_are_judged_apart() -> None:
    """Two phases and the pipelined job each get their own verdict; two phases count forming and sending."""
    two = frame({100: 2.0, 1000: 1.0}, pipelined=False).assign(total_s=77.0)
    phases, whole_job = verdict_on_sizes(pd.concat([two, frame({100: 1.0, 1000: 2.0})])).split("\n\n")
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
    """No runs, and runs that all failed, give no number."""
    runs = frame({100: 1.0})
    assert verdict_on_sizes(runs[:0]) == "Nothing was measured, so nothing can be said."
    assert "No run succeeded." in verdict_on_sizes(runs.assign(error="Refused."))


def test_the_cost_of_a_request_and_of_a_row_is_recovered() -> None:
    """Runs that cost 1 ms a request and 2 µs a row say so."""
    requests = pd.Series([500, 100, 50, 10, 5] * 5)
    seconds = (requests * 1e-3 + 500_000 * 2e-6) * np.random.default_rng(0).normal(1, 0.01, len(requests))
    cost = fit_request_cost(requests, 500_000, seconds)
    assert cost.request_s == pytest.approx(1e-3, rel=0.05)
    assert cost.row_s == pytest.approx(2e-6, rel=0.05)
    assert "a request's own cost is under a tenth" in cost.sentence()


def test_rows_or_requests_that_cost_nothing() -> None:
    """Nothing is divided by the cost of a row that has none; where small requests are even faster, theirs is never less."""
    rows = fit_request_cost(pd.Series([20, 2, 20, 2]), 2000, pd.Series([2.0, 0.19, 2.01, 0.191]))
    assert rows.sentence() == "A request costs 98 ms, beside which its rows' cost is not seen (R² 1.00)."
    cost = fit_request_cost(pd.Series([500, 50, 5]), 500_000, pd.Series([1.0, 1.1, 1.2]))
    assert cost.request_s == 0
    assert "no more than large ones" in cost.sentence()
    assert "No cost is fitted" in cost._replace(request_s=1e-4, r_squared=-0.04).sentence()


def test_a_size_that_is_slower_block_by_block_is_not_called_fastest() -> None:
    """One slow block decides the means, and the pairs say the opposite."""
    runs = frame({10: 1.04, 100: 1.0}, runs=20)
    for size, seconds in ((10, 18.0), (100, 20.0)):
        runs.loc[(runs["block"] == 3) & (runs["rows_per_request"] == size), "total_s"] = seconds
    text = verdict_on_sizes(runs)
    assert "- 10 rows per request takes the least time on average: " in text
    assert "10 rows per request is slower than 100" in text

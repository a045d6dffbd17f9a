"""VALID or INVALID, and why: made-up runs with one thing wrong at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ruo.experiment.validity import confidence_of, is_enough, judge, that_count
from ruo.stats import compare


def runs(blocks: int = 5, sizes: tuple[int, ...] = (1_000, 10_000), replicas: tuple[int, ...] = (1, 4)) -> pd.DataFrame:
    """Runs with which nothing is wrong: a warm-up block and `blocks` more, 3 % noise."""
    noise = np.random.default_rng(1)
    rows = []
    for block in range(blocks + 1):
        for size in sizes:
            for count in replicas:
                rows.append({
                    "run": len(rows) + 1, "block": block, "warmup": block == 0, "model": None, "replicas": count,
                    "wire": "v2", "concurrency": 8, "rows_per_request": size, "pipelined": True, "rows": 500_000,
                    "requests": 500_000 // size, "total_s": 4.0 / count * noise.normal(1, 0.03), "loop_lag_s": 0.01,
                    "server_busy": 0.95, "workers": count, "retries": 0, "machine_busy": 0.02, "answers_equal": True,
                    "rows_by_worker": {str(worker): 500_000 // count for worker in range(count)},
                    "model_version": "1", "error": None,
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_what_is_no_fault() -> None:
    """A retry in a warm-up is forgiven, another answer there is not; few requests cannot be shared out evenly."""
    warm = runs()
    validity = judge(warm, planned=24)
    assert (validity.valid, str(validity)) == (True, "VALID: every run scored every row alike.")
    assert judge(warm.assign(retries=warm["warmup"].astype(int))).valid
    assert not judge(warm.assign(answers_equal=~warm["warmup"])).valid
    shares = [{"0": 500_000}, {"0": 200_000, "1": 100_000, "2": 100_000, "3": 100_000}]  # of one replica, and of four
    assert judge(runs(sizes=(100_000,)).assign(rows_by_worker=shares * 6)).valid


def last(column: str, value: object) -> dict[str, Callable[[pd.DataFrame], list]]:
    """Another last value of a column."""
    return {column: lambda frame: [*frame[column].astype(object)[:-1], value]}


def shares(*rows: int) -> dict[str, Callable[[pd.DataFrame], list]]:
    return last("rows_by_worker", {str(worker): count for worker, count in enumerate(rows)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "2 runs of the plan are missing"),
        (last("error", "The server is gone."), "1 run failed (The server is gone)"),
        (last("retries", 1), "1 run sent a request again"),
        (last("answers_equal", False), "1 run gave other predictions than the first"),
        (last("model_version", "2"), "2 versions of the model answered (1, 2)"),
        ({"machine_busy": 0.6}, "the machine was busy with something else before 20 of 20 runs"),
        ({"others_cpus": 1.5}, "the machine was busy with something else in 20 of 20 runs"),
        (
            {"total_s": lambda frame: frame["total_s"] * (1 + 0.015 * frame["run"])},
            "the runs drift: the last took 22% more time than the first",
        ),
        ({"loop_lag_s": 0.5}, "the client's event loop was up to 0.50 s late, so it did not keep up"),
        ({"concurrency": 2}, "10 runs had fewer connections than replicas; raise concurrency"),
        (shares(275_000, *[75_000] * 3), "in 1 run the replicas were unbalanced (up to 120% off an even share)"),
        (shares(500_000), "in 1 run not as many servers answered as there were replicas, such as 1 for 4"),
        (shares(*[100_000] * 5), "in 1 run not as many servers answered as there were replicas"),
    ],
)
def test_one_thing_is_wrong(change: dict[str, Any], reason: str) -> None:
    """Each reason makes the runs INVALID, alone and in words."""
    validity = judge(runs().assign(**change), planned=24 if change else 26)
    assert len(validity.reasons) == 1
    assert str(validity).startswith(f"INVALID: {reason}")


@pytest.mark.slow
def test_noise_is_no_drift() -> None:
    """Of 200 sweeps of a steady machine almost none has a drift, and few where whole blocks are faster or slower."""
    steady, noise = runs(), np.random.default_rng(0)
    assert sum(judge(steady.assign(total_s=noise.normal(1, 0.05, len(steady)))).valid for _ in range(200)) >= 197
    for swept in (steady, runs(2, sizes=(100, 1_000, 10_000, 50_000))):
        blocks = noise.lognormal(0, 0.1, (40, 6))[:, swept["block"]] * noise.lognormal(0, 0.03, (40, len(swept)))
        assert sum(judge(swept.assign(total_s=times)).valid for times in blocks) >= 34


def test_a_client_that_is_the_bottleneck_limits_what_the_times_say() -> None:
    """The runs stay VALID for the whole job; the sentence names the settings in which the servers waited."""
    frame = runs()
    validity = judge(frame.assign(server_busy=np.where(frame["replicas"] == 4, 0.4, 0.95)))
    assert validity.valid
    waited = ", ".join(f"{size} rows per request, 4 replicas 40%" for size in ("1,000", "10,000"))
    assert validity.notes[0].endswith(f"the servers computed only part of the time: {waited}.")


def test_unsteady_runs_are_named() -> None:
    """A setting whose runs vary by more than a tenth is named; servers that report no times are no limit."""
    frame = runs()
    wild = frame.assign(total_s=np.where(frame["block"] % 2, 1.0, 1.5), server_busy=np.nan)
    [note] = judge(wild).notes
    assert note.startswith("The runs vary much, by their standard deviation over the mean: 1,000 rows")


def lines(times: np.ndarray, busy: tuple[int, ...] = ()) -> list[dict]:
    """The lines of a sweep whose blocks are the rows and whose settings are the columns of `times`."""
    return [
        {
            "block": block, "warmup": False, "rows_per_request": size, "pipelined": True, "error": None, "total_s": seconds,
            "machine_busy": 0.9 if block in busy else 0.0,
        }
        for block, of_block in enumerate(times, 1)
        for size, seconds in enumerate(of_block, 1)
    ]  # fmt: skip


def noisy(blocks: int, sd: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, sd, (blocks, 2))


@pytest.mark.parametrize(
    ("times", "busy", "enough"),
    [
        (noisy(5, 0.001), (), True),
        (noisy(5, 0.2), (), False),
        (noisy(3, 0.2), (), True),  # so few were never meant to show a difference
        (noisy(5, 0.001), (2,), False),
        (noisy(6, 0.001), (2,), True),
    ],
)
def test_noise_asks_for_further_blocks(times: np.ndarray, busy: tuple[int, ...], enough: bool) -> None:
    """A sweep is enough where as many quiet blocks as planned give the best two a narrow interval."""
    assert is_enough(lines(times, busy), blocks=5 - 2 * (len(times) == 3)) == enough


def test_noisy_blocks_are_left_out_once_they_are_replaced() -> None:
    """The runs of a busy block do not count where enough quiet ones follow, and the verdict says how many it took."""
    frame = pd.DataFrame(lines(noisy(6, 0.001), busy=(2,))).assign(run=range(1, 13), requests=1, rows_by_worker=None)
    assert set(that_count(frame, 5)["block"]) == {1, 3, 4, 5, 6}
    assert set(that_count(frame, 6)["block"]) == {1, 2, 3, 4, 5, 6}
    validity = judge(frame, 10, blocks=5)
    assert validity.valid
    assert "it took 6 blocks of runs instead of 5, 1 noisy block left out." in validity.notes[0]
    assert judge(frame.assign(machine_busy=0.9), 10, blocks=5).head.endswith("measure again with more patience.")


def simulated(factor: float, sd: float, sweeps: int, blocks: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sweeps of two settings, the second `factor` as slow: their times, the blocks they take, and who sees a difference."""
    times = np.random.default_rng(0).lognormal(0, sd, (sweeps, 2 * blocks, 2)) * [1.0, factor]
    logs = np.log(times[..., 0] / times[..., 1])
    took, differ = np.zeros(sweeps, int), np.zeros(sweeps, bool)
    for n in range(blocks, 2 * blocks + 1):
        mean, error = logs[:, :n].mean(axis=1), logs[:, :n].std(axis=1, ddof=1) / n**0.5
        half = stats.t.ppf(0.975 if n == blocks else 0.9875, n - 1) * error
        ends = (took == 0) & ((np.exp(mean + half) - np.exp(mean - half) < 0.05) | (n == 2 * blocks))
        took[ends], differ[ends] = n, (np.abs(mean) > half)[ends]
    return times, took, differ


@pytest.mark.parametrize("sd", [0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06])
def test_added_blocks_do_not_raise_false_alarms(sd: float) -> None:
    """Of 20,000 sweeps of equal settings one in twenty sees a difference; of 20 it is seldom more than 2."""
    _, _, differ = simulated(1.0, sd, 20_000)
    assert (differ.reshape(-1, 20).sum(axis=1) <= 2).mean() > 0.9
    assert differ.mean() <= 0.05 + 3 * (0.05 * 0.95 / 20_000) ** 0.5  # plus chance: three standard deviations


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.05])
def test_a_setting_that_is_a_tenth_slower_is_found(sd: float) -> None:
    """Of 20 sweeps with one setting 10 % slower 18 or more find it, as nine of ten or more of 2,000 do."""
    _, _, differ = simulated(1.1, sd, 2_000)
    assert differ[:20].sum() >= 18
    assert differ.mean() >= 0.9


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_the_simulation_is_of_what_sweeps_do(factor: float) -> None:
    """A sweep stops where the simulated one does, and sees a difference where that one sees it."""
    for times, took, differ in zip(*simulated(factor, 0.02, 5), strict=True):
        if took < 10:
            assert is_enough(lines(times[:took]), blocks=5)
        assert took == 5 or not is_enough(lines(times[: took - 1]), blocks=5)
        confidence = confidence_of(pd.DataFrame(lines(times[:took])), blocks=5)
        assert compare(*map(pd.Series, times[:took].T), confidence=confidence).differs == differ

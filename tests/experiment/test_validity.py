"""VALID or INVALID, and why: made-up runs with one thing wrong at a time."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from ruo.experiment.validity import judge


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


def test_nothing_is_wrong() -> None:
    """Runs that scored everything alike on a quiet machine are VALID, without a word more."""
    validity = judge(runs(), planned=24)
    assert validity.valid
    assert str(validity) == "VALID: every run scored every row alike."


def test_what_is_no_fault() -> None:
    """A retry in a warm-up is forgiven, another answer there is not; few requests cannot be shared out evenly."""
    warm = runs()
    assert judge(warm.assign(retries=warm["warmup"].astype(int))).valid
    assert not judge(warm.assign(answers_equal=~warm["warmup"])).valid
    shares = [{"0": 500_000}, {"0": 200_000, "1": 100_000, "2": 100_000, "3": 100_000}]  # of one replica, and of four
    assert judge(runs(sizes=(100_000,)).assign(rows_by_worker=shares * 6)).valid


def changed(**values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**values)


def drifting(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(total_s=frame["total_s"] * (1 + 0.015 * frame["run"]))


def last(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        values = frame[column].astype(object).tolist()
        return frame.assign(**{column: [*values[:-1], value]})

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frame: frame[:-2], "2 runs of the plan are missing"),
        (last("error", "The server is gone."), "1 run failed (The server is gone)"),
        (last("retries", 1), "1 run sent a request again"),
        (last("answers_equal", False), "1 run gave other predictions than the first"),
        (last("model_version", "2"), "2 versions of the model answered (1, 2)"),
        (changed(machine_busy=0.6), "the machine was busy with something else before 20 of 20 runs"),
        (changed(others_cpus=1.5), "the machine was busy with something else in 20 of 20 runs"),
        (drifting, "the runs drift: the last took +"),
        (changed(loop_lag_s=0.5), "the client's event loop was up to 0.50 s late, so it did not keep up"),
        (changed(concurrency=2), "10 runs had fewer connections than replicas; raise concurrency"),
        (
            last("rows_by_worker", {"0": 275_000, "1": 75_000, "2": 75_000, "3": 75_000}),
            "in 1 run the replicas were unbalanced (up to 120% off an even share)",
        ),
        (
            last("rows_by_worker", {"0": 500_000}),
            "in 1 run not as many servers answered as there were replicas, such as 1 for 4",
        ),
        (
            last("rows_by_worker", dict.fromkeys("abcde", 100_000)),
            "in 1 run not as many servers answered as there were replicas",
        ),
    ],
)
def test_one_thing_is_wrong(change: Callable[[pd.DataFrame], pd.DataFrame], reason: str) -> None:
    """Each reason makes the runs INVALID, alone and in words."""
    validity = judge(change(runs()), planned=24)
    assert len(validity.reasons) == 1
    assert validity.reasons[0].startswith(reason)
    assert str(validity).startswith(f"INVALID: {reason}")


def test_noise_is_no_drift() -> None:
    """Of 200 sweeps of a steady machine, almost none has a drift."""
    steady = runs()
    noise = np.random.default_rng(0)
    valid = [judge(steady.assign(total_s=noise.normal(1, 0.05, len(steady)))).valid for _ in range(200)]

    assert sum(valid) >= 197


def test_a_client_that_is_the_bottleneck_limits_what_the_times_say() -> None:
    """The runs stay VALID for the whole job; the sentence names the settings in which the servers waited."""
    frame = runs()
    validity = judge(frame.assign(server_busy=np.where(frame["replicas"] == 4, 0.4, 0.95)))
    assert validity.valid
    waited = ", ".join(f"{size} rows pipelined, 4 replicas 40%" for size in ("1,000", "10,000"))
    assert validity.notes[0].endswith(f"the servers computed only part of the time: {waited}.")


def test_unsteady_runs_are_named() -> None:
    """A setting whose runs vary by more than a tenth is named; servers that report no times are no limit."""
    frame = runs()
    wild = frame.assign(total_s=np.where(frame["block"] % 2, 1.0, 1.5), server_busy=np.nan)

    [note] = judge(wild).notes
    assert note.startswith("The runs vary much, by their standard deviation over the mean: 1,000 rows")

"""Whether the targets of speed are reached, from samples whose figures are known."""

from typing import Any

import pandas as pd
import pytest

from benchmarks.targets import compare_with_targets, markdown, read_targets

SIZES = (1_000, 5_000, 10_000, 50_000, 100_000)
SCALING_SIZES = (1_000, 5_000, 20_000)


def job(name: str, *seconds: float, **more: float) -> list[dict[str, Any]]:
    """A sample per block."""
    return [
        {"job": name, "block": block, "total_s": total_s, "error": None, **more}
        for block, total_s in enumerate(seconds, 1)
    ]


def judge(samples: list[dict[str, Any]], cpus: int) -> pd.DataFrame:
    return compare_with_targets(pd.DataFrame(samples), cpus)


def row(samples: list[dict[str, Any]], begins: str, cpus: int = 4) -> Any:
    """The only row of the table whose target begins so."""
    table = judge(samples, cpus)
    [target] = table[table["what"].str.startswith(begins)].itertuples()
    return target


def test_a_ratio_is_of_medians_and_its_spread_of_blocks() -> None:
    """Medians 44 and 2 are 22 times; the blocks alone give 10 to 30."""
    samples = job("paper mlp 10000", 20, 44, 60) + job("tensorflow mlp 10000", 2, 2.2, 2)
    target = row(samples, "mlp, 10,000 rows per request, against the system of 2023: TensorFlow")
    assert target.reached == pytest.approx(22)
    assert (target.least, target.most, target.blocks) == (pytest.approx(10), pytest.approx(30), 3)
    assert target.verdict == "pass"


def test_the_best_and_the_worst_size_are_found() -> None:
    """The bound is compared with the best size, and the worst size with the best."""
    samples = [sample for rows in SIZES for sample in job(f"tensorflow mlp {rows}", 1.0 if rows == 50_000 else 1.4)]
    samples += job("bound tensorflow mlp", 0.8)
    assert row(samples, "mlp, best request size, against no network at all: TensorFlow").reached == pytest.approx(1.25)
    worst = row(samples, "mlp, worst of")
    assert (worst.reached, worst.verdict) == (pytest.approx(1.4), "short")


def test_the_client_is_allowed_its_cpu_time() -> None:
    """With 4 CPUs and a client that needs a tenth of one worker's time, 4 / 1.1 times is the most that is possible."""
    samples = []
    for rows in SCALING_SIZES:
        samples += job(f"one worker cnn {rows}", 10.0)
        samples += job(f"4 workers cnn {rows}", 2.75, client_cpu_s=1.0, off_mean_percent=12.0)
    assert row(samples, "cnn, 4 one-core workers, 1,000 rows per request: times").reached == pytest.approx(1)
    assert row(samples, "cnn, 4 one-core workers, 1,000 rows per request: the worker").verdict == "short"


def test_failed_runs_and_what_was_not_measured_are_no_figures() -> None:
    """A job that failed gives no figure, and a target without samples no row."""
    samples = job("import ruo", 0.01) + job("client memory", 1.0, mb=300.0)
    samples[1]["error"] = "wrong: answers differ"
    assert judge(samples, 4)["what"].tolist() == ["import ruo"]


def test_every_target_stands_in_the_table() -> None:
    """With samples of every job there is a row for each target, and a line in Markdown."""
    backends = ("tensorflow", "openvino")
    names = {f"{backend} mlp {rows}" for backend in backends for rows in (100, *SIZES)}
    names |= {f"bound {backend} {model}" for backend in backends for model in ("mlp", "cnn")}
    names |= {
        f"{what} {backend}{model}" for backend in backends for what, model in (("bare socket", " mlp"), ("ready", ""))
    }
    names |= {f"{who} cnn {rows}" for who in ("one worker", "2 workers") for rows in SCALING_SIZES}
    names |= {"bound tensorflow mlp labels", "paper mlp 10000", "paper client mlp 10000", "tensorflow mlp whole"}
    names |= {"tensorflow cnn 10000", "peers MLServer", "peers PyTriton", "peers ruo", "server memory", "client memory"}
    names |= {"import ruo", "from ruo import score_csv"}
    samples = [sample for name in names for sample in job(name, 1.0, client_cpu_s=0.1, off_mean_percent=1.0, mb=100.0)]
    table = judge(samples, 2)
    assert len(table) == len(read_targets(2)[1])
    assert len(markdown(table).splitlines()) == len(table) + 2

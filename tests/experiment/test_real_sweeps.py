"""What the statistics say about real runs; slow, since they need many."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

import ruo
from ruo import score_csv
from ruo.deploy.local import local_server
from ruo.experiment import sweep
from ruo.learn.demo import Demo, make_demo
from ruo.stats import compare

pytestmark = [pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(600)]

BLOCKS = 12


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A test set of 20,000 rows and both models."""
    return make_demo(tmp_path_factory.mktemp("demo"), 20_000)


def test_two_of_a_kind_and_one_that_is_slower(demo: Demo) -> None:
    """The same job twice shows no difference; one with a fifth more rows is found to be slower, block by block."""
    rows = pl.read_csv(demo.testset)
    jobs = {"a": rows, "b": rows, "more": pl.concat([rows, rows[: len(rows) // 5]])}
    blocks = []
    with local_server(demo.models["cnn"], workers=1, cores=1) as server:
        for block in range(BLOCKS + 1):
            names = list(jobs)[block % 3 :] + list(jobs)[: block % 3]
            seconds = {}
            for name in names:
                scores = score_csv(jobs[name], server.url, chunk_size=1_000, retries=0)
                seconds[name] = scores.timings.total_s
            blocks.append(seconds)
    runs = pd.DataFrame(blocks[1:])

    # one in a thousand equal pairs would be told apart; at the usual 95 % this test would fail once in twenty times
    same = compare(runs["a"], runs["b"], confidence=0.999)
    assert same.low < 1 < same.high
    assert compare(runs["more"], runs["a"]).differs
    assert compare(runs["more"], runs["a"]).sentence("more", "less").startswith("More is slower than less")


WAITING = """
import time
import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("waiting")
class Wait(keras.layers.Layer):
    def call(self, rows):
        waited = tf.numpy_function(lambda given: time.sleep(25e-6 * len(given)) or given, [rows], rows.dtype)
        return tf.ensure_shape(waited, rows.shape)
"""


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that takes 25 microseconds a row and no CPU, so that two workers halve its time on a busy machine, too."""
    (tmp_path / "waiting.py").write_text(WAITING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    import keras
    from waiting import Wait

    keras.Sequential([keras.Input((64,)), Wait(), keras.layers.Dense(10)]).save(tmp_path / "waiting.keras")
    return tmp_path / "waiting.keras"


def test_the_same_sweep_twice_says_the_same(demo: Demo, waiting: Path, tmp_path: Path) -> None:
    """Two sweeps of one plan agree on which request size is fastest, and on the claim of 2023."""
    verdicts = []
    with local_server(waiting, workers=2, settings={"MODEL_MODULES": "waiting"}) as server:
        for number in range(2):
            swept = sweep(
                demo.testset, server.url, chunk_sizes=[10, 2_000, None], runs=6, pipelined=[True], seed=number,
                results_dir=tmp_path / str(number),
            )  # fmt: skip
            verdicts.append(swept.verdict())
    for verdict in verdicts:
        assert "2,000 rows per request is fastest" in verdict
        assert '"The whole set in one request is fastest" (2023): not reproduced' in verdict


def test_a_killed_sweep_resumes(demo: Demo, tmp_path: Path) -> None:
    """A sweep whose process is killed resumes with the run that it was doing, and has every run of the plan once."""
    plan = {"chunk_sizes": [500, 2_000], "runs": 4, "pipelined": [True], "seed": 3}
    with local_server(demo.models["mlp"], workers=2) as server:
        whole = sweep(demo.testset, server.url, **plan, results_dir=tmp_path / "whole")
        runs = tmp_path / "killed" / "runs.jsonl"
        program = (
            "import json, sys; from ruo.experiment import sweep; source, url, folder, plan = sys.argv[1:]; "
            "sweep(source, url, **json.loads(plan), results_dir=folder)"
        )
        command = [sys.executable, "-c", program, str(demo.testset), server.url, str(runs.parent), json.dumps(plan)]
        with subprocess.Popen(command, cwd=Path(ruo.__file__).parent.parent) as process:
            while not runs.exists() or runs.read_bytes().count(b"\n") < 4:
                assert process.poll() is None
                time.sleep(0.001)
            os.kill(process.pid, signal.SIGKILL)
        resumed = sweep(demo.testset, server.url, **plan, results_dir=runs.parent)

    same = ["run", "block", "warmup", "position", "rows_per_request", "requests", "rows", "model_version"]
    pd.testing.assert_frame_equal(resumed.runs[same], whole.runs[same])
    assert resumed.runs["answers_equal"].all()
    assert not any("missing" in reason for reason in resumed.validity().reasons)

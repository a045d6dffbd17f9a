"""The jobs on tables, and their bounds, give the model's predictions for every row."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ruo.deploy.local import LocalServer
from ruo.learn.demo import Demo

pytestmark = pytest.mark.soak  # for developers, who run `make bench`

TABLES = ["benchmarks.tables"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def parquet(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test set as Parquet."""
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    pl.read_csv(demo.testset).write_parquet(path)
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["ruo.compare.score", "bound", "--rows-per-call", "300"],
        [*TABLES, "bound", "--rows", "300"],
        [*TABLES, "bound", "--rows", "300", "--bare-socket"],
        [*TABLES, "bound", "--rows", "300", "--in-memory"],
        [*TABLES, "bound", "--rows", "300", "PARQUET"],
        [*TABLES, "client"],
        [*TABLES, "client", "--in-memory"],
        [*TABLES, "client", "PARQUET"],
        [*TABLES, "client", "--times", "3", "--by", "iter_scores"],
        [*TABLES, "client", "--times", "3", "--by", "score_to_file"],
    ],
    ids=lambda command: " ".join(command),
)
def test_a_job_scores_every_row_in_order(demo: Demo, server: LocalServer, parquet: Path, expected: np.ndarray, tmp_path: Path, command: list[str]) -> None:  # fmt: skip
    """From every source, at once or while they come, by ruo, in one process or in several: the model's predictions."""
    answers = tmp_path / "answers.npy"
    table = str(parquet if "PARQUET" in command else demo.testset)
    scores = server.url if "client" in command else str(demo.models["mlp"])
    done = run(*(word for word in command if word != "PARQUET"), table, scores, "--answers", str(answers))
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["rows"] == len(expected)
    assert measured["total_s"] > 0
    np.testing.assert_allclose(np.load(answers), expected, atol=1e-5)


def test_what_cannot_be_scored_is_an_error(demo: Demo, tmp_path: Path) -> None:
    """An empty table, and a model that is not there, end a bound with a sentence; it does not hang."""
    empty = tmp_path / "empty.csv"
    empty.write_text(demo.testset.read_text().partition("\n")[0] + "\n")
    done = run("ruo.compare.score", "bound", str(empty), str(demo.models["mlp"]))
    assert done.stderr.startswith("Error: empty.csv has no rows")

    text = tmp_path / "text.csv"
    text.write_text(demo.testset.read_text().replace("\n", "\nx", 1))
    done = run("ruo.compare.score", "bound", str(text), str(demo.models["mlp"]))
    assert "\nError: text.csv cannot be read by polars alone (could not parse `x" in done.stderr

    (tmp_path / "nothing.keras").write_bytes(b"nothing")
    done = run(*TABLES, "bound", "--bare-socket", str(demo.testset), str(tmp_path / "nothing.keras"))
    assert done.returncode == 1
    assert "nothing.keras" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("A process has ended; its output above says why.")

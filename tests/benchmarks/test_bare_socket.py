"""The bounds of speed do the job that they are the bounds of."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ruo.learn.demo import Demo

BOUNDS = [["benchmarks.bare_socket"], ["ruo.compare.score", "bound"]]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    ("command", "option"), [(BOUNDS[0], "--rows"), (BOUNDS[1], "--rows-per-call")], ids=["bare socket", "in process"]
)
def test_a_bound_scores_every_row_in_order(
    demo: Demo, expected: np.ndarray, tmp_path: Path, command: list[str], option: str
) -> None:
    """Whether several processes score it or one, the predictions are the model's."""
    answers = tmp_path / "answers.npy"
    done = _run(*command, str(demo.testset), str(demo.models["mlp"]), option, "300", "--answers", str(answers))

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == len(expected)
    np.testing.assert_allclose(np.load(answers), expected, atol=1e-5)


@pytest.mark.parametrize("command", BOUNDS, ids=["bare socket", "in process"])
def test_a_table_without_rows_has_no_bound(demo: Demo, tmp_path: Path, command: list[str]) -> None:
    """An empty table is an error, not a measurement."""
    empty = tmp_path / "empty.csv"
    empty.write_text(demo.testset.read_text().partition("\n")[0] + "\n")

    done = _run(*command, str(empty), str(demo.models["mlp"]))

    assert done.stderr.startswith("Error: empty.csv has no rows")


def test_a_process_that_does_not_start_is_an_error(demo: Demo, tmp_path: Path) -> None:
    """Without its model the run ends with a sentence and does not hang."""
    done = _run("benchmarks.bare_socket", str(demo.testset), str(tmp_path / "nothing.keras"))

    assert done.returncode == 1
    assert "nothing.keras" in done.stderr
    assert done.stderr.splitlines()[-1] == "Error: A process did not start; its output above says why."

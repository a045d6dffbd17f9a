"""The bounds of speed do the job that they are the bounds of."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ruo.learn.demo import Demo

pytestmark = pytest.mark.soak  # for developers, who run `make bench`

BOUNDS = pytest.mark.parametrize(
    ("command", "option"),
    [(["benchmarks.bare_socket"], "--rows"), (["ruo.compare.score", "bound"], "--rows-per-call")],
    ids=["bare socket", "in process"],
)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=100, check=False)


@BOUNDS
def test_a_bound_scores_every_row_in_order(demo: Demo, expected: np.ndarray, tmp_path: Path, command: list[str], option: str) -> None:  # fmt: skip
    """Whether several processes score it or one, the predictions are the model's; an empty table is an error."""
    answers, empty = tmp_path / "answers.npy", tmp_path / "empty.csv"
    model = str(demo.models["mlp"])
    done = _run(*command, str(demo.testset), model, option, "300", "--answers", str(answers))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == len(expected)
    np.testing.assert_allclose(np.load(answers), expected, atol=1e-5)

    empty.write_text(demo.testset.read_text().partition("\n")[0] + "\n")
    assert _run(*command, str(empty), model).stderr.startswith("Error: empty.csv has no rows")


def test_a_process_that_does_not_start_is_an_error(demo: Demo, tmp_path: Path) -> None:
    """Without its model the run ends with a sentence and does not hang."""
    done = _run("benchmarks.bare_socket", str(demo.testset), str(tmp_path / "nothing.keras"))

    assert done.returncode == 1
    assert "nothing.keras" in done.stderr
    assert done.stderr.splitlines()[-1] == "Error: A process did not start; its output above says why."

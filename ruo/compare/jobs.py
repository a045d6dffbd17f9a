"""Jobs, each in a new process: a whole table is scored once, and the predictions are saved in a file."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ruo.errors import ScoringError
from ruo.experiment.carry_out import Measurement, Trial, compare_answers
from ruo.wire.messages import Array

# It saves its predictions in the file, as .npy, and returns what it measured, or an `error`.
Job = Callable[[Path], dict[str, Any]]


class JobMeasurement(Measurement):
    """Runs the job of each trial, and checks its predictions against those of the job `bound`, if there is one."""

    def __init__(self, job_of: Callable[[Trial], Job], bound: Job | None) -> None:
        self._job_of = job_of
        self._bound = bound

    def begin(self, resumed: bool) -> None:
        """Compute the reference predictions; raises ScoringError where the model cannot score the table."""
        if self._bound is not None:
            measured, self._reference = run_job(self._bound)
            if not len(self._reference):
                raise ScoringError(f"The model cannot score the test set in one process: {measured.get('error')}")

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Run the trial's job: what it measured, and whether every row came back with the right prediction."""
        measured, predictions = run_job(self._job_of(trial))
        if self._bound is not None:
            measured |= check_answers(measured.get("error"), predictions, self._reference)
            if measured["error"]:
                measured["total_s"] = None
        return measured


def run_job(job: Job) -> tuple[dict[str, Any], Array]:
    """What a job measured, and its predictions, which are empty if there are none."""
    with tempfile.TemporaryDirectory(prefix="ruo-job-") as folder:
        answers = Path(folder) / "answers.npy"
        measured = job(answers)
        return measured, np.load(answers) if answers.exists() else np.empty(0)


def check_answers(error: str | None, predictions: Array, reference: Array) -> dict[str, Any]:
    """The rows that came back, their largest difference from the reference, and an `error` if any is wrong."""
    rows, wanted = len(predictions), len(reference)
    difference, is_equal = compare_answers(predictions, reference)
    if rows != wanted:
        error = f"no result: {rows:,} of {wanted:,} rows came back{f' ({error})' if error else ''}"
    elif error is None and predictions.shape != reference.shape:
        error = f"wrong: answers have the shape {predictions.shape}, not {reference.shape}"
    elif error is None and not is_equal:
        error = f"wrong: answers differ by up to {difference:g}"
    return {"rows": rows, "rows_wanted": wanted, "max_abs_difference": difference, "error": error}


@contextmanager
def in_process(testset: Path, model: Path) -> Iterator[Job]:
    """The same job without a network, in a process that stays ready from one call to the next until the block ends."""
    command = [sys.executable, "-m", "ruo.compare.score", "bound", str(testset), str(model), "--again"]
    pipe, environment = subprocess.PIPE, job_environment()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=log) as process,
    ):

        def job(answers: Path) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):  # where it has ended, the log says why
                print(answers, file=process.stdin, flush=True)
            if line := process.stdout.readline():
                return dict(json.loads(line))
            log.seek(0)
            return {"error": f"The model cannot score {testset.name} in one process: {_last_line(log.read())[:300]}"}

        try:
            yield job
        finally:
            process.kill()


def python_job(*arguments: str, timeout_s: float = 600.0, **variables: str) -> Job:
    """The job ``python -m`` with these arguments and additional environment variables."""
    command = [sys.executable, "-m", *arguments, "--answers"]
    return lambda answers: run_command([*command, str(answers)], timeout_s, job_environment() | variables)


def run_command(command: list[str], timeout_s: float, env: dict[str, str]) -> dict[str, Any]:
    """What a command prints as its last line, which is JSON, or the `error`."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, errors="replace", timeout=timeout_s, check=False)
        return dict(json.loads(_last_line(done.stdout)))
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {timeout_s:g} s"}
    except ValueError:
        return {"error": f"the process ended with status {done.returncode}: {_last_line(done.stderr)[:300]}"}


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def job_environment() -> dict[str, str]:
    """The environment of a job, in which it finds this very package."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}

"""Jobs in processes of their own: a whole table scored once, with its predictions in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ruo.errors import ScoringError
from ruo.experiment.answers import TOLERANCE, largest_difference
from ruo.experiment.carry_out import Measurement
from ruo.experiment.plan import Trial

__all__ = ["Job", "JobMeasurement", "check_answers", "job_environment", "run_command", "run_job", "time_in_process"]

# It writes its predictions to a file, as .npy, and returns what it measured, or an `error`.
Job = Callable[[Path], dict[str, Any]]


class JobMeasurement(Measurement):
    """Runs jobs, and compares all predictions with those of the model in one process, which the job `bound` gives."""

    def __init__(self, bound: Job) -> None:
        self._bound = bound

    def job(self, trial: Trial) -> Job:
        """The job of a trial."""
        raise NotImplementedError

    def begin(self, resumed: bool) -> None:
        """Compute the predictions that are right; raises ScoringError where the model cannot score the table."""
        with tempfile.TemporaryDirectory(prefix="ruo-job-") as folder:
            answers = Path(folder) / "answers.npy"
            measured = self._bound(answers)
            if not answers.exists():
                raise ScoringError(f"The model cannot score the test set in one process: {measured.get('error')}")
            self._reference = np.load(answers)

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Run the trial's job: what it measured, and whether every row came back with the right prediction."""
        with tempfile.TemporaryDirectory(prefix="ruo-job-") as folder:
            answers = Path(folder) / "answers.npy"
            measured = self.job(trial)(answers)
            checked = check_answers(measured, answers, self._reference)
        times = {"total_s": None, "forming_s": None, "sending_s": None} if checked["error"] else {}
        return {**measured, **times, **checked}


def check_answers(measured: dict[str, Any], answers: Path, reference: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The rows that came back, their largest difference from the reference, and the `error` if they are not right."""
    predictions = np.load(answers) if answers.exists() else reference[:0]
    rows, wanted = len(predictions), len(reference)
    difference, error = float("nan"), measured.get("error")
    if rows != wanted:
        error = f"no result: {rows:,} of {wanted:,} rows came back{f' ({error})' if error else ''}"
    elif error is None and predictions.shape != reference.shape:
        error = f"wrong: answers have the shape {predictions.shape}, not {reference.shape}"
    elif error is None:
        difference = largest_difference(predictions, reference)
        if not difference <= TOLERANCE:  # also where it is NaN
            error = f"wrong: answers differ by up to {difference:g}"
    finite = difference if np.isfinite(difference) else None
    return {"rows": rows, "rows_wanted": wanted, "max_abs_difference": finite, "error": error}


def time_in_process(testset: Path, model: Path, runs: int = 1, timeout_s: float = 600.0) -> list[float]:
    """Seconds of the same job without a network, each in a new process: the bound of every client and server.

    Raises ScoringError where the model cannot score the table in one process.
    """
    jobs = [run_job(["ruo.compare.in_process", str(testset), str(model)], timeout_s) for _ in range(runs)]
    error = next((job["error"] for job in jobs if "error" in job), None)
    if error:
        raise ScoringError(f"The model cannot score {testset.name} in one process: {error}")
    return [float(job["total_s"]) for job in jobs]


def run_job(arguments: list[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What ``python -m`` with these arguments prints as its last line, in a new process, or the `error`."""
    return run_command([sys.executable, "-m", *arguments], timeout_s, {**job_environment(), **(environment or {})})


def run_command(command: list[str], timeout_s: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a command prints as its last line, which is JSON, or the `error`."""
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {timeout_s:g} s"}
    try:
        return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))
    except ValueError:
        words = done.stderr.strip().rpartition("\n")[2]
        return {"error": f"the process ended with status {done.returncode}: {words[:300]}"}


def job_environment() -> dict[str, str]:
    """The environment of a job, which finds the package that this process runs."""
    home = str(Path(__file__).parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}

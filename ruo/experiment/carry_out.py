"""The engine of every experiment: it does the runs of a plan and writes each to disk before the next one starts.

results_dir/provenance.json   what was measured where: the plan, the data, the machine (once)
results_dir/runs.jsonl        a line per run, in the order of time; warm-ups are kept and labelled
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruo.client.progress import is_interactive
from ruo.errors import ExperimentError
from ruo.experiment.plan import Plan, Trial
from ruo.experiment.results import PROVENANCE, RUNS, read_lines, read_provenance
from ruo.machine import wait_until_quiet
from ruo.provenance import Provenance

__all__ = ["Measurement", "carry_out"]

_QUIET = 0.15  # of all CPUs


class Measurement:
    """How the runs of an experiment are made. What a method raises ends the experiment; the run is then done again."""

    def begin(self, resumed: bool) -> None:
        """Called once before the first run that is still to do; `resumed` says whether earlier runs are on disk."""

    def prepare(self, trial: Trial) -> None:
        """Called before each run, and not part of it: bring the servers into the state that is measured."""

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Do one run: what it measured, in JSON's types, with a sentence as its `error` where it failed."""
        raise NotImplementedError


def carry_out(
    plan: Plan,
    measurement: Measurement,
    provenance: Provenance,
    results_dir: str | os.PathLike[str],
    *,
    patience_s: float = 0.0,
    progress: bool | None = None,
    log: Callable[[str], object] | None = None,
) -> None:
    """Do the plan's runs that `results_dir` does not hold yet.

    Parameters
    ----------
    plan, measurement
        What is run, and how.
    provenance : Provenance
        What is measured where; its digest stands in each line.
    results_dir : path
        The folder of the results; the same call resumes an interrupted experiment there.
    patience_s : float
        How long to wait before a run, in seconds, while the machine is busy with something else.
    progress : bool, optional
        Whether to draw a bar; by default in a terminal or a notebook only.
    log : callable, optional
        Called with a line of text after each run.

    Raises
    ------
    ExperimentError
        `results_dir` holds runs of another plan, of other data, or from another machine.
    """
    folder = Path(results_dir)
    trials = plan.trials()
    done = _resume(folder, trials, provenance)
    if done == len(trials):
        return
    with (folder / RUNS).open("a", encoding="utf-8") as stream, _bar(progress, len(trials), done) as step:
        measurement.begin(resumed=done > 0)
        for trial in trials[done:]:
            line = {**_run(measurement, trial, patience_s), "provenance": provenance.digest}
            stream.write(json.dumps(line, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            step()
            if log is not None:
                log(f"{trial.run}/{len(trials)}  {_in_words(trial, line)}")


def _run(measurement: Measurement, trial: Trial, patience_s: float) -> dict[str, Any]:
    measurement.prepare(trial)
    busy, waited_s = wait_until_quiet(_QUIET, patience_s)
    began = {
        "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "machine_busy": busy,
        "waited_s": round(waited_s, 3),
    }
    place = {name: value for name, value in vars(trial).items() if name != "levels"}
    return {**place, **began, **trial.levels, "error": None, **measurement.measure(trial)}


def _in_words(trial: Trial, line: dict[str, Any]) -> str:
    setting = ", ".join(str(level) for level in trial.levels.values() if level is not None)
    if line["error"]:
        return f"{setting}: {line['error']}"
    return f"{setting}: {line['total_s']:.3f} s" if line.get("total_s") is not None else setting


def _resume(folder: Path, trials: list[Trial], provenance: Provenance) -> int:
    """The number of runs that are done; writes the provenance where there are none, and cuts off a broken last line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, size = read_lines(folder)
    if not lines:
        draft = (folder / PROVENANCE).with_suffix(".part")
        draft.write_text(json.dumps(provenance.facts, indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / PROVENANCE)
    _require_same(folder, read_provenance(folder), provenance)
    if (folder / RUNS).exists():
        os.truncate(folder / RUNS, size)
    if [line["run"] for line in lines] != [trial.run for trial in trials[: len(lines)]]:
        raise ExperimentError(f"{folder / RUNS} lacks runs in its middle; use another results_dir.")
    return len(lines)


def _require_same(folder: Path, earlier: Provenance, now: Provenance) -> None:
    """Runs of another plan, of other data or from another machine must not be mixed."""
    differences = earlier.differences(now)
    if not differences:
        return
    shown = "; ".join(f"{name} was {old}, is {new}" for name, old, new in differences[:3])
    names = [name for name, _, _ in differences]
    kinds = {"data.sha256": "other data", "model.sha256": "another model"}
    what = next((kind for name, kind in kinds.items() if name in names), "another plan")
    if all(name.startswith("machine.") for name in names):
        what = "another machine or other versions"
    raise ExperimentError(f"{folder} holds runs of {what} ({shown}); use another results_dir, or empty this one.")


@contextmanager
def _bar(progress: bool | None, total: int, done: int) -> Iterator[Callable[[], object]]:
    if not (is_interactive() if progress is None else progress):
        yield lambda: None
        return
    from tqdm.auto import tqdm  # slow to import, and seldom needed

    with tqdm(total=total, initial=done, unit="run") as bar:
        yield bar.update

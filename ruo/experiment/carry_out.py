"""The engine of every experiment: it does the runs of a plan and writes each to disk before the next one starts.

results_dir/provenance.json   what was measured where: the plan, the data, the machine (once)
results_dir/runs.jsonl        a line per run, in the order of time; warm-ups are kept and labelled
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
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
    """How runs are made. An exception ends the experiment, and its run is repeated on resuming."""

    def begin(self, resumed: bool) -> None:
        """Called once before the first run that is left to do; `resumed` says whether earlier runs are on disk."""

    def prepare(self, trial: Trial) -> None:
        """Called before each run and not timed: bring the servers into the state that is measured."""

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Do one run and return what it measured, in the types of JSON; a run that failed has a sentence as `error`."""
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
    """Do the runs that `results_dir` does not hold yet, each after waiting up to `patience_s` for a quiet machine.

    `progress` draws a bar (by default only in a terminal or a notebook); `log` is called with a line after each run.
    """
    folder = Path(results_dir)
    trials = plan.trials()
    done = _resume(folder, trials, provenance)
    if done == len(trials):
        return
    from tqdm.auto import tqdm  # slow to import

    hidden = not (is_interactive() if progress is None else progress)
    with (
        (folder / RUNS).open("a", encoding="utf-8") as stream,
        tqdm(total=len(trials), initial=done, unit="run", disable=hidden) as bar,
    ):
        measurement.begin(resumed=done > 0)
        for trial in trials[done:]:
            line = {**_run(measurement, trial, patience_s), "provenance": provenance.digest}
            stream.write(json.dumps(line, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            bar.update()
            if log is not None:
                log(f"{trial.run}/{len(trials)}  {_in_words(trial, line)}")


def _run(measurement: Measurement, trial: Trial, patience_s: float) -> dict[str, Any]:
    measurement.prepare(trial)
    busy, waited_s = wait_until_quiet(_QUIET, patience_s)
    line = {name: value for name, value in vars(trial).items() if name != "levels"} | {
        "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "machine_busy": busy,
        "waited_s": round(waited_s, 3),
    }
    return {**line, **trial.levels, "error": None, **measurement.measure(trial)}


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
    if "data.sha256" in names:
        what = "other data"
    elif "model.sha256" in names:
        what = "another model"
    elif all(name.startswith("machine.") for name in names):
        what = "another machine or other versions"
    else:
        what = "another plan"
    raise ExperimentError(f"{folder} holds runs of {what} ({shown}); use another results_dir, or empty this one.")

"""The engine of every experiment: a plan of runs, each of which is written to disk before the next one starts.

results_dir/provenance.json   what was measured where: the plan, the data, the machine (once)
results_dir/runs.jsonl        a line per run, in the order of time; warm-ups are kept and labelled
"""

import itertools
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ruo.client.progress import is_interactive
from ruo.errors import ArgumentError, ExperimentError
from ruo.machine import lock, wait_until_quiet
from ruo.provenance import Provenance

# Requests of other sizes are other matrix products, which round differently in the last digits of a float32. It is a
# difference of outputs up to 1, and a share of the largest value of larger ones.
TOLERANCE = 1e-5

# What another experiment is of, by the names of the facts that differ: the first whose pattern one of them has.
KINDS = {
    "other data": r"data\.(sha256|rows|columns|label_prefix)",
    "another model": r"model\.(.+\.)?sha256",
    "another plan": r"(?!machine\.).+",
    "another machine or other versions": r".+",
}
_RUNS = "runs.jsonl"
_PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Trial:
    """One planned run, with the level of each factor. Measured blocks count from 1; warm-up blocks end at 0."""

    run: int  # in the order of time, from 1
    block: int
    warmup: bool
    position: int  # in the block, from 1
    levels: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Blocks of runs, each with every combination of levels once, in a random order that depends on the seed alone.

    So a slow minute affects all settings alike: Abedi and Brecht, "Conducting Repeatable Experiments in Highly Variable
    Cloud Computing Environments", ICPE'17.
    """

    combinations: Sequence[dict[str, Any]]
    runs: int  # measured blocks
    warmup: int = 1  # blocks before them
    seed: int = 0
    # a factor that takes long to change: within a block its levels come one after the other (a split-plot design)
    slow: str | None = None
    # combinations with these levels come in one block of the plan only, drawn for each of them
    once: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ArgumentError(f"runs={self.runs} must be at least 1.")
        if self.warmup < 0:
            raise ArgumentError(f"warmup={self.warmup} must be 0 or more.")

    def trials(self, further: int = 0) -> list[Trial]:
        """All runs in the order of time, and those of `further` blocks, which have what comes in every block."""
        trials, once = list[Trial](), (self.once or {}).items()
        for block in range(1 - self.warmup, self.runs + further + 1):
            rng, draw = (random.Random(f"{self.seed}/{what}") for what in (block, "once"))  # noqa: S311  as in every Python
            selected = [
                levels
                for levels in self.combinations
                if not once or not once <= levels.items() or 1 + int(draw.random() * self.runs) == block
            ]
            shuffled = sorted(selected, key=lambda _: rng.random())
            if slow := self.slow:
                place = {level: rng.random() for level in dict.fromkeys(levels.get(slow) for levels in selected)}
                shuffled.sort(key=lambda levels: place[levels.get(slow)])
            trials += [Trial(len(trials) + at, block, block < 1, at, levels) for at, levels in enumerate(shuffled, 1)]
        return trials

    def facts(self) -> dict[str, Any]:
        """The plan in the types of JSON: the levels of each factor, the number of trials, and how they are ordered."""
        names = dict.fromkeys(itertools.chain.from_iterable(self.combinations))
        factors = {name: [*dict.fromkeys(each[name] for each in self.combinations if name in each)] for name in names}
        options = {name: getattr(self, name) for name in ("runs", "warmup", "seed", "slow", "once")}
        return {"factors": factors, "trials": len(self.trials()), **options}


def all_combinations(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the factors' levels."""
    for name, levels in factors.items():
        given = {"chunk_size": "chunk_sizes"}.get(name, name)  # as the user wrote it
        if not levels:
            raise ArgumentError(f"{given} has no level to measure; pass one or more.")
        if len(set(levels)) < len(levels):
            raise ArgumentError(f"{given}={list(levels)} has a level twice; pass each once.")
    return [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]


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
    patience_s: float = 0.0,  # the most that a noisy machine may cost: in waiting, and again in further blocks
    enough: Callable[[list[dict[str, Any]]], bool] = lambda _: True,  # whether the runs so far say what they are to say
    progress: bool | None = None,  # None draws a bar only in a terminal or a notebook
    log: Callable[[str], object] | None = None,  # called with a line after each run
) -> None:
    """Do the runs that `results_dir` does not hold yet: those of the plan, each on a quiet machine if waiting helps.

    Blocks are added until `enough`, at most as many as were planned. What is left of the patience is read from the
    runs on disk, so a sweep that was interrupted goes on as if it had not been.
    """
    folder = Path(results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _RUNS).open("a", encoding="utf-8") as stream:
        if not lock(stream.fileno()):
            raise ExperimentError(f"Another run writes to {folder} now; wait for its end, or use another results_dir.")
        lines = _resume(folder, provenance)
        left = _left(plan, lines, patience_s, enough)
        if (first := next(left, None)) is None:
            return
        from tqdm.auto import tqdm  # slow to import

        planned, hidden = len(plan.trials()), not (is_interactive() if progress is None else progress)
        with tqdm(total=max(planned, first.run), initial=len(lines), unit="run", disable=hidden) as bar:
            measurement.begin(resumed=bool(lines))
            for trial in itertools.chain([first], left):
                waited_s = sum(max(0.0, line["waited_s"] - 0.1) for line in lines)  # to look takes a tenth of a second
                line = {**_run(measurement, trial, patience_s - waited_s), "provenance": provenance.digest}
                stream.write(json.dumps(line, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
                lines.append(line)
                bar.total = max(planned, trial.run)
                bar.update()
                if log is not None:
                    setting = ", ".join(str(level) for level in trial.levels.values() if level is not None)
                    seconds = line.get("total_s")
                    said = line["error"] or ("done" if seconds is None else f"{seconds:.3f} s")
                    log(f"{trial.run}/{bar.total}  {setting}: {said}")


def _left(
    plan: Plan,
    lines: list[dict[str, Any]],  # grows by one before the next trial is asked for
    patience_s: float,
    enough: Callable[[list[dict[str, Any]]], bool],
) -> Iterator[Trial]:
    """The trials that are left: those of the plan, and of further blocks until it is enough."""
    for trial in plan.trials(further=plan.runs)[len(lines) :]:
        if trial.block > plan.runs and trial.position == 1:
            spent_s = sum(line.get("total_s") or 0.0 for line in lines if line["block"] > plan.runs)
            if spent_s >= patience_s or enough(lines):
                return
        yield trial


def _run(measurement: Measurement, trial: Trial, patience_s: float) -> dict[str, Any]:
    measurement.prepare(trial)
    busy, waited_s = wait_until_quiet(0.15, patience_s)
    began = {"started_at": datetime.now(UTC).isoformat(timespec="milliseconds"), "machine_busy": busy}
    run = {name: value for name, value in vars(trial).items() if name != "levels"}
    line = {**run, **began, "waited_s": round(waited_s, 3), **trial.levels, "error": None, **measurement.measure(trial)}
    # JSON has no word for infinity and NaN
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in line.items()}


def _resume(folder: Path, provenance: Provenance) -> list[dict[str, Any]]:
    """The runs that are done; writes the provenance where there are none, and cuts off a broken last line."""
    lines, size = read_lines(folder)
    if not lines:
        draft = (folder / _PROVENANCE).with_suffix(".part")
        draft.write_text(json.dumps(provenance.facts, indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / _PROVENANCE)
    if differences := read_provenance(folder).differences(provenance):
        what = next(what for what, fact in KINDS.items() if any(re.fullmatch(fact, name) for name, _, _ in differences))
        shown = "; ".join(f"{name} was {old}, is {new}" for name, old, new in differences[:3])
        raise ExperimentError(f"{folder} holds runs of {what} ({shown}); use another results_dir, or empty this one.")
    os.truncate(folder / _RUNS, size)
    return lines


def read_provenance(folder: Path, *kind: str) -> Provenance:
    """What was measured where, for the runs in a folder; `kind` is the way to a fact that this kind of experiment has."""
    try:
        facts = fact = json.loads((folder / _PROVENANCE).read_text(encoding="utf-8"))
        for name in kind:
            fact = fact[name]
    except (FileNotFoundError, NotADirectoryError):
        raise ExperimentError(f"{folder} has no {_PROVENANCE}; pass the results_dir of a sweep.") from None
    except (ValueError, LookupError, TypeError):
        what = "is damaged, or of another kind of experiment"
        raise ExperimentError(f"{folder / _PROVENANCE} {what}; name another folder, or measure again.") from None
    return Provenance(facts)


def read_lines(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The runs of a folder that were written completely, and the bytes that they take in its file."""
    file = folder / _RUNS
    text = file.read_bytes() if file.exists() else b""
    size = text.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(text[:size].splitlines(), 1):
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            lines.append({})
        if lines[-1].get("run") != number:
            what = f"is damaged, or not run {number}, as where runs are missing or come twice"
            raise ExperimentError(f"{file}, line {number}, {what}; measure again into another folder.")
    return lines, size


def put_aside_finished(results_dir: str | os.PathLike[str], last: str = "verdict.txt") -> None:
    """Rename the folder of a finished experiment, which has its `last` file, so that the same command starts anew."""
    folder = Path(results_dir).resolve()  # of which "." has no name
    file = folder / last
    if file.exists():
        date = time.strftime("%Y%m%d-%H%M%S", time.localtime(file.stat().st_mtime))
        folder.rename(folder.with_name(f"{folder.name}-{date}"))


def compare_answers(predictions: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> tuple[float, bool]:
    """The largest absolute difference, and whether all are within the tolerance for their output, a column.

    The difference is infinity where the shapes differ, and NaN where only one of two values is NaN.
    """
    if predictions.shape != reference.shape:
        return inf, False
    difference = np.abs(reference - predictions)
    difference[np.isnan(reference) & np.isnan(predictions)] = 0  # the model answered NaN both times
    allowed = TOLERANCE * np.maximum(1, np.nan_to_num(np.abs(reference)).max(axis=0, initial=0))
    return float(difference.max(initial=0)), bool((difference <= allowed).all())

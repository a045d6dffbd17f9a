"""Experiments: a plan of runs in randomised blocks, each run written to disk as it ends, and the request-size sweep.

    results_dir/provenance.json   what was measured where: the plan, the data, the machine (once)
    results_dir/runs.jsonl        a line per run, in the order of time; warm-ups are kept and labelled

Every block holds every combination once, in an order of its own, so that a slow minute touches all settings alike:
Abedi and Brecht, "Conducting Repeatable Experiments in Highly Variable Cloud Computing Environments", ICPE'17.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruo.client.progress import somebody_looks
from ruo.errors import ArgumentError, ExperimentError
from ruo.experiment.results import PROVENANCE, RUNS, Sweep, read_lines, read_provenance, read_sweep
from ruo.provenance import Provenance, fingerprint, machine
from ruo.table import fingerprint_table

if TYPE_CHECKING:
    from ruo.experiment.measure import Target
    from ruo.table import Source

__all__ = ["Plan", "Sweep", "Trial", "carry_out", "read_sweep", "sweep"]


@dataclass(frozen=True)
class Trial:
    """One run to be: the `run`-th of all (from 1), at `position` (from 1) of its block, with a level of each factor.

    Measured blocks count from 1; warm-up blocks come before and end at 0.
    """

    run: int
    block: int
    warmup: bool
    position: int
    levels: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Every combination of the factors' levels, `runs` times and `warmup` times before that; `seed` sets the order.

    `slow` is a factor that takes long to change, such as the number of replicas: within a block its levels come in an
    order of their own, and with each come all combinations that have it (a split-plot design).
    """

    factors: Mapping[str, Sequence[Any]]
    runs: int
    warmup: int = 1
    seed: int = 0
    slow: str | None = None

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ArgumentError(f"runs={self.runs} must be at least 1.")
        if self.warmup < 0:
            raise ArgumentError(f"warmup={self.warmup} must be 0 or more.")
        for name, levels in self.factors.items():
            if not levels:
                raise ArgumentError(f"{name} has no level to measure; pass one or more.")
            if any(level in levels[:index] for index, level in enumerate(levels)):
                raise ArgumentError(f"{name}={list(levels)} has a level twice; pass each once.")

    def trials(self) -> list[Trial]:
        """All runs in the order of time; the same plan gives the same order."""
        combinations = [
            dict(zip(self.factors, levels, strict=True)) for levels in itertools.product(*self.factors.values())
        ]
        trials: list[Trial] = []
        for block in range(1 - self.warmup, self.runs + 1):
            order = random.Random(f"{self.seed}/{block}")  # noqa: S311  its random() is the same in every Python
            shuffled = sorted(combinations, key=lambda _: order.random())
            if slow := self.slow:
                place = {level: order.random() for level in self.factors[slow]}
                shuffled.sort(key=lambda levels: place[levels[slow]])
            for position, levels in enumerate(shuffled, 1):
                trials.append(Trial(len(trials) + 1, block, block < 1, position, levels))
        return trials

    def facts(self) -> dict[str, Any]:
        """The plan as JSON knows it."""
        return {**asdict(self), "factors": {name: list(levels) for name, levels in self.factors.items()}}


def carry_out(
    plan: Plan,
    measure: Callable[[Trial], dict[str, Any]],
    provenance: Provenance,
    results_dir: str | os.PathLike[str],
    progress: bool | None = None,
) -> None:
    """Do the plan's runs that `results_dir` does not hold yet, and write each line to disk before the next run starts.

    measure: does one run and gives what it found, as JSON knows it, with its `error` where it failed. What it
        raises ends the experiment, and the run is done again when the experiment goes on.
    provenance: what is measured where; its digest stands in each line.
    progress: True, False, or None for a bar where somebody looks: in a terminal or a notebook.

    Raises ExperimentError where `results_dir` holds runs of something else.
    """
    folder = Path(results_dir)
    trials = plan.trials()
    done = _take_up(folder, trials, provenance)
    with (folder / RUNS).open("a", encoding="utf-8") as stream, _bar(progress, len(trials), done) as step:
        for trial in trials[done:]:
            started = datetime.now(UTC).isoformat(timespec="milliseconds")
            found = {"error": None, **measure(trial)}
            about = {name: value for name, value in vars(trial).items() if name != "levels"}
            line = {**about, "started_at": started, **trial.levels, **found, "provenance": provenance.digest}
            stream.write(json.dumps(line, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            step()


def _take_up(folder: Path, trials: list[Trial], provenance: Provenance) -> int:
    """How many of the runs are done; writes the provenance where none is, and cuts off a line that broke off."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, size = read_lines(folder)
    described = folder / PROVENANCE
    if not lines:
        draft = described.with_suffix(".part")
        draft.write_text(json.dumps(provenance.facts, indent=1) + "\n", encoding="utf-8")
        draft.replace(described)
    _refuse_other(folder, read_provenance(folder), provenance)
    if (folder / RUNS).exists():
        os.truncate(folder / RUNS, size)
    if [line["run"] for line in lines] != [trial.run for trial in trials[: len(lines)]]:
        raise ExperimentError(f"{folder / RUNS} lacks runs in its middle; use another results_dir.")
    return len(lines)


def _refuse_other(folder: Path, there: Provenance, here: Provenance) -> None:
    """Runs of another plan, of other data or from another machine must not be mixed."""
    if there.digest == here.digest:
        return
    old, new = there.flat(), here.flat()
    different = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = "; ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in different[:3])
    kinds = {"data.sha256": "other data", "model.sha256": "another model"}
    what = next((kind for name, kind in kinds.items() if name in different), "another plan")
    if all(name.startswith("machine.") for name in different):
        what = "another machine or other versions"
    raise ExperimentError(f"{folder} holds runs of {what} ({shown}); use another results_dir, or empty this one.")


@contextmanager
def _bar(progress: bool | None, total: int, done: int) -> Iterator[Callable[[], object]]:
    if not (somebody_looks() if progress is None else progress):
        yield lambda: None
        return
    from tqdm.auto import tqdm  # here, since it is slow to import and seldom needed

    with tqdm(total=total, initial=done, desc="Sweep", unit="run") as bar:
        yield bar.update


def sweep(
    source: Source,
    url: Target | Mapping[str, Target],
    *,
    chunk_sizes: Sequence[int | None],
    runs: int = 5,
    wire: str | Sequence[str] = "v2",
    concurrency: int | Sequence[int] = 8,
    pipelined: Sequence[bool] = (True, False),
    replicas: Sequence[int] | None = None,
    seed: int = 0,
    warmup: int = 1,
    model: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    results_dir: str | os.PathLike[str],
    label_prefix: str = "Label_",
    timeout: float = 600.0,
    token: str | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Score a table again and again in every combination of the settings, and keep what every run took.

    source, label_prefix, timeout, token: as in `ruo.score_csv`. Nothing is sent again.
    url: as in `ruo.score_csv`, or a deployment (`ruo.local_server`, `ruo.KubernetesDeployment`), or several of these by
        the names of their models, which makes the model a factor.
    chunk_sizes: rows per request; None is the whole table in one. Sizes that hold all rows are left out.
    wire, concurrency: as in `ruo.score_csv`, or several to measure.
    pipelined: the ways to measure; False forms all requests before the first is sent, as the system of 2023 did.
    replicas: how many servers to have, for a deployment, which is scaled and waited for between the runs.
    runs, warmup: how many blocks are measured, and how many come before; a block has every combination once.
    seed: sets the order of the runs.
    model: the file or folder that the server loaded, or each by name, whose fingerprint goes into the provenance.
    results_dir: where the runs are written; the same call goes on there if it was interrupted.
    progress: True, False, or None for a bar of the runs, with the time left, where somebody looks.

    Raises ExperimentError for a plan that cannot be, and where `results_dir` holds runs of another plan, another model,
    other data or another machine; TableError and ScoringError where the table cannot be scored at all, and
    DeploymentError where servers cannot be scaled. A run that fails later is kept with its error.
    """
    from ruo.experiment.measure import Bench  # here, so that results can be read without the client

    targets: dict[str | None, Target] = {}
    targets |= url.items() if isinstance(url, Mapping) else [(None, url)]
    bench = Bench(source, targets, label_prefix, timeout, token)
    sizes, notes = _fitting(chunk_sizes, bench.rows)
    factors = {
        "model": list(targets),
        "replicas": [None] if replicas is None else list(replicas),
        "wire": [wire] if isinstance(wire, str) else list(wire),
        "concurrency": [concurrency] if isinstance(concurrency, int) else list(concurrency),
        "chunk_size": sizes,
        "pipelined": list(pipelined),
    }
    plan = Plan(factors, runs, warmup, seed, slow=None if replicas is None else "replicas")
    provenance = Provenance(
        {
            "plan": {**plan.facts(), "timeout": timeout},
            "data": {"name": bench.name, "rows": bench.rows, "features": bench.features, "label_prefix": label_prefix}
            | {"sha256": fingerprint_table(source)},
            "model": _about_models(model),
            "machine": machine(),
            "notes": notes,
        }
    )
    carry_out(plan, lambda trial: bench.measure(trial.run, **trial.levels), provenance, results_dir, progress)
    return read_sweep(results_dir)


def _about_models(model: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None) -> Any:
    if isinstance(model, Mapping):
        return {name: _about_models(path) for name, path in model.items()}
    return None if model is None else {"name": Path(model).name, "sha256": fingerprint(model)}


def _fitting(chunk_sizes: Sequence[int | None], rows: int) -> tuple[list[int | None], list[str]]:
    """The sizes that are smaller than the table, and a sentence on each that is not."""
    sizes: list[int | None] = []
    notes = []
    for size in chunk_sizes:
        if size is not None and (isinstance(size, bool) or size != int(size) or size < 1):
            raise ArgumentError(f"chunk_sizes: {size!r} must be a whole number from 1 up, or None for the whole set.")
        if size is None or size < rows:
            sizes.append(None if size is None else int(size))
        else:
            notes.append(
                f"{size:,} rows per request was left out: the table has {rows:,} rows, and None sends them all."
            )
    if notes and not sizes:
        raise ArgumentError(f"No chunk_size is smaller than the table's {rows:,} rows; pass smaller ones, or None.")
    return sizes, notes

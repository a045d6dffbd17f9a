"""A notebook, run for every combination of some parameters' values, one after the other.

results/model=mlp,workers=2/   what `run_notebook` leaves, and parameters.json once the run has finished
results/gathered.csv           every summary.csv, with the grid's parameters as the first columns
results/verdicts.md            every verdict, or the error instead
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import quote

import click
import pandas as pd

from ruo.errors import ArgumentError, RuoError
from ruo.notebook.parameters import parse_value
from ruo.notebook.run import require_known, run_notebook

GATHERED = "gathered.csv"
VERDICTS = "verdicts.md"

_RECORD = "parameters.json"

# Names that every file system keeps as they are, even if it ignores case.
_PLAIN = re.compile(r"-?[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class _Combination:
    """One run of the grid: its `levels` of the varied parameters, all its `parameters`, and its `folder`."""

    levels: dict[str, Any]
    parameters: dict[str, Any]
    notebook: Path
    folder: Path

    def __str__(self) -> str:
        return ",".join(f"{name}={_word(level)}" for name, level in self.levels.items())

    def _record(self) -> str:
        return json.dumps({"notebook": self.notebook.name, "parameters": self.parameters}, indent=1, sort_keys=True)

    def is_finished(self) -> bool:
        """Whether the folder holds a finished run with exactly these parameters."""
        record = self.folder / _RECORD
        return record.exists() and record.read_text(encoding="utf-8") == self._record()

    def run(self) -> str | None:
        """Run the notebook; return the error if it fails."""
        (self.folder / _RECORD).unlink(missing_ok=True)  # it marks a finished run
        try:
            run_notebook(self.notebook, self.folder, self.parameters)
        except RuoError as error:
            return " ".join(str(error).split())
        (self.folder / _RECORD).write_text(self._record(), encoding="utf-8")
        return None

    def outcome(self, error: str | None) -> tuple[list[dict[str, Any]], str]:
        """Return the rows for gathered.csv, one if there is no summary, and the section for verdicts.md."""
        lines: list[dict[Any, Any]] = [{}]
        summary, verdict = self.folder / "summary.csv", self.folder / "verdict.txt"
        if error is None and summary.exists():
            try:
                lines = pd.read_csv(summary).to_dict("records")
            except ValueError as reason:
                error = f"{summary} cannot be read: {reason}"
        levels = {
            name: _word(level) if level is None or isinstance(level, list) else level
            for name, level in self.levels.items()
        }
        levels["error"] = error
        rows = [levels | {f"summary_{key}" if key in levels else key: line[key] for key in line} for line in lines]
        text = verdict.read_text(encoding="utf-8").strip() if verdict.exists() else "It wrote no verdict."
        page = self.folder / f"{self.notebook.stem}.html"
        link = f" ([report]({quote(f'{self.folder.name}/{page.name}')}))" if page.exists() else ""
        return rows, f"## {str(self).replace(',', ', ')}{link}\n\n{f'FAILED: {error}' if error else text}"


def run_grid(
    notebook: str | os.PathLike[str],
    results: str | os.PathLike[str],
    grid: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Run a notebook for every combination of the grid's values, and return what gathered.csv contains.

    Finished combinations are not run again, so the same call resumes an interrupted grid and repeats failed runs.
    """
    folder = Path(results)
    combinations = _combinations(Path(notebook), folder, grid, fixed or {})
    waiting = sum(not combination.is_finished() for combination in combinations)
    seconds: list[float] = []
    errors: dict[Path, str | None] = {}
    for number, combination in enumerate(combinations, 1):
        label = f"{number}/{len(combinations)} {combination} ..."
        if combination.is_finished():
            click.echo(f"{label} is finished already", err=True)
            continue
        click.echo(label, err=True)
        began = time.monotonic()
        error = errors[combination.folder] = combination.run()
        seconds.append(time.monotonic() - began)
        waiting -= 1
        left = f", about {_span(waiting * mean(seconds))} left" if waiting else ""
        click.echo(f"{label} {_span(seconds[-1])}{left}{f'; FAILED: {error}' if error else ''}", err=True)
        _gather(folder, combinations, errors)  # after each run, so that an interrupted grid leaves its results
    return _gather(folder, combinations, errors)


def folder_name(levels: Mapping[str, Any]) -> str:
    """Return the name of a combination's folder, such as ``model=mlp,workers=2``: portable and unambiguous.

    A value that is no portable name, or looks like another value, is followed by ``~`` and its digest.
    """
    name = ",".join(f"{name}={_slug(_plain(level))}" for name, level in levels.items())
    return name if len(name.encode()) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 4]}~{_digest(name)}"


def _combinations(
    notebook: Path, folder: Path, grid: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]
) -> list[_Combination]:
    if not grid:
        raise ArgumentError("Nothing varies; give a parameter two or more values, such as -p workers 1,2.")
    require_known(notebook, {**grid, **fixed})
    levels = {name: [_plain(level) for level in values] for name, values in grid.items()}
    for name, values in levels.items():
        if name in fixed:
            raise ArgumentError(f"{name} cannot vary and be fixed; pass it once.")
        if not values:
            raise ArgumentError(f"{name} has no value to run with; pass one or more.")
        if len({_slug(value) for value in values}) < len(values):
            raise ArgumentError(f"{name}={','.join(map(_word, values))} has a value twice; pass each once.")
    common = {name: _plain(value) for name, value in fixed.items()}
    products = [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]
    return [_Combination(levels, {**common, **levels}, notebook, folder / folder_name(levels)) for levels in products]


def _gather(folder: Path, combinations: Sequence[_Combination], errors: Mapping[Path, str | None]) -> pd.DataFrame:
    """Write gathered.csv and verdicts.md for what has run so far; return the former."""
    ended = [(run, errors.get(run.folder)) for run in combinations if errors.get(run.folder) or run.is_finished()]
    outcomes = [combination.outcome(error) for combination, error in ended]
    # a column of whole numbers stays whole if one is missing
    gathered = pd.DataFrame([row for rows, _ in outcomes for row in rows]).convert_dtypes()
    folder.mkdir(parents=True, exist_ok=True)
    gathered.to_csv(folder / GATHERED, index=False)
    title = f"# {combinations[0].notebook.stem}: {len(ended)} of {len(combinations)} combinations"
    text = "\n\n".join([title, *(section for _, section in outcomes)])
    (folder / VERDICTS).write_text(text + "\n", encoding="utf-8")
    return gathered


def _plain(value: Any) -> Any:
    """Return the value as JSON has it: a NumPy number becomes a number, a path text and a tuple a list."""
    return json.loads(json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other)))


def _slug(value: Any) -> str:
    """Return the value as part of a file name, unique to the value."""
    word = _word(value)
    # as JSON the text "1" and the number 1 differ, and so must their folders
    if _PLAIN.fullmatch(word) and json.dumps(parse_value(word)) == json.dumps(value):
        return word
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', word)[-40:]}~{_digest(value)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _word(value: Any) -> str:
    """Return the value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds:.0f} s"

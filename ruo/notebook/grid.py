"""A notebook, run for every combination of some parameters' values, one after the other, and what came of them all.

    results/model=mlp,workers=2/   what `ruo.notebook.run.run_notebook` leaves, and parameters.json once it has finished
    results/gathered.csv           every summary.csv, with the grid's parameters as the first columns
    results/verdicts.md            every verdict, or why there is none

The combinations run in the order of the grid and never at the same time, for each would be measured with the others.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import quote

import click
import pandas as pd
from nbclient.exceptions import DeadKernelError

from ruo.errors import ArgumentError, RuoError
from ruo.notebook.run import parse_value, require_known, run_notebook

__all__ = ["GATHERED", "VERDICTS", "folder_name", "parse_pairs", "run_grid"]

GATHERED = "gathered.csv"
VERDICTS = "verdicts.md"

_RECORD = "parameters.json"
_VERDICT = "verdict.txt"
_SUMMARY = "summary.csv"

# What every file system keeps as it is and keeps apart, though it may not tell capitals from small letters.
_PLAIN = re.compile(r"-?[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class _Combination:
    """`levels` of the grid's parameters, all `parameters` as JSON knows them, and the `folder` of what comes out."""

    levels: dict[str, Any]
    parameters: dict[str, Any]
    notebook: Path
    folder: Path

    def __str__(self) -> str:
        return ",".join(f"{name}={_word(level)}" for name, level in self.levels.items())

    def is_finished(self) -> bool:
        """Whether the folder holds a finished result of these very parameters."""
        try:
            record = (self.folder / _RECORD).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        return record == self._record()

    def run(self) -> None:
        """Run the notebook; raises RuoError where it fails."""
        # it stands for a result that is finished, and this one is not yet
        (self.folder / _RECORD).unlink(missing_ok=True)
        try:
            run_notebook(self.notebook, self.folder, self.parameters)
        except DeadKernelError as error:
            raise RuoError(f"The kernel of {self.notebook.name} died; it may have had too little memory.") from error
        (self.folder / _RECORD).write_text(self._record(), encoding="utf-8")

    def rows(self) -> list[dict[str, Any]]:
        """The lines of its summary.csv; one without columns where the notebook wrote none."""
        path = self.folder / _SUMMARY
        return pd.read_csv(path).to_dict("records") if path.exists() else [{}]  # type: ignore[return-value]

    def _record(self) -> str:
        facts = {"notebook": self.notebook.name, "parameters": self.parameters}
        return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def run_grid(
    notebook: str | os.PathLike[str],
    results: str | os.PathLike[str],
    grid: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Run a notebook once for every combination of the grid's values, each into a folder of its own in `results`.

    grid: the values of each parameter that varies; the last one varies fastest.
    fixed: the parameters that all have in common.

    A combination whose result is finished, with the same parameters, is taken as it is, so an interrupted grid goes on
    where it stopped. One that fails is kept with its sentence, the rest goes on, and the next call tries it again.

    Gives what is in gathered.csv: `error` says what failed and is NA elsewhere; of a failed combination there is nothing
    more. None and lists among the grid's values stand there as text: none, [1000,none]. A column of a summary that is
    named like one of the first is prefixed summary_. Raises RuoError, before anything runs, for parameters that the
    notebook does not have and for a grid that cannot be.
    """
    notebook, folder = Path(notebook), Path(results)
    combinations = _combinations(notebook, folder, grid, fixed or {})
    waiting = sum(not each.is_finished() for each in combinations)
    seconds: list[float] = []
    errors: dict[Path, str] = {}
    for number, each in enumerate(combinations, 1):
        place = f"{number}/{len(combinations)} {each} ..."
        if each.is_finished():
            click.echo(f"{place} is finished already", err=True)
            continue
        click.echo(place, err=True)
        began = time.monotonic()
        try:
            each.run()
        except RuoError as error:
            errors[each.folder] = " ".join(str(error).split())
        seconds.append(time.monotonic() - began)
        waiting -= 1
        click.echo(
            f"{place} {_span(seconds[-1])}{_time_left(seconds, waiting)}{_failed(errors.get(each.folder))}", err=True
        )
        _gather(folder, combinations, errors)  # each time, so that an interrupted grid can be looked at
    return _gather(folder, combinations, errors)


def parse_pairs(pairs: Iterable[str]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What varies and what is fixed, from parameters as a command line has them: NAME=VALUE, or NAME=VALUE,VALUE,...

    A value is written as `ruo.notebook.run.parse_value` reads it: 5, 0.5, true, none or text. A value that is itself a list
    stands in brackets: chunk_sizes=[1000,5000],[10000,none] are two lists, workers=[1,2] is one, and fixed. A text
    with a comma cannot be written. Raises RuoError for a pair without a name or a value, and for a name given twice.
    """
    grid: dict[str, list[Any]] = {}
    fixed: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        parts = re.split(r",(?![^\[]*\])", text)  # commas outside brackets
        if not name or not all(part.strip() for part in parts):
            raise ArgumentError(
                f"{pair!r} lacks a name or a value; write NAME=VALUE or NAME=VALUE,VALUE, and none for None."
            )
        if name in grid or name in fixed:
            raise ArgumentError(f"{name} is given twice; write all its values in one, such as {name}=1,2.")
        levels = [_level(part.strip(), pair) for part in parts]
        if len(levels) > 1:
            grid[name] = levels
        else:
            fixed[name] = levels[0]
    return grid, fixed


def folder_name(levels: Mapping[str, Any]) -> str:
    """The name of a combination's folder, such as model=mlp,workers=2: safe in every file system, never that of another.

    A value that cannot stand in a file name as it is, or could be taken for another one, is followed by ~ and its digest.
    """
    name = ",".join(f"{name}={_slug(_plain(level))}" for name, level in levels.items())
    return name if len(name.encode()) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 4]}~{_digest(name)}"


def _level(text: str, pair: str) -> Any:
    if text.startswith("[") != text.endswith("]"):
        raise ArgumentError(f"{pair!r} has a bracket without its other half; a list is written [1000,5000,none].")
    if not text.startswith("["):
        return parse_value(text)
    inner = text[1:-1].strip()
    return [parse_value(part) for part in inner.split(",")] if inner else []


def _combinations(
    notebook: Path, folder: Path, grid: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]
) -> list[_Combination]:
    if not notebook.is_file():
        raise ArgumentError(f"There is no notebook at {notebook}.")
    if not grid:
        raise ArgumentError(
            "Nothing varies, so there is no grid; give a parameter two values or more, such as workers=1,2."
        )
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
    each = [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]
    return [_Combination(chosen, {**common, **chosen}, notebook, folder / folder_name(chosen)) for chosen in each]


def _plain(value: Any) -> Any:
    """The value as JSON gives it back, for it is compared with what was kept; NumPy's numbers are numbers, paths text."""
    return json.loads(json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other)))


def _slug(value: Any) -> str:
    """The value as part of a file name, another one for each value: what is not itself there has its digest."""
    word = _word(value)
    if _PLAIN.fullmatch(word):
        back = parse_value(word)
        if back == value and type(back) is type(value):  # the text "1" must not get the folder of the number
            return word
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', word)[-40:]}~{_digest(value)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _word(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _failed(error: str | None) -> str:
    return f"; FAILED: {error}" if error else ""


def _time_left(seconds: Sequence[float], waiting: int) -> str:
    return f", about {_span(waiting * mean(seconds))} left" if waiting else ""


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds:.0f} s"


def _gather(folder: Path, combinations: Sequence[_Combination], errors: Mapping[Path, str]) -> pd.DataFrame:
    """Write gathered.csv and verdicts.md of what has run so far; gives the former."""
    rows, verdicts = [], []
    for each in combinations:
        error = errors.get(each.folder)
        if error is None and not each.is_finished():
            continue
        found, error = ([{}], error) if error else _rows_of(each)
        first = {name: _word(level) if level is None or isinstance(level, list) else level
                 for name, level in each.levels.items()} | {"error": error}  # fmt: skip
        rows += [{**first, **{f"summary_{key}" if key in first else key: row[key] for key in row}} for row in found]
        verdicts.append(_verdict(each, error))
    # whole numbers stay whole beside a combination that has none
    gathered = pd.DataFrame(rows).convert_dtypes()
    folder.mkdir(parents=True, exist_ok=True)
    gathered.to_csv(folder / GATHERED, index=False)
    title = f"# {combinations[0].notebook.stem}: {len(verdicts)} of {len(combinations)} combinations"
    (folder / VERDICTS).write_text("\n\n".join([title, *verdicts]) + "\n", encoding="utf-8")
    return gathered


def _rows_of(each: _Combination) -> tuple[list[dict[str, Any]], str | None]:
    try:
        return each.rows(), None
    except ValueError as error:  # the notebook's own file, whatever it wrote
        return [{}], f"{each.folder / _SUMMARY} cannot be read: {error}"


def _verdict(each: _Combination, error: str | None) -> str:
    page = each.folder / f"{each.notebook.stem}.html"
    about = f" ([report]({quote(f'{each.folder.name}/{page.name}')}))" if page.exists() else ""
    path = each.folder / _VERDICT
    verdict = path.read_text(encoding="utf-8").strip() if path.exists() else "It wrote no verdict."
    said = f"FAILED: {error}" if error else verdict
    return f"## {', '.join(str(each).split(','))}{about}\n\n{said}"

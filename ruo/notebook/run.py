"""A notebook, run with parameters, or for every combination of some parameters' values, one after the other.

results/model=mlp,workers=2/   what `run_notebook` leaves, and parameters.json once the run has finished
results/gathered.csv           every summary.csv, with the grid's parameters as the first columns
results/verdicts.md            every verdict, or the error instead
results/ranking.md             which combination is best, with a figure beside it
"""

import hashlib
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import pandas as pd

from ruo.errors import ArgumentError, ExperimentError, RuoError, needs
from ruo.experiment.carry_out import put_aside_finished
from ruo.notebook.parameters import parse_value
from ruo.notebook.report import whole_notebook, write_report
from ruo.stats import digits

GATHERED = "gathered.csv"
VERDICTS = "verdicts.md"
RANKING = "ranking.md"
_RATE = "rows_per_s"
_READ = ["rows_per_request", _RATE, "total_mean", "total_low", "total_high"]
_SHOWN = ["combination", "rows_per_request", _RATE, "low", "high", "verdict"]
_RECORD = "parameters.json"  # marks a finished run
# what every file system keeps as part of a name, even if it ignores case
_PLAIN = re.compile(r"-?[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?")


@needs("notebooks")
def run_notebook(
    notebook: str | os.PathLike[str], results: str | os.PathLike[str], parameters: Mapping[str, Any] | None = None
) -> str:
    """Run a notebook, leave it, its page and its data in the folder `results`, and return the text of verdict.txt."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook, folder = Path(notebook), Path(results)
    known = _require_known(notebook, parameters or {})
    executed = folder / notebook.name
    with suppress(ExperimentError):  # of a notebook whose writing broke off, such as on a full disk
        if not executed.exists() or whole_notebook(executed):  # else its results are gone on with
            put_aside_finished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    given = {"results_dir": str(folder)} if "results_dir" in known else {}
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            {**(parameters or {}), **given},
            kernel_name="python3",
            autosave_cell_every=0,  # saving during a cell would be measured too
            progress_bar=sys.stderr.isatty(),
            extra_arguments=["--log-level=CRITICAL"],  # what a kernel says of itself is not for the reader
        )
    except PapermillExecutionError as error:
        cell = f"Cell {error.exec_count} of {notebook.name}"
        raise RuoError(f"{cell} failed: {error.ename}: {error.evalue} (see {executed})") from error
    except DeadKernelError as error:
        raise RuoError(f"The kernel of {notebook.name} died; it may have had too little memory.") from error
    write_report(executed)
    return _verdict(folder)


def _verdict(folder: Path) -> str:
    verdict = folder / "verdict.txt"
    return verdict.read_text(encoding="utf-8").strip() if verdict.exists() else ""


def _require_known(notebook: Path, names: Iterable[str]) -> list[str]:
    """Return the names of a notebook's parameters; refuse others in `names`, of which papermill only warns."""
    import papermill
    from nbformat import ValidationError

    if not notebook.is_file() or notebook.suffix != ".ipynb":
        raise ArgumentError(f"There is no notebook at {notebook}; name a file that ends in .ipynb.")
    try:
        known = list(papermill.inspect_notebook(notebook))
    except (ValueError, AttributeError, KeyError, ValidationError) as error:
        raise ArgumentError(f"{notebook} is no notebook of Jupyter ({type(error).__name__}).") from error
    for name in names:
        if name == "results_dir":
            raise ArgumentError("results_dir is the folder that --results names; leave the parameter out.")
        if name not in known:
            raise ArgumentError(f"{notebook.name} has no parameter {name!r}; it has {', '.join(known) or 'none'}.")
    return known


@dataclass
class _Combination:
    """One run of the grid: its `levels` of the varied parameters, all its `parameters`, its `folder` and its `error`."""

    levels: dict[str, Any]
    parameters: dict[str, Any]
    notebook: Path
    folder: Path
    error: str | None = None

    def __str__(self) -> str:
        return ",".join(f"{name}={_word(level)}" for name, level in self.levels.items())

    def _record(self) -> str:
        cells = json.loads(self.notebook.read_text(encoding="utf-8"))["cells"]
        code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        facts = {"notebook": self.notebook.name, "code": _digest(code), "parameters": self.parameters}
        return json.dumps(facts, indent=1, sort_keys=True)

    def is_finished(self) -> bool:
        """Whether the folder holds a finished run with exactly these parameters."""
        record = self.folder / _RECORD
        return record.exists() and record.read_text(encoding="utf-8") == self._record()

    def run(self) -> None:
        (self.folder / _RECORD).unlink(missing_ok=True)
        try:
            run_notebook(self.notebook, self.folder, self.parameters)
            (self.folder / _RECORD).write_text(self._record(), encoding="utf-8")
        except RuoError as error:
            self.error = " ".join(str(error).split())

    def summary(self) -> pd.DataFrame:
        """The notebook's summary; a row without columns if there is none."""
        path = self.folder / "summary.csv"
        if not self.error and path.exists():
            try:
                return pd.read_csv(path)
            except ValueError as error:
                self.error = f"{path} cannot be read: {error}"
        return pd.DataFrame(index=[0])


@needs("notebooks")
def run_grid(
    notebook: str | os.PathLike[str],
    results: str | os.PathLike[str],
    grid: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Run a notebook for every combination of the grid's values; finished combinations are not run again."""
    folder = Path(results)
    combinations = _combinations(Path(notebook), folder, grid, fixed or {})
    waiting = sum(not combination.is_finished() for combination in combinations)
    began, done = time.monotonic(), 0
    for number, combination in enumerate(combinations, 1):
        label = f"{number}/{len(combinations)} {combination} ..."
        if combination.is_finished():
            click.echo(f"{label} is finished already", err=True)
            continue
        click.echo(label, err=True)
        combination.run()
        spent, done = time.monotonic() - began, done + 1
        left = f", about {timedelta(seconds=round(spent / done * (waiting - done)))} left" if done < waiting else ""
        failed = f"; FAILED: {combination.error}" if combination.error else ""
        click.echo(f"{label} {timedelta(seconds=round(spent))}{left}{failed}", err=True)
        _gather(folder, combinations)  # after each run, so that an interrupted grid leaves its results
    gathered = _gather(folder, combinations)
    write_ranking(folder, [(str(one), one.summary(), _verdict(one.folder)) for one in combinations if not one.error])
    return gathered


def folder_name(levels: Mapping[str, Any]) -> str:
    """The name of a combination's folder, such as ``model=mlp,workers=2``; odd values add a digest of all values."""
    levels = _plain(levels)
    words = {name: _word(level) for name, level in levels.items()}
    name = ",".join(f"{name}={word}" for name, word in words.items())
    is_portable = len(name) <= 120 and all(map(_PLAIN.fullmatch, words.values()))
    # as JSON the text "1" and the number 1 differ, and so must their folders
    if is_portable and json.dumps({name: parse_value(word) for name, word in words.items()}) == json.dumps(levels):
        return name
    return f"{re.sub('[^A-Za-z0-9=,._-]+', '_', name)[:100]}~{_digest(levels)[:10]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _combinations(
    notebook: Path, folder: Path, grid: Mapping[str, Any], fixed: Mapping[str, Any]
) -> list[_Combination]:
    if not grid:
        raise ArgumentError("Nothing varies; give a parameter two or more values, such as -p workers 1,2.")
    _require_known(notebook, {**grid, **fixed})
    levels = _plain({name: list(values) for name, values in grid.items()})
    for name, values in levels.items():
        if name in fixed:
            raise ArgumentError(f"{name} cannot vary and be fixed; pass it once.")
        if not values:
            raise ArgumentError(f"{name} has no value to run with; pass one or more.")
        if len(set(map(json.dumps, values))) < len(values):
            raise ArgumentError(f"{name}={','.join(map(_word, values))} has a value twice; pass each once.")
    products = [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]
    return [_Combination(row, {**_plain(fixed), **row}, notebook, folder / folder_name(row)) for row in products]


def _gather(folder: Path, combinations: Sequence[_Combination]) -> pd.DataFrame:
    """Write gathered.csv and verdicts.md for what has run so far; return the former."""
    ended = [combination for combination in combinations if combination.error or combination.is_finished()]
    report = combinations[0].notebook.with_suffix(".html").name
    frames, sections = [], [f"# {combinations[0].notebook.stem}: {len(ended)} of {len(combinations)} combinations"]
    for one in ended:
        summary = one.summary()
        levels = {
            name: level if isinstance(level, str | int | float) else _word(level) for name, level in one.levels.items()
        }
        front = pd.DataFrame({**levels, "error": one.error}, summary.index)
        frames.append(front.join(summary.rename(columns={name: f"summary_{name}" for name in front})))
        link = f" ([report]({quote(f'{one.folder.name}/{report}')}))" if (one.folder / report).exists() else ""
        text = f"FAILED: {one.error}" if one.error else _verdict(one.folder) or "It wrote no verdict."
        sections.append(f"## {str(one).replace(',', ', ')}{link}\n\n{text}")
    # a column of whole numbers stays whole if one is missing
    gathered = pd.concat(frames, ignore_index=True).convert_dtypes()
    folder.mkdir(parents=True, exist_ok=True)
    gathered.to_csv(folder / GATHERED, index=False)
    (folder / VERDICTS).write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return gathered


def _plain(value: Any) -> Any:
    """Return the value as JSON has it: a NumPy number becomes a number, a path text and a tuple a list."""
    return json.loads(json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other)))


def _word(value: Any) -> str:
    """Return the value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def write_ranking(folder: Path, combinations: list[tuple[str, pd.DataFrame, str]]) -> None:
    """Write ranking.md, .csv, .png and .svg for combinations with their names, summaries and verdicts."""
    ranking = _rank(combinations) if combinations else pd.DataFrame()
    text = f"No combination wrote a summary with the column {_RATE}, so none is ranked."
    if len(ranking):
        from ruo.figures import figure_of_ranking, save_figure  # slow to import

        save_figure(figure_of_ranking(ranking), folder / RANKING, data=ranking)
        formats = dict.fromkeys(ranking.columns[1:-1], digits) | {"rows_per_request": "{:,.0f}".format}
        text = f"{ranking.to_string(index=False, na_rep='', formatters=formats)}\n\n{_best(ranking)}"
    (folder / RANKING).write_text(f"{text}\n", encoding="utf-8")


def _rank(combinations: list[tuple[str, pd.DataFrame, str]]) -> pd.DataFrame:
    """The fastest setting of each combination, the fastest combination first, with the 95 % interval of its rate."""
    settings = []
    for name, summary, verdict in combinations:
        word = re.search(r"^(IN)?VALID\b", verdict, re.MULTILINE)
        settings.append(summary.reindex(columns=_READ).assign(combination=name, verdict=word[0] if word else ""))
    ranking = pd.concat(settings).dropna(subset=_RATE).sort_values(_RATE, ascending=False, kind="stable")
    ranking = ranking.drop_duplicates("combination")
    rows = ranking[_RATE] * ranking["total_mean"]
    ranking = ranking.assign(low=rows / ranking["total_high"], high=rows / ranking["total_low"])[_SHOWN]
    return ranking.dropna(axis="columns", how="all")  # what these notebooks do not measure


def _best(ranking: pd.DataFrame) -> str:
    """The best combination whose runs can be relied on, and whether the next one differs from it."""
    sound = ranking[ranking["verdict"] != "INVALID"].to_dict("records")
    if not sound:
        return "No combination is VALID, so none is best; verdicts.md says why."
    best, *others = sound
    size = f" with {best['rows_per_request']:,.0f} rows per request" if pd.notna(best.get("rows_per_request")) else ""
    text = f"Best: {best['combination']}{size}, {digits(best[_RATE])} rows/s."
    for other in others[:1]:
        text += f" The next, {other['combination']}, is {digits(100 * (1 - other[_RATE] / best[_RATE]), 2)} % slower"
        # without intervals, where there was one run, none is apart
        apart = "low" in best and best["low"] > other["high"]
        text += "." if apart else ", which may be chance: the intervals overlap, or there are too few runs for one."
    return text

"""The system of 2023, ruo, and no network at all, side by side: ``python -m ruo.compare.run --help``.

Every job runs in a fresh client process; its clock runs from before the reading until the last prediction is there, and
leaves imports out. Both servers run throughout, warm, and the one that is not measured is idle. The runs are interleaved:
each block holds every system once, in an order drawn anew. Every answer is compared with what the model says in one process.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from ruo.compare.systems import BOUND, PAPER, SYSTEMS, V2, Systems
from ruo.compare.verdict import markdown_table, runs_for_figure, summarise, verdict_on_systems
from ruo.errors import ArgumentError, RuoError, ScoringError
from ruo.figures.sizes import Picture, figure_of_systems, save_figure
from ruo.machine import busy_cpu_s, session_cpu_s, wait_until_quiet
from ruo.provenance import fingerprint, machine

__all__ = [
    "ALL_SIZES",
    "TOLERANCE",
    "Turn",
    "check_answers",
    "compare_systems",
    "main",
    "parse_sizes",
    "plan_turns",
    "write_report",
]

ALL_SIZES = (1_000, 5_000, 10_000, 50_000, 100_000, None)
TOLERANCE = 1e-5  # requests of other sizes are other matrix products, which round differently
_QUIET = 0.15  # of all CPUs


class Turn(NamedTuple):
    """One run to do: `chunk_size` rows per request, None for the whole set in one; `position` is its place in the block."""

    block: int
    position: int
    system: str
    chunk_size: int | None


def parse_sizes(text: str) -> tuple[int | None, ...]:
    """Rows per request from "10000", "1000,10000,none" (none: the whole set in one request) or "all"."""
    if text.strip().lower() == "all":
        return ALL_SIZES
    sizes: list[int | None] = []
    for word in text.lower().split(","):
        number = word.strip().replace("_", "")
        if number != "none" and not (number.isdecimal() and int(number)):
            raise ArgumentError(f'"{word}" is no number of rows; give --sizes as all, or like 1000,10000,none.')
        sizes.append(None if number == "none" else int(number))
    return tuple(dict.fromkeys(sizes))


def plan_turns(
    sizes: Sequence[int | None],
    runs: int,
    seed: int = 0,
    paper_runs: int | None = None,
    systems: Sequence[str] = SYSTEMS,
) -> list[Turn]:
    """The runs in their order: in each block every system once at each size, the bound once, shuffled.

    The paper's system has no more than `paper_runs` (None: as many as the others) at each size, in blocks that are drawn.
    """
    chance = random.Random(seed)  # noqa: S311  an order, not a secret
    paper_blocks = {size: set(chance.sample(range(runs), min(runs, paper_runs or runs))) for size in sizes}
    turns: list[Turn] = []
    for block in range(runs):
        jobs: list[tuple[str, int | None]] = [(BOUND, None)]
        jobs += [(name, size) for size in sizes for name in systems if name not in (BOUND, PAPER)]
        jobs += [(PAPER, size) for size in sizes if block in paper_blocks[size]]
        chance.shuffle(jobs)
        turns += [Turn(block + 1, position, *job) for position, job in enumerate(jobs, 1)]
    return turns


def compare_systems(
    systems: Systems, turns: Sequence[Turn], file: Path, tell: Callable[[str], object], patience_s: float = 10.0
) -> list[dict[str, Any]]:
    """Carry out the turns; each is appended to the `file`, as a line of JSON, as soon as it has ended."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="ruo-compare-") as folder:
        answers = Path(folder) / "answers.npy"
        tell("Computing what every answer must be ...")
        reference = _reference(systems, answers)
        systems.run(V2, 10_000, answers)  # the other server was warmed by requests, too
        with file.open("a") as stream:
            for number, turn in enumerate(turns, 1):
                answers.unlink(missing_ok=True)
                line = {"began": _now(), **_run(systems, turn, answers, reference, patience_s)}
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                lines.append(line)
                took = line["error"] or f"{line['total_s']:.3f} s"
                size = "" if turn.system == BOUND else f", {line['rows_per_request']:,} rows per request"
                tell(f"{number}/{len(turns)}  {turn.system}{size}: {took}")
    return lines


def _reference(systems: Systems, answers: Path) -> np.ndarray[Any, Any]:
    measured = systems.run(BOUND, None, answers)
    if not answers.exists():
        raise ScoringError(f"The model cannot score the test set in one process: {measured.get('error')}")
    predictions: np.ndarray[Any, Any] = np.load(answers)
    return predictions


def _run(
    systems: Systems, turn: Turn, answers: Path, reference: np.ndarray[Any, Any], patience_s: float
) -> dict[str, Any]:
    systems.prepare(turn.system)
    busy, waited_s = wait_until_quiet(_QUIET, patience_s)
    with _cpu_used(systems, turn.system) as cpu:
        measured = systems.run(turn.system, turn.chunk_size, answers)
    rows, difference, error = check_answers(measured, answers, reference)
    whole = len(reference)
    return {
        "system": turn.system,
        "chunk_size": turn.chunk_size,
        "rows_per_request": min(turn.chunk_size or whole, whole),
        "block": turn.block,
        "position": turn.position,
        **{name: None if error else measured.get(name) for name in ("total_s", "forming_s", "sending_s")},
        "rows": rows,
        "rows_wanted": whole,
        "max_abs_difference": difference,
        "peak_rss_mb": measured.get("peak_rss_mb"),
        "error": error,
        "busy_before": busy,
        "waited_s": round(waited_s, 2),
        **cpu,
    }


def check_answers(
    measured: dict[str, Any], answers: Path, reference: np.ndarray[Any, Any]
) -> tuple[int, float | None, str | None]:
    """The rows that came back, the largest difference from what they must be, and what is wrong with them, if anything."""
    predictions = np.load(answers) if answers.exists() else reference[:0]
    rows = len(predictions)
    if rows != len(reference):
        because = f" ({measured['error']})" if "error" in measured else ""
        return rows, None, f"no result: {rows:,} of {len(reference):,} rows came back{because}"
    if "error" in measured:
        return rows, None, str(measured["error"])
    if predictions.shape != reference.shape:
        return rows, None, f"wrong: answers have the shape {predictions.shape}, not {reference.shape}"
    difference = float(np.max(np.abs(predictions - reference)))
    if not difference <= TOLERANCE:  # NaN is not, either
        return rows, difference if np.isfinite(difference) else None, f"wrong: answers differ by up to {difference:g}"
    return rows, difference, None


@contextmanager
def _cpu_used(systems: Systems, system: str) -> Iterator[dict[str, float | None]]:
    """CPU seconds of the client, its server and the idle servers while a job runs, and the CPUs that others used."""
    cpu: dict[str, float | None] = {}
    working, idle = systems.sessions(system)
    before, began = _cpu_clocks(working, idle), time.monotonic()
    yield cpu
    after, seconds = _cpu_clocks(working, idle), time.monotonic() - began
    client, own, server, resting, all_of_it = (
        None if new is None or old is None else new - old for new, old in zip(after, before, strict=True)
    )
    cpu["client_cpu_s"], cpu["server_cpu_s"], cpu["idle_servers_cpu_s"] = client, server, resting
    ours = [client, own, server, resting]
    cpu["others_cpus"] = None
    if all_of_it is not None:
        cpu["others_cpus"] = round(max(0.0, all_of_it - sum(filter(None, ours))) / seconds, 2)


def _cpu_clocks(working: Sequence[int], idle: Sequence[int]) -> list[float | None]:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    used: list[float | None] = [one.ru_utime + one.ru_stime for one in usage]
    for sessions in (working, idle):
        times = [session_cpu_s(session) for session in sessions]
        used.append(None if None in times else sum(filter(None, times)))
    return [*used, busy_cpu_s()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append(file: Path, facts: dict[str, Any]) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps(facts) + "\n")


def write_report(lines: list[dict[str, Any]], results: Path, model: str) -> Picture:
    """Write summary.csv, table.md, the figure and verdict.txt into a folder, and print the table and the verdict."""
    title = f"{lines[0]['rows_wanted']:,} rows, {model}: seconds from before the reading to the last prediction."
    summary = summarise(lines)
    summary.to_csv(results / "summary.csv", index=False)
    table = markdown_table(summary)
    (results / "table.md").write_text(f"{title}\n\n{table}\n")
    verdict = verdict_on_systems(lines)
    (results / "verdict.txt").write_text(verdict + "\n", encoding="utf-8")
    click.echo(f"{title}\n\n{table}\n\n{verdict}")
    alt = f"Seconds for the whole job against the rows per request, a line per system. {title}"
    runs = runs_for_figure(lines)
    return save_figure(figure_of_systems(runs), results / "systems", alt, data=runs)


@click.command()
@click.option("--testset", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A .keras file.")
@click.option("--sizes", default="10000", show_default=True, help="Rows per request: all, or like 1000,10000,none.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Runs of each system.")
@click.option("--workers", type=click.IntRange(min=1), help="Of ruo's server; one for each CPU where not given.")
@click.option("--results", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same order of runs.")
@click.option("--patience", default=10.0, show_default=True, help="Seconds to wait for a busy machine before a run.")
def main(
    testset: Path, model: Path, sizes: str, runs: int, workers: int | None, results: Path, seed: int, patience: float
) -> None:
    """Compare the system of 2023 with ruo and with no network at all. With --sizes all, the former runs once per size."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then, too
    try:
        turns = plan_turns(parse_sizes(sizes), runs, seed, paper_runs=1 if sizes.strip().lower() == "all" else runs)
        results.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {"began": _now(), "sizes": sizes, "runs": runs, "seed": seed, "workers": workers}
        facts |= {"testset_sha256": fingerprint(testset), "model_sha256": fingerprint(model), "machine": machine()}
        _append(results / "provenance.jsonl", facts)
        click.echo("Starting both servers ...", err=True)
        with Systems(testset, model, workers) as systems:
            tell = partial(click.echo, err=True)
            lines = compare_systems(systems, turns, results / "runs.jsonl", tell, patience)
        write_report(lines, results, model.name)
    except RuoError as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()

"""What a request-size sweep found: its runs, as they were written to disk, their summary, and a verdict in words."""

from __future__ import annotations

import html
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ruo.errors import RuoError
from ruo.provenance import Provenance
from ruo.stats import harmonic_rate, mean_interval, verdict_on_sizes

__all__ = ["COLUMNS", "PROVENANCE", "RUNS", "ExperimentError", "Sweep", "read_lines", "read_provenance", "read_sweep"]

RUNS = "runs.jsonl"
PROVENANCE = "provenance.json"

COLUMNS = [
    "run", "block", "warmup", "position", "started_at", "chunk_size", "rows_per_request", "pipelined", "wire",
    "concurrency", "rows", "requests", "forming_s", "sending_s", "total_s", "rows_per_s", "request_median_s",
    "request_max_s", "retries", "client_cpu_s", "client_cpu_share", "machine_busy", "peak_rss_mb",
    "max_abs_difference", "answers_equal", "server", "model_version", "error", "provenance",
]  # fmt: skip

_NUMBERS = COLUMNS[COLUMNS.index("requests") : COLUMNS.index("answers_equal")]
_TIMES = ("forming", "sending", "total")
_BUSY = 0.2  # of all CPUs
_CPU_BOUND = 0.9  # of one CPU; the loop that sends and receives has no more
_UNSTEADY = 0.1  # standard deviation over mean


class ExperimentError(RuoError):
    """An experiment cannot be planned, gone on with or read."""


@dataclass(frozen=True, repr=False)
class Sweep:
    """A request-size sweep. `runs` has a row per run, warm-ups and failed runs too, in the order of time.

    Its columns: times in seconds; `chunk_size` None for the whole set, whose `rows_per_request` are its rows;
    `client_cpu_share` CPU seconds of this process per second, 1 for one CPU; `machine_busy` the share of all CPUs
    that were busy just before the run; `peak_rss_mb` of this process, with what earlier runs left in it; `max_abs_difference` to the first run's
    predictions, `answers_equal` whether it is within 1e-5; `error` the sentence of a run that failed.
    """

    runs: pd.DataFrame
    provenance: Provenance
    results_dir: Path

    @property
    def notes(self) -> list[str]:
        """Sentences on what was left out of the plan."""
        return list(self.provenance.facts.get("notes", []))

    @property
    def measured(self) -> pd.DataFrame:
        """The runs without the warm-ups; failed ones are there, with their error."""
        return self.runs[~self.runs["warmup"]].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """A row per request size and way of sending: n, failed, and of the runs that did not fail, in seconds:

        forming_, sending_ and total_ each with mean, std, low and high (95 %, Student), total_median, and rows_per_s,
        the harmonic mean of the rates.
        """
        groups = self.measured.groupby(["rows_per_request", "pipelined"])
        return pd.DataFrame(
            [{"rows_per_request": size, "pipelined": way, **_summary(runs)} for (size, way), runs in groups]
        )

    def verdict(self) -> str:
        """VALID or INVALID with the reasons; what to know about the runs; and what they say of the request sizes."""
        reasons = self._reasons()
        head = "INVALID: " + "; ".join(reasons) + "." if reasons else "VALID: every run scored every row alike."
        return "\n\n".join(
            part for part in (head, "\n".join([*self.notes, *self._information()]), verdict_on_sizes(self.runs)) if part
        )

    def save(self) -> None:
        """Write summary.csv and verdict.txt into `results_dir`."""
        self.summary().to_csv(self.results_dir / "summary.csv", index=False)
        (self.results_dir / "verdict.txt").write_text(self.verdict() + "\n", encoding="utf-8")

    def _reasons(self) -> list[str]:
        """Why the runs must not be relied on; nothing where they may be."""
        measured = self.measured
        failed = measured["error"].dropna()
        retried = int((measured["retries"].fillna(0) > 0).sum())
        different = int((self.runs["answers_equal"] == False).sum())  # noqa: E712  a failed run has no answer
        versions = sorted(set(self.runs["model_version"].dropna()))
        missing = self._planned() - len(self.runs)
        found = {
            f"{_runs(missing)} of the plan are missing": missing > 0,
            f"{_runs(len(failed))} failed ({failed.iloc[0].rstrip('.') if len(failed) else ''})": len(failed) > 0,
            f"{_runs(retried)} sent a request again": retried > 0,
            f"{_runs(different)} gave other predictions than the first": different > 0,
            f"{len(versions)} versions of the model answered ({', '.join(versions)})": len(versions) > 1,
        }
        return [sentence for sentence, holds in found.items() if holds]

    def _information(self) -> list[str]:
        """What the reader should know, though it takes nothing from the runs."""
        measured = self.measured
        busy = int((measured["machine_busy"] > _BUSY).sum())
        bound, unsteady = [], []
        for (size, way), runs in measured[measured["error"].isna()].groupby(["rows_per_request", "pipelined"]):
            name = f"{size:,} rows {'pipelined' if way else 'in two phases'}"
            share = runs["client_cpu_share"].median()
            bound += [f"{name} {share:.2f}"] if share > _CPU_BOUND else []
            variation = runs["total_s"].std() / runs["total_s"].mean()
            unsteady += [f"{name} {variation:.0%}"] if variation > _UNSTEADY else []
        found = {
            f"Before {busy} of {_runs(len(measured))} the machine was busy with something else.": busy > 0,
            f"The client may be what is measured, by the CPUs it used: {', '.join(bound)}.": bool(bound),
            f"The runs vary much, by their standard deviation over the mean: {', '.join(unsteady)}.": bool(unsteady),
        }
        return [sentence for sentence, holds in found.items() if holds]

    def _planned(self) -> int:
        plan = self.provenance.facts["plan"]
        combinations = math.prod(len(levels) for levels in plan["factors"].values())
        return combinations * int(plan["runs"] + plan["warmup"])

    def __repr__(self) -> str:
        sizes = self.runs["rows_per_request"].nunique()
        word = self.verdict().partition(":")[0]
        return f"Sweep({_runs(len(self.measured))} of {sizes} request sizes, {word}, in {self.results_dir.name})"

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, float_format=lambda number: f"{number:,.3f}")
        return f"{table}<pre>{html.escape(self.verdict())}</pre>"


def read_sweep(results_dir: str | os.PathLike[str]) -> Sweep:
    """Read a sweep back from its folder, finished or not; a line that broke off is left out.

    Raises ExperimentError where there is none, and for a line that is damaged.
    """
    folder = Path(results_dir)
    provenance = read_provenance(folder)
    runs = pd.DataFrame(read_lines(folder)[0], columns=COLUMNS)
    runs["warmup"] = runs["warmup"].astype(bool)
    runs["chunk_size"] = runs["chunk_size"].astype("Int64")
    # a column of which no run has a value would not be numbers
    runs = runs.astype(dict.fromkeys(_NUMBERS, float))
    return Sweep(runs, provenance, folder)


def read_provenance(folder: Path) -> Provenance:
    """What the runs of a folder are about; raises ExperimentError where it does not say, or is damaged."""
    try:
        return Provenance(json.loads((folder / PROVENANCE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ExperimentError(f"{folder} has no {PROVENANCE}; pass the results_dir of a sweep.") from None
    except ValueError:
        raise ExperimentError(f"{folder / PROVENANCE} is damaged; sweep again into another folder.") from None


def read_lines(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The runs of a folder that were wholly written, and how many bytes they take in its file."""
    try:
        text = (folder / RUNS).read_bytes()
    except FileNotFoundError:
        return [], 0
    size = text.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(text[:size].splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise ExperimentError(
                f"{folder / RUNS}, line {number}, is damaged; sweep again into another folder."
            ) from None
    return lines, size


def _summary(runs: pd.DataFrame) -> dict[str, float]:
    good = runs[runs["error"].isna()]
    found: dict[str, float] = {"n": len(good), "failed": len(runs) - len(good)}
    for name in _TIMES:
        seconds = good[f"{name}_s"]
        mean = mean_interval(seconds) if len(seconds) else None
        for statistic, field in (("mean", "value"), ("std", "std"), ("low", "low"), ("high", "high")):
            found[f"{name}_{statistic}"] = getattr(mean, field) if mean else math.nan
    found["total_median"] = good["total_s"].median()
    found["rows_per_s"] = harmonic_rate(good["rows"].iloc[0], good["total_s"]) if len(good) else math.nan
    return found


def _runs(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"

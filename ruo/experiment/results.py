"""The results of a request-size sweep: its runs as written to disk, their summary, and a verdict in words."""

from __future__ import annotations

import html
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ruo.errors import ExperimentError
from ruo.experiment.sizes import fit_request_cost, verdict_on_sizes
from ruo.experiment.validity import SETTING, Validity, judge
from ruo.provenance import Provenance
from ruo.stats import count, mean_interval

RUNS = "runs.jsonl"
PROVENANCE = "provenance.json"

_RUN = ["run", "block", "warmup", "position", "started_at", "machine_busy", "waited_s"]
_LEVELS = ["model", "replicas", "wire", "concurrency", "chunk_size", "rows_per_request", "pipelined", "rows"]
_SECONDS = ["forming_s", "sending_s", "total_s", "rows_per_s", "first_result_s", "loop_lag_s", "request_median_s"]
_WORK = ["request_max_s", "server_s", "server_busy", "workers", "retries", "client_cpu_s", "client_cpu_share"]
_NUMBERS = ["requests", "bytes", *_SECONDS, *_WORK, "peak_rss_mb", "max_abs_difference"]
_OTHERS = ["answers_equal", "rows_by_worker", "server", "model_version", "error", "provenance"]
COLUMNS = [*_RUN, *_LEVELS, *_NUMBERS, *_OTHERS]


@dataclass(frozen=True, repr=False)
class Sweep:
    """The results of a request-size sweep.

    `runs` has a row per run, warm-ups and failed runs included, in the order of time; times are in seconds. Of it,
    `chunk_size` is None for the whole set, `model` and `replicas` where there is one model or nothing was scaled;
    `loop_lag_s` is the largest delay of the client's event loop; `server_s` the work that the servers report, and
    `server_busy` its share of their time; `client_cpu_share` the CPU seconds of this process per second; `machine_busy`
    the share of all CPUs in use just before the run, after `waited_s` of waiting for a quiet machine; and
    `max_abs_difference` that to the predictions of the model's first run.
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
        """The runs without the warm-ups, failed ones included."""
        return self.runs[~self.runs["warmup"]].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """A row per setting: its levels, runs (n) and failed runs, times in seconds with 95 % intervals, and rates."""
        names = [name for name in SETTING if self.runs[name].notna().any()]
        groups = self.measured.groupby(names)
        return pd.DataFrame([{**dict(zip(names, key, strict=True)), **_summary(runs)} for key, runs in groups])

    def validity(self) -> Validity:
        """Whether the runs can be relied on, and for what."""
        return judge(self.runs, int(self.provenance.facts["plan"]["trials"]))

    def verdict(self) -> str:
        """VALID or INVALID with the reasons, what to know about the runs, and what they say about the request sizes."""
        head = "\n".join([str(self.validity()), *self.notes])
        return "\n\n".join([head, *self._on_sizes()])

    def _on_sizes(self) -> list[str]:
        """What the runs say about the request sizes, for each combination of the other settings."""
        names = [name for name in ("model", "replicas", "wire", "concurrency") if self.runs[name].nunique() > 1]
        if not names:
            return [verdict_on_sizes(self.runs)]
        if "replicas" in names:
            return []  # such a sweep asks how many servers are best
        verdicts = []
        for key, runs in self.runs.groupby(names):
            setting = ", ".join(f"{name} {level}" for name, level in zip(names, key, strict=True))
            verdicts.append(f"{setting}\n{verdict_on_sizes(runs)}")
        return verdicts

    def cost_of_requests(self) -> str:
        """What a request and a row cost, fitted over the request sizes of the pipelined runs, in words."""
        runs = self.measured
        good = runs[runs["error"].isna() & runs["pipelined"] & (runs["requests"] > 1)]
        try:
            return fit_request_cost(good["requests"], int(runs["rows"].max()), good["total_s"]).sentence()
        except ExperimentError as error:
            return f"No cost is fitted: {error}"

    def save(self, *more: str) -> None:
        """Write summary.csv and verdict.txt, with `more` sentences, into `results_dir`."""
        self.summary().to_csv(self.results_dir / "summary.csv", index=False)
        text = "\n\n".join([self.verdict(), *more])
        (self.results_dir / "verdict.txt").write_text(text + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        sizes = self.runs["rows_per_request"].nunique()
        word = "VALID" if self.validity().valid else "INVALID"
        return f"Sweep({count(len(self.measured), 'run')} of {sizes} request sizes, {word}, in {self.results_dir.name})"

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, float_format=lambda number: f"{number:,.3f}")
        return f"{table}<pre>{html.escape(self.verdict())}</pre>"


def read_sweep(results_dir: str | os.PathLike[str]) -> Sweep:
    """Read a sweep from its folder, finished or not; a last line that broke off is left out."""
    folder = Path(results_dir)
    provenance = read_provenance(folder)
    runs = pd.DataFrame(read_lines(folder)[0], columns=COLUMNS)
    # pandas cannot infer the type of a column without any value
    numbers = dict.fromkeys(["machine_busy", "waited_s", *_NUMBERS], float)
    types = {"warmup": bool, "chunk_size": "Int64", "replicas": "Int64", **numbers}
    return Sweep(runs.astype(types), provenance, folder)


def put_aside_finished(results_dir: str | os.PathLike[str], last: str = "verdict.txt") -> None:
    """Rename the folder of a finished experiment, which has its `last` file, so that the same command starts anew."""
    folder, file = Path(results_dir), Path(results_dir) / last
    if file.exists():
        date = time.strftime("%Y%m%d-%H%M%S", time.localtime(file.stat().st_mtime))
        folder.rename(folder.with_name(f"{folder.name}-{date}"))


def read_provenance(folder: Path) -> Provenance:
    """What was measured where, for the runs in a folder."""
    try:
        return Provenance(json.loads((folder / PROVENANCE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ExperimentError(f"{folder} has no {PROVENANCE}; pass the results_dir of a sweep.") from None
    except ValueError:
        raise ExperimentError(f"{folder / PROVENANCE} is damaged; measure again into another folder.") from None


def read_lines(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The runs of a folder that were written completely, and the bytes that they take in its file."""
    file = folder / RUNS
    text = file.read_bytes() if file.exists() else b""
    size = text.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(text[:size].splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise ExperimentError(f"{file}, line {number}, is damaged; measure again into another folder.") from None
    return lines, size


def _summary(runs: pd.DataFrame) -> dict[str, float]:
    good = runs[runs["error"].isna()]
    summary: dict[str, float] = {"n": len(good), "failed": len(runs) - len(good)}
    for name in ("forming", "sending", "total"):
        value, low, high, _, std = mean_interval(good[f"{name}_s"]) if len(good) else [math.nan] * 5
        summary |= {f"{name}_mean": value, f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}
    summary["total_median"] = good["total_s"].median()
    summary["rows_per_s"] = runs["rows"].iloc[0] / summary["total_mean"]  # the harmonic mean of the rates
    return summary

"""The results of a sweep: its runs, their summary, the answer in one sentence, and a verdict in words."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ruo.answer import Answer, cell
from ruo.errors import ExperimentError
from ruo.experiment.carry_out import read_lines, read_provenance
from ruo.experiment.sizes import fit_request_cost, verdict_on_sizes
from ruo.experiment.validity import (
    Validity,
    by_setting,
    columns_of_setting,
    confidence_of,
    judge,
    name_of,
    that_count,
)
from ruo.provenance import Provenance
from ruo.stats import (
    MIN_RUNS,
    about,
    compare,
    count,
    in_seconds,
    in_words,
    time_interval,
)

_RUN = ["run", "block", "warmup", "position", "started_at", "machine_busy", "waited_s"]
_LEVELS = ["system", "model", "replicas", "wire", "concurrency", "chunk_size", "rows_per_request", "pipelined", "rows"]
_SECONDS = ["forming_s", "sending_s", "total_s", "rows_per_s", "first_result_s", "loop_lag_s", "request_median_s"]
_WORK = ["request_max_s", "server_s", "server_busy", "workers", "retries", "client_cpu_s", "client_cpu_share"]
_NUMBERS = ["requests", "bytes", *_SECONDS, *_WORK, "memory_mb", "max_abs_difference"]
_OTHERS = ["answers_equal", "rows_by_worker", "server", "model_version", "error", "provenance"]
COLUMNS = [*_RUN, *_LEVELS, *_NUMBERS, *_OTHERS]


@dataclass(frozen=True, repr=False)
class Sweep:
    """The results of a request-size sweep.

    `runs` has a row per run, warm-ups and failed runs included, in the order of time; times are in seconds. Of it,
    `system` is what scored the table in place of ruo, such as no network at all, and None for ruo; `chunk_size` is None
    for the whole set, `model` and `replicas` where there is one model or nothing was scaled; `loop_lag_s` is the largest
    delay of the client's event loop; `server_s` the work that the servers report, and `server_busy` its share of their
    time; `client_cpu_share` the CPU seconds of this process per second; `memory_mb` the memory that the run added to
    the client's; `machine_busy` the share of all CPUs in use just before the run, after `waited_s` of waiting for a
    quiet machine; and `max_abs_difference` that to the predictions of the model's first run.
    """

    runs: pd.DataFrame
    provenance: Provenance
    results_dir: Path

    @property
    def measured(self) -> pd.DataFrame:
        """The runs of ruo that count, failed ones included: no warm-ups, and no noisy blocks that were repeated."""
        return self._of(self.runs["system"].isna())

    def others(self) -> dict[str, pd.DataFrame]:
        """The runs of each other system that count, by its name."""
        return {name: self._of(self.runs["system"] == name) for name in self.runs["system"].dropna().unique()}

    def _of(self, which: pd.Series) -> pd.DataFrame:
        measured = self.runs[~self.runs["warmup"]]
        counted = that_count(measured, self._blocks)
        runs = counted[which[counted.index]].reset_index(drop=True).infer_objects()
        whole = [name for name in ("rows_per_request", "concurrency") if runs[name].notna().all()]
        return runs.astype(dict.fromkeys(whole, int))

    @property
    def _blocks(self) -> int:
        return int(self.provenance.facts["plan"].get("runs", 1))

    @property
    def confidence(self) -> float:
        """That of the intervals: 0.95, and more where it took more blocks than planned."""
        return confidence_of(self.runs[~self.runs["warmup"]], self._blocks)

    def summary(self) -> pd.DataFrame:
        """A row per setting: its levels, runs (n) and failed runs, times in seconds with 95 % intervals, and rates."""
        return pd.DataFrame([{**setting, **_summary(runs)} for setting, runs in by_setting(self.measured)])

    def validity(self) -> Validity:
        """Whether the runs can be relied on, and for what."""
        # that another system cannot score the table is a result; ruo must not fail
        runs = self.runs.assign(error=self.runs["error"].mask(self.runs["system"].notna()))
        return judge(runs, int(self.provenance.facts["plan"]["trials"]), blocks=self._blocks)

    def answer(self) -> str:
        """The fastest setting, how fast it is, and how far it is from each other system, in one sentence."""
        good = self.measured[self.measured["error"].isna()]
        if good.empty:
            return "No run succeeded, so there is no fastest request size."
        fastest, *others = sorted(by_setting(good), key=lambda of_setting: float(of_setting[1]["total_s"].mean()))
        runs = fastest[1]
        mean, rows = time_interval(runs["total_s"]), int(runs["rows"].iloc[0])
        text = f"{_name(fastest[0], good)} is fastest"
        if others:
            best = [of_setting[1].set_index("block")["total_s"] for of_setting in (fastest, others[0])]
            if (few := len(set(best[0].index) & set(best[1].index))) < MIN_RUNS:
                text += f" in {count(few, 'block')}, which cannot rule out chance"
            elif not compare(*best, confidence=self.confidence).differs:
                names = [_name(of_setting[0], good) for of_setting in (fastest, others[0])]
                text = f"No difference is seen between the best two, {' and '.join(names)}"
        text += f": {rows:,} rows in {in_seconds(mean)}, {about(rows / mean.value)} rows/s"
        for other, times in self.others().items():
            if (theirs := times["total_s"].dropna()).size:
                ratio = mean.value / time_interval(theirs).value
                text += f"; it {in_words(ratio)} {other} ({in_seconds(time_interval(theirs))})"
        return f"{text[:1].upper()}{text[1:]}."

    def verdict(self) -> str:
        """VALID or INVALID with the reasons, what was left out of the plan, and what the runs say about request sizes."""
        parts = ["\n".join([str(self.validity()), *self.provenance.facts.get("notes", [])])]
        runs, confidence = self.measured, self.confidence
        names = [name for name in ("model", "replicas", "wire", "concurrency") if runs[name].nunique() > 1]
        if not names:
            parts.append(verdict_on_sizes(runs, confidence))
        elif "replicas" not in names:  # a sweep over replicas asks how many servers are best
            for key, group in runs.groupby(names):
                setting = ", ".join(f"{name} {level}" for name, level in zip(names, key, strict=True))
                parts.append(f"{setting}\n{verdict_on_sizes(group, confidence)}")
        for name, group in self.others().items():
            if len(errors := group["error"].dropna()):
                parts.append(f"{name[:1].upper()}{name[1:]} could not be measured: {errors.iloc[0]}")
        return "\n\n".join(parts)

    def cost_of_requests(self) -> str:
        """What a request and a row cost, fitted over the request sizes of the pipelined runs, in words."""
        runs = self.measured
        good = runs[runs["error"].isna() & runs["pipelined"].astype(bool) & (runs["requests"] > 1)]
        try:
            return fit_request_cost(good["requests"], int(runs["rows"].max()), good["total_s"]).sentence()
        except ExperimentError as error:
            return f"No cost is fitted: {error}"

    def costs_by_size(self) -> pd.DataFrame:
        """What a request size costs besides time: medians of the pipelined runs, and the rows that one failure loses."""
        names = {
            "first_result_s": "first result, s",
            "memory_mb": "memory added, MB",
            "request_max_s": "longest request, s",
        }
        runs = self.measured
        costs = runs[runs["pipelined"].astype(bool)].groupby("rows_per_request")[list(names)].median()
        costs = costs.rename(columns=names).assign(**{"rows lost by one failure": costs.index})
        return costs.reset_index().map(cell).set_index("rows_per_request")

    def save(self, *more: str, answer: Answer | None = None) -> None:
        """Write summary.csv and verdict.txt into `results_dir`: an answer, its own unless given, and `more` sentences."""
        self.summary().to_csv(self.results_dir / "summary.csv", index=False)
        first = answer.sentence if answer else self.answer()
        text = "\n\n".join([f"{first}\n{self.verdict()}", *(answer.folded.values() if answer else ()), *more])
        (self.results_dir / "verdict.txt").write_text(f"{text}\n", encoding="utf-8")

    def __repr__(self) -> str:
        sizes = self.measured["rows_per_request"].nunique()
        word = "VALID" if self.validity().valid else "INVALID"
        return f"Sweep({count(len(self.measured), 'run')} of {sizes} request sizes, {word}, in {self.results_dir.name})"

    def __str__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def _shown(self) -> Answer:
        summary = self.summary()
        varied = [name for name in columns_of_setting(self.measured) if summary[name].nunique() > 1]
        table = summary[[*varied, "n"]].copy()
        for name in ("forming", "sending", "total"):
            table[f"{name}, s"] = summary[f"{name}_mean"]
        table["rows/s"] = summary["rows_per_s"]
        validity, folded = (
            self.validity(),
            {"What the runs say": self.verdict(), "What a request costs": self.cost_of_requests()},
        )
        return Answer(self.answer(), validity.head, table, "total, s", folded)


def read_sweep(results_dir: str | os.PathLike[str]) -> Sweep:
    """Read a sweep from its folder, finished or not; a last line that broke off is left out."""
    folder = Path(results_dir)
    runs = pd.DataFrame(read_lines(folder)[0], columns=COLUMNS)
    # pandas cannot infer the type of a column without any value
    numbers = dict.fromkeys(["machine_busy", "waited_s", *_NUMBERS], float)
    runs = runs.astype({"warmup": bool, "chunk_size": "Int64", "replicas": "Int64", **numbers})
    return Sweep(runs, read_provenance(folder), folder)


def _name(setting: dict[Any, Any], good: pd.DataFrame) -> str:
    """A setting in words, without its way of sending where there is one only."""
    shown = setting if good["pipelined"].nunique() > 1 else {**setting, "pipelined": None}
    name = name_of(shown, good).replace(f"{good['rows'].iloc[0]:,.0f} rows", "the whole set in one request", 1)
    return name if "request" in name else name.replace(" rows", " rows per request", 1)


def _summary(runs: pd.DataFrame) -> dict[str, float]:
    good = runs[runs["error"].isna()]
    summary: dict[str, float] = {"n": len(good), "failed": len(runs) - len(good)}
    for name in ("forming", "sending", "total"):
        value, low, high, _, std = time_interval(good[f"{name}_s"]) if len(good) else [math.nan] * 5
        summary |= {f"{name}_mean": value, f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}
    summary["total_median"] = good["total_s"].median()
    summary["rows_per_s"] = runs["rows"].iloc[0] / summary["total_mean"]  # the harmonic mean of the rates
    return summary

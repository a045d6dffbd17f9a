"""The results of a sweep: its runs, their summary, the answer in one sentence, and a verdict in words."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ruo.answer import Answer, Shown, cell
from ruo.errors import count
from ruo.experiment.carry_out import read_lines, read_provenance
from ruo.experiment.sizes import fit_request_cost, verdict_on_sizes
from ruo.experiment.validity import Validity, best_two, by_setting, confidence_of, judge, that_count, varied
from ruo.provenance import Provenance
from ruo.stats import Interval, about, compare, in_seconds, in_words, time_interval

_RUN = ["run", "block", "warmup", "position", "started_at", "machine_busy", "waited_s"]
_LEVELS = ["system", "model", "replicas", "wire", "concurrency", "chunk_size", "rows_per_request", "pipelined", "rows"]
_SECONDS = ["forming_s", "sending_s", "total_s", "rows_per_s", "first_result_s", "loop_lag_s", "request_median_s"]
_WORK = ["request_max_s", "server_s", "server_busy", "workers", "retries", "client_cpu_s", "client_cpu_share"]
_NUMBERS = ["requests", "bytes", *_SECONDS, *_WORK, "memory_mb", "max_abs_difference"]
_OTHERS = ["answers_equal", "rows_by_worker", "server", "model_version", "error", "provenance"]
_SENT = ("rows_per_request", "pipelined")  # how the rows were sent
_PHASES = ("forming", "sending", "total")
COLUMNS = [*_RUN, *_LEVELS, *_NUMBERS, *_OTHERS]


@dataclass(frozen=True, repr=False)
class Results(Shown):
    """The runs of an experiment, a row each in the order of time, and where they were measured."""

    runs: pd.DataFrame
    provenance: Provenance
    results_dir: Path

    @property
    def counted(self) -> pd.DataFrame:
        """The runs that count: no warm-ups, and no noisy blocks that were repeated; what comes once is not repeated."""
        measured = self.runs[~self.runs["warmup"]]
        counts = measured.index.isin(that_count(measured, self._blocks).index)
        if once := self.provenance.facts["plan"].get("once"):
            counts |= (measured[list(once)] == pd.Series(once)).all(axis=1)
        return measured[counts]

    @property
    def confidence(self) -> float:
        """That of the intervals: 0.95, and more where it took more blocks than planned."""
        return confidence_of(self.runs[~self.runs["warmup"]], self._blocks)

    @property
    def _blocks(self) -> int:
        return int(self.provenance.facts["plan"].get("runs", 1))

    def _judged(self, may_fail: pd.Series, **claim: str) -> Validity:
        """Whether the runs can be relied on: ruo must not fail; that another system cannot score the table is a result."""
        runs = self.runs.assign(error=self.runs["error"].mask(may_fail))
        return judge(runs, int(self.provenance.facts["plan"]["trials"]), blocks=self._blocks, **claim)


class Sweep(Results):
    """The results of a request-size sweep.

    `runs` has a row per run, warm-ups and failed runs included, in the order of time; times are in seconds. Of it,
    `system` is what scored the table in place of ruo, such as no network at all, and None for ruo; `chunk_size` is None
    for the whole set, `model` and `replicas` where there is one model or nothing was scaled; `loop_lag_s` is the largest
    delay of the client's event loop; `server_s` the work that the servers report, and `server_busy` its share of their
    time; `client_cpu_share` the CPU seconds of this process per second; `memory_mb` the memory that the run added to
    the client's; `machine_busy` the share of all CPUs in use just before the run, after `waited_s` of waiting for a
    quiet machine; and `max_abs_difference` that to the predictions of the model's first run.
    """

    @property
    def measured(self) -> pd.DataFrame:
        """The runs of ruo that count, failed ones included: no warm-ups, and no noisy blocks that were repeated."""
        runs = self.counted[self.counted["system"].isna()].reset_index(drop=True).infer_objects()
        whole = [name for name in ("rows_per_request", "concurrency") if runs[name].notna().all()]
        return runs.astype(dict.fromkeys(whole, int))

    def others(self) -> dict[str, pd.DataFrame]:
        """The runs of each other system that count, by its name."""
        return {str(name): runs.reset_index(drop=True) for name, runs in self.counted.groupby("system")}

    def summary(self) -> pd.DataFrame:
        """A row per setting: its levels, runs (n) and failed runs, times in seconds with 95 % intervals, and rates."""
        return pd.DataFrame([{**setting, **_summary(runs)} for setting, runs in by_setting(self.measured)])

    def validity(self) -> Validity:
        """Whether the runs can be relied on, and for what."""
        return self._judged(self.runs["system"].notna())

    def answer(self) -> str:
        """The fastest setting, how fast it is, and how far it is from each other system, in one sentence."""
        good = self.measured.dropna(subset=["total_s"])
        if good.empty:
            what = "No run succeeded" if len(self.measured) else "Nothing was measured"
            return f"{what}, so there is no fastest request size."
        names, times = zip(*best_two(good), strict=True)
        mean, rows, text = time_interval(times[0]), int(good["rows"].iloc[0]), names[0]
        if len(times) > 1:
            comparison = compare(*times, confidence=self.confidence)
            text = {
                "faster": f"{text} is fastest",
                "slower": f"{text} takes the least time on average, but {names[1]} is faster block by block",
                "no difference seen": f"No difference is seen between the best two, {' and '.join(names)}",
                "too few runs": f"{text} is fastest in {count(comparison.n_a, 'block')}, which cannot rule out chance",
            }[comparison.word]
        text += f": {count(rows, 'row')} in {in_seconds(mean)}, {about(rows / mean.value)} rows/s"
        others = {name: runs["total_s"] for name, runs in self.others().items()}
        return f"{text[:1].upper()}{text[1:]}{beside(mean, others)}."

    def verdict(self) -> str:
        """VALID or INVALID with the reasons, what was left out of the plan, and what the runs say about request sizes."""
        parts = ["\n".join([str(self.validity()), *self.provenance.facts.get("notes", [])])]
        runs, confidence = self.measured, self.confidence
        names = varied(runs, *_SENT)
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
        if names := varied(good, *_SENT):
            return f"No cost is fitted: the runs differ in more than the request size, in {' and '.join(names)}."
        if good["requests"].nunique() < 2:
            return "No cost is fitted: that takes two request sizes or more that were sent while reading and succeeded."
        return fit_request_cost(good["requests"], int(runs["rows"].max()), good["total_s"]).sentence()

    def costs_by_size(self) -> pd.DataFrame:
        """What a request size costs besides time: medians of the pipelined runs, and the rows that one failure loses."""
        names = ["first result, s", "memory added, MB", "longest request, s"]
        groups = self.measured[self.measured["pipelined"].astype(bool)].groupby("rows_per_request")
        costs = groups[["first_result_s", "memory_mb", "request_max_s"]].median().set_axis(names, axis=1)
        costs["rows lost by one failure"] = costs.index
        return costs.reset_index().map(cell).set_index("rows_per_request")

    def save(self, *more: str, answer: Answer | None = None) -> None:
        """Write summary.csv and verdict.txt into `results_dir`: an answer, its own unless given, and `more` sentences."""
        self.summary().to_csv(self.results_dir / "summary.csv", index=False)
        first = answer.sentence if answer else self.answer()
        text = "\n\n".join([f"{first}\n{self.verdict()}", *(answer.folded.values() if answer else ()), *more])
        (self.results_dir / "verdict.txt").write_text(f"{text}\n", encoding="utf-8")

    def __repr__(self) -> str:
        sizes = count(self.measured["rows_per_request"].nunique(), "request size")
        word = "VALID" if self.validity().valid else "INVALID"
        return f"Sweep({count(len(self.measured), 'run')} of {sizes}, {word}, in {self.results_dir.name})"

    def _shown(self) -> Answer:
        summary = self.summary()
        if summary.empty:
            return Answer(self.answer(), self.validity().head, summary)
        names = {**{f"{name}_mean": f"{name}, s" for name in _PHASES}, "rows_per_s": "rows/s"}
        table = summary[[*varied(self.measured), "n", *names]].rename(columns=names)
        folded = {"What the runs say": self.verdict(), "What a request costs": self.cost_of_requests()}
        return Answer(self.answer(), self.validity().head, table, "total, s", folded)


def read_sweep(results_dir: str | os.PathLike[str]) -> Sweep:
    """Read a sweep from its folder, finished or not; a last line that broke off is left out."""
    folder = Path(results_dir)
    provenance = read_provenance(folder, "plan", "factors", "pipelined")
    runs = pd.DataFrame(read_lines(folder)[0], columns=COLUMNS)
    # pandas cannot infer the type of a column without any value
    numbers = dict.fromkeys(["machine_busy", "waited_s", *_NUMBERS], float)
    runs = runs.astype({"warmup": bool, "chunk_size": "Int64", "replicas": "Int64", **numbers})
    return Sweep(runs, provenance, folder)


def beside(mean: Interval, others: Mapping[str, pd.Series]) -> str:
    """How a mean time stands beside the times of other systems, in words; one without any is left out."""
    means = {name: time_interval(times.dropna()) for name, times in others.items() if times.count()}
    return "".join(
        f"; it {in_words(mean.value / other.value)} {name} ({in_seconds(other)})" for name, other in means.items()
    )


def _summary(runs: pd.DataFrame) -> dict[str, float]:
    good = runs[runs["error"].isna()]
    summary: dict[str, float] = {"n": len(good), "failed": len(runs) - len(good)}
    for name in _PHASES:
        value, low, high, _, std = time_interval(good[f"{name}_s"].dropna())
        summary |= {f"{name}_mean": value, f"{name}_std": std, f"{name}_low": low, f"{name}_high": high}
    summary["total_median"] = good["total_s"].median()
    summary["rows_per_s"] = runs["rows"].iloc[0] / summary["total_mean"]  # the harmonic mean of the rates
    return summary

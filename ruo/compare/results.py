"""The results of a comparison of systems: its runs, their summary, a table, a figure and a verdict in words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ruo.compare.systems import BOUND, PAPER, PAPER_CLIENT, SYSTEMS, V2
from ruo.experiment.results import read_lines, read_provenance
from ruo.experiment.validity import Validity, judge
from ruo.figures import Picture, figure_of_systems, save_figure
from ruo.provenance import Provenance
from ruo.stats import compare

__all__ = ["SystemsCompared", "read_systems"]

_CLAIM = "every run of ruo's scored every row, and every answer is that of the model in one process"
_HEADERS = {
    "system": "system",
    "rows_per_request": "rows per request",
    "median_s": "median, s",
    "mean_s": "mean, s",
    "min_s": "min, s",
    "max_s": "max, s",
    "times_faster": "times faster than the paper's",
    "times_bound": "times the bound",
    "n": "n",
    "note": "",
}


@dataclass(frozen=True, repr=False)
class SystemsCompared:
    """The runs of several systems.

    Attributes
    ----------
    runs : DataFrame
        A row per run, in the order of time: its `system`, `chunk_size`, `rows_per_request` and `block`; `total_s`,
        seconds for the whole job, None where it failed; `error`; `rows` of `rows_wanted` that came back, and their
        `max_abs_difference`; `client_cpu_s`, `server_cpu_s` and `idle_servers_cpu_s`; `peak_rss_mb` of the client; and
        `others_cpus`, the CPUs that anything else used meanwhile.
    provenance : Provenance
        What was measured where.
    results_dir : pathlib.Path
        The folder on disk.
    """

    runs: pd.DataFrame
    provenance: Provenance
    results_dir: Path

    @property
    def title(self) -> str:
        """What was measured, in words."""
        model = self.provenance.facts.get("model", {}).get("name", "a model")
        rows = int(self.runs["rows_wanted"].max())
        return f"{rows:,} rows, {model}: seconds from before the reading to the last prediction."

    def summary(self) -> pd.DataFrame:
        """A row per system and request size: seconds over the runs that gave a result, and two ratios of medians.

        `times_faster` is the paper's system at the same size over this one (the bound: at its best size), `times_bound`
        this one over the bound; NaN where there is no result to compare with.
        """
        groups = self.runs.groupby(["system", "rows_per_request"])
        medians = groups["total_s"].median()
        bound = medians.get(BOUND, pd.Series(dtype=float)).min()
        papers = medians.get(PAPER, pd.Series(dtype=float))
        rows = []
        for (system, size), group in groups:
            times = group["total_s"].dropna()
            paper = papers.min() if system == BOUND else papers.get(size, float("nan"))
            median, ratios = times.median(), (paper / times.median(), times.median() / bound)
            note = "; ".join(dict.fromkeys(group["error"].dropna()))
            seconds = (median, times.mean(), times.min(), times.max())
            rows.append([system, None if system == BOUND else size, *seconds, *ratios, len(times), note])
        table = pd.DataFrame(rows, columns=list(_HEADERS)).astype({"rows_per_request": "Int64"})
        return table.sort_values(["system", "rows_per_request"], key=_in_order, ignore_index=True)

    def table(self) -> str:
        """The summary as a Markdown table; a dash where there is no number."""
        lines = ["| " + " | ".join(_HEADERS.values()) + " |", "|---|" + "---:|" * (len(_HEADERS) - 2) + "---|"]
        cells = ([_cell(name, row[name]) for name in _HEADERS] for row in self.summary().to_dict("records"))
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])

    def cpu_seconds(self) -> pd.DataFrame:
        """Medians by system: seconds of the job, CPU seconds of client and server, and the client's memory in MB."""
        columns = ["total_s", "client_cpu_s", "server_cpu_s", "peak_rss_mb"]
        medians = self.runs.groupby("system")[columns].median().astype(float)
        return medians.sort_index(key=_in_order)

    def validity(self) -> Validity:
        """Whether the runs can be relied on; the paper's system may fail, which is a result, and ruo's may not."""
        may_fail = self.runs["system"].isin([PAPER, PAPER_CLIENT])
        runs = self.runs.assign(error=self.runs["error"].mask(may_fail))
        return judge(runs, int(self.provenance.facts["plan"]["trials"]), _CLAIM)

    def verdict(self) -> str:
        """VALID or INVALID with the reasons, and ruo's fast wire against each system, each at its best request size."""
        seconds = {}
        for name, group in self.runs.dropna(subset=["total_s"]).groupby("system"):
            best = group.groupby("rows_per_request")["total_s"].mean().idxmin()
            seconds[name] = group[group["rows_per_request"] == best].set_index("block")["total_s"]
        lines = [str(self.validity())]
        for name in dict.fromkeys(self.runs["system"]):
            if name not in seconds:
                lines.append(f"- {name}: no result at any request size.")
            elif name != V2 and V2 in seconds and set(seconds[name].index) & set(seconds[V2].index):
                lines.append(f"- {compare(seconds[V2], seconds[name]).sentence(V2, name)}")
        return "\n".join(lines)

    def runs_of_figure(self) -> pd.DataFrame:
        """What the figure shows, a row per run: system, rows_per_request, rows (of the test set), total_s."""
        runs = self.runs[self.runs["system"] != PAPER_CLIENT].sort_values("system", key=_in_order, kind="stable")
        columns = ["system", "rows_per_request", "rows", "total_s"]
        return runs.assign(rows=runs["rows_wanted"])[columns].reset_index(drop=True)

    def save(self) -> Picture:
        """Write summary.csv, table.md, verdict.txt and the figure into `results_dir`; a notebook shows the figure."""
        self.summary().to_csv(self.results_dir / "summary.csv", index=False)
        (self.results_dir / "table.md").write_text(f"{self.title}\n\n{self.table()}\n", encoding="utf-8")
        (self.results_dir / "verdict.txt").write_text(self.verdict() + "\n", encoding="utf-8")
        runs = self.runs_of_figure()
        figure = figure_of_systems(runs, old=PAPER, new=V2, bound=BOUND)
        return save_figure(figure, self.results_dir / "systems", data=runs)

    def text(self) -> str:
        """The title, the table and the verdict, for a terminal."""
        return f"{self.title}\n\n{self.table()}\n\n{self.verdict()}"

    def __repr__(self) -> str:
        word = "VALID" if self.validity().valid else "INVALID"
        return f"SystemsCompared({len(self.runs)} runs, {word}, in {self.results_dir.name})"


def read_systems(results_dir: str | os.PathLike[str]) -> SystemsCompared:
    """Read a comparison back from its folder, finished or not; raises ExperimentError where there is none."""
    folder = Path(results_dir)
    provenance = read_provenance(folder)
    runs = pd.DataFrame(read_lines(folder)[0])
    return SystemsCompared(runs.astype({"total_s": float}), provenance, folder)


def _in_order(values: Any) -> Any:
    """The key that sorts the names of systems; other columns, and other systems by their place, stay as they are."""
    order = {name: place for place, name in enumerate(SYSTEMS)}
    return values.map(lambda name: order.get(name, len(order))) if values.name == "system" else values


def _cell(name: str, value: Any) -> str:
    if name in ("system", "note"):
        return str(value)
    if pd.isna(value):
        return "-"
    if name in ("rows_per_request", "n"):
        return f"{value:,}"
    return f"{value:.1f}" if name.startswith("times") else f"{value:.3g}" if value < 100 else f"{value:,.0f}"

"""The results of a comparison of systems: the runs, a summary, a figure and a verdict."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from ruo.answer import Answer
from ruo.errors import ExperimentError, count
from ruo.experiment.carry_out import read_lines, read_provenance
from ruo.experiment.results import Results, beside
from ruo.experiment.validity import Validity
from ruo.figures import Picture, figure_of_systems, save_figure
from ruo.stats import compare, in_seconds, time_interval

PAPER = "paper's system"
V2 = "ruo, wire v2"
PAPER_CLIENT = "paper's client, ruo's server"
BOUND = "no network at all"
SYSTEMS = (PAPER, V2, "ruo, wire v2-json", "ruo, wire v1", "ruo, wire paper", PAPER_CLIENT, BOUND)

_CLAIM = "every run of ruo's scored every row, and every answer is that of the model in one process"
_SHOWN = ["system", "rows_per_request", "median_s", "min_s", "max_s", "times_faster", "times_bound", "n", "note"]
_NAMES = {f"{name}_s": f"{name}, s" for name in ("median", "min", "max")}
_NAMES |= {"times_faster": "times as fast as the paper's", "times_bound": "times the bound"}


class SystemsCompared(Results):
    """The runs of several systems; `total_s` is NaN where a run failed."""

    def summary(self) -> pd.DataFrame:
        """A row per system and request size: seconds over the runs that gave a result, and two ratios of medians.

        `times_faster` compares with the paper's system at the same size, `times_bound` with the bound.
        """
        groups = self.counted.groupby(["system", "rows_per_request"])
        notes = groups["error"].agg(lambda errors: "; ".join(errors.dropna().unique()))
        table = groups["total_s"].agg(["median", "mean", "min", "max"]).add_suffix("_s").reset_index()
        is_bound = table["system"] == BOUND
        papers = table[table["system"] == PAPER].set_index("rows_per_request")["median_s"]
        paper = table["rows_per_request"].map(papers).mask(is_bound, papers.min())
        table["times_faster"] = paper / table["median_s"]
        table["times_bound"] = table["median_s"] / table.loc[is_bound, "median_s"].min()
        table["n"], table["note"] = groups["total_s"].count().to_numpy(), notes.to_numpy()
        table["rows_per_request"] = table["rows_per_request"].astype("Int64").mask(is_bound)
        return table.sort_values(["system", "rows_per_request"], key=_in_order, ignore_index=True)

    def cpu_seconds(self) -> pd.DataFrame:
        """Medians by system: seconds of the job, CPU seconds of client and server, and the client's memory in MB."""
        columns = ["total_s", "client_cpu_s", "server_cpu_s", "peak_rss_mb"]
        runs = self.runs.set_index("system").reindex(columns=columns).astype(float)
        return runs.groupby(level="system").median().sort_index(key=_in_order)

    def validity(self) -> Validity:
        """Whether the runs can be relied on."""
        is_ours = self.runs["system"].str.startswith("ruo, wire ") | (self.runs["system"] == BOUND)
        return self._judged(~is_ours, claim=_CLAIM)

    def answer(self) -> str:
        """How long ruo's fast wire takes at its best request size beside the paper's system and no network at all."""
        seconds = self._best()
        if V2 not in seconds:
            return f"{V2} gave no result, so there is nothing to compare."
        mean, rows = time_interval(seconds[V2]), int(self.runs["rows_wanted"].max())
        others = {name: seconds[name] for name in (PAPER, BOUND) if name in seconds}
        return f"{V2} takes {in_seconds(mean)} for {count(rows, 'row')}{beside(mean, others)}."

    def verdict(self) -> str:
        """VALID or INVALID with the reasons, and ruo's fast wire beside each system, each at its best request size."""
        lines, seconds = [str(self.validity())], self._best()
        for name in self.summary()["system"].unique():
            if name not in seconds:
                lines.append(f"- {name}: no result at any request size.")
            elif name != V2 and V2 in seconds:
                comparison = compare(seconds[V2], seconds[name], confidence=self.confidence)
                lines.append(f"- {comparison.sentence(V2, name)}")
        return "\n".join(lines)

    def _best(self) -> dict[str, pd.Series]:
        """The seconds of each system at its fastest request size, by block."""
        seconds = {}
        for name, group in self.counted.dropna(subset=["total_s"]).groupby("system"):
            best = group.groupby("rows_per_request")["total_s"].mean().idxmin()
            seconds[str(name)] = group[group["rows_per_request"] == best].set_index("block")["total_s"]
        return seconds

    def runs_of_figure(self) -> pd.DataFrame:
        """The data of the figure, a row per run; `rows` are those of the test set."""
        runs = self.counted[self.counted["system"] != PAPER_CLIENT].sort_values("system", key=_in_order, kind="stable")
        runs = runs.assign(rows=runs["rows_wanted"]).reset_index(drop=True)
        return runs[["system", "rows_per_request", "rows", "total_s"]]

    def save(self) -> Picture:
        """Write summary.csv, verdict.txt and the figure into `results_dir`; return the figure."""
        self.summary().to_csv(self.results_dir / "summary.csv", index=False)
        (self.results_dir / "verdict.txt").write_text(f"{self.answer()}\n{self.verdict()}\n", encoding="utf-8")
        runs = self.runs_of_figure()
        figure = figure_of_systems(runs, old=PAPER, new=V2, bound=BOUND)
        return save_figure(figure, self.results_dir / "systems", data=runs)

    def _shown(self) -> Answer:
        table, text = self.summary()[_SHOWN].rename(columns=_NAMES), self.verdict().partition("\n")[2]
        return Answer(self.answer(), self.validity().head, table, None, {"System by system": text})


def read_systems(results_dir: str | os.PathLike[str]) -> SystemsCompared:
    """Read a comparison back from its folder, finished or not; raises ExperimentError where there is none."""
    folder = Path(results_dir)
    provenance, runs = read_provenance(folder, "systems"), pd.DataFrame(read_lines(folder)[0])
    if runs.empty:
        raise ExperimentError(f"{folder} holds no finished run yet; the same comparison goes on there.")
    return SystemsCompared(runs.astype({"total_s": float}), provenance, folder)


def _in_order(values: Any) -> Any:
    """The sort key of a column: systems stand as in SYSTEMS, peers after them."""
    places = {name: place for place, name in enumerate(SYSTEMS)}
    return values.map(places).fillna(len(places)) if values.name == "system" else values

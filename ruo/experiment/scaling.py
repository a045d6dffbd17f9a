"""Does it pay to distribute the work? What replicas gained in the runs of a sweep, what bounds it, and when it pays.

One client reads a table while replicas score it. So a job takes at least as long as the slowest part alone, and only the
time of the replicas becomes shorter with more of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from ruo.errors import ExperimentError
from ruo.experiment.fits import fit_usl
from ruo.experiment.network import Network, measure_network
from ruo.machine import cpu_limit
from ruo.stats import MIN_RUNS, compare, mean_interval
from ruo.table.reading import open_table

if TYPE_CHECKING:
    from ruo.table.reading import Source

__all__ = ["Costs", "balance", "law", "measure_costs", "pays", "speed_ups", "verdict_on_scaling"]

_WORTH_IT = 1.2  # two replicas must be so many times as fast as one for "it pays"
_TRIES = 3


@dataclass(frozen=True)
class Costs:
    """What a row costs each part, in seconds: the client's reading and forming (`read_s`, wall clock; `client_cpu_s`, of
    all CPUs), one replica's work (`replica_s`), and the network's time for its `row_bytes`.

    `cores` is how many CPUs client and replicas share, None where they share none. `start_s` is what a job takes
    besides its rows, such as asking the server for its model. `flops` are the model's floating-point operations for a row.
    """

    read_s: float
    client_cpu_s: float
    replica_s: float
    row_bytes: float
    network: Network
    start_s: float = 0.0
    cores: float | None = None
    flops: float | None = None

    def parts(self, replicas: float) -> dict[str, float]:
        """Seconds a row takes each part, by the part's name; the largest bounds the job."""
        parts = {
            "the replicas": self.replica_s / replicas,
            "the client's reading": self.read_s,
            "the network": self.row_bytes / self.network.bytes_per_s,
        }
        if self.cores is not None:
            parts["the CPUs that client and replicas share"] = (self.client_cpu_s + self.replica_s) / self.cores
        return parts

    def bottleneck(self, replicas: float) -> str:
        """The part that bounds the job with so many replicas."""
        return max(self.parts(replicas).items(), key=lambda part: part[1])[0]

    def seconds(self, replicas: float, rows: float) -> float:
        """What a job is predicted to take: its start, the first request's way, and its rows at the pace of the slowest."""
        return self.start_s + self.network.request_s + rows * max(self.parts(replicas).values())

    def speed_up(self, replicas: float, rows: float) -> float:
        """How many times as fast as one replica so many are predicted to be."""
        return self.seconds(1, rows) / self.seconds(replicas, rows)

    def over(self, network: Network) -> Costs:
        """The same costs over another network."""
        return replace(self, network=network)

    @property
    def useful_replicas(self) -> float:
        """How many replicas one client can keep busy, where it and they share no CPU."""
        return self.replica_s / max(self.read_s, self.row_bytes / self.network.bytes_per_s)


def measure_costs(
    source: Source,
    runs: pd.DataFrame,
    url: str,
    *,
    shared: bool,
    chunk_size: int = 10_000,
    flops: float | None = None,
    label_prefix: str = "Label_",
    token: str | None = None,
) -> Costs:
    """What a row costs each part: reading timed here without sending, the replica by its own clock, the network measured.

    runs: the measured runs of a sweep over one model, with runs of one replica among them.
    url: where one of the servers answers. shared: whether client and replicas are on one machine.
    Raises ExperimentError where no run had one replica, DeploymentError where the server tells no times.
    """
    good = runs[runs["error"].isna()]
    alone = good[good["replicas"].fillna(1) == 1]
    if not len(alone):
        raise ExperimentError("No run had one replica, so there is nothing to compare with; put 1 among the replicas.")
    rows = float(alone["rows"].iloc[0])
    best = alone.groupby("rows_per_request")["total_s"].mean().idxmin()
    alone = alone[alone["rows_per_request"] == best]
    replica_s = float(alone["server_s"].median()) / rows
    read_s = min(_reading_s(source, chunk_size, label_prefix) for _ in range(_TRIES)) / rows
    costs = Costs(
        read_s,
        float(good["client_cpu_s"].median()) / rows,
        replica_s,
        float(alone["bytes"].median()) / rows,
        measure_network(source, url, min(chunk_size, int(rows)), label_prefix=label_prefix, token=token),
        cores=cpu_limit() if shared else None,
        flops=flops,
    )
    return replace(costs, start_s=max(0.0, float(alone["total_s"].median()) - costs.seconds(1, rows)))


def _reading_s(source: Source, chunk_size: int, label_prefix: str) -> float:
    """Seconds to read a table into rows as they are sent, with nobody to send them to."""
    began = time.perf_counter()
    for _ in open_table(source, label_prefix).blocks(chunk_size):
        pass
    return time.perf_counter() - began


def speed_ups(runs: pd.DataFrame, costs: dict[str | None, Costs] | None = None) -> pd.DataFrame:
    """A row per model, request size and number of replicas: seconds (mean), speed_up over one replica with its 95 %
    interval (low, high; paired by block), what is ideal, and `bound`, which no number of runs can exceed: the seconds of one
    replica over the time that the slowest part alone takes for the rows (NaN without costs).

    runs: the measured runs of a sweep over replicas; failed ones do not count.
    """
    good = runs[runs["error"].isna()].assign(model=runs["model"].fillna(""))
    rows: list[dict[str, Any]] = []
    keys: Any  # (model, rows per request)
    for keys, group in good.groupby(["model", "rows_per_request"]):
        model, size = keys
        blocks = group.pivot_table(index="block", columns="replicas", values="total_s", aggfunc="mean")
        if 1 not in blocks:
            continue
        cost = (costs or {}).get(model or None)
        for replicas in map(int, blocks.columns):
            gain = compare(blocks[1], blocks[replicas])
            floor = group["rows"].iloc[0] * max(cost.parts(replicas).values()) if cost else math.nan
            rows.append(
                {
                    "model": model or None,
                    "rows_per_request": int(size),
                    "replicas": replicas,
                    "seconds": mean_interval(blocks[replicas].dropna()).value,
                    "speed_up": gain.ratio,
                    "low": gain.low,
                    "high": gain.high,
                    "n": gain.n_a,
                    "ideal": replicas,
                    "bound": max(1.0, min(replicas, blocks[1].mean() / floor)) if cost else math.nan,
                }
            )
    return pd.DataFrame(rows)


def balance(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per model, request size and number of replicas above one: the least and the most rows that a replica had.

    Each is a share of an even share (1 is even), over all runs.
    """
    several = runs[runs["error"].isna() & (runs["replicas"].fillna(1) > 1)]
    shares = []
    for run in several.to_dict("records"):
        rows, even = run["rows_by_worker"], run["rows"] / run["replicas"]
        least = min(rows.values()) if len(rows) >= run["replicas"] else 0
        setting = [run["model"], run["rows_per_request"], run["replicas"]]
        shares.append([*setting, least / even, max(rows.values()) / even])
    names = ["model", "rows_per_request", "replicas"]
    frame = pd.DataFrame(shares, columns=[*names, "least", "most"])
    return frame.groupby(names, dropna=False, as_index=False).agg(least=("least", "min"), most=("most", "max"))


def law(runs: pd.DataFrame, rows_per_request: int) -> str:
    """The Universal Scalability Law of one model's runs at one request size, in words; or why there is none."""
    good = runs[runs["error"].isna() & (runs["rows_per_request"] == rows_per_request)]
    means = good.groupby("replicas")["rows_per_s"].mean()
    try:
        return fit_usl([float(count) for count in means.index], list(means)).sentence()
    except ExperimentError as error:
        return f"No law is fitted: {error}"


def pays(costs: Costs, where: str = "this network") -> str:
    """From how many rows on it pays to distribute, or why it never does, in words that give the numbers."""
    row = {name: 1e6 * seconds for name, seconds in replace(costs, cores=None).parts(1).items()}
    work = f", {costs.flops:,.0f} floating-point operations" if costs.flops else ""
    facts = (
        f"a row ({costs.row_bytes:,.0f} bytes{work}) takes one replica {row['the replicas']:.3g} µs, "
        f"the client's reading {1e6 * costs.read_s:.3g} µs and the network {row['the network']:.3g} µs"
    )
    useful = costs.useful_replicas
    if useful < _WORTH_IT:
        slower = "the network" if row["the network"] > 1e6 * costs.read_s else "the client's reading"
        return f"Distributing never pays on {where}, because {slower} takes as long as the work itself: {facts}."
    begin = costs.start_s + costs.network.request_s
    # the rows for which start + rows * replica_s is _WORTH_IT times start + rows * (two replicas' pace)
    rows = (_WORTH_IT - 1) * begin / (costs.replica_s - _WORTH_IT * costs.replica_s / min(2, useful))
    first = "the network" if row["the network"] > 1e6 * costs.read_s else "reading"
    return (
        f"Distributing pays on {where} from about {_rounded(rows):,} rows on (two replicas are then {_WORTH_IT} times as "
        f"fast as one), since {facts}; a job takes {begin:.2g} s besides its rows. One client keeps up to {useful:,.1f} "
        f"replicas busy: beyond them {first} is the bottleneck, not they."
    )


def verdict_on_scaling(runs: pd.DataFrame, costs: dict[str | None, Costs]) -> str:
    """What the replicas gained for each model, what bounded it, and from when distributing pays, in words."""
    table = speed_ups(runs, costs)
    return "\n\n".join(_on_model(name, table[table["model"].isin([name])], costs[name]) for name in costs)


def _on_model(name: str | None, table: pd.DataFrame, costs: Costs) -> str:
    lines = []
    most = int(table["replicas"].max())
    if most > 1:
        best = table[table["replicas"] == most].sort_values("seconds").iloc[0]
        interval = f"95 % interval {best['low']:.2f} to {best['high']:.2f}, {best['n']:.0f} pairs of runs"
        doubt = ""
        if best["n"] < MIN_RUNS:
            doubt = f"; so few cannot show a difference, {MIN_RUNS} can"
        elif best["low"] <= 1 <= best["high"]:
            doubt = "; no difference is seen"
        lines.append(
            f"{most} replicas are {best['speed_up']:.2f} times as fast as one at {best['rows_per_request']:,} rows per "
            f"request ({interval}{doubt}). At most {best['bound']:.2f} was to be had: {costs.bottleneck(most)} set the pace."
        )
    lines.append(pays(costs))
    return "\n".join([*([f"{name}:"] if name else []), *(f"- {line}" for line in lines)])


def _rounded(number: float) -> int:
    """Two significant digits."""
    return int(float(f"{max(number, 1):.2g}"))

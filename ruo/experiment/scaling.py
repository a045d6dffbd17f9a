"""Does it pay to distribute the work? What replicas gained in the runs of a sweep, what bounds it, and when it pays.

One client reads a table while replicas score it. So a job takes at least as long as its slowest part alone, and more
replicas shorten only their own part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ruo.errors import ExperimentError
from ruo.experiment.fits import fit_usl
from ruo.experiment.network import Network, measure_network
from ruo.experiment.validity import worker_shares
from ruo.machine import cpu_limit
from ruo.stats import MIN_RUNS, Comparison, compare
from ruo.table import Source, open_table
from ruo.timing import time_runs

__all__ = ["Costs", "balance", "law", "measure_costs", "pays", "speed_ups", "verdict_on_scaling"]

_WORTH_IT = 1.2  # distributing pays where two replicas are so many times as fast as one
_CHUNK_SIZE = 10_000


@dataclass(frozen=True)
class Costs:
    """What a row costs each part of the system, in seconds of wall clock unless noted."""

    read_s: float  # the client's reading and forming
    client_cpu_s: float  # CPU seconds of the client
    replica_s: float  # of one replica
    row_bytes: float  # that the network carries
    network: Network
    start_s: float = 0.0  # of a job besides its rows, such as asking the server for its model
    cores: float | None = None  # CPUs that client and replicas share; None where they share none
    flops: float | None = None  # floating-point operations of the model

    def parts(self, replicas: float) -> dict[str, float]:
        """Seconds that a row takes in each part, by the part's name; the largest bounds the job."""
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
        parts = self.parts(replicas)
        return max(parts, key=parts.__getitem__)

    def seconds(self, replicas: float, rows: float) -> float:
        """The predicted seconds of a job: its start, a request's latency, and its rows at the slowest part's pace."""
        return self.start_s + self.network.request_s + rows * max(self.parts(replicas).values())

    def speed_up(self, replicas: float, rows: float) -> float:
        """The predicted speed-up of so many replicas over one."""
        return self.seconds(1, rows) / self.seconds(replicas, rows)

    def over(self, network: Network) -> Costs:
        """The same costs over another network."""
        return replace(self, network=network)


def measure_costs(
    source: Source,
    runs: pd.DataFrame,
    url: str,
    *,
    shared: bool,
    flops: float | None = None,
    label_prefix: str = "Label_",
    token: str | None = None,
) -> Costs:
    """What a row costs each part, from the measured runs of a sweep over one model, with one replica among them.

    Reading is timed without sending, replicas by their own clocks, and the network to the server at `url` is measured.
    `shared` says whether client and replicas are on one machine.
    """
    good = runs[runs["error"].isna()]
    alone = good[good["replicas"].fillna(1) == 1]
    if not len(alone):
        raise ExperimentError("No run had one replica, so there is nothing to compare with; put 1 among the replicas.")
    rows = float(alone["rows"].iloc[0])
    best = alone.groupby("rows_per_request")["total_s"].mean().idxmin()
    alone = alone[alone["rows_per_request"] == best]

    def read() -> None:
        for _ in open_table(source, label_prefix).blocks(_CHUNK_SIZE):
            pass

    costs = Costs(
        min(time_runs(read, runs=3, warmup=0).samples) / rows,
        float(good["client_cpu_s"].median()) / rows,
        float(alone["server_s"].median()) / rows,
        float(alone["bytes"].median()) / rows,
        measure_network(source, url, min(_CHUNK_SIZE, int(rows)), label_prefix=label_prefix, token=token),
        cores=cpu_limit() if shared else None,
        flops=flops,
    )
    return replace(costs, start_s=max(0.0, float(alone["total_s"].median()) - costs.seconds(1, rows)))


def speed_ups(runs: pd.DataFrame, costs: dict[str | None, Costs] | None = None) -> pd.DataFrame:
    """The speed-up over one replica, by model, request size and number of replicas.

    Parameters
    ----------
    runs : DataFrame
        The measured runs of a sweep over replicas; failed ones do not count.
    costs : mapping, optional
        The costs of each model, by its name.

    Returns
    -------
    DataFrame
        Its columns: seconds (mean); speed_up with its 95 % interval (low, high; paired by block); n, the pairs; ideal,
        the number of replicas; and bound, which no number of replicas can exceed: the seconds of one replica over those
        of the slowest part alone (NaN without costs).
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
            bound = math.nan
            if cost:
                slowest_s = group["rows"].iloc[0] * max(cost.parts(replicas).values())
                bound = max(1.0, min(replicas, blocks[1].mean() / slowest_s))
            setting = {"model": model or None, "rows_per_request": int(size), "replicas": replicas}
            gained = {"speed_up": gain.ratio, "low": gain.low, "high": gain.high, "n": gain.n_a}
            rows.append({**setting, "seconds": blocks[replicas].mean(), **gained, "ideal": replicas, "bound": bound})
    return pd.DataFrame(rows)


def balance(runs: pd.DataFrame) -> pd.DataFrame:
    """The least and the most rows of a replica in any run, by model, request size and number of replicas above one.

    Each is a share of an even share, so 1 is even.
    """
    names = ["model", "rows_per_request", "replicas"]
    several = runs[runs["error"].isna() & (runs["replicas"].fillna(1) > 1)]
    shares = [*map(worker_shares, several["rows_by_worker"], several["replicas"])]
    frame = several[names].join(pd.DataFrame(shares, several.index, columns=["least", "most"]))
    return frame.groupby(names, dropna=False, as_index=False).agg({"least": "min", "most": "max"})


def law(runs: pd.DataFrame, rows_per_request: int) -> str:
    """The Universal Scalability Law of one model's runs at one request size, in words; or why none is fitted."""
    good = runs[runs["error"].isna() & (runs["rows_per_request"] == rows_per_request)]
    means = good.groupby("replicas")["rows_per_s"].mean()
    try:
        return fit_usl(means.index, means).sentence()
    except ExperimentError as error:
        return f"No law is fitted: {error}"


def pays(costs: Costs, where: str = "this network") -> str:
    """The number of rows from which distributing pays, or why it never does, in words."""
    read_s, network_s = costs.read_s, costs.row_bytes / costs.network.bytes_per_s
    work = f", {costs.flops:,.0f} floating-point operations" if costs.flops else ""
    facts = (
        f"a row ({costs.row_bytes:,.0f} bytes{work}) takes one replica {1e6 * costs.replica_s:.3g} µs, "
        f"the client's reading {1e6 * read_s:.3g} µs and the network {1e6 * network_s:.3g} µs"
    )
    useful = costs.replica_s / max(read_s, network_s)  # replicas that one client keeps busy, where they share no CPU
    if useful < _WORTH_IT:
        slower = "the network" if network_s > read_s else "the client's reading"
        return f"Distributing never pays on {where}, because {slower} takes as long as the work itself: {facts}."
    first = "the network" if network_s > read_s else "reading"
    begin = costs.start_s + costs.network.request_s
    # the rows for which begin + rows * replica_s is _WORTH_IT times begin + rows * (two replicas' pace)
    rows = (_WORTH_IT - 1) * begin / (costs.replica_s - _WORTH_IT * costs.replica_s / min(2, useful))
    about = int(float(f"{max(rows, 1):.2g}"))
    return (
        f"Distributing pays on {where} from about {about:,} rows on (two replicas are then "
        f"{_WORTH_IT} times as fast as one), since {facts}; a job takes {begin:.2g} s besides its rows. One client "
        f"keeps up to {useful:,.1f} replicas busy: beyond them {first} is the "
        "bottleneck, not they."
    )


def verdict_on_scaling(runs: pd.DataFrame, costs: dict[str | None, Costs]) -> str:
    """What the replicas gained for each model, what bounded it, and from when distributing pays, in words."""
    table = speed_ups(runs, costs)
    return "\n\n".join(_on_model(name, table[table["model"].isin([name])], costs[name]) for name in costs)


def _on_model(name: str | None, table: pd.DataFrame, costs: Costs) -> str:
    lines = [f"{name}:"] if name else []
    most = int(table["replicas"].max())
    if most > 1:
        best = table[table["replicas"] == most].sort_values("seconds").iloc[0]
        gain = Comparison(best["speed_up"], best["low"], best["high"], best["n"], best["n"], is_paired=True)
        doubt = "" if gain.differs else "; no difference is seen"
        if not gain.has_enough_runs:
            doubt = f"; so few cannot show a difference, {MIN_RUNS} can"
        lines.append(
            f"- {most} replicas are {gain.ratio:.2f} times as fast as one at {best['rows_per_request']:,} rows per "
            f"request (95 % interval {gain.low:.2f} to {gain.high:.2f}, {gain.n_a:.0f} pairs of runs{doubt}). At most "
            f"{best['bound']:.2f} was to be had: {costs.bottleneck(most)} set the pace."
        )
    return "\n".join([*lines, f"- {pays(costs)}"])

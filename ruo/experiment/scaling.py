"""Does it pay to distribute the work? What replicas gained in the runs of a sweep, what bounds it, and when it pays."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize

from ruo.answer import Answer
from ruo.errors import count
from ruo.experiment.costs import Costs
from ruo.experiment.validity import worker_shares
from ruo.stats import MIN_RUNS, Values, about, compare, digits, r_squared, to_noise

_WORTH_IT = 1.2  # distributing pays where two replicas are so many times as fast as one
_MIN_POINTS = 6  # three parameters fit any three numbers of replicas; with twice as many, a bad fit shows
_GOOD_FIT = 0.9  # R² of a law that is told
_COLUMNS = ["model", "rows_per_request", "replicas", "seconds", "speed_up", "low", "high", "n", "ideal", "bound"]


def speed_ups(
    runs: pd.DataFrame, costs: dict[str | None, Costs] | None = None, confidence: float = 0.95
) -> pd.DataFrame:
    """The speed-up over one replica in the measured runs of a sweep, by model, request size and number of replicas.

    Its columns: seconds (mean); speed_up with its interval (low, high; paired by block); n, the pairs; ideal, the
    number of replicas; and bound, which no number of replicas can exceed: the seconds of one replica over those of the
    slowest part alone (NaN without the `costs` of the model, which go by its name).
    """
    good = runs[runs["error"].isna()].assign(model=runs["model"].astype(object).fillna(""))
    rows: list[list[Any]] = []
    keys: Any  # (model, rows per request)
    for keys, group in good.groupby(["model", "rows_per_request"]):
        model, size = keys
        blocks = group.pivot_table("total_s", "block", "replicas")
        cost = (costs or {}).get(model or None)
        for replicas in map(int, blocks.columns if 1 in blocks else ()):
            gain = compare(blocks[1], blocks[replicas], confidence=confidence)
            if not gain.n_a:
                continue
            bound = math.nan
            if cost:
                slowest_s = group["rows"].iloc[0] * max(cost.parts(replicas).values())
                bound = max(1.0, min(replicas, blocks[1].mean() / slowest_s))
            rows.append([model or None, int(size), replicas, blocks[replicas].mean(), *gain[:4], replicas, bound])
    return pd.DataFrame(rows, columns=_COLUMNS)


def balance(runs: pd.DataFrame) -> pd.DataFrame:
    """The least and the most rows of a replica in any run, as shares of an even share, by model, size and replicas."""
    names = ["model", "rows_per_request", "replicas"]
    several = runs[runs["error"].isna() & (runs["replicas"].fillna(1) > 1)]
    shares = [*map(worker_shares, several["rows_by_worker"], several["replicas"])]
    frame = several[names].join(pd.DataFrame(shares, several.index, columns=["least", "most"]))
    return frame.groupby(names, dropna=False, as_index=False).agg({"least": "min", "most": "max"})


class ScalingLaw(NamedTuple):
    """The Universal Scalability Law, gamma N / (1 + alpha (N - 1) + beta N (N - 1)) rows/s for N replicas.

    Gunther, "Guerrilla Capacity Planning", 2007: alpha is contention, beta the cost of keeping replicas in step.
    """

    alpha: float
    beta: float
    r_squared: float
    points: int

    def sentence(self) -> str:
        """The law in words."""
        end = f"it grows to at most {1 / self.alpha:,.1f} times one replica" if self.alpha > 0 else "no limit is seen"
        if self.beta > 0:
            end = f"throughput falls beyond {count(max(1, round(math.sqrt((1 - self.alpha) / self.beta))), 'replica')}"
        parameters = f"alpha {self.alpha:.3g}, beta {self.beta:.3g}, R² {self.r_squared:.3f}, {self.points} points"
        return f"The fitted law ({parameters}) says: {end}."


def fit_usl(replicas: Values, throughput: Values) -> ScalingLaw:
    """Fit the Universal Scalability Law to points of throughput over replicas, by least squares."""
    n, x = np.asarray(replicas, float), np.asarray(throughput, float)

    def usl(n: Any, gamma: float, alpha: float, beta: float) -> Any:
        return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))

    start = [float((x / n).max()), 0.05, 1e-3]
    parameters, _ = optimize.curve_fit(usl, n, x, start, bounds=(0, [np.inf, 1, 1]), x_scale=start)
    _, alpha, beta = map(float, parameters)
    # what would show only far beyond the replicas that were measured is noise
    alpha = alpha if 10 * alpha * n.max() > 1 else 0.0
    is_seen = usl(n.max(), 1.0, alpha, beta) < 0.98 * usl(n.max(), 1.0, alpha, 0.0)
    beta = beta if is_seen and 1 - alpha < beta * (2 * n.max()) ** 2 else 0.0  # else the peak is beyond twice as many
    return ScalingLaw(alpha, beta, r_squared(x, usl(n, *parameters)), len(n))


def pays(costs: Costs, where: str = "this network", gained: float = math.nan) -> str:
    """The number of rows from which distributing pays, or why it never does, in words.

    The costs are measured apart; where the runs `gained` more than these allow, they decide.
    """
    read_s, network_s = costs.read_s, costs.row_bytes / costs.network.bytes_per_s
    work = f", {costs.flops:,.0f} floating-point operations" if costs.flops else ""
    times = [digits(1e6 * seconds, 2) for seconds in (costs.replica_s, read_s, network_s)]
    facts = (
        f"a row ({costs.row_bytes:,.0f} bytes{work}) takes one replica {times[0]} µs, "
        f"the client's reading {times[1]} µs and the network {times[2]} µs"
    )
    useful = _useful(costs)
    slower = "the network" if network_s > read_s else "the client's reading"
    if useful <= _WORTH_IT and gained >= _WORTH_IT:
        return f"Distributing paid on {where}, although the costs, measured apart, do not explain it: {facts}."
    if useful <= _WORTH_IT:
        return f"Distributing does not pay on {where}, because {slower} takes as long as the work itself: {facts}."
    begin = costs.start_s + costs.network.request_s
    # the rows for which begin + rows * replica_s is _WORTH_IT times begin + rows * (two replicas' pace)
    rows = (_WORTH_IT - 1) * begin / costs.replica_s / (1 - _WORTH_IT / min(2, useful))
    pays = "pays" if gained >= _WORTH_IT else "would pay"
    allowed = max(costs.parts(1).values()) / max(costs.parts(2).values())  # by the CPUs that there are, too
    if (allowed if math.isnan(gained) else gained) < _WORTH_IT:
        pays += ", each replica on a machine of its own," if costs.cores else ", by the costs but not in these runs,"
    return (
        f"Distributing {pays} on {where} from about {about(max(rows, 10))} rows on (two replicas are then "
        f"{_WORTH_IT} times as fast as one), since {facts}; a job takes {digits(begin, 2)} s besides its rows. One client "
        f"keeps up to {digits(useful, 2)} replicas busy: beyond them {slower} is the bottleneck, not they."
    )


def _useful(costs: Costs) -> float:
    """The replicas that one client keeps busy, where they share no CPU."""
    return costs.replica_s / max(costs.read_s, costs.row_bytes / costs.network.bytes_per_s)


def answer_on_scaling(
    runs: pd.DataFrame, costs: dict[str | None, Costs], status: str = "", confidence: float = 0.95
) -> Answer:
    """What the replicas gained, in one sentence, one table, and a paragraph for each model."""
    table = speed_ups(runs, costs, confidence)
    most, parts, paragraphs = table["replicas"].max(), [], []
    for name, cost in costs.items():
        of_model = table[table["model"].isin([name])].sort_values(["replicas", "seconds"], ascending=[False, True])
        lines = ["No run with one replica succeeded, so there is nothing to compare with."]
        if len(of_model):
            best = of_model.iloc[0]
            lines = [*_on_model(best, cost, confidence), *_law(runs[runs["model"].isin([name])])]
            if best["replicas"] == most > 1:
                doubt = "" if _is_seen(best) else " (no difference is seen)"
                if best["n"] < MIN_RUNS:
                    doubt = f" (in {count(int(best['n']), 'pair')}, which cannot rule out chance)"
                times = f"{digits(best['speed_up'], 2)} times as fast as one"
                parts.append(f"{times}{f' with {name}' if name else ''}{doubt}")
        paragraphs.append("\n".join([*([f"{name}:"] if name else []), *(f"- {line}" for line in lines)]))
    sentence = "No run of several replicas succeeded in a block with one of one replica."
    if parts:
        sentence = f"{most} replicas are {' and '.join(parts)}."
    elif not (runs["replicas"] > 1).any():
        sentence = "Only one replica was measured."
    columns = {"speed_up": "times as fast as one", "n": "pairs", "bound": "at most"}
    shown = table.drop(columns=["ideal", *(["model"] if table["model"].nunique() < 2 else [])]).rename(columns=columns)
    return Answer(sentence, status, shown, None, {"Model by model": "\n\n".join(paragraphs)})


def _is_seen(best: pd.Series) -> bool:
    """Whether the speed-up is more than chance, or of too few pairs to say so."""
    return bool(best["n"] < MIN_RUNS or best["low"] > 1 or best["high"] < 1)


def _on_model(best: pd.Series, costs: Costs, confidence: float) -> list[str]:
    """What the replicas gained at their fastest request size, what bounded it, and when distributing pays."""
    replicas, pairs, seen = int(best["replicas"]), count(int(best["n"]), "pair"), _is_seen(best)
    if replicas <= 1:
        return [pays(costs)]
    value, low, high = to_noise(best["speed_up"], best["low"], best["high"])
    doubt = f" ({100 * confidence:g} % interval {low} to {high}, {pairs}{'' if seen else '; no difference is seen'})"
    if best["n"] < MIN_RUNS:
        value, doubt = digits(best["speed_up"], 2), f" in {pairs}; {MIN_RUNS} would rule out chance"
    size, gained = f"{count(best['rows_per_request'], 'row')} per request", best["speed_up"] if seen else 1.0
    lines = [f"{replicas} replicas are {value} times as fast as one at {size}{doubt}."]
    if 1.05 * best["bound"] >= gained and (gained < _WORTH_IT or _useful(costs) > _WORTH_IT):  # the costs explain it
        most = digits(best["bound"], 2)
        lines.append(f"At most {most} was to be had: {costs.bottleneck(replicas)} set the pace.")
    return [*lines, pays(costs, gained=gained if best["n"] >= MIN_RUNS else math.nan)]


def _law(runs: pd.DataFrame) -> list[str]:
    """The law of one model's runs at their largest request size, where one fits them."""
    good = runs[runs["error"].isna() & (runs["rows_per_request"] == runs["rows_per_request"].max())]
    means = good["rows"].max() / good.groupby("replicas")["total_s"].mean()
    if len(means) < _MIN_POINTS:
        return []
    law = fit_usl(means.index.to_numpy(), means)
    return [law.sentence()] if law.r_squared > _GOOD_FIT else []

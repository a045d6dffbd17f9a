"""Whether the runs of an experiment can be relied on, and for what: VALID or INVALID, as in MLPerf's LoadGen."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ruo.errors import count
from ruo.stats import MIN_RUNS, compare

# The columns that say how a run was made; runs that agree in all of them are repetitions of one another.
_SETTING = ["job", "system", "model", "replicas", "wire", "concurrency", "rows_per_request", "pipelined"]

_LOAD = ["machine_busy", "others_cpus", "loop_lag_s", "server_busy", "workers", "rows_by_worker", "requests"]
_USED = ["warmup", "total_s", "retries", "answers_equal", "model", "model_version", "replicas", "concurrency", *_LOAD]

_BUSY = 0.3  # of all CPUs just before a run, and CPUs in use by other processes during a run
_DISTURBED = 0.25  # of the runs
_DRIFT = 0.1  # of a run's time, from the first run to the last
_UNSTEADY = 0.1  # standard deviation over mean
_UNEVEN = 0.25  # of an even share
_WAITING = 0.7  # a server that is busy for less than this share of the time waits for the client
_NARROW = 0.05  # of the ratio of two times
WHOLE = "the whole set in one request"
_AGAIN = "Stop what else is running on this machine, and measure again with more patience."


@dataclass(frozen=True)
class Validity:
    """VALID, or INVALID with the reasons against the runs and what to do, and notes on how much they say."""

    head: str  # one line
    reasons: list[str]
    notes: list[str]

    @property
    def valid(self) -> bool:
        """Whether there is no reason against the runs."""
        return not self.reasons

    def __str__(self) -> str:
        return "\n".join([self.head, *self.notes])


def judge(
    runs: pd.DataFrame, planned: int = 0, claim: str = "every run scored every row alike", blocks: float = inf
) -> Validity:
    """Judge runs, of which at least so many runs and `blocks` were planned; of warm-ups, only the answers count."""
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, *_USED])))
    measured = runs[~runs["warmup"].eq(True)]
    counted = that_count(measured, blocks)
    good = counted[counted["error"].isna() & counted["total_s"].notna()]
    broken, noisy, uneven = _broken(runs, measured, planned), _disturbed(counted, good), _uneven(good)
    reasons, notes = [*broken, *noisy, *uneven], _notes(good)
    took, kept = measured["block"].nunique(), counted["block"].nunique()
    if took > blocks:
        left_out = f", {count(took - kept, 'noisy block')} left out" * (kept < took)
        notes.insert(0, f"The times were noisy, so it took {took} blocks of runs instead of {blocks}{left_out}.")
    advice = "Mend that, and measure again." if broken or uneven else _AGAIN
    head = f"INVALID: {'; '.join(reasons)}. {advice}" if reasons else f"VALID: {claim}."
    return Validity(head, reasons, notes)


def that_count(measured: pd.DataFrame, blocks: float) -> pd.DataFrame:
    """The runs of the quiet blocks if these are as many as were planned, and of all blocks otherwise."""
    quiet = _quiet(measured)
    return quiet if quiet["block"].nunique() >= blocks else measured


def _quiet(measured: pd.DataFrame) -> pd.DataFrame:
    """The runs of the blocks in which the machine was busy with something else before few runs or none."""
    load = measured.get("machine_busy", pd.Series(np.nan, measured.index)).astype(float)
    return measured[(load > _BUSY).groupby(measured["block"]).transform("mean") <= _DISTURBED]


def confidence_of(measured: pd.DataFrame, blocks: int) -> float:
    """The confidence of the intervals: more is asked of a sweep that took more blocks than planned, see `is_enough`."""
    return 0.95 if measured["block"].nunique() <= blocks else 0.975


def is_enough(lines: list[dict[str, Any]], blocks: int) -> bool:
    """Whether the runs so far need no further block: enough quiet blocks, and a narrow interval of the best two.

    For each model and way of sending, the interval of the ratio of the two fastest settings has to be narrower than
    5 %; a sweep of fewer than five blocks is not meant to show a difference. It is the rule of fixed width: Chow and Robbins,
    "On the Asymptotic Theory of Fixed-Width Sequential Confidence Intervals for the Mean", Annals of Mathematical
    Statistics 1965. It looks at the width and never at the difference, so equal settings are not measured until they
    differ. To stop when the scatter happens to look small still raises the false alarms, from 5 to 7 % at worst, so a
    sweep with added blocks has intervals of 97.5 %, which brings them back to 5 % (simulated in the tests).
    """
    if blocks < MIN_RUNS:
        return True
    runs = pd.DataFrame(lines)
    measured = runs[~runs["warmup"]]
    quiet = _quiet(measured)
    if quiet["block"].nunique() < blocks:
        return False
    kinds = ["model", "pipelined"]
    good = quiet[quiet["error"].isna()].reindex(columns=runs.columns.union(kinds))
    bests = [best_two(of_kind) for _, of_kind in good.groupby(kinds, dropna=False)]
    pairs = [[times for _, times in best] for best in bests if len(best) == 2]
    comparisons = [compare(*pair, confidence=confidence_of(measured, blocks)) for pair in pairs]
    return all(not one.has_enough_runs or one.high - one.low < _NARROW for one in comparisons)


def name_of(setting: Mapping[Any, Any], among: pd.DataFrame) -> str:
    """A setting in words: its rows per request, and what else differs `among` the runs."""
    size, differs, parts = setting.get("rows_per_request"), varied(among), []
    if pd.notna(size):
        way = (" pipelined" if setting["pipelined"] else " in two phases") if "pipelined" in differs else ""
        parts.append(name_of_size(size, among["rows"].max() if "rows" in among else inf) + way)
    words = {"job": "{}", "system": "{}", "model": "{}", "replicas": "{} replicas"}
    words |= {"wire": "wire {}", "concurrency": "{} in flight"}
    for name, text in words.items():
        if name in differs and pd.notna(level := setting.get(name)):
            parts.append("one replica" if (name, level) == ("replicas", 1) else text.format(level))
    return ", ".join(parts) or str(setting.get("system", ""))


def name_of_size(size: float, rows: float) -> str:
    """A number of rows per request in words; `rows` are those of the table."""
    return WHOLE if size == rows else f"{count(int(size), 'row')} per request"


def varied(runs: pd.DataFrame, *but: str) -> list[str]:
    """What differs among the settings of the runs, `but` for these."""
    return [name for name in columns_of_setting(runs) if name not in but and runs[name].nunique() > 1]


def _broken(runs: pd.DataFrame, measured: pd.DataFrame, planned: int) -> list[str]:
    """What makes numbers wrong: runs that are missing, failed, or not of one model and one answer."""
    missing, failed = planned - len(runs), measured["error"].dropna()
    numbers = {
        f"of the plan {'is' if missing == 1 else 'are'} missing": missing,
        f"failed ({''.join(failed[:1]).rstrip('.')})": len(failed),
        "sent a request again": int((measured["retries"].fillna(0) > 0).sum()),
        "gave other predictions than the first": int((runs["answers_equal"] == False).sum()),  # noqa: E712  or no answer
    }
    versions = runs.groupby("model", dropna=False)["model_version"].agg(lambda ids: sorted(set(ids.dropna())))
    several = [f"{len(ids)} versions of the model answered ({', '.join(ids)})" for ids in versions if len(ids) > 1]
    return [f"{count(number, 'run')} {what}" for what, number in numbers.items() if number > 0] + several


def _disturbed(measured: pd.DataFrame, good: pd.DataFrame) -> list[str]:
    """What makes times doubtful: a busy machine, a machine that changes, or a client that is late."""
    reasons = []
    for when, column in (("before", "machine_busy"), ("in", "others_cpus")):
        busy = int((measured[column].astype(float) > _BUSY).sum())
        if busy > _DISTURBED * len(measured):
            reasons.append(f"the machine was busy with something else {when} {busy} of {count(len(measured), 'run')}")
    if (change := _drift(good)) is not None:
        word = "more" if change > 0 else "less"
        reasons.append(f"the runs drift: the last took {abs(change):.0%} {word} time than the first")
    if (late := good["loop_lag_s"].median()) > 0.25:
        reasons.append(f"the client's event loop was up to {late:.2f} s late, so it did not keep up")
    return reasons


def _drift(good: pd.DataFrame) -> float | None:
    """The relative change of the times from first to last within their settings, where it is significant."""
    if len(good) < 8 or good["block"].nunique() < 3:  # too few to show one
        return None
    relative = good["total_s"] / good.groupby(columns_of_setting(good), dropna=False)["total_s"].transform("median")
    blocks = relative.groupby(good["block"]).median()
    # the runs of a slow minute are one block's, and no trend alone
    if stats.linregress(blocks.index, blocks).pvalue >= 0.1 or stats.spearmanr(good["run"], relative).pvalue >= 0.01:
        return None
    change = float(stats.theilslopes(relative, good["run"]).slope * np.ptp(good["run"]))
    return change if abs(change) > _DRIFT else None


def _uneven(good: pd.DataFrame) -> list[str]:
    """What makes a comparison of replicas invalid: others answered, some had no connection, or much less work."""
    reasons = []
    scaled = good.dropna(subset=["replicas", "rows_by_worker"])
    answered = scaled["rows_by_worker"].map(len)
    is_other = (answered > scaled["replicas"]) | (answered < scaled[["replicas", "requests"]].min(axis=1))
    if others := int(is_other.sum()):
        some = f"such as {answered[is_other].iloc[0]} for {scaled['replicas'][is_other].iloc[0]:g}"
        reasons.append(f"in {count(others, 'run')} not as many servers answered as there were replicas, {some}")
    several = scaled[(scaled["replicas"] > 1) & ~is_other]
    if few := int((several["concurrency"] < several["replicas"]).sum()):
        reasons.append(f"{count(few, 'run')} had fewer connections than replicas; raise concurrency")
    enough = several[several["requests"] >= 10 * several["replicas"]]  # of fewer, no even share is to be expected
    shares = map(worker_shares, enough["rows_by_worker"], enough["replicas"])
    if uneven := [off for least, most in shares if (off := max(most - 1, 1 - least)) > _UNEVEN]:
        worst = f"up to {max(uneven):.0%} off an even share"
        reasons.append(f"in {count(len(uneven), 'run')} the replicas were unbalanced ({worst})")
    return reasons


def worker_shares(rows_by_worker: dict[str, int], replicas: float) -> tuple[float, float]:
    """The least and the most rows of a replica, as shares of an even share."""
    rows = rows_by_worker.values()
    even = sum(rows) / replicas
    return min(rows) / even if len(rows) >= replicas else 0.0, max(rows) / even


def _notes(good: pd.DataFrame) -> list[str]:
    """The settings whose times say little about the servers, because these waited; and those whose times vary much."""
    waiting, unsteady = [], []
    for setting, runs in by_setting(good):
        busy, requests = runs["server_busy"].median(), runs["requests"].median()
        if setting.get("pipelined") and busy < _WAITING and requests >= 2 * runs["workers"].median():
            waiting.append(f"{name_of(setting, good)} {busy:.0%}")
        variation = runs["total_s"].std() / runs["total_s"].mean()
        if variation > _UNSTEADY:
            unsteady.append(f"{name_of(setting, good)} {variation:.0%}")
    sentences = {
        "These times are the client's more than the servers': its reading, forming and sending were the bottleneck, "
        "and the servers computed only part of the time": waiting,
        "The runs vary much, by their standard deviation over the mean": unsteady,
    }
    return [f"{sentence}: {', '.join(settings)}." for sentence, settings in sentences.items() if settings]


def best_two(good: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """The two settings with the least mean time, or the only one: their names and their times by block."""
    times = [(name_of(setting, good), runs.set_index("block")["total_s"]) for setting, runs in by_setting(good)]
    return sorted(times, key=lambda of_setting: float(of_setting[1].mean()))[:2]


def by_setting(runs: pd.DataFrame) -> Iterator[tuple[dict[Any, Any], pd.DataFrame]]:
    """Each setting, with its runs."""
    names = columns_of_setting(runs)
    for key, group in runs.groupby(names, dropna=False) if names else ():
        yield dict(zip(names, key, strict=True)), group


def columns_of_setting(runs: pd.DataFrame) -> list[str]:
    """The columns that say how a run was made, as far as they have values."""
    return [name for name in _SETTING if name in runs and runs[name].notna().any()]

"""Whether the runs of an experiment may be relied on, and for what: VALID or INVALID, with the reasons in words.

After MLPerf's LoadGen, which prints such a line and what to do: only here the reasons are those that a client which
reads, sends and measures on one machine can have.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from scipy import stats

__all__ = ["SETTING", "Validity", "judge", "name_of"]

# The columns that say how a run was made; runs that agree in all of them are repetitions of one another.
SETTING = ["model", "replicas", "wire", "concurrency", "rows_per_request", "pipelined"]

_BUSY = 0.3  # of all CPUs, just before a run
_SEEN_BUSY = 0.25  # of the runs
_DRIFT = 0.1  # from the first run to the last, of a run's time
_SURE = 0.01
_FEW = 8  # runs that cannot show a drift
_UNSTEADY = 0.1  # standard deviation over mean
_LATE_S = 0.25
_UNEVEN = 0.25  # of an even share
_ENOUGH = 10  # requests for each replica, for an even share to be expected
_WAITING = 0.7  # a server that works less than this share of the time waits for the client


@dataclass(frozen=True)
class Validity:
    """`reasons` why the runs must not be relied on, `limits` of what they are about, and `notes` on their quality."""

    reasons: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against the runs."""
        return not self.reasons

    def __str__(self) -> str:
        head = "VALID: every run scored every row alike." if self.valid else f"INVALID: {'; '.join(self.reasons)}."
        return "\n".join([head, *self.limits, *self.notes])


def judge(runs: pd.DataFrame, planned: int | None = None) -> Validity:
    """Judge the runs of a sweep, by the columns that `Sweep.runs` has; `planned` is how many there should be.

    Warm-ups count only where answers are compared.
    """
    measured = runs[~runs["warmup"].astype(bool)]
    good = measured[measured["error"].isna()]
    reasons = [*_broken(runs, measured, planned), *_disturbed(measured, good), *_uneven(good)]
    return Validity(reasons, _limits(good), _notes(good))


def name_of(setting: dict[str, object], among: pd.DataFrame) -> str:
    """A setting in words: its rows per request, its way of sending, and what else differs `among` the runs."""
    parts = [f"{setting['rows_per_request']:,} rows {'pipelined' if setting['pipelined'] else 'in two phases'}"]
    words = {"model": "{}", "replicas": "{} replicas", "wire": "wire {}", "concurrency": "{} in flight"}
    parts += [words[name].format(setting[name]) for name in words if name in among and among[name].nunique() > 1]
    return ", ".join(parts)


def _broken(runs: pd.DataFrame, measured: pd.DataFrame, planned: int | None) -> list[str]:
    """What makes numbers wrong: runs that are missing, failed, or not of one model and one answer."""
    failed = measured["error"].dropna()
    retried = int((measured["retries"].fillna(0) > 0).sum())
    different = int((runs["answers_equal"] == False).sum())  # noqa: E712  a failed run has no answer
    versions = runs.groupby("model", dropna=False)["model_version"].agg(lambda found: sorted(set(found.dropna())))
    several = [names for names in versions if len(names) > 1]
    missing = 0 if planned is None else planned - len(runs)
    found = {
        f"{_runs(missing)} of the plan {'is' if missing == 1 else 'are'} missing": missing > 0,
        f"{_runs(len(failed))} failed ({failed.iloc[0].rstrip('.') if len(failed) else ''})": len(failed) > 0,
        f"{_runs(retried)} sent a request again": retried > 0,
        f"{_runs(different)} gave other predictions than the first": different > 0,
        **{f"{len(names)} versions of the model answered ({', '.join(names)})": True for names in several},
    }
    return [sentence for sentence, holds in found.items() if holds]


def _disturbed(measured: pd.DataFrame, good: pd.DataFrame) -> list[str]:
    """What makes times doubtful: a busy machine, a machine that changes, a client that is late."""
    busy = int((measured["machine_busy"] > _BUSY).sum())
    reasons = []
    if busy > _SEEN_BUSY * len(measured):
        reasons.append(f"the machine was busy with something else before {busy} of {_runs(len(measured))}")
    change = _drift(good)
    if change is not None:
        reasons.append(f"the runs drift: the last took {change:+.0%} of the time that the first took")
    late = good["loop_lag_s"].median()
    if late > _LATE_S:
        reasons.append(f"the client's event loop was up to {late:.2f} s late, so it did not keep up")
    return reasons


def _drift(good: pd.DataFrame) -> float | None:
    """By how much the times change from first to last beside what the settings make, where that is more than chance."""
    relative = good["total_s"] / good.groupby(_present(good), dropna=False)["total_s"].transform("median")
    if len(relative) < _FEW or relative.nunique() < 2:
        return None
    chance = stats.spearmanr(good["run"], relative).pvalue
    slope = float(stats.theilslopes(relative, good["run"]).slope)
    change = slope * float(good["run"].max() - good["run"].min())
    return change if chance < _SURE and abs(change) > _DRIFT else None


def _uneven(good: pd.DataFrame) -> list[str]:
    """What makes a comparison of replicas void: some had no connection, or much less work than others."""
    several = good[good["replicas"].fillna(1) > 1]
    few = several[several["concurrency"] < several["replicas"]]
    reasons = []
    if len(few):
        reasons.append(f"{_runs(len(few))} had fewer connections than replicas; raise concurrency")
    uneven = [
        run for run in several.to_dict("records")
        if run["requests"] >= _ENOUGH * run["replicas"] and _imbalance(run["rows_by_worker"], run["replicas"]) > _UNEVEN
    ]  # fmt: skip
    if uneven:
        worst = max(_imbalance(run["rows_by_worker"], run["replicas"]) for run in uneven)
        reasons.append(f"in {_runs(len(uneven))} the replicas were unbalanced (up to {worst:.0%} off an even share)")
    return reasons


def _imbalance(rows: dict[str, int], replicas: float) -> float:
    """How far the busiest or the idlest replica is from an even share, as a share of it."""
    even = sum(rows.values()) / replicas
    least = min(rows.values()) if len(rows) >= replicas else 0
    return max(max(rows.values()) - even, even - least) / even


def _limits(good: pd.DataFrame) -> list[str]:
    """For which settings the times say little of the servers, since these waited."""
    waiting = []
    for setting, runs in _by_setting(good):
        busy, requests = runs["server_busy"].median(), runs["requests"].median()
        if setting["pipelined"] and busy < _WAITING and requests >= 2 * runs["workers"].median():
            waiting.append(f"{name_of(setting, good)} {busy:.0%}")
    if not waiting:
        return []
    sentence = (
        "These times are the client's more than the servers': its reading, forming and sending were the bottleneck"
    )
    return [f"{sentence}, and the servers computed only part of the time: {', '.join(waiting)}."]


def _notes(good: pd.DataFrame) -> list[str]:
    unsteady = []
    for setting, runs in _by_setting(good):
        variation = runs["total_s"].std() / runs["total_s"].mean()
        unsteady += [f"{name_of(setting, good)} {variation:.0%}"] if variation > _UNSTEADY else []
    if not unsteady:
        return []
    return [f"The runs vary much, by their standard deviation over the mean: {', '.join(unsteady)}."]


def _by_setting(runs: pd.DataFrame) -> list[tuple[dict[str, object], pd.DataFrame]]:
    names = _present(runs)
    if not len(runs):
        return []
    groups = runs.groupby(names, dropna=False)
    return [(dict(zip(names, key, strict=True)), group) for key, group in groups]


def _present(runs: pd.DataFrame) -> list[str]:
    return [name for name in SETTING if name in runs]


def _runs(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"

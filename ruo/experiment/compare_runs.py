"""Two sweeps of the same data and model, at two times or of two versions: what became faster, and what slower."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import pandas as pd
from scipy import stats

from ruo.answer import Answer
from ruo.errors import ExperimentError
from ruo.experiment.results import Sweep, read_sweep
from ruo.experiment.validity import columns_of_setting, name_of
from ruo.provenance import Provenance
from ruo.stats import compare_unpaired, count

# the facts that may differ, with a warning
_KINDS = {
    "versions": r"machine\.(python|versions\..+)",
    "commits": r"machine\.commit",
    "machines": r"machine\.(?!python|versions|commit|clean).+",
}

Times = dict[tuple[Any, ...], list[float]]  # seconds by setting


@dataclass(frozen=True, repr=False)
class RunsCompared:
    """Two sweeps: `table` has the runs, mean seconds, ratio of B over A and its interval for each setting of both."""

    names: Sequence[str]  # the folders A and B
    table: pd.DataFrame
    sentences: list[str]  # on each setting, and on what could not be compared
    warnings: list[str]  # what else differs

    def answer(self) -> str:
        """How many settings of B are faster, how many slower, and how many warnings there are, in one sentence."""
        counts, in_order = self.table["word"].value_counts(), ("faster", "slower", "no difference seen")
        words = ", ".join(f"{counts[word]} {word}" for word in in_order if word in counts)
        warnings = f" ({count(len(self.warnings), 'warning')})" if self.warnings else ""
        return f"B against A, by setting: {words}{warnings}."

    def text(self) -> str:
        """The answer, the table, the sentences and the warnings, for a terminal."""
        return self._shown().text()

    def __repr__(self) -> str:
        return f"RunsCompared(A {self.names[0]}; B {self.names[1]}; {self.answer()})"

    def _repr_html_(self) -> str:
        return self._shown().html()

    def _shown(self) -> Answer:
        compared = [*map("{}: {}".format, "AB", self.names), *(f"WARNING: {warning}" for warning in self.warnings)]
        folded = {"What was compared": "\n".join(compared), "What the table says": "\n".join(self.sentences)}
        return Answer(self.answer(), "", self.table, None, folded)


def compare_runs(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> RunsCompared:
    """Compare the sweep in folder `b` with that in folder `a`; other machines, versions and commits give warnings."""
    first, second = read_sweep(a), read_sweep(b)
    _require_same_job(first.provenance, second.provenance)
    names = columns_of_setting(pd.concat([first.measured, second.measured]))
    times_a, times_b = _times(first, names), _times(second, names)
    settings = pd.DataFrame([*times_a, *times_b], columns=names)
    rows, sentences = [], []
    for setting in times_a:
        if setting in times_b:
            comparison = compare_unpaired(times_b[setting], times_a[setting])
            means = [float(stats.gmean(times[setting])) if times[setting] else nan for times in (times_a, times_b)]
            numbers = [comparison.n_b, comparison.n_a, *means, *comparison[:3], comparison.word]
            rows.append([*setting, *numbers])
            sentences.append(f"{_name(setting, settings)}: {comparison.sentence('B', 'A')}")
    if not rows:
        raise ExperimentError("The two sweeps have no setting in common, so there is nothing to compare.")
    for name, own, other, others in (("A", times_a, "B", times_b), ("B", times_b, "A", times_a)):
        if alone := "; ".join(_name(setting, settings) for setting in own if setting not in others):
            sentences.append(f"Only {name} has {alone}, so {other} cannot be compared there.")
    slowed = "what slowed down the machine during one of them looks the same as a slower system."
    sentences.append(f"The two were not measured side by side: {slowed}")
    if len(rows) > 1:
        sentences.append(f"Of {len(rows)} settings that did not change, one in twenty seems to, by chance alone.")
    table = pd.DataFrame(rows, columns=[*names, "n_a", "n_b", "a_s", "b_s", "ratio", "low", "high", "word"])
    return RunsCompared([os.fspath(a), os.fspath(b)], table, sentences, _warnings(first, second))


def _name(setting: tuple[Any, ...], among: pd.DataFrame) -> str:
    return name_of(dict(zip(among.columns, setting, strict=True)), among)


def _times(sweep: Sweep, names: list[str]) -> Times:
    """The seconds of the runs that succeeded, by setting, in the order of the settings; an absent level is None."""
    times: Times = {}
    levels: Any
    for levels, runs in sweep.measured.groupby(names, dropna=False):
        setting = tuple(None if pd.isna(level) else level for level in levels)
        times[setting] = runs.loc[runs["error"].isna(), "total_s"].tolist()
    return times


def _require_same_job(a: Provenance, b: Provenance) -> None:
    models = _models(a) & _models(b)
    kinds = {"other data": {"data.sha256", "data.rows", "data.label_prefix"}, "another model": models}
    for what, names in kinds.items():
        if differences := [difference for difference in a.differences(b) if difference[0] in names]:
            raise ExperimentError(f"The sweeps cannot be compared, for they are of {what} ({_in_words(differences)}).")


def _models(provenance: Provenance) -> set[str]:
    """The names of the facts that are fingerprints of models."""
    return {name for name in provenance.flat() if name.startswith("model.") and name.endswith("sha256")}


def _warnings(a: Sweep, b: Sweep) -> list[str]:
    warnings = []
    for name, sweep in (("A", a), ("B", b)):
        if not sweep.validity().valid:
            warnings.append(f"{name} is {sweep.validity().head}")
        if not _models(sweep.provenance):
            warnings.append(f"{name} does not say which model it measured, so it may be another one.")
        if sweep.provenance.flat().get("machine.clean") is False:
            warnings.append(f"{name} was measured with changes to ruo that no commit has.")
    differences = a.provenance.differences(b.provenance)
    for what, pattern in _KINDS.items():
        of_kind = [(name.split(".")[-1], *values) for name, *values in differences if re.fullmatch(pattern, name)]
        warnings += [f"The {what} differ: {_in_words(of_kind)}."] if of_kind else []
    return warnings


def _in_words(differences: list[tuple[Any, ...]]) -> str:
    return "; ".join(f"{name} {old} in A, {new} in B" for name, old, new in differences)

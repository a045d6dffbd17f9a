"""Two sweeps of the same data and model, at two times or of two versions: what became faster, and what slower."""

import os
import re
from dataclasses import dataclass
from math import nan
from typing import Any

import pandas as pd
from scipy import stats

from ruo.answer import Answer, wrapped
from ruo.errors import ExperimentError
from ruo.experiment.results import Sweep, read_sweep
from ruo.experiment.validity import columns_of_setting, name_of
from ruo.provenance import Provenance
from ruo.stats import Comparison, compare_unpaired, count, digits

_COLUMNS = ["n_a", "n_b", "a_s", "b_s", "ratio", "low", "high", "word"]
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

    name_a: str  # the folder
    name_b: str
    table: pd.DataFrame
    warnings: list[str]  # what else differs
    only_a: list[str]  # settings that B lacks
    only_b: list[str]

    def sentences(self) -> list[str]:
        """What the table says, a sentence per setting; what could not be compared; what the intervals leave out."""
        sentences = []
        for row in self.table.to_dict("records"):
            comparison = Comparison(row["ratio"], row["low"], row["high"], row["n_b"], row["n_a"])
            sentences.append(f"{name_of(row, self.table)}: {comparison.sentence('B', 'A')}")
        for name, other, alone in (("A", "B", self.only_a), ("B", "A", self.only_b)):
            if alone:
                sentences.append(f"Only {name} has {'; '.join(alone)}, so {other} cannot be compared there.")
        slowed = "what slowed down the machine during one of them looks the same as a slower system."
        sentences.append(f"The two were not measured side by side: {slowed}")
        if (settings := len(self.table)) > 1:
            sentences.append(f"Of {settings} settings that did not change, one in twenty seems to, by chance alone.")
        return sentences

    def text(self) -> str:
        """The warnings, the table and the sentences, for a terminal."""
        table = self.table.to_string(index=False, float_format=digits, na_rep="-")
        warnings = [f"WARNING: {warning}" for warning in self.warnings]
        names, said = f"A: {self.name_a}\nB: {self.name_b}", "\n".join(map(wrapped, self.sentences()))
        parts = [names, self.answer(), "\n".join(warnings), table, said]
        return "\n\n".join(part for part in parts if part)

    def answer(self) -> str:
        """How many settings of B are faster, how many slower, and how many warnings there are, in one sentence."""
        counts, in_order = self.table["word"].value_counts(), ("faster", "slower", "no difference seen")
        words = ", ".join(f"{counts[word]} {word}" for word in in_order if word in counts)
        warnings = f" ({count(len(self.warnings), 'warning')})" if self.warnings else ""
        return f"B against A, by setting: {words}{warnings}."

    def __repr__(self) -> str:
        return f"RunsCompared(A {self.name_a}; B {self.name_b}; {self.answer()})"

    def _repr_html_(self) -> str:
        text = "\n".join([*self.warnings, *self.sentences()])
        return Answer(self.answer(), "", self.table, None, {"What the table says": text}).html()


def compare_runs(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> RunsCompared:
    """Compare the sweep in folder `b` with that in folder `a`; other machines, versions and commits give warnings."""
    first, second = read_sweep(a), read_sweep(b)
    _require_same_job(first.provenance, second.provenance)
    names = columns_of_setting(pd.concat([first.measured, second.measured]))
    times_a, times_b = _times(first, names), _times(second, names)
    common = [setting for setting in times_a if setting in times_b]
    if not common:
        raise ExperimentError("The two sweeps have no setting in common, so there is nothing to compare.")
    rows = [[*setting, *_row(times_a[setting], times_b[setting])] for setting in common]
    settings = pd.DataFrame([*times_a, *times_b], columns=names)
    only_a, only_b = (
        [name_of(dict(zip(names, setting, strict=True)), settings) for setting in times if setting not in common]
        for times in (times_a, times_b)
    )
    table = pd.DataFrame(rows, columns=[*names, *_COLUMNS])
    return RunsCompared(os.fspath(a), os.fspath(b), table, _warnings(first, second), only_a, only_b)


def _times(sweep: Sweep, names: list[str]) -> Times:
    """The seconds of the runs that succeeded, by setting, in the order of the settings; an absent level is None."""
    times: Times = {}
    levels: Any
    for levels, runs in sweep.measured.groupby(names, dropna=False):
        setting = tuple(None if pd.isna(level) else level for level in levels)
        times[setting] = runs.loc[runs["error"].isna(), "total_s"].tolist()
    return times


def _row(times_a: list[float], times_b: list[float]) -> list[Any]:
    """The values of `_COLUMNS` for one setting."""
    n_a, n_b = len(times_a), len(times_b)
    comparison = compare_unpaired(times_b, times_a)
    means = [float(stats.gmean(times)) if times else nan for times in (times_a, times_b)]
    return [n_a, n_b, *means, *comparison[:3], comparison.word]


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
        validity = sweep.validity()
        if not validity.valid:
            warnings.append(f"{name} is {str(validity).splitlines()[0]}")
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

"""Two sweeps of the same data and model, at two times or of two versions: what became faster, and what slower."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ruo.answer import Answer, Shown
from ruo.errors import ExperimentError, count
from ruo.experiment.carry_out import KINDS
from ruo.experiment.results import Sweep, read_sweep
from ruo.experiment.validity import by_setting, name_of
from ruo.stats import compare_unpaired

_REFUSED = ("other data", "another model")
# the facts that may differ, with a warning
_WARNED = {
    "versions": r"machine\.(python|versions\..+)",
    "commits": r"machine\.commit",
    "machines": r"machine\.(?!python|versions|commit|clean).+",
}


@dataclass(frozen=True, repr=False)
class RunsCompared(Shown):
    """Two sweeps: `table` has the runs, mean seconds, ratio of B over A and its interval for each setting of both."""

    names: Sequence[str]  # the folders A and B
    table: pd.DataFrame
    sentences: list[str]  # on each setting, and on what could not be compared
    warnings: list[str]  # what else differs

    def answer(self) -> str:
        """How many settings of B are faster, how many slower, and how many warnings there are, in one sentence."""
        counts = self.table["word"].value_counts().rename({"too few runs": "with too few runs"})
        in_order = ("faster", "slower", "no difference seen", "with too few runs")
        words = ", ".join(f"{counts[word]} {word}" for word in in_order if word in counts)
        warnings = f" ({count(len(self.warnings), 'warning')})" if self.warnings else ""
        return f"B against A, by setting: {words}{warnings}."

    text = Shown.__str__  # the answer, the table, the sentences and the warnings, for a terminal

    def __repr__(self) -> str:
        return f"RunsCompared(A {self.names[0]}; B {self.names[1]}; {self.answer()})"

    def _shown(self) -> Answer:
        compared = [*map("{}: {}".format, "AB", self.names), *(f"WARNING: {warning}" for warning in self.warnings)]
        folded = {"What was compared": "\n".join(compared), "What the table says": "\n".join(self.sentences)}
        return Answer(self.answer(), "", self.table, None, folded)


def compare_runs(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> RunsCompared:
    """Compare the sweep in folder `b` with that in folder `a`; other machines, versions and commits give warnings."""
    sweeps = {"A": read_sweep(a), "B": read_sweep(b)}
    warnings = _warnings(sweeps)
    runs = pd.concat([sweep.measured.assign(of=name) for name, sweep in sweeps.items()])
    rows, sentences = [], []
    alone: dict[str, list[str]] = {"A": [], "B": []}  # settings of one that the other lacks
    for setting, of_setting in by_setting(runs):
        name = name_of(setting, runs)
        if of_setting["of"].nunique() == 1:
            alone[of_setting["of"].iloc[0]].append(name)
            continue
        good = of_setting[of_setting["error"].isna()].dropna(subset=["total_s"])
        times_a, times_b = (good.loc[good["of"] == of, "total_s"] for of in sweeps)
        comparison = compare_unpaired(times_b, times_a)
        means = {"a_s": np.exp(np.log(times_a).mean()), "b_s": np.exp(np.log(times_b).mean())}
        ratio = {"ratio": comparison.ratio, "low": comparison.low, "high": comparison.high, "word": comparison.word}
        rows.append({**setting, "n_a": len(times_a), "n_b": len(times_b), **means, **ratio})
        sentences.append(f"{name}: {comparison.sentence('B', 'A')}")
    if not rows:
        raise ExperimentError("The two sweeps measured no setting in common, so there is nothing to compare.")
    for of, other in ("AB", "BA"):
        if alone[of]:
            sentences.append(f"Only {of} has {'; '.join(alone[of])}, so {other} cannot be compared there.")
    slowed = "what slowed down the machine during one of them looks the same as a slower system."
    sentences.append(f"The two were not measured side by side: {slowed}")
    if len(rows) > 1:
        sentences.append(f"Of {len(rows)} settings that did not change, one in twenty seems to, by chance alone.")
    return RunsCompared([os.fspath(a), os.fspath(b)], pd.DataFrame(rows), sentences, warnings)


def _warnings(sweeps: dict[str, Sweep]) -> list[str]:
    """What else differs; raises ExperimentError where the two are of other data or models."""
    warnings = []
    for name, sweep in sweeps.items():
        facts = sweep.provenance.flat()
        if not sweep.validity().valid:
            warnings.append(f"{name} is {sweep.validity().head}")
        if not any(re.fullmatch(KINDS["another model"], fact) for fact in facts):
            warnings.append(f"{name} does not say which model it measured, so it may be another one.")
        if facts.get("machine.clean") is False:
            warnings.append(f"{name} was measured with changes to ruo that no commit has.")
    differences = sweeps["A"].provenance.differences(sweeps["B"].provenance)
    for what in _REFUSED:
        of_kind = [difference for difference in differences if re.fullmatch(KINDS[what], difference[0])]
        if words := "; ".join(f"{name} {old} in A, {new} in B" for name, old, new in of_kind if None not in (old, new)):
            raise ExperimentError(f"The sweeps cannot be compared, for they are of {what} ({words}).")
    for what, pattern in _WARNED.items():
        of_kind = [difference for difference in differences if re.fullmatch(pattern, difference[0])]
        if words := "; ".join(f"{name.split('.')[-1]} {old} in A, {new} in B" for name, old, new in of_kind):
            warnings.append(f"The {what} differ: {words}.")
    return warnings

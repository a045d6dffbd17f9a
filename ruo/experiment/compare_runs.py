"""Two sweeps of the same data and model, at two times or of two versions: what became faster, and what slower."""

from __future__ import annotations

import html
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ruo.errors import ArgumentError, ExperimentError
from ruo.experiment.results import Sweep, read_sweep
from ruo.experiment.validity import SETTING, name_of
from ruo.provenance import Provenance
from ruo.stats import Values, digits

__all__ = ["MIN_RUNS", "RunsCompared", "Unpaired", "compare_runs", "compare_unpaired"]

# Fewer runs tell too little about their own scatter, on which the interval rests; as many as pairs in ruo.stats.
MIN_RUNS = 5

_COLUMNS = ["n_a", "n_b", "a_s", "b_s", "ratio", "low", "high", "word"]

Setting = tuple[Any, ...]


class Unpaired(NamedTuple):
    """The times `a` over the times `b`: `ratio` of their geometric means, its interval, and the runs of each."""

    ratio: float
    low: float
    high: float
    n_a: int
    n_b: int

    @property
    def differs(self) -> bool:
        """Whether the interval leaves 1 out, and rests on enough runs to say so."""
        return min(self.n_a, self.n_b) >= MIN_RUNS and (self.low > 1 or self.high < 1)

    @property
    def word(self) -> str:
        """What `a` is, beside `b`: faster, slower, or no difference seen."""
        if not self.differs:
            return "no difference seen"
        return "faster" if self.ratio < 1 else "slower"

    def sentence(self, name_a: str, name_b: str) -> str:
        """What the ratio says of the two, in words."""
        about = "there is none to compare with" if np.isnan(self.ratio) else f"ratio of the times {digits(self.ratio)}"
        runs = f"{self.n_a} and {self.n_b} runs"
        bounds = f"95 % interval {digits(self.low)} to {digits(self.high)}, {runs}"
        if min(self.n_a, self.n_b) < MIN_RUNS:
            why = f"{runs} cannot show one, {MIN_RUNS} or more of each can ({about})"
            return f"No difference seen between {name_a} and {name_b}: {why}."
        if not self.differs:
            return f"No difference seen between {name_a} and {name_b}: {about} ({bounds})."
        return f"{name_a} is {self.word} than {name_b}: it takes {digits(self.ratio)} times as long ({bounds})."


def compare_unpaired(a: Values, b: Values, *, confidence: float = 0.95) -> Unpaired:
    """The times `a` over the times `b`, of runs that have nothing in common but the setting; as many as there are.

    exp of the interval of mean(log a) - mean(log b), with the standard error sqrt(s_a**2 / n_a + s_b**2 / n_b) and
    Student's t at the degrees of freedom se**4 / ((s_a**2 / n_a)**2 / (n_a - 1) + (s_b**2 / n_b)**2 / (n_b - 1)):
    Welch, "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved",
    Biometrika 1947. By logarithms, since times are skewed to the right and a ratio is asked for. The bounds are NaN
    where one has a single run. Raises ValueError for no times and for times that are not above 0.
    """
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence={confidence} must lie between 0 and 1, such as 0.95.")
    first, second = _logarithms(a), _logarithms(b)
    n_a, n_b = len(first), len(second)
    difference = float(first.mean() - second.mean())
    if min(n_a, n_b) < 2:
        return Unpaired(float(np.exp(difference)), float("nan"), float("nan"), n_a, n_b)
    part_a, part_b = float(first.var(ddof=1)) / n_a, float(second.var(ddof=1)) / n_b
    half = 0.0
    if part_a + part_b > 0:
        freedom = (part_a + part_b) ** 2 / (part_a**2 / (n_a - 1) + part_b**2 / (n_b - 1))
        half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * (part_a + part_b) ** 0.5
    low, ratio, high = (float(np.exp(difference + sign * half)) for sign in (-1, 0, 1))
    return Unpaired(ratio, low, high, n_a, n_b)


def _logarithms(values: Values) -> np.ndarray[Any, Any]:
    array = np.asarray(values, float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or not (array > 0).all():
        raise ArgumentError("There must be one time or more in a row, and every time above 0.")
    logarithms: np.ndarray[Any, Any] = np.log(array)
    return logarithms


@dataclass(frozen=True, repr=False)
class RunsCompared:
    """Two sweeps, A and B, setting by setting. `table` has a row per setting that both have.

    Its columns: what makes the setting; n_a and n_b, the runs that gave a result; a_s and b_s, their geometric means
    in seconds; `ratio` of B over A with `low` and `high` (95 %); `word`, what B is: "faster", "slower" or "no difference
    seen". `warnings` are sentences on what else than the runs differs; `only_a` and `only_b` name the settings that one
    alone has.
    """

    name_a: str
    name_b: str
    table: pd.DataFrame
    warnings: list[str]
    only_a: list[str]
    only_b: list[str]

    def sentences(self) -> list[str]:
        """What the table says, a sentence per setting, what could not be compared, and what the intervals leave out."""
        said = []
        for row in self.table.to_dict("records"):
            setting = {str(name): level for name, level in row.items()}
            found = Unpaired(row["ratio"], row["low"], row["high"], row["n_b"], row["n_a"])
            said.append(f"{name_of(setting, self.table)}: {found.sentence('B', 'A')}")
        for name, other, only in (("A", "B", self.only_a), ("B", "A", self.only_b)):
            said += [f"Only {name} has {'; '.join(only)}, so {other} cannot be compared there."] if only else []
        said.append(
            "The two were not measured side by side: what slowed down the machine during one of them looks the same as a "
            "slower system."
        )
        if len(self.table) > 1:
            said.append(f"Of {len(self.table)} settings that did not change, one in twenty seems to, by chance alone.")
        return said

    def text(self) -> str:
        """The warnings, the table and the sentences, for a terminal."""
        table = self.table.to_string(index=False, float_format=digits, na_rep="-")
        warnings = [f"WARNING: {warning}" for warning in self.warnings]
        parts = [f"A: {self.name_a}\nB: {self.name_b}", "\n".join(warnings), table, "\n".join(self.sentences())]
        return "\n\n".join(part for part in parts if part)

    def __repr__(self) -> str:
        words = self.table["word"].value_counts().to_dict()
        found = ", ".join(
            f"{words[word]} {word}" for word in ("faster", "slower", "no difference seen") if word in words
        )
        warned = f", {len(self.warnings)} warning{'s' * (len(self.warnings) > 1)}" if self.warnings else ""
        return f"RunsCompared(B {self.name_b} against A {self.name_a}: {found}{warned})"

    def _repr_html_(self) -> str:
        table = self.table.to_html(index=False, float_format=digits, na_rep="-")
        return f"{table}<pre>{html.escape(chr(10).join([*self.warnings, *self.sentences()]))}</pre>"


def compare_runs(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> RunsCompared:
    """Compare the sweep in folder `b` with the one in folder `a`: the time of the whole job at each setting of both.

    The runs are not paired, so `compare_unpaired` compares them; warm-ups and failed runs do not count.

    Raises ExperimentError where a folder has no sweep, and RuoError for sweeps of other data or of another model and for
    two that have no setting in common. Another machine, other versions and another commit are warned of.
    """
    first, second = read_sweep(a), read_sweep(b)
    _refuse_other(first.provenance, second.provenance)
    times_a, times_b = _times(first), _times(second)
    settings = pd.DataFrame([*times_a, *times_b], columns=SETTING).dropna(axis="columns", how="all")
    both = [setting for setting in times_a if setting in times_b]
    if not both:
        raise ExperimentError("The two sweeps have no setting in common, so there is nothing to compare.")
    rows = [
        {**dict(zip(SETTING, setting, strict=True)), **_row(times_a[setting], times_b[setting])} for setting in both
    ]
    only_a, only_b = (
        [name_of(dict(zip(SETTING, setting, strict=True)), settings) for setting in mine if setting not in other]
        for mine, other in ((times_a, times_b), (times_b, times_a))
    )
    table = pd.DataFrame(rows)[[*settings.columns, *_COLUMNS]]
    return RunsCompared(os.fspath(a), os.fspath(b), table, _warnings(first, second), only_a, only_b)


def _times(sweep: Sweep) -> dict[Setting, list[float]]:
    """The seconds of each setting's runs that gave a result, in the order of the settings; a level that is not there: None."""
    runs = sweep.measured.reindex(columns=[*SETTING, "error", "total_s"]).sort_values(SETTING, kind="stable")
    found: dict[Setting, list[float]] = {}
    for *levels, error, seconds in runs.itertuples(index=False, name=None):
        setting = tuple(None if pd.isna(level) else level for level in levels)
        found.setdefault(setting, []).extend([seconds] if pd.isna(error) else [])
    return found


def _row(times_a: list[float], times_b: list[float]) -> dict[str, Any]:
    means = [float(np.exp(np.mean(np.log(times)))) if times else float("nan") for times in (times_a, times_b)]
    if times_a and times_b:
        found = compare_unpaired(times_b, times_a)
    else:
        found = Unpaired(float("nan"), float("nan"), float("nan"), len(times_b), len(times_a))
    values = (len(times_a), len(times_b), *means, found.ratio, found.low, found.high, found.word)
    return dict(zip(_COLUMNS, values, strict=True))


def _refuse_other(a: Provenance, b: Provenance) -> None:
    old, new = a.flat(), b.flat()
    models = [name for name in _models(a) if name in _models(b)]
    kinds = {"other data": ["data.sha256", "data.rows", "data.label_prefix"], "another model": models}
    for what, names in kinds.items():
        different = [name for name in names if old.get(name) != new.get(name)]
        if different:
            shown = "; ".join(f"{name} {old.get(name)} in A, {new.get(name)} in B" for name in different)
            raise ExperimentError(f"The sweeps cannot be compared, for they are of {what} ({shown}).")


def _models(provenance: Provenance) -> list[str]:
    """Where the fingerprints of the models stand."""
    return [name for name in provenance.flat() if name.startswith("model.") and name.endswith("sha256")]


def _warnings(a: Sweep, b: Sweep) -> list[str]:
    found = []
    for name, sweep in (("A", a), ("B", b)):
        head = sweep.verdict().partition("\n")[0]
        found += [f"{name} is {head}"] if head.startswith("INVALID") else []
        if not _models(sweep.provenance):
            found.append(f"{name} does not say which model it measured, so it may be another one.")
        if sweep.provenance.flat().get("machine.clean") is False:
            found.append(f"{name} was measured with changes to ruo that no commit has.")
    return found + _differences(a.provenance, b.provenance)


def _differences(a: Provenance, b: Provenance) -> list[str]:
    """A sentence for each way in which the machines and what ran on them differ."""
    kinds: dict[str, Callable[[str], bool]] = {
        "The versions differ": lambda name: name == "machine.python" or name.startswith("machine.versions."),
        "The commits differ": lambda name: name == "machine.commit",
        "The machines differ": lambda name: name != "machine.clean",
    }
    old, new = ({name: fact for name, fact in each.flat().items() if name.startswith("machine.")} for each in (a, b))
    different = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    found = []
    for sentence, belongs in kinds.items():
        mine = [name for name in different if belongs(name)]
        different = [name for name in different if name not in mine]
        shown = "; ".join(f"{name.split('.')[-1]} {old.get(name)} in A, {new.get(name)} in B" for name in mine)
        found += [f"{sentence}: {shown}."] if mine else []
    return found

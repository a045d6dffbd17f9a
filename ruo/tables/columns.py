"""Which columns are features, labels and kept, as the options say and as the model wants them."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from ruo.errors import ArgumentError, TableError, warn
from ruo.tables.options import TableOptions

# in a CSV, as pandas reads that, and in its Parquet; each with the suffix of one that occurs again
_NAMELESS = re.compile(r"(|Unnamed: \d+|__index_level_\d+__)(\.\d+)*")
_PATTERN = re.compile(r"\*|\^.*\$")


class ModelInput(NamedTuple):
    """An input of a model: its name, how many columns it takes (None: any number), and their names if it knows them."""

    name: str
    width: int | None = None
    features: Sequence[str] = ()


class Columns(NamedTuple):
    """The names of the columns by their use; `inputs` has the features of each input that the options or a model name.

    `are_ordered` says that the order of the features is the user's own, and not that of the table; `are_counted` that the
    table has no names, as an array or a file without a header.
    """

    features: list[str]
    labels: list[str]
    kept: list[str]
    inputs: dict[str, list[str]] | None = None
    are_ordered: bool = False
    are_counted: bool = False


def clean_names(where: str, names: Iterable[str]) -> list[str]:
    """The names without the blanks around them; one that occurs again gets a suffix, as pandas gives it, and a warning."""
    stripped = [name.strip() for name in names]
    taken, seen, unique = set(stripped), Counter[str](), list[str]()
    for name in stripped:
        new = name
        while seen[name] and new in taken:
            new = f"{name}.{seen[name]}"
            seen[name] += new in taken
        seen[name] += 1
        taken.add(new)
        unique.append(new)
    if renamed := [(old, new) for old, new in zip(stripped, unique, strict=True) if old != new]:
        shown = ", ".join(f"{old!r} is named {new!r}" for old, new in renamed[:5])
        warn(f"{where} has columns of equal name; the later {shown}.")
    return unique


def choose(where: str, names: list[str], options: TableOptions) -> Columns:
    """The use of each column by the options; raises TableError for a name that is not there."""
    known = set(names)
    inputs = None if options.inputs is None else {name: list(columns) for name, columns in options.inputs.items()}
    wanted = list(options.columns or dict.fromkeys(name for columns in (inputs or {}).values() for name in columns))
    used = {"columns" if inputs is None else "inputs": wanted, "drop": options.drop, "keep": options.keep}
    for option, chosen in {**used, "label": [options.label] if options.label is not None else []}.items():
        if missing := [name for name in chosen if name not in known]:
            close = (f"is {name!r} meant?" for name in get_close_matches(missing[0], names))
            hint = next(close, f"it has {_listed(names)}.")
            message = f"{where} has no column {missing[0]!r}, which {option} names; {hint}"
            raise TableError(message, column=missing[0])
    features, label, prefix = set(wanted), options.label, options.label_prefix
    if both := [name for name in names if name in features and (name in options.drop or name == label)]:
        raise ArgumentError(f"The column {both[0]!r} is a feature, and dropped or a label; name it once.")
    labels = [name for name in names if prefix and name.startswith(prefix) and name not in features]
    left_out = {*labels, *options.drop, *options.keep, label}
    labels = [name for name in labels if name not in options.drop] if label is None else [label]
    wanted = wanted or [name for name in names if name not in left_out]
    if not wanted:
        what = f"{where} has no feature columns: all its {len(names)} columns are dropped, kept, or labels"
        raise TableError(f"{what} (their names start with {prefix!r}); pass other options, such as label_prefix.")
    if nameless := [name for name in wanted if _NAMELESS.fullmatch(name) and name not in features]:
        message = f"{where} has a column without a name, such as an index that pandas wrote"
        raise TableError(f"{message}; leave it out with {_drop(nameless)}, or name it.", column=nameless[0])
    if patterns := [name for name in names if _PATTERN.fullmatch(name)]:
        message = f"{where} has a column {patterns[0]!r}, which polars takes for a pattern"
        raise TableError(f"{message}; give it another name.", column=patterns[0])
    are_ordered = inputs is not None or options.columns is not None
    return Columns(wanted, labels, list(options.keep), inputs, are_ordered, names == counted(len(names)))


def match(where: str, columns: Columns, model: str, inputs: Sequence[ModelInput]) -> Columns:
    """The columns as the model's inputs take them; raises TableError where they do not fit."""
    taken: dict[str, list[str]] = {}
    for one in inputs:
        if columns.inputs is not None:
            if one.name not in columns.inputs:
                raise TableError(f"Model {model!r} takes an input {one.name!r}; name its columns in inputs as well.")
            names = columns.inputs[one.name]
        elif len(inputs) == 1:
            names = columns.features
        elif one.name in columns.features and one.width in (1, None):
            names = [one.name]
        else:
            size = "" if one.width is None else f" of {one.width} columns"
            what = f"Model {model!r} takes an input {one.name!r}{size}, and {where} has no column of that name for it"
            raise TableError(f"{what}; say which columns it takes: inputs={{{one.name!r}: [...], ...}}.")
        taken[one.name] = _by_name(where, columns, names, model, one.features)
        _require_width(where, columns, model, one, taken[one.name])
    used = {name for names in taken.values() for name in names}
    if unknown := [name for name in columns.inputs or () if name not in taken]:
        raise TableError(f"Model {model!r} has no input {unknown[0]!r}, which inputs names; it has {_listed(taken)}.")
    if rest := [name for name in columns.features if name not in used]:
        raise TableError(f"{where} has columns that no input of model {model!r} takes; leave them out: {_drop(rest)}.")
    features = next(iter(taken.values())) if len(inputs) == 1 else columns.features
    return columns._replace(features=features, inputs=taken)


def _by_name(where: str, columns: Columns, names: list[str], model: str, known: Sequence[str]) -> list[str]:
    """The columns in the order in which the model knows them; those of a table without names are in that order."""
    given = set(names)
    if columns.are_counted and given.isdisjoint(known):
        return names
    if missing := [name for name in known if name not in given]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        message = f"{where} has no feature {missing[0]!r}{more}, which model {model!r} takes; it has {_listed(names)}"
        raise TableError(f"{message}. Rename its columns, or pass the table of this model.", column=missing[0])
    if columns.are_ordered and (wrong := [pair for pair in zip(names, known, strict=False) if pair[0] != pair[1]]):
        message = f"{where}: {wrong[0][0]!r} is named where model {model!r} takes {wrong[0][1]!r}"
        raise TableError(f"{message}; name the columns in the model's order, or drop the others.", column=wrong[0][0])
    return list(known) or names


def counted(number: int) -> list[str]:
    """The names of columns that have none."""
    return [str(place) for place in range(number)]


def _require_width(where: str, columns: Columns, model: str, one: ModelInput, names: list[str]) -> None:
    if one.width is None or len(names) == one.width:
        return
    for_input = "" if columns.inputs is None else f" for the input {one.name!r}"
    message = f"{where} has {len(names)} feature columns{for_input}, model {model!r} takes {one.width}"
    ends = f"the first is {names[0]!r}, the last {names[-1]!r}"
    if (surplus := len(names) - one.width) > 0:
        cure = f"leave out what is no feature: {_drop(names[one.width :])} if the features come first"
        more = "A label column is named with label=, an id with keep=."
        raise TableError(f"{message}: {surplus} too many; {ends}; {cure}. {more}")
    apart = [*columns.labels, *columns.kept]
    rest = f"; {_listed(apart)} are labels or kept" if apart else ""
    raise TableError(f"{message}: {-surplus} are missing; {ends}{rest}; add them, or check the separator.")


def _drop(names: list[str]) -> str:
    return f"drop=[{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}]"


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:10], "...", shown[-1]])

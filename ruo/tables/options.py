"""What a table's columns mean and how its text is read: one documented dataclass, and the same names as keywords."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, Unpack, get_type_hints

from ruo.arguments import plain, require_types
from ruo.errors import ArgumentError

# what may be given in place of names: pandas numbers columns without any
_NAMES = Sequence[str | int]
_AS_GIVEN = {"columns": _NAMES | None, "drop": _NAMES, "keep": _NAMES, "label": str | int | None}
_AS_GIVEN |= {"inputs": Mapping[str, _NAMES] | None}


class TableKeywords(TypedDict, total=False):
    """The keywords of a table, documented in `TableOptions`."""

    columns: Sequence[str] | None
    drop: Sequence[str]
    keep: Sequence[str]
    label: str | None
    label_prefix: str
    inputs: Mapping[str, Sequence[str]] | None
    separator: str | None
    header: bool
    null_values: Sequence[str]
    encoding: str | None


@dataclass(frozen=True)
class TableOptions:
    r"""What a table's columns mean, and how the text of a CSV file is read.

    Names are compared without the blanks around them. Without `columns` and `inputs`, every column that is not
    dropped, kept or a label is a feature, in the order of the table.

    Parameters
    ----------
    columns : sequence of str, optional
        The features, in the order in which the model takes them.
    drop : sequence of str, default ()
        Columns that are left out.
    keep : sequence of str, default ()
        Columns that are not sent but stand beside the predictions, such as ids. Of a CSV file they are text, as it is, and
        so are those of pandas that are neither numbers nor truth values.
    label : str, optional
        The one column that names each row's class, or numbers it from 0; for scoring it is not sent.
    label_prefix : str, default "Label_"
        Columns whose names start with it are labels, one for each class, and are not sent.
    inputs : mapping of str to sequence of str, optional
        For a model with several inputs: the columns of each, by the input's name. It is not needed where the name of
        every input is that of a column.
    separator : str, optional
        What separates the cells of a CSV file, such as ";" or "\\t"; found out from the first lines by default.
    header : bool, default True
        Whether the first line of a CSV file names the columns; if not, they are named "0", "1", "2", ...
    null_values : sequence of str, default ()
        Cells that mean a missing number in a CSV file, such as "?" or "NA", beside empty ones.
    encoding : str, optional
        The encoding of a CSV file, such as "cp1252"; by default UTF-8, or UTF-16 if the file says so.
    """

    columns: Sequence[str] | None = None
    drop: Sequence[str] = ()
    keep: Sequence[str] = ()
    label: str | None = None
    label_prefix: str = "Label_"
    inputs: Mapping[str, Sequence[str]] | None = None
    separator: str | None = None
    header: bool = True
    null_values: Sequence[str] = ()
    encoding: str | None = None

    def __post_init__(self) -> None:
        require_types(vars(self), get_type_hints(type(self)) | _AS_GIVEN)
        if self.inputs is not None:
            inputs = {name: _stripped(f"inputs[{name!r}]", of) for name, of in self.inputs.items()}
            object.__setattr__(self, "inputs", inputs)
            if self.columns is not None:
                raise ArgumentError("columns and inputs are both given; name the features in one of them.")
        for option in ("columns", "drop", "keep", "null_values"):
            if (texts := getattr(self, option)) is not None:
                object.__setattr__(self, option, _stripped(option, texts))
        if self.label is not None:
            object.__setattr__(self, "label", str(self.label).strip())
        if self.separator == "\\t":  # as a shell hands it over
            object.__setattr__(self, "separator", "\t")
        if (one := self.separator) is not None and (len(one) != 1 or one in '"\r\n' or one > "~"):
            raise ArgumentError(f"separator={one!r} must be one ASCII character, such as ';' or a tab.")
        try:
            "".encode(self.encoding or "utf-8")
        except (LookupError, ValueError):
            raise ArgumentError(f'encoding={self.encoding!r} is not known; an example is "cp1252".') from None


def _stripped(option: str, texts: Sequence[str]) -> tuple[str, ...]:
    stripped = tuple(str(text).strip() for text in texts)
    if not stripped and option not in ("drop", "keep", "null_values"):
        raise ArgumentError(f"{option}=[] names no features; name them, or leave {option} out.")
    if repeated := [text for text, count in Counter(stripped).items() if count > 1]:
        raise ArgumentError(f"{option} has {repeated[0]!r} twice; name it once.")
    return stripped


class TableSource(NamedTuple):
    """A table and how it is read, made by `table`; the functions that take a source take it as well."""

    source: Any
    options: TableOptions


def table(source: Any, **options: Unpack[TableKeywords]) -> TableSource:
    """A table with the meaning of its columns, said once for `score_csv`, `train`, `evaluate` and the others.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        As in `score_csv`.
    **options
        As in `ruo.tables.TableOptions`: columns, drop, keep, label, label_prefix, inputs, separator, header,
        null_values, encoding.

    Raises
    ------
    ArgumentError
        If an option is wrong.

    Examples
    --------
    >>> flows = table("flows.csv", label="Label", keep=["Flow ID"])
    >>> flows.options.keep
    ('Flow ID',)
    """
    return TableSource(source, TableOptions(**plain(options)))

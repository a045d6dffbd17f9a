"""The table of predictions: kept columns first, then predictions, then the label; and its file, which appears when whole."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ruo.errors import ArgumentError, OutputError, count
from ruo.machine import lock
from ruo.tables import NO_LABEL, Labels, names_of_labels, require_utf8
from ruo.wire.messages import Array

if TYPE_CHECKING:
    import pandas as pd

_UNFINISHED = ".unfinished"
_ARGMAX = ("class", "probability")
_UNFIT = {
    ".csv": (pl.Duration, pl.Binary, pl.List, pl.Array, pl.Struct, pl.Object),
    ".parquet": (pl.Int128, pl.UInt128, pl.Object),  # the first two make a file that polars alone can open
}


@dataclass(frozen=True)
class Layout:
    """What the columns are called: `names` are those of the outputs, `classes` those of one-hot label columns."""

    names: Sequence[str] | None = None
    argmax: bool = False
    classes: Sequence[str] | None = None

    def columns(self, outputs: int, kept: Sequence[str], has_label: bool) -> list[str]:
        """The names of all columns; raises ArgumentError where they do not fit the outputs, or two are equal.

        Without outputs, where no row was scored, there are no predictions.
        """
        if outputs and self.names is not None and len(self.names) != outputs:
            given, of_model = count(len(self.names), "name"), count(outputs, "output")
            raise ArgumentError(f"prediction_names has {given}, the model has {of_model} a row.")
        if self.argmax and outputs == 1:
            raise ArgumentError("argmax=True needs an output for each class, the model has one; leave argmax out.")
        predictions = _ARGMAX if self.argmax else self.names or [f"prediction_{index}" for index in range(outputs)]
        names = [*kept, *(predictions if outputs else ()), *(["label"] if has_label else [])]
        if twice := next((name for name, count in Counter(names).items() if count > 1), None):
            raise ArgumentError(
                f"The predictions would have the column {twice!r} twice; rename the kept column or use prediction_names."
            )
        return names

    def frame(self, predictions: Array, labels: Labels | None, kept: pl.DataFrame | None) -> pl.DataFrame:
        """The table of these rows; a label that is not known is null, as the class of a row without predictions is."""
        flat = predictions.reshape(len(predictions), math.prod(predictions.shape[1:]))
        outputs, columns = flat.shape[1], [] if kept is None else kept.get_columns()
        names = self.columns(outputs, [column.name for column in columns], labels is not None)
        known = self.names or self.classes or []
        classes = known if self.argmax and len(known) == outputs else []  # which are numbers
        if self.argmax and outputs:
            is_known = ~np.isnan(flat).any(axis=1)
            columns.append(_named(np.where(is_known, flat.argmax(axis=1), NO_LABEL), dict(enumerate(classes))))
            columns.append(pl.Series(np.where(is_known, flat.max(axis=1), np.float32(np.nan))))
        else:
            columns += map(pl.Series, flat.T)
        if labels is not None and labels.dtype == np.object_:
            columns.append(pl.Series(labels.tolist(), dtype=pl.String))
        elif labels is not None:
            columns.append(_named(labels, names_of_labels(classes, self.classes) if classes else {}))
        return pl.DataFrame([column.alias(name) for column, name in zip(columns, names, strict=True)])


def _named(classes: Array, names: dict[int, str]) -> pl.Series:
    """The names of the classes, or their numbers where they have none; null for `NO_LABEL`."""
    numbers = pl.Series(classes).replace(NO_LABEL, None)
    if not names:
        return numbers
    return numbers.replace_strict(names, default=numbers.cast(pl.String), return_dtype=pl.String)


def to_pandas(frame: pl.DataFrame, index: pd.Index | None) -> pd.DataFrame:
    """The frame in pandas, without pyarrow; whole numbers and truth values stay what they are where some are missing."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for column in frame.iter_columns():
        kind: Any = column.dtype
        is_number = kind == pl.Boolean or (kind.is_numeric() and kind not in (pl.Int128, pl.UInt128))  # numpy has none
        if is_number and column.null_count() and not kind.is_float() and not kind.is_decimal():
            dtype: Any = "boolean" if kind == pl.Boolean else str(kind)
            columns[column.name] = pd.array(column.to_list(), dtype=dtype)
        elif kind == pl.Datetime and kind.time_zone:
            columns[column.name] = pd.DatetimeIndex(column.to_numpy(), tz="UTC").tz_convert(kind.time_zone)
        elif is_number or kind.is_temporal():
            columns[column.name] = column.to_numpy()
        else:
            columns[column.name] = column.to_list()
    return pd.DataFrame(columns, None if index is None else index[: len(frame)])


def require_writable(file: Path, others: Iterable[tuple[str, object]]) -> None:
    """Refuse a file that cannot hold predictions, or that is one of `others`, each with what it is."""
    if file.suffix not in (".csv", ".parquet"):
        raise ArgumentError(f"{file} must end in .csv or .parquet.")
    if "\0" in str(file) or not file.parent.is_dir():
        raise ArgumentError(f"The folder {file.parent} does not exist; make it, or name another file.")
    require_utf8(file)
    for what, other in others:
        for mine in (file, file.with_name(file.name + _UNFINISHED)):
            if isinstance(other, (str, os.PathLike)) and Path(other).resolve() == mine.resolve():
                raise ArgumentError(f"{mine} is {what}; write to another file.")


def require_fit(schema: Mapping[str, pl.DataType], suffix: str) -> None:
    """Refuse a kept column of a type that the kind of file cannot hold."""
    for name, kind in schema.items():
        if isinstance(kind, _UNFIT[suffix]):
            what = f'The column "{name}" has the type {kind}, which a {suffix} file cannot hold'
            raise OutputError(f"{what}; convert it, as to text, or leave it out of keep.")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well; OutputError where it does not."""
    unfinished = path.absolute().with_name(path.name + _UNFINISHED)
    try:
        with unfinished.open("ab") as file:
            if not lock(file.fileno()):
                raise OutputError(f"{path} is being written by another run; wait for its end, or name another file.")
            try:
                if path.is_dir():
                    raise IsADirectoryError("it is a folder")
                yield unfinished
                unfinished.replace(unfinished.with_name(path.name))
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = getattr(error, "strerror", "") or str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise OutputError(f"{path} cannot be written ({reason}); make room, or name another file.") from error

"""Any table to blocks of rows, in row order and in bounded memory; knows nothing of models, servers or HTTP.

A `Block` holds consecutive rows: first what one read returns (megabytes of a file, 20,000 rows of a DataFrame), then the
rows of one request. A `Chunk` (`ruo.client.records`) is a block encoded for the wire.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import polars as pl

from ruo.errors import ArgumentError, TableError
from ruo.tables.base import Block, Shard, Span, Table, Types, read_once
from ruo.tables.columns import ModelInput
from ruo.tables.csv import CsvTable
from ruo.tables.frames import ArrayTable, IterTable, LazyTable, as_frame, is_pandas
from ruo.tables.labels import NO_LABEL, Labels, names_of_labels, number_classes
from ruo.tables.options import TableOptions, TableSource, table

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NO_LABEL",
    "Block",
    "Labels",
    "ModelInput",
    "Source",
    "Span",
    "Table",
    "TableOptions",
    "TableSource",
    "names_of_labels",
    "number_classes",
    "open_table",
    "paths_of",
    "table",
]

Source: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | pl.DataFrame | pl.LazyFrame | TableSource | Iterable[Any]"

_DEFAULT = TableOptions()


def open_table(source: Source, options: TableOptions = _DEFAULT, shard: Shard = None) -> Table:
    """Open a table without reading its rows; raises TableError for what is missing, empty or lacks a column."""
    if isinstance(source, TableSource):
        if options != _DEFAULT:
            raise ArgumentError("The source, a ruo.table(...), says how it is read; give the options there only.")
        source, options = source
    if isinstance(source, (str, os.PathLike)):
        return _open_path(source, options, shard)
    if isinstance(source, pl.LazyFrame):
        return LazyTable(source, options, shard)
    if isinstance(source, np.ndarray):
        return ArrayTable(source, options, shard)
    if (frame := as_frame(source)) is not None:
        opened = LazyTable(frame, options, shard)
        if is_pandas(source):
            index = cast("pd.DataFrame", source).index
            opened.index = index[opened.span.begin : opened.span.end] if opened.span else index
        return opened
    if not isinstance(source, Iterable):
        raise TableError(f"A {type(source).__name__} is not a table; pass a path or a DataFrame.")
    if paths := _listed(source):
        return _Files(f"{len(paths)} files", paths, options, shard)
    if shard:
        raise read_once(f"the {type(source).__name__}")
    return IterTable(source, options)


def paths_of(source: Source) -> list[Path]:
    """The files that a source names: one, several, or those of a folder; none for what is in memory."""
    given = source.source if isinstance(source, TableSource) else source
    listed = [given] if isinstance(given, (str, os.PathLike)) else _listed(given)
    paths = [Path(one) for one in listed if "\0" not in str(one)]
    with contextlib.suppress(OSError):  # which is told when it is opened
        if len(paths) == 1 and paths[0].is_dir():
            return _files_within(paths[0])
    return paths


def _listed(source: Any) -> list[str | os.PathLike[str]]:
    """The paths in a list of paths; none in anything else."""
    is_list = isinstance(source, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in source)
    return list(source) if is_list else []


def _open_path(source: str | os.PathLike[str], options: TableOptions, shard: Shard) -> Table:
    path = Path(source)
    if str(path) == "-":
        if (stream := getattr(sys.stdin, "buffer", None)) is None:
            raise TableError("There is no standard input, which - stands for; pass the path of a table.")
        return CsvTable(stream, options, shard, "the standard input")
    if not os.fspath(source):
        raise TableError("The path of the table is empty; pass that of a CSV or Parquet file, or . for this folder.")
    try:
        file = path.open("rb")
        is_file = path.is_file()  # and no pipe
        is_parquet = is_file and (file.read(4) == b"PAR1" or path.suffix.lower() in (".parquet", ".pq"))
    except IsADirectoryError:
        return _Files(str(path), _files_within(path), options, shard)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last of which is for a null byte
        what, cure = f"{path} does not exist", "pass the path of a CSV or Parquet file, or a list of them"
        if address := re.match(r"(\w[\w+.-]+):/", str(path)):  # whose rest may hold a key
            what = f"The table is at an address ({address[1]}), and ruo reads files"
            cure = "download it, or pass pandas.read_csv(...) or polars.read_parquet(...) of it"
        raise TableError(f"{what}; {cure}.") from None
    except OSError as error:
        raise TableError(f"{path!s:.200} cannot be read ({error.strerror}); change its rights, or copy it.") from None
    if not is_file:
        return CsvTable(file, options, shard, str(path))
    file.close()
    path = path.absolute()  # a program may change its folder, and polars takes others for patterns or addresses
    if is_parquet:
        require_utf8(path)
        return LazyTable(pl.scan_parquet(path, glob=False), options, shard, path)
    return CsvTable(path, options, shard, path.name)


def require_utf8(path: Path) -> None:
    """Refuse a path that polars cannot open, which takes names in UTF-8 only."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{str(path)!r} is not in UTF-8; rename it, or name another file.") from None


class _Files(Table):
    """A folder or a list of files of one schema, one after the other."""

    def __init__(self, name: str, paths: Sequence[str | os.PathLike[str]], options: TableOptions, shard: Shard) -> None:
        if shard:
            raise ArgumentError(f"{name} cannot be cut into parts; pass the files of each part.")
        if not paths:
            raise TableError(f"{name} is a folder without files; pass the path of a table, or of a folder of tables.")
        self.name, self.options = name, options
        first, *others = self._tables = [_open_path(path, options, None) for path in paths]
        for other in others:
            if other.names != first.names:
                names = {*other.names} ^ {*first.names} or {"their order"}
                what = f"{other.name} has other columns than {first.name} ({', '.join(sorted(names)[:5])})"
                raise TableError(f"{what}; give all files the same columns in the same order.")
        rows = [one.rows for one in self._tables if one.rows is not None]
        self.rows = sum(rows) if len(rows) == len(self._tables) else None
        self._set_columns(first.names, options)

    def _fingerprint(self) -> str:
        return hashlib.sha256("".join(one.fingerprint() for one in self._tables).encode()).hexdigest()

    def _pieces(self, types: Types) -> Iterator[Block]:
        for one in self._tables:
            one.take(self.columns)
            yield from one.read(types)


def _files_within(folder: Path) -> list[Path]:
    """All files of a folder in sorted order, but those whose names, or whose folders', begin with a dot or underscore."""

    def fail(error: OSError) -> None:
        raise TableError(f"{error.filename} cannot be read ({error.strerror}); give it, or its files, other rights.")

    found: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if name[0] not in "._"]
        for name in folders:
            inner, real = Path(root, name), Path(root, name).resolve()
            if any(one.resolve() == real for one in inner.parents):
                raise TableError(f"{inner} is a link to a folder that it is in; remove it.")
        found += [Path(root, name) for name in names if name[0] not in "._"]
    return sorted(found)

"""A folder or a list of files of one schema, one after the other."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ruo.errors import TableError
from ruo.tables.base import Block, Table, Types
from ruo.tables.options import TableOptions


class FilesTable(Table):
    """A folder or a list of files of one schema, one after the other; `open_one` opens each."""

    def __init__(
        self, name: str, paths: Sequence[Path], options: TableOptions, open_one: Callable[[Path], Table]
    ) -> None:
        if not paths:
            raise TableError(f"{name} is a folder without files; pass the path of a table, or of a folder of tables.")
        self.name = name
        self._paths, self._open_one = paths, open_one
        first, *others = tables = [open_one(path) for path in paths]
        for table in others:
            if table.names != first.names:
                other = {*table.names} ^ {*first.names} or {"their order"}
                raise TableError(
                    f"{table.name} has other columns than {first.name} ({', '.join(sorted(other)[:5])}); give all files "
                    f"the same columns in the same order."
                )
        rows = [table.rows for table in tables if table.rows is not None]
        self.rows = sum(rows) if len(rows) == len(tables) else None
        self._set_columns(first.names, options)

    def _fingerprint(self) -> str:
        return hashlib.sha256("".join(self._open_one(path).fingerprint() for path in self._paths).encode()).hexdigest()

    def _pieces(self, types: Types) -> Iterator[Block]:
        for path in self._paths:
            table = self._open_one(path)
            table.take(self.columns)
            yield from table.read(types)


def files_within(folder: Path) -> list[Path]:
    """All files of a folder in sorted order, but those whose names, or whose folders', begin with a dot or underscore."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if not any(part[0] in "._" for part in path.relative_to(folder).parts))

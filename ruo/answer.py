"""An answer as people read it: one sentence, whether it can be relied on, one table, and the rest folded."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd

from ruo.stats import digits

_WIDTH = 100
_GREEN, _RED = "#1a7f37", "#b42318"
_BADGE = "color: #fff; background: {}; padding: .1em .5em; border-radius: .25em; font-weight: bold"
_BEST = ' style="font-weight: bold; background: rgba(0, 114, 178, .18)"'


@dataclass(frozen=True, repr=False)
class Answer:
    """What is shown of a result, as HTML in a notebook and as text in a terminal."""

    sentence: str
    status: str  # VALID or INVALID with its reasons; empty where nothing was judged
    table: pd.DataFrame
    least: str | None = None  # the column whose least value marks the best row
    folded: Mapping[str, str] = field(default_factory=dict)  # texts by their titles

    def html(self) -> str:
        """The answer as HTML that needs no style sheet."""
        word, _, rest = self.status.partition(":")
        badge = _BADGE.format(_RED if word == "INVALID" else _GREEN)
        status = f'<p><span style="{badge}">{word}</span>{escape(rest)}</p>' if word else ""
        details = "".join(
            f'<details><summary>{escape(title)}</summary><div style="white-space: pre-wrap">{escape(text)}</div></details>'
            for title, text in self.folded.items()
        )
        return f"<p><b>{escape(self.sentence)}</b></p>{status}{self._table()}{details}"

    def text(self) -> str:
        """The answer for a terminal, its lines broken between words."""
        table = self.table.map(cell)
        if len(table):
            table.insert(0, "", ["*" if place == self._best() else "" for place in range(len(table))])
        shown = table.rename(columns=_heading).to_string(index=False) if len(table) else ""
        parts = [wrapped(self.sentence), wrapped(self.status), shown]
        parts += [f"{title}:\n{wrapped(text)}" for title, text in self.folded.items()]
        return "\n\n".join(part for part in parts if part)

    __str__ = __repr__ = text
    _repr_html_ = html

    def _best(self) -> int | None:
        values = self.table[self.least].reset_index(drop=True) if self.least else None
        return None if values is None or len(values) < 2 or values.isna().all() else int(values.argmin())

    def _table(self) -> str:
        best = self._best()
        head = "".join(f"<th>{escape(_heading(name))}</th>" for name in self.table)
        rows = "".join(
            f"<tr{_BEST if place == best else ''}>{''.join(f'<td>{escape(cell(value))}</td>' for value in row)}</tr>"
            for place, row in enumerate(self.table.itertuples(index=False))
        )
        return f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>' if rows else ""


class Shown:
    """What is shown of its instances is an answer, which `_shown` makes."""

    def _shown(self) -> Answer:
        raise NotImplementedError

    def __str__(self) -> str:
        return self._shown().text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._shown().html()


def cell(value: Any) -> str:
    """A value of a table: thousands are separated, three digits count, and a dash stands where there is none."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return digits(float(f"{value:.3g}")) if isinstance(value, float) else f"{value:,}"


def wrapped(text: str) -> str:
    """Text whose lines end between words; an item of a list is indented."""
    lines = [
        textwrap.fill(line, _WIDTH, subsequent_indent="  " * line.startswith("- "), break_long_words=False)
        for line in text.splitlines()
    ]
    return "\n".join(lines)


def _heading(name: object) -> str:
    return str(name).replace("_", " ")

"""An answer as people read it: one sentence, whether it can be relied on, one table, and the rest folded."""

import re
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
_BEST = '<tr style="font-weight: bold; background: rgba(0, 114, 178, .18)">'


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
        with pd.option_context("display.max_colwidth", None):  # no text is cut
            table = self._cells().to_html(index=False, border=0) if len(self.table) else ""
        table = re.sub(r"<tr>(?=\s*<td>\*</td>)", _BEST, table)
        details = "".join(
            f'<details><summary>{escape(title)}</summary><div style="white-space: pre-wrap">{escape(text)}</div></details>'
            for title, text in self.folded.items()
        )
        return f"<p><b>{escape(self.sentence)}</b></p>{status}{table}{details}"

    def text(self) -> str:
        """The answer for a terminal, its lines broken between words."""
        table = self._cells().to_string(index=False) if len(self.table) else ""
        parts = [wrapped(self.sentence), wrapped(self.status), table]
        parts += [f"{title}:\n{wrapped(text)}" for title, text in self.folded.items()]
        return "\n\n".join(part for part in parts if part)

    __str__ = __repr__ = text
    _repr_html_ = html

    def _cells(self) -> pd.DataFrame:
        """The table as it is read, with a star at the best row."""
        cells = self.table.map(cell).rename(columns=lambda name: str(name).replace("_", " "))
        if self.least and len(cells) > 1 and self.table[self.least].notna().any():
            best = self.table[self.least].argmin()
            cells.insert(0, "", ["*" if place == best else "" for place in range(len(cells))])
        return cells


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

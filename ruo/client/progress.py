"""The progress bar of a run: rows, rows per second and time left, in a terminal or a notebook."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Self

from ruo.client.records import RequestRecord

_REFRESH_S = 0.1


class Progress:
    """A progress bar of the answered rows; `wanted=None` draws it only in a terminal or a notebook."""

    def __init__(self, wanted: bool | None, expected_rows: Callable[[], int | None]) -> None:
        self._is_drawn = is_interactive() if wanted is None else wanted
        self._expected_rows = expected_rows
        self._rows = 0
        self._drawn: tuple[int, ...] = ()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._is_drawn:
            from tqdm.auto import tqdm  # slow to import, and seldom needed

            self._bar = tqdm(unit=" rows", unit_scale=True, desc="Scoring")
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()
        if self._bar is not None:
            self._bar.close()

    def advance(self, record: RequestRecord) -> None:
        """Count the rows of an answer without drawing; those of an earlier run do not count as speed."""
        self._rows += record.rows
        if record.resumed and self._bar is not None:
            self._bar.initial += record.rows

    def refresh(self) -> None:
        """Draw the bar where a row, or a second, has come since."""
        if self._bar is None:
            return
        total = self._expected_rows() or 0
        shown = self._rows, total, int(self._bar.format_dict["elapsed"])
        if shown == self._drawn:
            return
        self._drawn = shown
        if total and (abs(total - (self._bar.total or 0)) > total / 100 or total == self._rows != self._bar.total):
            began = self._bar.start_t
            self._bar.reset(total)  # the only way to tell a notebook's bar; it would start the clock anew
            self._bar.start_t = began
        # not update(), which draws nothing between answers, and whose rate is that of the last burst of them
        self._bar.n = self._rows
        self._bar.refresh()

    async def keep_fresh(self) -> None:
        """Draw the bar ten times a second until cancelled."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            self.refresh()


def is_interactive() -> bool:
    """Whether this process writes to a terminal or a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython() if ipython else None, "kernel")

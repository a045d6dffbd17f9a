"""The progress bar of a run: rows, rows per second and time left, in a terminal or a notebook."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Self

_REFRESH_S = 0.1


class Progress:
    """A progress bar of the answered rows; `wanted=None` draws it only in a terminal or a notebook."""

    def __init__(self, wanted: bool | None, expected_rows: Callable[[], int | None]) -> None:
        self._is_drawn = is_interactive() if wanted is None else wanted
        self._expected_rows = expected_rows
        self._rows = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._is_drawn:
            from tqdm.auto import tqdm  # slow to import, and seldom needed

            self._bar = tqdm(unit=" rows", unit_scale=True, desc="Scoring", mininterval=_REFRESH_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()
        if self._is_drawn:
            self._bar.close()

    def advance(self, rows: int) -> None:
        """Count `rows` more without drawing."""
        self._rows += rows

    def refresh(self) -> None:
        """Draw the bar."""
        if self._is_drawn:
            self._bar.total = self._expected_rows()
            self._bar.update(self._rows - self._bar.n)

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

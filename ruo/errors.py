"""The tree of errors. Each message is one sentence that says what is wrong, where, and what to do about it.

``ruo.wire.WireError`` stands apart: both sides of the wire raise it for a message that breaks its protocol. The
server answers it with its status; the client turns it into one of the errors below.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RuoError(Exception):
    """Any error that ruo raises."""

    def _render_traceback_(self, *_: object) -> list[str]:
        """What IPython shows in a cell: the sentence, since the fault is not in ruo's code; %debug still enters it."""
        return [f"{type(self).__name__}: {self}"]


class ArgumentError(RuoError, ValueError):
    """An argument, a command-line option or a notebook's parameter has a value that it cannot have."""


class TableError(RuoError, ValueError):
    """The table cannot be read or sent as it is.

    Attributes
    ----------
    row : int or None
        The row at fault, counted from 0.
    column : str or None
        The name of the column at fault.
    """

    def __init__(self, message: str, row: int | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


class ModelError(RuoError):
    """A model cannot be loaded, served or published."""


def warn(message: str) -> None:
    """Warn at the line that called ruo."""
    frame, level = sys._getframe(), 1  # noqa: SLF001  as the documentation of `warnings` does
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("ruo", "asyncio"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def in_a_line(error: BaseException) -> str:
    """The text of an error, or else its kind, without line breaks, the number of an OSError and a full stop at its end."""
    return re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split())).rstrip(".") or type(error).__name__


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where needed: "1 run", "2,000 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """The text with its control characters, which could forge or colour lines of a terminal, shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ScoringError(RuoError):
    """Rows were not scored.

    Attributes
    ----------
    start, stop : int or None
        The rows that were not scored, `stop` not included.
    status : int or None
        The server's HTTP status; None where no answer came.
    scores : ruo.Scores or None
        What was scored before the error; its `predictions` are NaN for the other rows, and its `failures` list the
        rows that were tried and failed.
    """

    def __init__(
        self, message: str, start: int | None = None, stop: int | None = None, status: int | None = None
    ) -> None:
        super().__init__(printable(message))  # it may repeat what a server said
        self.start = start
        self.stop = stop
        self.status = status
        self.scores: Any = None


class CheckpointError(RuoError):
    """A checkpoint or a part of a table is of another run, in use or unusable; `scores` as in ScoringError."""

    scores: Any = None


class OutputError(RuoError):
    """A file of predictions cannot be written."""


class DeploymentError(RuoError):
    """A server could not be started, reached or changed."""


class ExperimentError(RuoError):
    """The results in a folder are of another experiment, damaged, or too few to say anything."""


class SettingsError(RuoError):
    """An environment variable of the server has a value that it cannot have."""


class MissingPackageError(RuoError, ImportError):
    """A package that only this needs is not installed; the message says how to install it."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say which extra installs the package that an import in the block misses."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "ruo").partition(".")[0]
        if package in ("ruo", "server"):
            raise  # a defect, and not a package
        raise MissingPackageError(f"{package} is not installed; run: pip install 'ruo[{extra}]'") from error

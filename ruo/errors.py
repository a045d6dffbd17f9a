"""Everything that can go wrong, as one tree.

    RuoError
    ├── ArgumentError        an argument, option or parameter cannot be what it is; also a ValueError
    ├── TableError           the table cannot be read or sent: what is wrong, in which row and column; also a ValueError
    ├── ModelError           a model cannot be loaded or published
    ├── ScoringError         rows were not scored: which, why, and what was scored so far
    ├── CheckpointError      a checkpoint, or a part of a table, does not go with this run
    ├── DeploymentError      a server could not be started, reached or changed
    ├── ExperimentError      the results on disk are of another experiment, damaged, or too few to say something
    ├── SettingsError        an environment variable of the server holds something that it cannot hold
    └── MissingPackageError  a package that is only needed here is not installed

Each message is one sentence that names what is wrong, where, and how to mend it.

``ruo.wire.WireError`` stands apart: both sides of the wire raise it for a message that breaks its protocol. The
server answers it with its status; the client turns it into one of the above.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DeploymentError",
    "ExperimentError",
    "MissingPackageError",
    "ModelError",
    "RuoError",
    "ScoringError",
    "SettingsError",
    "TableError",
]


class RuoError(Exception):
    """Anything that ruo says is wrong."""


class ArgumentError(RuoError, ValueError):
    """An argument, a command-line option or a notebook's parameter cannot be what it is."""


class TableError(RuoError, ValueError):
    """The table cannot be read or sent as it is.

    Parameters
    ----------
    message : str
        The sentence.
    row : int, optional
        The row at fault, counted from 0.
    column : str, optional
        The name of the column at fault.
    """

    def __init__(self, message: str, row: int | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


class ModelError(RuoError):
    """A model cannot be loaded, served or published."""


class ScoringError(RuoError):
    """Rows were not scored.

    Parameters
    ----------
    message : str
        The sentence.
    start, stop : int, optional
        The rows that were not scored, `stop` not included.
    status : int, optional
        The server's HTTP status; None where no answer came.

    Attributes
    ----------
    scores : ruo.Scores or None
        What was scored until then: its `predictions` are NaN where none came, its `failures` list the rows that
        were tried and failed.
    """

    def __init__(
        self, message: str, start: int | None = None, stop: int | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.start = start
        self.stop = stop
        self.status = status
        self.scores: Any = None


class CheckpointError(RuoError):
    """A checkpoint is of another run, in use, or cannot be read or written; or parts do not make a whole.

    Attributes
    ----------
    scores : ruo.Scores or None
        What was scored until then, where a run came so far.
    """

    scores: Any = None


class DeploymentError(RuoError):
    """A server could not be started, reached or changed."""


class ExperimentError(RuoError):
    """The results in a folder are of another experiment, damaged, or too few for what is asked of them."""


class SettingsError(RuoError):
    """An environment variable of the server holds something that it cannot hold."""


class MissingPackageError(RuoError):
    """A package that is only needed here is not installed; the message says how to install it."""

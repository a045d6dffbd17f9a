"""What can go wrong, as one tree.

    RuoError
    ├── TableError       the table cannot be read or sent: what is wrong, in which row and column
    ├── ScoringError     rows were not scored: which, why, and what was scored so far
    ├── CheckpointError  what an earlier run left cannot be gone on with
    └── DeploymentError  a server could not be started, reached or changed

``ruo.wire.WireError`` stands apart: it is what both sides of the wire raise for a message that breaks its
protocol. The server answers it with its status; the client turns it into one of the above.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CheckpointError", "DeploymentError", "RuoError", "ScoringError", "TableError"]


class RuoError(Exception):
    """Anything that ruo says is wrong; the message is one sentence that says what to do."""


class TableError(RuoError, ValueError):
    """The table cannot be read or sent as it is; `row` counts from 0, `column` is a name, both may be None."""

    def __init__(self, message: str, row: int | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


class ScoringError(RuoError):
    """Rows `start` to `stop` (not included) were not scored; `status` is the server's, None where none came.

    `scores` (a `ruo.Scores`, or None) holds what was scored until then: its `predictions` are NaN where none came, its `failures`
    list the rows that were tried and failed.
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
    """A checkpoint is of another run, in use, or cannot be read or written; or parts do not make a whole."""


class DeploymentError(RuoError):
    """A server could not be started, reached or changed."""

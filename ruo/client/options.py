"""The options of a run: one documented dataclass, and the same names as keywords for type checkers and `help`."""

import inspect
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np

from ruo.client.pace import ChunkSize, Concurrency
from ruo.errors import ArgumentError

F = TypeVar("F", bound=Callable[..., Any])
FilePath = str | os.PathLike[str]


class BlockKeywords(TypedDict, total=False):
    """The keywords of `iter_scores`, documented in `ScoreOptions`."""

    label_prefix: str
    chunk_size: ChunkSize
    concurrency: Concurrency
    wire: str
    retries: int
    timeout: float
    checkpoint: FilePath | None
    allow_version_change: bool
    shard: tuple[int, int] | None
    progress: bool | None
    output: str | None
    token: str | None
    ca: FilePath | None


class ScoreKeywords(BlockKeywords, total=False):
    """The keywords of `score_csv` and `ascore_csv`, documented in `ScoreOptions`."""

    pipelined: bool
    errors: Literal["raise", "collect"]


@dataclass(frozen=True)
class ScoreOptions:
    """How a table is scored: options of the table (`label_prefix`), of the run, and of the server (from `output` on).

    Parameters
    ----------
    label_prefix : str, default "Label_"
        Columns whose names start with it are labels and are not sent.
    chunk_size : int, "auto" or None, default 10_000
        Rows per request. None sends the whole table as one request, "auto" adapts the size during the run.
    concurrency : int or "auto", default 8
        Requests in flight at the same time. "auto" adapts the number to the throughput, and halves it on overload.
    wire : {"v2", "v2-json", "v1", "paper"}, default "v2"
        Open Inference Protocol with binary tensors or with JSON, TensorFlow Serving, or the protocol of 2023.
    pipelined : bool, default True
        False forms all requests before it sends the first, as the system of 2023 did.
    errors : {"raise", "collect"}, default "raise"
        "raise" stops at the first chunk that cannot be scored, "collect" continues and lists it in `failures`.
    retries : int, default 10
        How often a failed request is sent again, if another try may succeed, for a minute at most. A request that is
        too large for the server is halved. 0 sends every request once, as it is.
    timeout : float, default 60.0
        Seconds for one try of one request.
    checkpoint : path, optional
        A file that keeps what was scored; after a crash the same call scores only the rest.
    allow_version_change : bool, default False
        Continue if another version of the model answers; `requests` shows which version answered what.
    shard : (int, int), optional
        (i, n) scores only the i-th of n even parts of the table, counted from 0.
    progress : bool, optional
        Whether to draw a progress bar; by default only in a terminal or a notebook.
    output : str, optional
        The name of the output to take, for a model with several.
    token : str, optional
        Bearer token; by default the environment variable RUO_TOKEN.
    ca : path, optional
        A file of certificates (PEM) to trust for https; by default the system's.
    """

    label_prefix: str = "Label_"
    chunk_size: ChunkSize = 10_000
    concurrency: Concurrency = 8
    wire: str = "v2"
    pipelined: bool = True
    errors: Literal["raise", "collect"] = "raise"
    retries: int = 10
    timeout: float = 60.0
    checkpoint: FilePath | None = None
    allow_version_change: bool = False
    shard: tuple[int, int] | None = None
    progress: bool | None = None
    output: str | None = None
    token: str | None = field(default=None, repr=False)
    ca: FilePath | None = None

    def __post_init__(self) -> None:
        _require_whole("chunk_size", self.chunk_size, 1, ("auto", None), ', "auto", or None for the whole table')
        _require_whole("concurrency", self.concurrency, 1, ("auto",), ', "auto"')
        _require_whole("retries", self.retries, 0)
        if not self.timeout > 0:
            raise ArgumentError(f"timeout={self.timeout!r} is not a number of seconds above 0.")
        if self.errors not in ("raise", "collect"):
            raise ArgumentError(f'errors={self.errors!r} is not known; use "raise" or "collect".')
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise ArgumentError(f"shard={self.shard!r} is no part; (0, 4) is the first of four, (3, 4) the last.")


def takes_options(*without: str) -> Callable[[F], F]:
    """Show the options in the signature and docstring of a function that takes them as `**options`."""
    entries = re.split(r"\n(?=\w)", (inspect.getdoc(ScoreOptions) or "").partition("----------\n")[2])
    text = "\n".join(entry for entry in entries if entry.partition(" : ")[0] not in without)
    kind = inspect.Parameter.KEYWORD_ONLY
    keywords = [
        inspect.Parameter(option.name, kind, default=option.default, annotation=option.type)
        for option in fields(ScoreOptions)
        if option.name not in without
    ]

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = list(signature.parameters.values())[:-1]
        function.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
        function.__doc__ = (function.__doc__ or "").replace("    **options\n", textwrap.indent(text, "    ") + "\n")
        return function

    return decorate


def _require_whole(name: str, value: object, least: int, words: tuple[str | None, ...] = (), also: str = "") -> None:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least
    if not is_whole and value not in words:
        raise ArgumentError(f"{name}={value!r} must be a whole number from {least} up{also}.")

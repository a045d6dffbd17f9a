"""The options in three groups, one documented dataclass each: of the table, of the run, and of the server."""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args

from ruo.arguments import plain
from ruo.client.pace import ChunkSize, Concurrency
from ruo.errors import ArgumentError
from ruo.tables.options import TableKeywords, TableOptions

F = TypeVar("F", bound=Callable[..., Any])
FilePath = str | os.PathLike[str]
WireName = Literal["v2", "v2-json", "v1", "paper"]
OnError = Literal["raise", "collect"]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
# the least, and the power of 2 that is too many: a host has 2**16 ports
_BOUNDS = {"chunk_size": (1, 62), "concurrency": (1, 16), "retries": (0, 62)}


class BlockKeywords(TableKeywords, total=False):
    """The keywords of `iter_scores`, documented in `TableOptions`, `RunOptions` and `ServerOptions`."""

    chunk_size: ChunkSize
    concurrency: Concurrency
    wire: WireName
    retries: int
    timeout: float
    checkpoint: FilePath | None
    allow_version_change: bool
    shard: tuple[int, int] | None
    progress: bool | None
    headers: Mapping[str, str] | None
    token: str | None
    ca: FilePath | None
    input_name: str | None
    datatype: Datatype | None
    output: str | None


class FileKeywords(BlockKeywords, total=False):
    """The keywords of `score_to_file`."""

    errors: OnError
    prediction_names: Sequence[str] | None
    argmax: bool


class ScoreKeywords(FileKeywords, total=False):
    """The keywords of `score_csv` and `ascore_csv`."""

    pipelined: bool


@dataclass(frozen=True)
class RunOptions:
    """How a table is sent and scored, and what its predictions are called.

    Parameters
    ----------
    chunk_size : int, "auto" or None, default 10_000
        Rows per request; fewer where the server does not take as many, or where all in flight would exceed 256 MB.
        None sends the whole table as one request, "auto" adapts the size during the run.
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
    prediction_names : sequence of str, optional
        The names of the predictions' columns; prediction_0, prediction_1, ... by default. Where they are the names of the
        labels' classes, these are numbered in the same order.
    argmax : bool, default False
        In tables and files of the predictions, give the class with the largest one and its probability instead.
    """

    chunk_size: ChunkSize = 10_000
    concurrency: Concurrency = 8
    wire: WireName = "v2"
    pipelined: bool = True
    errors: OnError = "raise"
    retries: int = 10
    timeout: float = 60.0
    checkpoint: FilePath | None = None
    allow_version_change: bool = False
    shard: tuple[int, int] | None = None
    progress: bool | None = None
    prediction_names: Sequence[str] | None = None
    argmax: bool = False


@dataclass(frozen=True)
class ServerOptions:
    """What the requests carry, and what the server does not say of its model.

    Parameters
    ----------
    headers : mapping of str to str, optional
        Headers for every request, such as the Host of a gateway or an API key; they are never logged or shown.
    token : str, optional
        Bearer token; by default the environment variable RUO_TOKEN.
    ca : path, optional
        A file of certificates (PEM) to trust for https; by default the system's.
    input_name : str, optional
        The name of the model's only input, for a server that does not describe it.
    datatype : str, optional
        The datatype of that input, such as "INT64"; by default "FP32", and "FP64" on the wires without datatypes.
    output : str, optional
        The name of the output to take, for a model with several.
    """

    headers: Mapping[str, str] | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca: FilePath | None = None
    input_name: str | None = None
    datatype: Datatype | None = None
    output: str | None = None


GROUPS = {"table": TableOptions, "run": RunOptions, "server": ServerOptions}


@dataclass(frozen=True)
class ScoreOptions(ServerOptions, RunOptions, TableOptions):  # fields of the last base come first
    """The options of all three groups, by their names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (least, bits) in _BOUNDS.items():
            if isinstance(value := getattr(self, name), int) and not least <= value < 1 << bits:
                raise ArgumentError(f"{name}={value} must be at least {least} and less than 2**{bits}.")
        if not self.timeout > 0:
            raise ArgumentError(f"timeout={self.timeout!r} is not a number of seconds above 0.")
        if "\0" in str(self.checkpoint):
            raise ArgumentError(f"checkpoint={str(self.checkpoint)!r} is not a path; name another file.")
        if self.shard is not None:
            object.__setattr__(self, "shard", tuple(map(int, self.shard)))
            if not 0 <= self.shard[0] < self.shard[1] < 1 << 31:
                raise ArgumentError(f"shard={self.shard!r} is no part; (0, 4) is the first of four, (3, 4) the last.")

    @property
    def of_table(self) -> TableOptions:
        """The first group alone."""
        return TableOptions(**{option.name: getattr(self, option.name) for option in fields(TableOptions)})


def read_options(keywords: type, given: Mapping[str, Any]) -> ScoreOptions:
    """The options that a caller gave, of those in `keywords`."""
    known = [name for name in ScoreOptions.__dataclass_fields__ if name in keywords.__annotations__]
    for name in given:
        if name not in known:
            close = (f"; is {one!r} meant?" for one in get_close_matches(name, known))
            hint = next(close, f". It has: {', '.join(known)}.")
            raise TypeError(f"{name!r} is no keyword of this function{hint}")
    return ScoreOptions(**plain(given))


def entries(group: type) -> dict[str, str]:
    """The entry of each option in the docstring of its dataclass."""
    text = (inspect.getdoc(group) or "").partition("----------\n")[2]
    return {entry.partition(" : ")[0]: entry for entry in re.split(r"\n(?=\w)", text)}


def takes_options(function: F) -> F:
    """Show the keywords that a function takes as `**options` in its signature and docstring."""
    signature = inspect.signature(function)
    *own, options = signature.parameters.values()
    taken = get_args(options.annotation)[0].__annotations__  # those of Unpack[...]
    known = inspect.signature(ScoreOptions, eval_str=True).parameters
    keywords = [option.replace(kind=option.KEYWORD_ONLY) for name, option in known.items() if name in taken]
    text = "\n".join(entry for group in GROUPS.values() for name, entry in entries(group).items() if name in taken)
    function.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
    function.__doc__ = (inspect.getdoc(function) or "").replace("**options\n", text + "\n")
    return function

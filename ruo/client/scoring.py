"""A whole table to its predictions: `score_csv`, `ascore_csv`, `iter_scores` and `score_to_file` over one core.

The server describes its model first, since the table is read in the model's datatype. Then reading, sending and
receiving overlap, with no more than a few chunks in memory.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack

from ruo.client.event_loop import LoopThread
from ruo.client.options import BlockKeywords, FileKeywords, FilePath, ScoreKeywords, ScoreOptions, takes_options
from ruo.client.run import Run, ScoredBlock
from ruo.client.scores import Scores
from ruo.client.writer import ScoredFile
from ruo.errors import ArgumentError
from ruo.tables import Source


@takes_options()
def score_csv(source: Source, url: str | Sequence[str], **options: Unpack[ScoreKeywords]) -> Scores:
    """Score every row of a table with the model on a server; the predictions come back in row order.

    Works in a script, in a notebook and in a thread; Ctrl-C stops it cleanly.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        A CSV or Parquet file, compressed or not; a folder or list of such; a table in memory; or `ruo.table(...)`.
    url : str or sequence of str
        http://host:8000, a model's address http://host/v2/models/NAME or .../NAME/versions/VERSION (/v1/models/... speaks
        V1, with /labels/LABEL as well), unix:///run/ruo.sock, or several servers with the same model.
    **options

    Raises
    ------
    ArgumentError
        If an argument is wrong.
    TableError
        If the table is at fault; it names the row and column.
    ScoringError
        If rows were not scored; it names them and the server's reason, and `.scores` holds what was scored.
    CheckpointError
        If the checkpoint is of another run, in use, damaged, or cannot be written.

    Examples
    --------
    >>> scores = score_csv("testset.csv", "http://localhost:8000")
    >>> scores.predictions.argmax(axis=1)
    """
    run = Run(source, url, ScoreOptions(**options))
    with LoopThread() as loop:
        scores = loop.run(run.score())
    run.warn_of_labels()
    return scores


@takes_options()
async def ascore_csv(source: Source, url: str | Sequence[str], **options: Unpack[ScoreKeywords]) -> Scores:
    """`score_csv` for use with `await`: the same result, without blocking the running loop.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        As in `score_csv`.
    url : str or sequence of str
    **options

    Examples
    --------
    >>> scores = await ascore_csv("testset.csv", "http://localhost:8000")
    """
    run = await asyncio.to_thread(Run, source, url, ScoreOptions(**options))
    scores = await run.score()
    run.warn_of_labels()
    return scores


@takes_options("pipelined", "errors", "prediction_names", "argmax")
def iter_scores(source: Source, url: str | Sequence[str], **options: Unpack[BlockKeywords]) -> Iterator[ScoredBlock]:
    """Score a table of any length block by block, in row order and in bounded memory.

    A slow consumer slows the reading. Raises what `score_csv` raises.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        As in `score_csv`.
    url : str or sequence of str
    **options

    Examples
    --------
    >>> for block in iter_scores("testset.csv", "http://localhost:8000"):
    ...     print(block.start, block.predictions.shape)
    """
    return Run(source, url, ScoreOptions(pipelined=True, errors="raise", **options)).blocks()


@takes_options("pipelined")
def score_to_file(
    source: Source, url: str | Sequence[str], path: FilePath, **options: Unpack[FileKeywords]
) -> ScoredFile:
    """Score a table of any length and write its predictions while they come, in bounded memory.

    The file has a row for each row of the table: the kept columns, then the predictions, then the label, or the text of
    it. It appears when it is whole; until then, its name ends in .unfinished. With `checkpoint`, the same call goes on
    after a crash and writes the same bytes. With errors="collect", rows that were not scored are empty (CSV) or NaN.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        As in `score_csv`.
    url : str or sequence of str
    path : path
        The file to write, a .csv or .parquet, which is replaced if it exists. A `shard` is written as .parquet.
    **options

    Raises
    ------
    OutputError
        If the file cannot be written, such as on a full disk. Otherwise as `score_csv`.

    Examples
    --------
    >>> written = score_to_file("flows.csv", "http://localhost:8000", "scored.parquet", keep=["Flow ID"])
    >>> written.rows, written.failures
    """
    file, all_options = Path(path), ScoreOptions(**options)
    _require_writable(file, source, all_options)
    run = Run(source, url, all_options)
    with LoopThread() as loop:
        return loop.run(run.write(file))


def _require_writable(file: Path, source: object, options: ScoreOptions) -> None:
    if file.suffix not in (".csv", ".parquet"):
        raise ArgumentError(f"{file} must end in .csv or .parquet.")
    if options.shard and file.suffix == ".csv":
        raise ArgumentError(f"{file} is for a part of a table, which can only be merged as .parquet; name such a file.")
    if not file.parent.is_dir():
        raise ArgumentError(f"The folder {file.parent} does not exist; make it, or name another file.")
    taken = {"the table": getattr(source, "source", source), "the checkpoint": options.checkpoint}
    for what, other in taken.items():
        if isinstance(other, (str, os.PathLike)) and Path(other).resolve() == file.resolve():
            raise ArgumentError(f"{file} is {what} itself; write the predictions to another file.")

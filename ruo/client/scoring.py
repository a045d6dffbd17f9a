"""A whole table to its predictions: `score_csv`, `ascore_csv`, `iter_scores` and `score_to_file` over one run.

The server describes its model first, since the table is read in the model's datatype. Then reading, sending and
receiving overlap, with no more than a few chunks in memory.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import orjson

from ruo.client.checkpoint import Checkpoint
from ruo.client.collected import Collected, Tally
from ruo.client.event_loop import LoopThread
from ruo.client.layout import Layout, require_writable, whole_file
from ruo.client.options import BlockKeywords, FileKeywords, ScoreKeywords, ScoreOptions, read_options, takes_options
from ruo.client.pipeline import Pipeline
from ruo.client.progress import Progress
from ruo.client.records import Answer
from ruo.client.scores import Choices, ScoredBlock, Scores
from ruo.client.send import Client
from ruo.client.writer import ScoredFile, Writer
from ruo.deploy import ServerAddress
from ruo.errors import ArgumentError, CheckpointError, ScoringError, warn
from ruo.tables import ModelInput, Source, TableOptions, open_table, paths_of


@takes_options
def score_csv(source: Source, url: ServerAddress, **options: Unpack[ScoreKeywords]) -> Scores:
    """Score every row of a table with the model on a server; the predictions come back in row order.

    Works in a script, in a notebook and in a thread; Ctrl-C stops it cleanly.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        A CSV or Parquet file, compressed or not; a folder or list of such; a table in memory; or `ruo.table(...)`.
    url : str, sequence of str, or deployment
        http://host:8000, a model's address http://host/v2/models/NAME or .../NAME/versions/VERSION (/v1/models/... speaks
        V1, with /labels/LABEL as well), unix:///run/ruo.sock, or several servers with the same model. What `local_server`
        gives, and a `KubernetesDeployment`, are taken as well.
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
    run = _Run(source, url, read_options(ScoreKeywords, options))
    with LoopThread() as loop:
        scores = loop.run(run.score())
    run.warn_of_labels()
    return scores


@takes_options
async def ascore_csv(source: Source, url: ServerAddress, **options: Unpack[ScoreKeywords]) -> Scores:
    """`score_csv` for use with `await` under asyncio: the same result, without blocking the running loop.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        As in `score_csv`.
    url : str, sequence of str, or deployment
    **options

    Examples
    --------
    >>> scores = await ascore_csv("testset.csv", "http://localhost:8000")
    """
    run = await asyncio.to_thread(_Run, source, url, read_options(ScoreKeywords, options))
    scores = await run.score()
    run.warn_of_labels()
    return scores


@takes_options
def iter_scores(source: Source, url: ServerAddress, **options: Unpack[BlockKeywords]) -> Generator[ScoredBlock]:
    """Score a table of any length block by block, in row order and in bounded memory.

    A slow consumer slows the reading; `close()` ends the run early. Raises what `score_csv` raises.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        As in `score_csv`.
    url : str, sequence of str, or deployment
    **options

    Examples
    --------
    >>> for block in iter_scores("testset.csv", "http://localhost:8000"):
    ...     print(block.start, block.predictions.shape)
    """
    return _Run(source, url, read_options(BlockKeywords, options)).blocks()


@takes_options
def score_to_file(
    source: Source, url: ServerAddress, path: str | PathLike[str], **options: Unpack[FileKeywords]
) -> ScoredFile:
    """Score a table of any length and write its predictions while they come, in bounded memory.

    The file has a row for each row of the table: the kept columns, then the predictions, then the label, or the text of
    it. It appears when it is whole; until then, its name ends in .unfinished. With `checkpoint`, the same call goes on
    after a crash and writes the same bytes. With errors="collect", the predictions of rows that were not scored are NaN.

    Parameters
    ----------
    source : path, DataFrame, LazyFrame, Arrow table, array, or iterable of frames
        As in `score_csv`.
    url : str, sequence of str, or deployment
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
    file, given = Path(path), read_options(FileKeywords, options)
    others = [*(("the table itself", one) for one in paths_of(source)), ("the checkpoint itself", given.checkpoint)]
    require_writable(file, others)
    if given.shard and file.suffix == ".csv":
        raise ArgumentError(f"{file} is for a part of a table, which can only be merged as .parquet; name such a file.")
    run = _Run(source, url, given)
    with LoopThread() as loop:
        return loop.run(run.write(file))


class _Run:
    """One table, the servers that score it, and how; for one call of `score`, `write` or `blocks`."""

    def __init__(self, source: Source, url: ServerAddress, options: ScoreOptions) -> None:
        self._began = time.perf_counter()
        self._unclear_label: int | None = None
        self._key: asyncio.Task[dict[str, Any]] | None = None
        self._options = options
        self._client = Client(url, options)
        if options.checkpoint and Path(options.checkpoint).resolve() in [one.resolve() for one in paths_of(source)]:
            raise ArgumentError(f"The checkpoint {options.checkpoint} is a file of the table; name another one.")
        self._table = open_table(source, options.of_table, options.shard)
        names = None if options.prediction_names is None else [*options.prediction_names]
        self._layout = Layout(names, options.argmax, self._table.number_labels(names or ()))
        self._tally = Tally(options.allow_version_change)

    async def score(self) -> Scores:
        collected = Collected()
        try:
            async with self._answers() as answers:
                self._check_layout()
                async for answer in answers:
                    collected.add(answer)
                return await self._scores(collected)
        except (ScoringError, CheckpointError) as error:
            if self._tally.records:
                error.scores = await self._scores(collected)
            raise

    async def write(self, path: Path) -> ScoredFile:
        with whole_file(path) as unfinished:
            async with self._answers(in_order=True) as answers:
                self._check_layout()
                async with Writer(unfinished, path.suffix, self._layout, self._row_shape()) as writer:
                    async for answer in answers:
                        await writer.put(answer)
                    written = ScoredFile(path, self._pipeline.rows, writer.row_shape or (), **await self._outcome())
                    await writer.finish(written.facts(written.rows))
        return written

    def blocks(self) -> Generator[ScoredBlock]:
        blocks = self._blocks()
        with LoopThread(blocks.aclose) as loop:
            while (block := loop.run(anext(blocks, None))) is not None:
                yield block

    def warn_of_labels(self) -> None:
        if (row := self._unclear_label) is not None:
            warn(f"Row {row:,}: its label columns do not name exactly one class, so scores.labels is None.")

    async def _blocks(self) -> AsyncGenerator[ScoredBlock, None]:
        async with self._answers(in_order=True) as answers:
            async for answer in answers:
                self._tally.records.clear()  # a table without end must not fill the memory
                if answer.predictions is not None:
                    yield ScoredBlock(answer.record.start, answer.predictions, answer.labels, answer.kept)

    @asynccontextmanager
    async def _answers(self, in_order: bool = False) -> AsyncIterator[AsyncIterator[Answer]]:
        """Every row once, checked and counted; where an error ends the run, its answer comes first."""
        options, client, table = self._options, self._client, self._table
        bar = Progress(options.progress, table.expected_rows)
        stored = nullcontext() if options.checkpoint is None else Checkpoint(options.checkpoint)
        async with bar, stored as checkpoint, client.http, client.servers:
            stored_version = checkpoint.key.get("version") if checkpoint and checkpoint.key else None
            model = self._tally.model = await client.learn_model(stored_version, table.options.inputs or ())
            table.match(model.name, [ModelInput(tensor.name, tensor.width, model.features) for tensor in model.inputs])
            if checkpoint or table.span:
                self._key = asyncio.create_task(asyncio.to_thread(self._describe))
            if checkpoint and self._key:
                await checkpoint.begin(await self._key)
            async with Pipeline(table, client, checkpoint) as self._pipeline:
                given = self._pipeline.answers(in_order)
                async with aclosing(given), aclosing(self._checked(given, bar)) as answers:  # while the loop still runs
                    yield answers
                await client.require_same_model()

    async def _checked(self, answers: AsyncIterator[Answer], bar: Progress) -> AsyncGenerator[Answer, None]:
        async for given in answers:
            bar.advance(given.record)
            answer = self._tally.add(given)
            yield answer
            if answer.error is not None and self._options.errors == "raise":
                raise answer.error
        self._tally.account_for(self._pipeline.rows)

    def _describe(self) -> dict[str, Any]:
        """What must be the same for a run to resume an earlier one."""
        options, of_table, model, span = self._options, self._table.options, self._client.model, self._table.span
        key = {
            "data": self._table.fingerprint(),
            "shard": span and list(span),
            "model": model.name,
            "version": "" if options.allow_version_change else model.version,
            "sha256": "" if options.allow_version_change else model.sha256,
            "output": model.output_name,
            "label_prefix": of_table.label_prefix,
            "chunk_size": options.chunk_size,
            "wire": self._client.wire.name,
            "input_name": options.input_name,
            "datatype": options.datatype,
            **{name: value for name, value in vars(of_table).items() if value != getattr(TableOptions, name)},
        }
        return dict(orjson.loads(orjson.dumps(key)))  # as it is stored

    def _row_shape(self) -> tuple[int, ...] | None:
        """The shape of one prediction as far as the model's metadata tell it; (1,) for a single number."""
        shape = (self._client.model.output_shape or (-1, -1))[1:] or (1,)
        return None if -1 in shape else shape

    def _check_layout(self) -> None:
        """Refuse names that do not fit before anything is sent."""
        if (shape := self._row_shape()) is not None:
            self._layout.columns(math.prod(shape), self._table.kept, bool(self._table.labels))

    async def _scores(self, collected: Collected) -> Scores:
        rows, table = self._pipeline.rows, self._table
        labels, classes, self._unclear_label = collected.labels(rows, self._layout.names)
        return Scores(
            collected.predictions(rows, self._row_shape()),
            labels,
            index=table.index,
            classes=table.classes or classes,
            kept_columns=collected.kept(rows),
            layout=self._layout,
            **await self._outcome(),
        )

    async def _outcome(self) -> dict[str, Any]:
        tally, pipeline, client = self._tally, self._pipeline, self._client
        sha256 = tally.model.sha256 if tally.all_name_file else ""  # one that every answer named
        return {
            "timings": tally.timings(self._began, pipeline.rows, pipeline.forming_s, pipeline.loop_lag_s),
            "model": tally.model._replace(output_name=client.model.output_name, sha256=sha256),
            "records": tally.records,
            "errors": tally.errors,
            "choices": Choices(client.wire.name, tally.usual_rows(), pipeline.pace.in_flight),
            "not_scored": pipeline.rows - tally.scored,
            "not_finite": pipeline.not_finite,
            "key": {**await self._key, **vars(self._layout)} if self._key and self._table.span else {},
        }

"""Scoring inside an engine that holds the data already: Spark, Dask and Ray call a scorer for each of their batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruo.client.event_loop import LoopThread
from ruo.client.layout import to_pandas
from ruo.client.options import ScoreKeywords, read_options
from ruo.client.records import ModelInfo
from ruo.client.scoring import score_csv
from ruo.client.send import Client
from ruo.deploy import ServerAddress
from ruo.errors import ArgumentError, ScoringError, TableError

if TYPE_CHECKING:
    import pandas as pd

_OF_A_WHOLE_TABLE = ("checkpoint", "errors", "shard", "progress")


@dataclass(frozen=True)
class Scorer:
    """A function from a batch to the batch with its predictions, made by `scorer`; it can be pickled."""

    url: list[str]
    keep: list[str] | None
    options: dict[str, Any] = field(repr=False)  # with the token and headers
    model: ModelInfo
    first: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)  # batch's columns

    def __call__(self, batch: Any) -> Any:
        """Score a pandas DataFrame or an Arrow table or record batch; an iterator of them gives an iterator."""
        if isinstance(batch, Iterator):
            return map(self, batch)
        if hasattr(batch, "column_names"):
            return self._score_arrow(batch)
        if not hasattr(batch, "assign"):
            raise TableError(f"A {type(batch).__name__} is no batch; hand over pandas DataFrames or Arrow tables.")
        self._require_columns(batch.columns)
        kept = batch if self.keep is None else batch[self.keep]
        return kept.assign(**self._predict(batch, list(kept.columns)).set_axis(batch.index))

    def _require_columns(self, names: Sequence[str]) -> None:
        counts = Counter(names)
        if wrong := [name for name in self.keep or () if counts[name] != 1]:
            what = f"{counts[wrong[0]] or 'no'} column{'s' * (counts[wrong[0]] > 1)} {wrong[0]!r}"
            raise TableError(f"The batch has {what}, which keep names; it has {', '.join(map(str, names))}.")
        is_told = any(self.options.get(option) is not None for option in ("columns", "inputs"))
        if is_told or self.model.features or len(self.model.inputs) > 1:
            return  # features go by name
        given = [name for name in names if name not in (self.keep or ())]
        first = self.first.setdefault("columns", given)
        if [name for name in given if name in first] != [name for name in first if name in given]:
            what = f"The batch has its columns in another order than the first one, {', '.join(map(str, first))}"
            raise TableError(f"{what}, and the model does not name them; name them in columns=.")

    def _score_arrow(self, batch: Any) -> Any:
        import pyarrow as pa  # who hands over Arrow has it

        self._require_columns(batch.column_names)
        kept = batch if self.keep is None else batch.select(self.keep)
        predictions = self._predict(pa.table(batch), kept.column_names)
        columns = [*kept.columns, *(pa.array(predictions[name]) for name in predictions.columns)]
        return type(batch).from_arrays(columns, names=[*kept.column_names, *predictions.columns])

    def _predict(self, frame: Any, names: Sequence[str]) -> pd.DataFrame:
        only_part = None if len(frame) else (0, 1)  # a part may have no rows
        keep = self.keep or ()
        scores = score_csv(frame, self.url, keep=keep, progress=False, shard=only_part, **self.options)
        model = scores.model
        is_same_file = model.sha256 == self.model.sha256 or not (model.sha256 and self.model.sha256)
        if model.version != self.model.version or not is_same_file:
            what = f"The scorer was made for {self.model.version_named()} of model {self.model.name!r}"
            raise ScoringError(f"{what}, and {model.version_named()} answered; make a new scorer and begin again.")
        if not scores.predictions.shape[1]:
            raise ScoringError("The server does not say how many outputs its model has; leave empty batches out.")
        predictions = to_pandas(scores.layout.frame(scores.predictions, None, None), None)
        if double := sorted(set(names) & set(predictions.columns)):
            raise TableError(f"The batch has a column {double[0]!r} already; pass keep= without it.")
        return predictions


def scorer(url: ServerAddress, *, keep: Sequence[str] | None = None, **options: Any) -> Scorer:
    """Make a function that adds predictions to a batch of rows, for an engine to call on each of its workers.

    The model's version and file are asked for once, here; a batch that another one answers is an error, wherever it is
    scored. Retries, and the check of every answer, are those of `score_csv`.

    Parameters
    ----------
    url : str, sequence of str, or deployment
        As in `score_csv`; an address that the engine's workers can reach.
    keep : sequence of str, optional
        Columns that come along and are not sent, such as an id; by default all columns come along.
    **options
        Keywords of `score_csv`, but for those of a whole table: checkpoint, errors, shard, progress.

    Returns
    -------
    Scorer
        A picklable function from a pandas DataFrame, an Arrow table or record batch, or an iterator of them, to the
        same with a float32 column for each output of the model.

    Raises
    ------
    ScoringError
        If no server can be asked, here or later; if another version or file of the model answers.

    Examples
    --------
    >>> score = scorer("http://localhost:8000", keep=["id"])
    >>> dask_frame.map_partitions(score).compute()                       # Dask
    >>> ray_dataset.map_batches(score, batch_format="pyarrow")           # Ray Data
    >>> spark_frame.mapInArrow(score, "id long, prediction_0 float")     # Spark
    """
    if refused := [name for name in _OF_A_WHOLE_TABLE if name in options]:
        raise ArgumentError(f"{refused[0]}= is for a whole table, and a scorer gets batches; leave it out.")
    client = Client(url, read_options(ScoreKeywords, {**options, "keep": () if keep is None else keep}))

    async def learn_model() -> ModelInfo:
        async with client.http, client.servers:
            return await client.learn_model(None, list(options.get("inputs") or ()))

    with LoopThread() as loop:
        model = loop.run(learn_model())
    return Scorer(client.addresses(), None if keep is None else list(keep), dict(options), model)

"""From a labelled table to a Keras model that takes its raw rows, and what its learning curves say in words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ruo.errors import ArgumentError, TableError
from ruo.learn.evaluation import wilson_interval
from ruo.table import NO_LABEL, Block, Labels, Table, open_table

if TYPE_CHECKING:
    from ruo.table import Source

__all__ = ["Parts", "Trained", "train"]

Array = np.ndarray[Any, np.dtype[Any]]

_ROWS_PER_BLOCK = 20_000
_FEWEST = 10  # rows of a part: the share of right answers among fewer says next to nothing
_MOST_CLASSES = 10_000
_HISTORY = ["epoch", "loss", "validation_loss", "accuracy", "validation_accuracy"]
_ROSE = 1.05  # a validation loss that is higher by less may be chance


class Parts(NamedTuple):
    """The numbers of the rows (from 0, in the order of the table) in each part, (rows,) int64."""

    training: Labels
    validation: Labels
    test: Labels


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A model and how it came about.

    `model` is a Keras model from raw rows (n, features) to probabilities (n, classes). `history` has a row per epoch:
    epoch (from 1), loss, validation_loss, accuracy, validation_accuracy. `rows` is how many rows were used, `parts`
    which part each was in; `right` of the test rows were answered rightly, and `repeated` of them are in the training
    part too. `baseline` is the share of the test rows that are of the class `most_frequent` in the training part;
    `epochs` is how many there were to be at most.
    """

    model: Any
    history: pd.DataFrame
    features: tuple[str, ...]
    classes: tuple[str, ...]
    parts: Parts
    right: int
    repeated: int
    most_frequent: str
    baseline: float
    epochs: int

    @property
    def rows(self) -> int:
        """How many rows were used, in all parts."""
        return sum(map(len, self.parts))

    @property
    def accuracy(self) -> float:
        """The share of the test rows that the model answers rightly."""
        return self.right / len(self.parts.test)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson)."""
        _, low, high = wilson_interval(self.right, len(self.parts.test))
        return float(low), float(high)

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss, whose weights the model has."""
        return int(self.history["validation_loss"].argmin()) + 1

    def verdict(self, seen: Sequence[str] = ()) -> str:
        """What is seen, with what was `seen` elsewhere (sentences) after it, and what may not be concluded."""
        parts = {"We see that": [*self._seen(), *seen], "What may not be concluded": self._cautions()}
        return "\n\n".join("\n- ".join([f"{head}:", *lines]) for head, lines in parts.items())

    def save(self, results_dir: str | os.PathLike[str], seen: Sequence[str] = ()) -> None:
        """Write model.keras, history.csv and, last, verdict.txt into a folder that is there."""
        folder = Path(results_dir)
        self.model.save(folder / "model.keras")
        self.history.to_csv(folder / "history.csv", index=False)
        (folder / "verdict.txt").write_text(self.verdict(seen) + "\n", encoding="utf-8")

    def _seen(self) -> list[str]:
        low, high = self.interval
        of = f"{self.right:,} of {len(self.parts.test):,} rows that it has not seen are answered rightly"
        word = "better than" if low > self.baseline else "worse than" if high < self.baseline else "not told apart from"
        naive = f"always answering class {self.most_frequent}, the most frequent one ({_percent(self.baseline)})"
        return [
            f"{of}: {_percent(self.accuracy)} (95 % interval {_percent(low)} to {_percent(high)}).",
            f"That is {word} {naive}.",
            self._on_stopping(),
            self._on_overfitting(),
        ]

    def _on_stopping(self) -> str:
        done, best = len(self.history), self.best_epoch
        if done < self.epochs:
            text = f"Training stopped early, after {done} of {self.epochs} epochs: the validation loss no longer fell."
        else:
            rest = "; the validation loss fell to the last, so more may make it better" if done == best else ""
            text = f"Training went through all of its epochs ({done}){rest}."
        return f"{text} The model has the weights of epoch {best}."

    def _on_overfitting(self) -> str:
        best, last = self.history.iloc[self.best_epoch - 1], self.history.iloc[-1]
        rows, accuracy = len(self.parts.validation), best["validation_accuracy"]
        _, low, high = wilson_interval(round(accuracy * rows), rows)
        right = f"{_percent(best['accuracy'])} and {_percent(accuracy)} right"
        if last["validation_loss"] > _ROSE * best["validation_loss"] and last["loss"] < best["loss"]:
            rise = f"rises from {best['validation_loss']:.2g} to {last['validation_loss']:.2g}"
            return f"It overfits after epoch {self.best_epoch}: the training loss falls on, the validation loss {rise}."
        if best["accuracy"] > high:
            return f"It overfits: the training and the validation curve part by more than chance ({right})."
        chance = f"95 % interval of the second {_percent(low)} to {_percent(high)}"
        return f"No overfitting is seen: the training and the validation curve stay together ({right}; {chance})."

    def _cautions(self) -> list[str]:
        again = f"{self.repeated:,} of the test rows are in the training part too, number for number."
        return [
            *([f"That new rows are answered as well: {again}"] if self.repeated else []),
            "How good it is on rows from elsewhere or of a later time: the rows held out are of the same table.",
            "How sure the accuracy is where rows are copies or relatives of one another: it is then too high.",
            "Which network is best: one training with one seed is one draw.",
        ]

    def __repr__(self) -> str:
        shape = f"{len(self.features)} features, {len(self.classes)} classes"
        return f"Trained({self.rows:,} rows, {shape}, {len(self.history)} epochs, accuracy {_percent(self.accuracy)})"


def train(
    source: Source,
    *,
    units: Sequence[int] = (128, 64),
    epochs: int = 20,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    label_prefix: str = "Label_",
    max_rows: int | None = None,
    patience: int = 5,
) -> Trained:
    """Train a dense network to tell the classes of a labelled table; its features are scaled within the model.

    units: of each hidden layer; none makes it a logistic regression.
    epochs: passes through the training part at most; it stops after `patience` without a lower validation loss.
    validation, test: shares of the rows, drawn by lot, that decide when to stop and that judge the model.
    seed: the same gives the same model on the same machine; Python's, NumPy's and TensorFlow's are set to it.
    label_prefix: begins the names of the label columns, of which either each is a class, or one has whole numbers.
    max_rows: use so many rows, drawn by lot from the whole table; only they and a block are in memory.

    Raises TableError for a table that cannot be learnt from, RuoError for a keyword or a backend that does not work.
    """
    units, epochs = [_whole("units", number) for number in units], _whole("epochs", epochs)
    patience, seed = _whole("patience", patience), _whole("seed", seed, least=0)
    table = open_table(source, label_prefix)
    sample = _read(table, None if max_rows is None else _whole("max_rows", max_rows), seed)
    classes = _classes(table, sample.labels, label_prefix)
    places = _split(table.name, len(sample.labels), validation, test, seed)
    training, held, judge = (_Sample(*(column[place] for column in sample)) for place in places)
    model, history = _fit(training, held, [*units, len(classes)], epochs, patience, seed)
    most = int(np.bincount(training.labels).argmax())
    right = model.predict(judge.features, batch_size=4096, verbose=0).argmax(axis=1) == judge.labels
    known = {row.tobytes() for row in training.features}
    return Trained(
        model, history, tuple(table.features), classes, Parts(training.numbers, held.numbers, judge.numbers),
        int(right.sum()), sum(row.tobytes() in known for row in judge.features), classes[most],
        float((judge.labels == most).mean()), epochs,
    )  # fmt: skip


class _Sample(NamedTuple):
    """Rows of a table: their numbers, features and labels."""

    numbers: Array
    features: Array
    labels: Array


def _read(table: Table, max_rows: int | None, seed: int) -> _Sample:
    """All rows, or as many of them, drawn by lot; in the order of the table."""
    if not table.labels:
        raise TableError(
            f"{table.name} has no labels: no column's name begins as label_prefix says; pass a label_prefix that does, "
            "such as the whole name of the column with the classes."
        )
    random, lots, parts = np.random.default_rng((seed, 0)), np.empty(0), list[_Sample]()
    for block in table.blocks(_ROWS_PER_BLOCK):
        labels = _checked(block, table)
        parts.append(_Sample(np.arange(block.start, block.start + len(labels)), block.features, labels))
        lots = np.append(lots, random.random(len(labels)))
        if max_rows is not None and len(lots) > max_rows:
            kept = np.sort(np.argsort(lots)[:max_rows])
            lots, parts = lots[kept], [_Sample(*(column[kept] for column in _joined(parts)))]
    return _joined(parts)


def _joined(parts: list[_Sample]) -> _Sample:
    return parts[0] if len(parts) == 1 else _Sample(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _checked(block: Block, table: Table) -> Labels:
    """The labels of a block in which every feature is a number and every row has a class."""
    for place, column in np.argwhere(~np.isfinite(block.features))[:1]:
        row, name = int(place) + block.start, table.features[column]
        text = f'{table.name}, row {row:,}, column "{name}": {block.features[place, column]} cannot be learnt from; '
        raise TableError(text + "fill the cell, or leave the row or the column out.", row=row, column=name)
    assert block.labels is not None
    for place in np.flatnonzero(block.labels == NO_LABEL)[:1]:
        wanted = "a single 1 among its label columns" if len(table.labels) > 1 else "a whole number from 0 up"
        row = int(place) + block.start
        raise TableError(f"{table.name}, row {row:,} has no class: give it {wanted}, or leave the row out.", row=row)
    return block.labels


def _classes(table: Table, labels: Array, label_prefix: str) -> tuple[str, ...]:
    """The names of the classes, in the order of the model's outputs."""
    highest, rows = int(labels.max()), len(labels)
    if (labels == highest).all():
        raise TableError(f"{table.name} has only one class among its {rows:,} rows: there is nothing to tell apart.")
    if highest >= _MOST_CLASSES:
        raise TableError(f"{table.name} has the class {highest:,}; number the classes from 0 on, without gaps.")
    if len(table.labels) == 1:
        return tuple(map(str, range(highest + 1)))
    return tuple(name.removeprefix(label_prefix) for name in table.labels)


def _split(name: str, rows: int, validation: float, test: float, seed: int) -> Parts:
    """Places in the sample, drawn by lot."""
    shares = (1 - validation - test, validation, test)
    if not min(shares) > 1e-9:
        raise ArgumentError(f"validation={validation} and test={test} must be above 0 and leave rows to train with.")
    sizes = [int(rows * share + 1e-9) for share in shares[1:]]
    if min(rows - sum(sizes), *sizes) < _FEWEST:
        enough = int(np.ceil(_FEWEST / min(shares) - 1e-6))
        raise TableError(f"{name} gives {rows:,} rows; parts of {_FEWEST} rows or more take {enough:,}.")
    order = np.random.default_rng((seed, 1)).permutation(rows)
    return Parts(*(np.sort(part) for part in np.split(order, [rows - sum(sizes), rows - sizes[1]])))


def _fit(
    training: _Sample, held: _Sample, units: list[int], epochs: int, patience: int, seed: int
) -> tuple[Any, pd.DataFrame]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow tells of the CPU when it is imported
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":  # before the import, which fails where that backend's packages are not installed
        raise ArgumentError(f"KERAS_BACKEND={backend} is not for training; unset it to train.")
    import keras

    keras.utils.set_random_seed(seed)
    model = _network(training.features, units)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
    size = min(256, max(16, len(training.labels) // 50))  # a small table still makes steps enough in an epoch
    found = model.fit(
        training.features, training.labels, batch_size=size, epochs=epochs, verbose=0, callbacks=[stop],
        validation_data=(held.features, held.labels),
    ).history  # fmt: skip
    history = pd.DataFrame({"epoch": range(1, len(found["loss"]) + 1), **found})
    history.columns = history.columns.str.replace("val_", "validation_")
    return model, history[_HISTORY]


def _network(features: Array, units: list[int]) -> Any:
    from keras import Input, Sequential, layers

    mean, variance = features.mean(axis=0, dtype=np.float64), features.var(axis=0, dtype=np.float64)
    # what never changes here would be divided by next to nothing, should it change later
    variance[variance <= (1e-6 * mean) ** 2] = 1
    hidden = [layers.Dense(size, "relu", name=f"hidden_{place}") for place, size in enumerate(units[:-1], 1)]
    begin = [
        Input((features.shape[1],), name="features"),
        layers.Normalization(mean=mean, variance=variance, name="scaling"),
    ]
    return Sequential([*begin, *hidden, layers.Dense(units[-1], "softmax", name="classes")], name="dense")


def _whole(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 or value < least:
        raise ArgumentError(f"{name}: {value!r} is not a whole number from {least} up.")
    return int(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

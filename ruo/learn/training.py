"""Train a Keras model on a labelled table; the model takes raw rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ruo.errors import ArgumentError, TableError
from ruo.learn.demo import require_tensorflow
from ruo.learn.trained import PREDICTED_ROWS, Parts, Trained
from ruo.table import NO_LABEL, Block, Labels, Table, open_table

if TYPE_CHECKING:
    from ruo.table import Source

__all__ = ["Parts", "Trained", "train"]

Array = np.ndarray[Any, np.dtype[Any]]

_ROWS_PER_BLOCK = 20_000
_FEWEST = 10  # rows in a part: the accuracy on fewer says next to nothing
_MOST_CLASSES = 10_000


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
    """Train a dense network on a labelled table; it stops after `patience` epochs without a lower validation loss.

    The parts are drawn at random, and so are `max_rows` of a larger table. Features are scaled within the model.
    """
    units, epochs = [_whole_number("units", number) for number in units], _whole_number("epochs", epochs)
    patience, seed = _whole_number("patience", patience), _whole_number("seed", seed, least=0)
    table = open_table(source, label_prefix)
    sample = _read(table, None if max_rows is None else _whole_number("max_rows", max_rows), seed)
    classes = _classes(table, sample.labels, label_prefix)
    parts = _split(table.name, len(sample.labels), validation, test, seed)
    training, validation_part, test_part = (_Sample(*(column[part] for column in sample)) for part in parts)
    model, history = _fit(training, validation_part, [*units, len(classes)], epochs, patience, seed)
    known = {row.tobytes() for row in training.features}
    answers = model.predict(test_part.features, batch_size=PREDICTED_ROWS, verbose=0).argmax(axis=1)
    most_frequent = int(np.bincount(training.labels).argmax())
    return Trained(
        model=model,
        history=history,
        features=tuple(table.features),
        classes=classes,
        parts=Parts(training.numbers, validation_part.numbers, test_part.numbers),
        right=int((answers == test_part.labels).sum()),
        repeated=sum(row.tobytes() in known for row in test_part.features),
        most_frequent=classes[most_frequent],
        baseline=float((test_part.labels == most_frequent).mean()),
        epochs=epochs,
        label_prefix=label_prefix,
    )


class _Sample(NamedTuple):
    """Rows of a table: their numbers, features and labels."""

    numbers: Array
    features: Array
    labels: Array


def _read(table: Table, max_rows: int | None, seed: int) -> _Sample:
    """Return all rows, or `max_rows` drawn at random, in the order of the table."""
    if not table.labels:
        hint = "pass the label_prefix with which its label columns begin, such as the whole name of a single one"
        raise TableError(f"{table.name} has no labels; {hint}.")
    rng, keys, parts = np.random.default_rng((seed, 0)), np.empty(0), list[_Sample]()
    for block in table.blocks(_ROWS_PER_BLOCK):
        labels = _checked(block, table)
        parts.append(_Sample(np.arange(block.start, block.start + len(labels)), block.features, labels))
        keys = np.append(keys, rng.random(len(labels)))
        if max_rows is not None and len(keys) > max_rows:  # the rows with the smallest keys
            kept = np.sort(np.argsort(keys)[:max_rows])
            keys, parts = keys[kept], [_Sample(*(column[kept] for column in _joined(parts)))]
    return _joined(parts)


def _joined(parts: list[_Sample]) -> _Sample:
    return parts[0] if len(parts) == 1 else _Sample(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _checked(block: Block, table: Table) -> Labels:
    """Return the labels of a block, once every feature is a number and every row has a class."""
    for place, column in np.argwhere(~np.isfinite(block.features))[:1]:
        row, name = int(place) + block.start, table.features[column]
        cell = f'{table.name}, row {row:,}, column "{name}": {block.features[place, column]}'
        hint = "fill the cell, or leave out the row or the column"
        raise TableError(f"{cell} cannot be learnt from; {hint}.", row=row, column=name)
    assert block.labels is not None
    for place in np.flatnonzero(block.labels == NO_LABEL)[:1]:
        wanted = "a single 1 among its label columns" if len(table.labels) > 1 else "a whole number from 0 up"
        row = int(place) + block.start
        raise TableError(f"{table.name}, row {row:,} has no class; give it {wanted}, or leave the row out.", row=row)
    return block.labels


def _classes(table: Table, labels: Array, label_prefix: str) -> tuple[str, ...]:
    """Return the names of the classes, in the order of the model's outputs."""
    highest, rows = int(labels.max()), len(labels)
    if (labels == highest).all():
        raise TableError(f"{table.name} has only one class among its {rows:,} rows; there is nothing to learn.")
    if highest >= _MOST_CLASSES:
        raise TableError(f"{table.name} has the class {highest:,}; number the classes from 0, without gaps.")
    if len(table.labels) == 1:
        return tuple(map(str, range(highest + 1)))
    return tuple(name.removeprefix(label_prefix) for name in table.labels)


def _split(name: str, rows: int, validation: float, test: float, seed: int) -> Parts:
    """Draw the places of each part in the sample."""
    shares = (1 - validation - test, validation, test)
    if not min(shares) > 1e-9:
        raise ArgumentError(f"validation={validation} and test={test} must be above 0 and leave rows to train with.")
    sizes = [int(rows * share + 1e-9) for share in shares[1:]]
    if min(rows - sum(sizes), *sizes) < _FEWEST:
        enough = int(np.ceil(_FEWEST / min(shares) - 1e-6))
        raise TableError(f"{name} gives {rows:,} rows; parts of at least {_FEWEST} rows need {enough:,}.")
    order = np.random.default_rng((seed, 1)).permutation(rows)
    return Parts(*(np.sort(part) for part in np.split(order, [rows - sum(sizes), rows - sizes[1]])))


def _fit(
    training: _Sample, validation: _Sample, units: list[int], epochs: int, patience: int, seed: int
) -> tuple[Any, pd.DataFrame]:
    require_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    model = _network(training.features, units)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
    size = min(256, max(16, len(training.labels) // 50))  # so that a small table still gives enough steps per epoch
    losses = model.fit(
        training.features,
        training.labels,
        batch_size=size,
        epochs=epochs,
        verbose=0,
        callbacks=[stop],
        validation_data=(validation.features, validation.labels),
    ).history
    history = pd.DataFrame({"epoch": range(1, len(losses["loss"]) + 1), **losses})
    history.columns = history.columns.str.replace("val_", "validation_")
    return model, history[["epoch", "loss", "validation_loss", "accuracy", "validation_accuracy"]]


def _network(features: Array, units: list[int]) -> Any:
    from keras import Input, Sequential, layers

    mean, variance = features.mean(axis=0, dtype=np.float64), features.var(axis=0, dtype=np.float64)
    # a constant feature must not be divided by almost zero, should it change later
    variance[variance <= (1e-6 * mean) ** 2] = 1
    hidden = [layers.Dense(size, "relu", name=f"hidden_{place}") for place, size in enumerate(units[:-1], 1)]
    features_in = Input((features.shape[1],), name="features")
    scaling = layers.Normalization(mean=mean, variance=variance, name="scaling")
    classes = layers.Dense(units[-1], "softmax", name="classes")
    return Sequential([features_in, scaling, *hidden, classes], name="dense")


def _whole_number(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 or value < least:
        raise ArgumentError(f"{name}: {value!r} is not a whole number from {least} up.")
    return int(value)

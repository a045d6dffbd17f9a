"""Train a Keras model, which takes raw rows, on a labelled table, and say what its curves and its test part show."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ruo.answer import Answer, Shown
from ruo.arguments import typed
from ruo.errors import ArgumentError, TableError, count, needs
from ruo.learn.demo import require_tensorflow
from ruo.learn.evaluation import Evaluation, Share, judge, percent, verdict_text, wilson_interval
from ruo.model.features import write_features
from ruo.model.store import publish
from ruo.tables import NO_LABEL, Labels, ModelInput, Source, Table, TableOptions, number_classes, open_table
from ruo.wire.messages import Array

_FEWEST = 10  # rows in a part: the accuracy on fewer says next to nothing
_PREDICTED_ROWS = 4096  # rows per batch
_RISE = 1.05  # a smaller rise of the validation loss may be noise


class Parts(NamedTuple):
    """The row numbers of each part, (rows,) int64: from 0, in the order of the table."""

    training: Labels
    validation: Labels
    test: Labels


@dataclass(frozen=True, eq=False, repr=False)
class Trained(Shown):
    """A model and how it was trained."""

    model: Any  # a keras.Model, from raw rows (n, features) to probabilities (n, classes)
    history: pd.DataFrame  # per epoch: epoch (from 1), loss, validation_loss, accuracy, validation_accuracy
    features: tuple[str, ...]
    classes: tuple[str, ...]
    parts: Parts
    evaluation: Evaluation  # of the test part
    repeated: int  # test rows that are in the training part too
    epochs: int  # the maximum
    label_prefix: str = "Label_"

    @property
    def accuracy(self) -> Share:
        """The accuracy on the test part, with its 95 % interval."""
        return self.evaluation.accuracy

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss; the model has its weights."""
        return int(self.history["validation_loss"].argmin()) + 1

    def predict(self, source: Source) -> Array:
        """Return the probabilities for a table, (rows, classes) float32, computed in this process."""
        table = open_table(source, TableOptions(label_prefix=self.label_prefix))
        table.match("trained", [ModelInput("features", len(self.features), self.features)])
        block = next(table.blocks(None))
        return np.asarray(self.model.predict(block.array, batch_size=_PREDICTED_ROWS, verbose=0))

    def scaling(self) -> pd.DataFrame:
        """Return the mean and standard deviation by which the first layer scales each feature."""
        layer = self.model.get_layer("scaling")
        unit = next((np.array(other.scale) for other in self.model.layers if other.name == "unit"), 1.0)
        means, deviations = np.ravel(layer.mean) / unit, np.sqrt(np.ravel(layer.variance)) / unit
        return pd.DataFrame({"feature": self.features, "mean": means, "deviation": deviations})

    def verdict(self, seen: Sequence[str] = ()) -> str:
        """Say what is seen, followed by the sentences `seen`, and what may not be concluded."""
        frequent, baseline = self.evaluation.baseline
        word = "not distinguishable from"
        if not self.accuracy.low <= baseline <= self.accuracy.high:
            word = "better than" if self.accuracy.low > baseline else "worse than"
        naive = f"always answering class {frequent}, the most frequent one ({percent(baseline)})"
        learnt = [self._on_accuracy(), f"That is {word} {naive}.", self._on_stopping(), self._on_overfitting()]
        are = "is" if self.repeated == 1 else "are"
        again = f"{self.repeated:,} of the test rows {are} in the training part too, number for number."
        cautions = [
            *([f"That new rows are classified as well: {again}"] if self.repeated else []),
            "How good it is on rows from elsewhere or of a later time: the test rows are from the same table.",
            "How certain the accuracy is if rows are copies or relatives of one another: it is then too high.",
            "Which network is best: one training run with one seed is a single sample.",
        ]
        return verdict_text([*learnt, *seen], cautions)

    def save(self, results_dir: str | os.PathLike[str], seen: Sequence[str] = ()) -> None:
        """Write model.keras, with the names of its features, history.csv and, last, verdict.txt into an existing folder."""
        folder = Path(results_dir)
        self._save_model(folder)
        self.history.to_csv(folder / "history.csv", index=False)
        (folder / "verdict.txt").write_text(self.verdict(seen) + "\n", encoding="utf-8")

    def publish(self, store: str | os.PathLike[str]) -> str:
        """Add the model, with the names of its features, to a store, and return its version's number."""
        with tempfile.TemporaryDirectory(prefix="ruo-trained-") as folder:
            return publish(self._save_model(Path(folder)), store)

    def _save_model(self, folder: Path) -> Path:
        path = folder / "model.keras"
        self.model.save(path)
        write_features(path, self.features)
        return path

    def _on_accuracy(self) -> str:
        right, rows = self.evaluation.confusion.to_numpy().trace(), self.evaluation.rows
        return f"The model classifies {right:,} of {rows:,} unseen test rows correctly: {self.accuracy}."

    def _on_stopping(self) -> str:
        done, best = len(self.history), self.best_epoch
        rest = "; the validation loss was still falling, so more epochs may help" if done == best > 1 else ""
        text = f"Training ran for the maximum of {count(done, 'epoch')}{rest}."
        if done < self.epochs:
            text = f"Training stopped early, after {done} of {self.epochs} epochs: the validation loss no longer fell."
        return f"{text} The model has the weights of epoch {best}."

    def _on_overfitting(self) -> str:
        best, last = self.history.iloc[self.best_epoch - 1], self.history.iloc[-1]
        rows, accuracy = len(self.parts.validation), best["validation_accuracy"]
        _, low, high = wilson_interval(round(accuracy * rows), rows)
        accuracies = f"accuracy {percent(best['accuracy'])} and {percent(accuracy)}"
        if last["validation_loss"] > _RISE * best["validation_loss"] and last["loss"] < best["loss"]:
            rise = f"the validation loss rises from {best['validation_loss']:.2g} to {last['validation_loss']:.2g}"
            return f"It overfits after epoch {self.best_epoch}: the training loss keeps falling, {rise}."
        if best["accuracy"] > high:
            return f"It overfits: training accuracy is above the interval of validation accuracy ({accuracies})."
        interval = f"95 % interval of the second {percent(low)} to {percent(high)}"
        return f"No overfitting is seen: training and validation curve stay together ({accuracies}; {interval})."

    def _shown(self) -> Answer:
        facts = {"rows": sum(map(len, self.parts)), "features": len(self.features), "classes": len(self.classes)}
        facts |= {"epochs": len(self.history), "best epoch": self.best_epoch}
        return Answer(self._on_accuracy(), "", pd.DataFrame([facts]))


@needs("server,notebooks")
@typed
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
    """Train a dense network on a labelled table until the validation loss has not fallen for `patience` epochs."""
    given = [("epochs", epochs), ("patience", patience), ("max_rows", max_rows), *(("units", size) for size in units)]
    for name, number in given:
        if number is not None and number < 1:
            raise ArgumentError(f"{name}: {number} is not a whole number from 1 up.")
    if not 0 <= seed < 1 << 32:
        raise ArgumentError(f"seed: {seed} is not a whole number from 0 to 2**32 - 1.")
    table = open_table(source, TableOptions(label_prefix=label_prefix))
    numbers, features, labels, classes = _read(table, max_rows, seed)
    training, held_out, final = _split(table.name, len(labels), validation, test, seed)
    model = _network(features[training], [*units, len(classes)], seed)
    unseen = (features[held_out], labels[held_out])
    history = _fit(model, features[training], labels[training], unseen, epochs, patience)
    known = {row.tobytes() for row in features[training]}
    outputs = model.predict(features[final], batch_size=_PREDICTED_ROWS, verbose=0)
    return Trained(
        model=model,
        history=history,
        features=tuple(table.features),
        classes=classes,
        parts=Parts(numbers[training], numbers[held_out], numbers[final]),
        evaluation=judge(numbers[final], outputs, labels[final], classes),
        repeated=sum(row.tobytes() in known for row in features[final]),
        epochs=epochs,
        label_prefix=label_prefix,
    )


def _read(table: Table, max_rows: int | None, seed: int) -> tuple[Labels, Array, Labels, tuple[str, ...]]:
    """The numbers, features and labels of all rows, or of `max_rows` drawn at random, and the names of the classes."""
    if not table.labels:
        hint = "pass the label_prefix with which its label columns begin, such as the whole name of a single one"
        raise TableError(f"{table.name} has no labels; {hint}.")
    rng, blocks = np.random.default_rng((seed, 0)), list[pd.DataFrame]()
    for block in table.blocks(20_000):
        rows = pd.DataFrame(block.array, range(block.start, block.start + len(block.array)))
        blocks.append(rows.assign(label=block.labels, key=rng.random(len(rows))))
        if max_rows is not None and sum(map(len, blocks)) > max_rows:
            blocks = [pd.concat(blocks).nsmallest(max_rows, "key").sort_index()]
    sample = pd.concat(blocks)
    features, given = sample[range(len(table.features))].to_numpy(), sample["label"].to_numpy()
    for place, column in np.argwhere(~np.isfinite(features))[:1]:
        row, name, value = int(sample.index[place]), table.features[column], features[place, column]
        problem = f"{value} cannot be learnt from; fill the cell, or leave out the row or the column."
        raise TableError(f'{table.name}, row {row:,}, column "{name}": {problem}', row=row, column=name)
    for row in map(int, sample.index[(given == NO_LABEL) | pd.isna(given)][:1]):
        wanted = "a single 1 among its label columns"
        if len(table.labels) == 1:
            number = f"a whole number from 0 up (ruo.table(..., label={table.labels[0]!r}) takes names)"
            wanted = "a name" if given.dtype == np.object_ else number
        raise TableError(f"{table.name}, row {row:,} has no class; give it {wanted}, or leave the row out.", row=row)
    labels, names = number_classes(given, table.classes)
    highest = int(labels.max())
    if (labels == highest).all():
        raise TableError(f"{table.name} has only one class in {count(len(labels), 'row')}; there is nothing to learn.")
    if highest >= 10_000:
        raise TableError(f"{table.name} has the class {highest:,}; number the classes from 0, without gaps.")
    return sample.index.to_numpy(), features, labels, tuple(names or map(str, range(highest + 1)))


def _split(name: str, rows: int, validation: float, test: float, seed: int) -> list[Array]:
    """Draw the places of each part in the sample."""
    shares = (1 - validation - test, validation, test)
    if not min(shares) > 1e-9:
        raise ArgumentError(f"validation={validation} and test={test} must be above 0 and leave rows to train with.")
    sizes = [int(rows * share + 1e-9) for share in shares[1:]]
    if min(rows - sum(sizes), *sizes) < _FEWEST:
        enough = int(np.ceil(_FEWEST / min(shares) - 1e-6))
        raise TableError(f"{name} gives {count(rows, 'row')}; parts of at least {_FEWEST} rows need {enough:,}.")
    order = np.random.default_rng((seed, 1)).permutation(rows)
    return [np.sort(part) for part in np.split(order, [rows - sum(sizes), rows - sizes[1]])]


def _network(features: Array, units: list[int], seed: int) -> Any:
    require_tensorflow()
    from keras import Input, Sequential, layers, utils

    utils.set_random_seed(seed)
    mean, variance = features.mean(axis=0, dtype=np.float64), features.var(axis=0, dtype=np.float64)
    # a constant feature must not be divided by almost zero, should it change later
    variance[variance <= (1e-6 * mean) ** 2] = 1
    # Keras' layer takes deviations from 1e-7 to 1e19; to multiply by a power of two rounds no value
    unit = np.exp2(-np.round(np.log2(variance) / 2)) if variance.min() < 1e-12 or variance.max() > 1e36 else np.ones(1)
    rescaling = [layers.Rescaling(unit.tolist(), name="unit")] if len(unit) > 1 or unit[0] != 1 else []
    scaling = layers.Normalization(mean=mean * unit, variance=variance * unit**2, name="scaling")
    hidden = [layers.Dense(size, "relu", name=f"hidden_{place}") for place, size in enumerate(units[:-1], 1)]
    classes = layers.Dense(units[-1], "softmax", name="classes")
    return Sequential(
        [Input((features.shape[1],), name="features"), *rescaling, scaling, *hidden, classes], name="dense"
    )


def _fit(
    model: Any, features: Array, labels: Array, unseen: tuple[Array, Array], epochs: int, patience: int
) -> pd.DataFrame:
    from keras.callbacks import EarlyStopping

    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    losses = model.fit(
        features,
        labels,
        batch_size=min(256, max(16, len(labels) // 50)),  # a small table still gives enough steps per epoch
        epochs=epochs,
        verbose=0,
        callbacks=[EarlyStopping("val_loss", patience=patience, restore_best_weights=True)],
        validation_data=unseen,
    ).history
    history = pd.DataFrame(losses).rename(columns=lambda name: name.replace("val_", "validation_"))
    history.insert(0, "epoch", history.index + 1)
    return history[["epoch", "loss", "validation_loss", "accuracy", "validation_accuracy"]]

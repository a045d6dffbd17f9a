"""A trained model, and what its learning curves and its test part say in words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ruo.learn.evaluation import percent, verdict_text, wilson_interval
from ruo.table import Labels, open_table

if TYPE_CHECKING:
    from ruo.table import Source

__all__ = ["PREDICTED_ROWS", "Parts", "Trained"]

Array = np.ndarray[Any, np.dtype[Any]]

PREDICTED_ROWS = 4096  # rows per batch
_RISE = 1.05  # a smaller rise of the validation loss may be noise


class Parts(NamedTuple):
    """The row numbers of each part, (rows,) int64: from 0, in the order of the table."""

    training: Labels
    validation: Labels
    test: Labels


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A model and how it was trained."""

    model: Any  # a keras.Model, from raw rows (n, features) to probabilities (n, classes)
    history: pd.DataFrame  # per epoch: epoch (from 1), loss, validation_loss, accuracy, validation_accuracy
    features: tuple[str, ...]
    classes: tuple[str, ...]
    parts: Parts
    right: int  # test rows that the model classifies correctly
    repeated: int  # test rows that are in the training part too
    most_frequent: str  # the most frequent class of the training part
    baseline: float  # its share of the test rows
    epochs: int  # the maximum
    label_prefix: str = "Label_"

    @property
    def rows(self) -> int:
        """The number of rows in all parts."""
        return sum(map(len, self.parts))

    @property
    def accuracy(self) -> float:
        """The accuracy on the test part."""
        return self.right / len(self.parts.test)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson)."""
        _, low, high = wilson_interval(self.right, len(self.parts.test))
        return low, high

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss; the model has its weights."""
        return int(self.history["validation_loss"].argmin()) + 1

    def predict(self, source: Source) -> Array:
        """Return the probabilities for a table, (rows, classes) float32, computed in this process."""
        block = next(iter(open_table(source, self.label_prefix).blocks(None)))
        probabilities: Array = self.model.predict(block.features, batch_size=PREDICTED_ROWS, verbose=0)
        return probabilities

    def scaling(self) -> pd.DataFrame:
        """Return the mean and standard deviation by which the first layer scales each feature."""
        layer = self.model.get_layer("scaling")
        means, deviations = np.ravel(layer.mean), np.sqrt(np.ravel(layer.variance))
        return pd.DataFrame({"feature": self.features, "mean": means, "deviation": deviations})

    def verdict(self, seen: Sequence[str] = ()) -> str:
        """Say what is seen, followed by the sentences `seen`, and what may not be concluded."""
        return verdict_text([*self._seen(), *seen], self._cautions())

    def save(self, results_dir: str | os.PathLike[str], seen: Sequence[str] = ()) -> None:
        """Write model.keras, history.csv and, last, verdict.txt into an existing folder."""
        folder = Path(results_dir)
        self.model.save(folder / "model.keras")
        self.history.to_csv(folder / "history.csv", index=False)
        (folder / "verdict.txt").write_text(self.verdict(seen) + "\n", encoding="utf-8")

    def _seen(self) -> list[str]:
        rows = len(self.parts.test)
        share = wilson_interval(self.right, rows)
        word = "not distinguishable from"
        if not share.low <= self.baseline <= share.high:
            word = "better than" if share.low > self.baseline else "worse than"
        naive = f"always answering class {self.most_frequent}, the most frequent one ({percent(self.baseline)})"
        return [
            f"The model classifies {self.right:,} of {rows:,} unseen test rows correctly: {share}.",
            f"That is {word} {naive}.",
            self._on_stopping(),
            self._on_overfitting(),
        ]

    def _on_stopping(self) -> str:
        done, best = len(self.history), self.best_epoch
        if done < self.epochs:
            text = f"Training stopped early, after {done} of {self.epochs} epochs: the validation loss no longer fell."
        else:
            rest = "; the validation loss was still falling, so more epochs may help" if done == best else ""
            text = f"Training ran for the maximum of {done} epochs{rest}."
        return f"{text} The model has the weights of epoch {best}."

    def _on_overfitting(self) -> str:
        best, last = self.history.iloc[self.best_epoch - 1], self.history.iloc[-1]
        rows, accuracy = len(self.parts.validation), best["validation_accuracy"]
        _, low, high = wilson_interval(round(accuracy * rows), rows)
        accuracies = f"accuracy {percent(best['accuracy'])} and {percent(accuracy)}"
        if last["validation_loss"] > _RISE * best["validation_loss"] and last["loss"] < best["loss"]:
            rise = f"rises from {best['validation_loss']:.2g} to {last['validation_loss']:.2g}"
            return f"It overfits after epoch {self.best_epoch}: the training loss keeps falling, the validation loss {rise}."
        if best["accuracy"] > high:
            return f"It overfits: training accuracy is above the interval of validation accuracy ({accuracies})."
        interval = f"95 % interval of the second {percent(low)} to {percent(high)}"
        return f"No overfitting is seen: training and validation curve stay together ({accuracies}; {interval})."

    def _cautions(self) -> list[str]:
        again = f"{self.repeated:,} of the test rows are in the training part too, number for number."
        return [
            *([f"That new rows are classified as well: {again}"] if self.repeated else []),
            "How good it is on rows from elsewhere or of a later time: the test rows are from the same table.",
            "How certain the accuracy is if rows are copies or relatives of one another: it is then too high.",
            "Which network is best: one training run with one seed is a single sample.",
        ]

    def __repr__(self) -> str:
        shape = f"{len(self.features)} features, {len(self.classes)} classes"
        return f"Trained({self.rows:,} rows, {shape}, {len(self.history)} epochs, accuracy {percent(self.accuracy)})"

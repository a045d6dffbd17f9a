"""The demo: a test set and two trained models, made from scikit-learn's handwritten digits.

The 1,797 digits (8 x 8 pixels, values 0 to 16) are real and ship with scikit-learn. Half of them train the models. Each
row of the test set is one of the other half, with noise on every pixel.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ruo.errors import ArgumentError, needs
from ruo.wire.messages import Array

_MODELS = ("mlp", "cnn")
_ROWS_PER_PIECE = 50_000
_NOISE = 0.5  # standard deviation, of pixels from 0 to 16


class Demo(NamedTuple):
    """The files of a demo, and each model's accuracy on the held-out digits without noise."""

    testset: Path
    models: dict[str, Path]
    accuracy: dict[str, float]


@needs("server,notebooks")
def make_demo(out: Path | str, rows: int = 500_000, seed: int = 0, models: Sequence[str] = _MODELS) -> Demo:
    """Write ``testset.csv`` and NAME.keras for each model; the same seed gives the same demo."""
    if unknown := [name for name in models if name not in _MODELS]:
        raise ArgumentError(f"There is no demo model {unknown[0]!r}; the demo has {' and '.join(_MODELS)}.")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    testset = folder / "testset.csv"
    make_testset(testset, rows, seed)
    paths = {name: folder / f"{name}.keras" for name in models}
    return Demo(testset, paths, {name: _train(name, path, seed) for name, path in paths.items()})


def make_testset(path: Path | str, rows: int, seed: int = 0, noise: float = _NOISE) -> None:
    """Write a CSV of `rows` digits: 64 features pixel_0_0 ... pixel_7_7, and one-hot Label_0 ... Label_9."""
    if rows < 1:
        raise ArgumentError(f"rows={rows} must be at least 1.")
    path = Path(path)
    if not path.parent.is_dir():
        raise ArgumentError(f"The folder {path.parent} does not exist; create it first.")
    _, images, _, labels = _originals(seed)
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as stream:
            for piece, start in enumerate(range(0, rows, _ROWS_PER_PIECE)):
                pixels, classes = _resample(
                    images, labels, _ROWS_PER_PIECE, np.random.default_rng((seed, piece)), noise
                )
                columns = dict(zip(names, pixels.T, strict=True))
                columns |= {f"Label_{digit}": (classes == digit).astype(np.int8) for digit in range(10)}
                frame = pl.DataFrame(columns).head(rows - start)
                frame.write_csv(stream, include_header=start == 0, float_precision=4)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def require_tensorflow() -> None:
    """Refuse any other Keras backend before it is imported, and silence TensorFlow's notes on the CPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise ArgumentError(f"KERAS_BACKEND={backend} cannot train; unset it to train with TensorFlow.")


def _originals(seed: int) -> list[Array]:
    """The digits: images (n, 64) float64 for training and for testing, and labels (n,) int64 for both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    return list(train_test_split(images, labels, test_size=0.5, stratify=labels, random_state=seed))


def _resample(
    images: Array, labels: Array, rows: int, rng: np.random.Generator, noise: float = _NOISE
) -> tuple[Array, Array]:
    picked = rng.integers(len(images), size=rows)
    return images[picked] + rng.normal(scale=noise, size=(rows, images.shape[1])), labels[picked]


def _train(name: str, path: Path, seed: int) -> float:
    """Train a model, save it, and return its accuracy on the held-out digits."""
    require_tensorflow()
    import keras

    images, test_images, labels, test_labels = _originals(seed)
    keras.utils.set_random_seed(seed)
    pixels, classes = _resample(images, labels, 20_000, np.random.default_rng((seed, 1 << 20)))
    model = _architecture(name)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy", jit_compile=False)
    model.fit(pixels.astype(np.float32), classes, batch_size=256, epochs=6 if name == "mlp" else 1, verbose=0)
    draft = path.with_name(f"{path.stem}.part.keras")
    model.save(draft)
    draft.replace(path)
    predicted = model.predict(test_images.astype(np.float32), batch_size=1024, verbose=0)
    return float((predicted.argmax(axis=1) == test_labels).mean())


def _architecture(name: str) -> Any:
    from keras import Input, Sequential, layers

    begin = [Input((64,), name="pixels"), layers.Rescaling(1 / 16)]
    end = layers.Dense(10, activation="softmax", name="digit")
    if name == "mlp":
        middle = [layers.Dense(units, activation="relu") for units in (128, 64, 32)]
    else:
        convolutions = [
            layers.Conv2D(filters, 3, strides=strides, padding="same", activation="relu")
            for filters, strides in ((32, 1), (48, 1), (48, 2), (64, 1))
        ]
        middle = [layers.Reshape((8, 8, 1)), *convolutions, layers.Flatten(), layers.Dense(64, activation="relu")]
    return Sequential([*begin, *middle, end], name=name)

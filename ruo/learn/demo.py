"""Tables and models to try things with.

The demo is made from scikit-learn's 1,797 handwritten digits (8 x 8 pixels, values 0 to 16), which are real. Half of them
train the models. Each row of the test set is one of the other half, with noise on every pixel.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ruo.client.layout import whole_file
from ruo.errors import ArgumentError, needs
from ruo.machine import discarded_stderr
from ruo.wire.messages import Array

_EPOCHS = {"mlp": 6, "cnn": 1}
_ROWS_PER_PIECE = 50_000
_NOISE = 0.5  # standard deviation, of pixels from 0 to 16

# class of flows: share of the rows, usual port, and the medians of duration (us), packets, and bytes per packet
_FLOWS = {
    "BENIGN": (0.70, 443, 60_000, 12, 300),
    "DoS Hulk": (0.15, 80, 90_000, 8, 700),
    "PortScan": (0.10, 8080, 60, 2, 40),
    "Web Attack – Brute Force": (0.05, 80, 5_000_000, 20, 200),  # noqa: RUF001  the dash is that of the data set
}
_NO_TIME = 0.003  # the share of flows with a duration of 0


class Demo(NamedTuple):
    """The files of a demo, and each model's accuracy on the held-out digits without noise."""

    testset: Path
    models: dict[str, Path]
    accuracy: dict[str, float]


@needs("server,notebooks")
def make_demo(out: Path | str, rows: int = 500_000, seed: int = 0, models: Sequence[str] = tuple(_EPOCHS)) -> Demo:
    """Write ``testset.csv`` and NAME.keras for each model; the same seed gives the same demo."""
    if unknown := set(models) - set(_EPOCHS):
        raise ArgumentError(f"There is no demo model {min(unknown)!r}; the demo has {' and '.join(_EPOCHS)}.")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    make_testset(folder / "testset.csv", rows, seed)
    paths = {name: folder / f"{name}.keras" for name in models}
    return Demo(folder / "testset.csv", paths, {name: _train(name, path, seed) for name, path in paths.items()})


def make_testset(path: Path | str, rows: int, seed: int = 0, noise: float = _NOISE) -> None:
    """Write a CSV of `rows` digits: 64 features pixel_0_0 ... pixel_7_7, and one-hot Label_0 ... Label_9."""
    if rows < 1:
        raise ArgumentError(f"rows={rows} must be at least 1.")
    _, images, _, labels = _originals(seed)
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    with whole_file(Path(path)) as draft, draft.open("wb") as stream:
        for piece, start in enumerate(range(0, rows, _ROWS_PER_PIECE)):
            rng = np.random.default_rng((seed, piece))
            pixels, classes = _resample(images, labels, _ROWS_PER_PIECE, rng, noise)
            columns = dict(zip(names, pixels.T, strict=True))
            columns |= {f"Label_{digit}": (classes == digit).astype(np.int8) for digit in range(10)}
            frame = pl.DataFrame(columns).head(rows - start)
            frame.write_csv(stream, include_header=start == 0, float_precision=4)


def make_flows(path: Path | str, rows: int = 20_000, seed: int = 0) -> Path:
    """Write a CSV of made-up network flows with every wart of CIC-IDS2017, the table as people download it; return its path.

    It has an id, nine features and the name of the class. Names have blanks before them, a column comes twice, a flow
    that took no time has Infinity, and the encoding is that of Windows (cp1252). The data set that it imitates:
    Sharafaldin et al., "Toward Generating a New Intrusion Detection Dataset", ICISSP 2018.
    """
    rng = np.random.default_rng(seed)
    shares, ports, durations, packets, sizes = np.array(list(_FLOWS.values())).T
    kind = rng.choice(len(shares), size=rows, p=shares)
    spread = rng.normal(scale=0.8, size=(3, rows))
    duration = np.where(rng.random(rows) < _NO_TIME, 0, np.rint(durations[kind] * np.exp(spread[0])))
    forward = 1 + rng.poisson(packets[kind] * np.exp(0.5 * spread[1]))
    backward = rng.poisson(0.8 * forward)
    size = np.rint(sizes[kind] * np.exp(0.5 * spread[2]))
    port = np.where(rng.random(rows) < 0.7, ports[kind], rng.integers(1, 65_536, size=rows))
    with np.errstate(divide="ignore"):
        per_second = (forward + backward) * 1e6 / duration
    columns = {
        "Flow ID": [f"10.0.0.{number % 250 + 1}-10.0.1.9-{number}" for number in range(rows)],
        " Destination Port": port.astype(np.int64),
        " Flow Duration": duration.astype(np.int64),
        " Total Fwd Packets": forward,
        " Total Backward Packets": backward,
        "Flow Bytes/s": np.round(size * per_second, 3),
        " Flow Packets/s": np.round(per_second, 3),
        " Fwd Header Length": 20 * forward,
        " Average Packet Size": size.astype(np.int64),
        " Fwd Header Length again": 20 * forward,
        " Label": np.array(list(_FLOWS))[kind],
    }
    text = pl.DataFrame(columns).write_csv(line_terminator="\r\n")
    text = text.replace(" Fwd Header Length again", " Fwd Header Length", 1).replace(",inf", ",Infinity")
    Path(path).write_bytes(text.encode("cp1252"))
    return Path(path)


def require_tensorflow() -> None:
    """Refuse any other Keras backend before it is imported, and TensorFlow's notes on the CPU, which no variable silences."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise ArgumentError(f"KERAS_BACKEND={backend} cannot train; unset it to train with TensorFlow.")
    with discarded_stderr():
        import keras  # noqa: F401


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
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(pixels.astype(np.float32), classes, batch_size=256, epochs=_EPOCHS[name], verbose=0)
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

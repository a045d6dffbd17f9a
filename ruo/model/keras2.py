"""Models that Keras 2 wrote to HDF5: Keras 3 reads them, except for a few arguments that it no longer knows."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruo.errors import ModelError

_RECURRENT = ("RNN", "SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_SEPARATE = ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")
# Each at Keras 2's default, with which a layer does the same as without it.
_OLD_DEFAULTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "time_major": (False, _RECURRENT),
    "groups": (1, (*_TRANSPOSED, *_SEPARATE)),
}
_OF_TRAINING = (
    "kernel_initializer",
    "kernel_regularizer",
    "kernel_constraint",
)  # of a kernel that these layers do not have


@contextmanager
def without_old_arguments(path: Path) -> Iterator[Path]:
    """The file, or for a block a copy of it without the arguments that Keras 3 does not know; no value is changed."""
    if path.suffix not in (".h5", ".hdf5"):
        yield path
        return
    import h5py

    with h5py.File(path) as file:
        text, version = file.attrs["model_config"], str(file.attrs.get("keras_version", ""))
    if version.startswith("2") and "hard_sigmoid" in str(text):
        raise ModelError(
            "it uses hard_sigmoid, which Keras 3 computes differently than Keras 2, which made it; load it with tf_keras "
            'and export it: tf_keras.models.load_model("model.h5").export("folder") makes a SavedModel.'
        )
    config = json.loads(text)
    if not _drop(config):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ruo-model-") as folder:
        copy = Path(shutil.copyfile(path, Path(folder) / path.name))
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        yield copy


def _drop(value: Any) -> int:
    """Remove the arguments from a configuration, in place; how many there were."""
    if isinstance(value, list):
        return sum(map(_drop, value))
    if not isinstance(value, dict):
        return 0
    name, arguments = value.get("class_name"), value.get("config")
    old: list[str] = []
    if isinstance(arguments, dict):
        for key, (default, layers) in _OLD_DEFAULTS.items():
            if name in layers and arguments.get(key) == default:
                old.append(key)
        old += [key for key in _OF_TRAINING if name in ("SeparableConv1D", "SeparableConv2D") and key in arguments]
        for key in old:
            del arguments[key]
    return len(old) + sum(map(_drop, value.values()))

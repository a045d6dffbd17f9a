"""Models that Keras 2 wrote: Keras 3 reads those in HDF5, except for a few arguments that it no longer knows."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruo.errors import ModelError

CONVERT = 'export it with tf_keras: tf_keras.models.load_model("model{}").export("folder") makes a SavedModel.'
# Arguments of layers at Keras 2's defaults, with which a layer does the same as without them. Those of a separable layer's
# kernel, which it does not have, are for training: None stands for any value.
_OLD_ARGUMENTS: tuple[tuple[str, str, Any], ...] = (
    ("RNN|SimpleRNN|LSTM|GRU|ConvLSTM[123]D", "time_major", False),
    ("Conv[123]DTranspose|(Depthwise|Separable)Conv[12]D", "groups", 1),
    *(("SeparableConv[12]D", f"kernel_{what}", None) for what in ("initializer", "regularizer", "constraint")),
)


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
            f"it uses hard_sigmoid, which Keras 3 computes differently than Keras 2, which made it; {CONVERT.format('.h5')}"
        )
    config = json.loads(text, object_hook=_drop_old_arguments)
    if config == json.loads(text):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ruo-model-") as folder:
        copy = Path(shutil.copyfile(path, Path(folder) / path.name))
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        yield copy


def _drop_old_arguments(layer: dict[str, Any]) -> dict[str, Any]:
    name, arguments = layer.get("class_name"), layer.get("config")
    if isinstance(name, str) and isinstance(arguments, dict):
        for classes, argument, default in _OLD_ARGUMENTS:
            if argument in arguments and default in (None, arguments[argument]) and re.fullmatch(classes, name):
                del arguments[argument]
    return layer

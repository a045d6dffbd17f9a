"""Models that Keras 2 wrote to HDF5: Keras 3 reads them, except for a few arguments that it no longer knows."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Each at Keras 2's default, so that the layer does the same without it.
_OLD_DEFAULTS: dict[str, dict[str, Any]] = {
    "LSTM": {"time_major": False},
    "GRU": {"time_major": False},
    "SimpleRNN": {"time_major": False},
    "RNN": {"time_major": False},
    "DepthwiseConv1D": {"groups": 1},
    "DepthwiseConv2D": {"groups": 1},
    "Conv1DTranspose": {"groups": 1},
    "Conv2DTranspose": {"groups": 1},
    "Conv3DTranspose": {"groups": 1},
    "SeparableConv1D": {"groups": 1},
    "SeparableConv2D": {"groups": 1},
}


@contextmanager
def without_old_arguments(path: Path) -> Iterator[Path]:
    """The file, or for a block a copy of it without the arguments that Keras 3 does not know; no value is changed."""
    if path.suffix not in (".h5", ".hdf5"):
        yield path
        return
    import h5py

    with h5py.File(path) as file:
        text = file.attrs["model_config"]
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
    found, arguments = 0, value.get("config")
    for name, default in _OLD_DEFAULTS.get(str(value.get("class_name")), {}).items():
        if isinstance(arguments, dict) and name in arguments and arguments[name] == default:
            del arguments[name]
            found += 1
    return found + sum(map(_drop, value.values()))

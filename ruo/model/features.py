"""The names of the columns that a model takes, kept in the model, so that no table's order can be mistaken for another."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ruo.errors import ArgumentError, ModelError

_FILE = "features.json"  # in the archive or folder, where Keras and TensorFlow do not look at it


def write_features(model: Path | str, names: Sequence[str]) -> None:
    """Keep the names of the columns in a model, in the order in which its only input takes them.

    Whoever serves the model tells the names, and ruo's client then takes a table's columns by name.

    Parameters
    ----------
    model : path
        A .keras file, or the folder of a SavedModel.
    names : sequence of str
        A name for each column of the input.

    Raises
    ------
    ArgumentError
        If there is no name, or one twice; if the file is of another kind, or has names already.

    Examples
    --------
    >>> model.save("model.keras")
    >>> write_features("model.keras", frame.columns)
    """
    path, stripped = Path(model), [str(name).strip() for name in names]
    if not stripped or len(set(stripped)) < len(stripped):
        raise ArgumentError("A model needs a name for each of its columns, and no name twice; correct the names.")
    text = json.dumps(stripped)
    if read_features(path):
        raise ArgumentError(f"{path} has the names of its columns already; save the model anew to change them.")
    if path.is_dir():
        (path / _FILE).write_text(text)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(_FILE, text)
    else:
        raise ArgumentError(f"{path} cannot hold the names of columns; pass a .keras file or a SavedModel's folder.")


def read_features(model: Path) -> list[str]:
    """The names that `write_features` kept; none where there are none."""
    file = (zipfile.Path(model) if zipfile.is_zipfile(model) else model) / _FILE
    try:
        names = json.loads(file.read_text()) if file.exists() else []
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"its {_FILE} is not a list of names; save the model anew.")
    return names

"""A store of model versions: `publish` adds one, and a server sees either all of it or nothing.

A version is a folder, store/1, store/2, ..., with a model and MANIFEST.json, the model's fingerprint. It never changes.
It is written under a name that servers ignore, flushed to the disk, and only then renamed: on one machine and over NFS
a rename is atomic.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ruo.errors import ModelError
from ruo.provenance import fingerprint

MANIFEST = "MANIFEST.json"
SUFFIXES = (".keras", ".h5", ".hdf5")  # of models that are one file


def publish(model: Any, store: str | os.PathLike[str]) -> str:
    """Add a model to a store as its newest version and return the version's number, "1" for the first.

    `model` is a ``.keras`` or ``.h5`` file, a SavedModel directory, or a Keras model, which is saved as ``.keras``.

    Examples
    --------
    >>> publish("model.keras", "store")
    '1'
    """
    store = Path(store)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=store, ignore_cleanup_errors=True) as work:
        folder = Path(work) / "version"
        folder.mkdir()
        copy = _copy(model, folder)
        manifest = {"model": copy.name, "sha256": fingerprint(copy)}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in [*folder.rglob("*"), folder]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # readable for servers of other users
            _flush(path)
        return _rename(folder, store)


def version_folders(store: Path) -> list[Path]:
    """The folders of the versions in a store, oldest first."""
    numbered = [path for path in store.iterdir() if path.name.isascii() and path.name.isdigit() and path.is_dir()]
    return sorted(numbered, key=lambda path: int(path.name))


def is_saved_model(path: Path) -> bool:
    """Whether a path is a SavedModel directory."""
    return (path / "saved_model.pb").is_file()


def _copy(model: Any, folder: Path) -> Path:
    if hasattr(model, "save"):
        model.save(folder / "model.keras")
        return folder / "model.keras"
    path = Path(model)
    if is_saved_model(path):
        return Path(shutil.copytree(path, folder / "model", copy_function=shutil.copyfile))
    if path.is_file() and path.suffix in SUFFIXES:
        return Path(shutil.copyfile(path, folder / f"model{path.suffix}"))
    raise ModelError(f"There is no model at {path}; give a .keras or .h5 file or a SavedModel directory.")


def _rename(folder: Path, store: Path) -> str:
    number = max([0, *(int(path.name) for path in version_folders(store))]) + 1
    while True:
        try:
            folder.rename(store / str(number))
        except OSError:
            if not (store / str(number)).exists():
                raise
            number += 1  # another process has just published this number
        else:
            _flush(store)
            return str(number)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A store of model versions: `publish` adds one, and a server sees either all of it or nothing.

A version is a folder, store/1, store/2, ..., with a model and MANIFEST.json, the model's fingerprint. It never changes.
It is written under a name that servers ignore, flushed to the disk, and only then renamed: on one machine and over NFS
a rename is atomic.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruo.errors import ModelError
from ruo.model.formats import SUFFIXES, is_model_folder, refuse_foreign
from ruo.provenance import fingerprint

MANIFEST = "MANIFEST.json"


def publish(model: Any, store: str | os.PathLike[str], check: bool = True) -> str:
    """Add a model to a store as its newest version and return the version's number, "1" for the first.

    `model` is a ``.keras`` or ``.h5`` file, a SavedModel directory, or a Keras model, which is saved as ``.keras``. Unless
    `check` is False, it is loaded and tried first, as by a server with these environment variables, in another process.

    Examples
    --------
    >>> publish("model.keras", "store")
    '1'
    """
    store = Path(store)
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"The store {store} cannot be made ({error.strerror}); give a folder.") from error
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=store, ignore_cleanup_errors=True) as work:
        folder = Path(work) / "version"
        folder.mkdir()
        copy = _copy(model, folder)
        origin = str(model) if isinstance(model, (str, os.PathLike)) else "the model in memory"
        try:
            refuse_foreign(copy)
        except ModelError as error:
            raise ModelError(f"{origin} cannot be published: {error}") from error
        if check:
            _try(copy, origin)
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


def copy_model(path: Path, target: Path) -> Path:
    """Copy a file or a folder to a path that is not there, without modes and times; returns that path."""
    if path.is_dir():
        return Path(shutil.copytree(path, target, copy_function=shutil.copyfile))
    return Path(shutil.copyfile(path, target))


def _try(copy: Path, origin: str) -> None:
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "ruo.model.loading", str(copy), origin]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        ended = f"{origin} cannot be loaded: its process ended by {done.returncode}."
        raise ModelError((done.stderr.strip() or ended).splitlines()[-1])


def _copy(model: Any, folder: Path) -> Path:
    if hasattr(model, "save"):
        model.save(folder / "model.keras")
        return folder / "model.keras"
    path = Path(model)
    if not is_model_folder(path) and not (path.is_file() and path.suffix in SUFFIXES):
        raise ModelError(f"There is no model at {path}; give a .keras or .h5 file or a SavedModel directory.")
    return copy_model(path, folder / f"model{path.suffix if path.is_file() else ''}")


def _rename(folder: Path, store: Path) -> str:
    number = max((int(path.name) for path in version_folders(store)), default=0)
    while True:
        version = store / str(number := number + 1)
        try:
            folder.rename(version)
        except OSError:
            if not version.exists():  # else another process has just published this number
                raise
        else:
            _flush(store)
            return version.name


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

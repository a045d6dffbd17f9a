"""The models on disk: which one is to be served, and a private copy of it with a known fingerprint.

`MODEL_PATH` is a model, a folder that holds one, or a folder of versions ("1", "2", ...) of which the highest number
is served. The server fingerprints and loads a copy, which cannot change in between.
"""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ruo.errors import ModelError
from ruo.model.formats import SUFFIXES, is_model_folder
from ruo.model.store import MANIFEST, copy_model, version_folders
from ruo.provenance import fingerprint

MOST_REPLACED = 3  # how many replaced versions a worker keeps; each holds the memory of a model


class StoredModel(NamedTuple):
    """A model on disk: `version` is its number in a store, and `stamp` changes when its files do."""

    path: Path
    version: str | None
    sha256: str | None
    stamp: tuple[object, ...]


def newest(path: Path, after: int = 0) -> StoredModel:
    """The model to serve; raises ModelError if there is none, and OSError if it cannot be read.

    Of a store's versions after `after` it is not the last but the first, so that none is left out, as long as a worker
    can keep those that follow.
    """
    if not path.exists():
        cure = "set MODEL_PATH to a .keras or .h5 file, a SavedModel directory, or a folder of versions."
        raise ModelError(f"There is no model at {path}; {cure}")
    versions = [] if path.is_file() or is_model_folder(path) else version_folders(path)
    if not versions:
        model = _model_in(path)
        return StoredModel(model, None, None, _stamp(model))
    following = [folder for folder in versions if 0 < after < int(folder.name)][-MOST_REPLACED - 1 :]
    for folder in following[:-1]:
        with suppress(ModelError):
            return version_in(folder)
    return version_in(versions[-1])


@contextmanager
def fetch(stored: StoredModel) -> Iterator[tuple[Path, str]]:
    """A private copy for a block, and its fingerprint; raises ModelError if that is not the manifest's, and OSError."""
    with tempfile.TemporaryDirectory(prefix="ruo-model-") as folder:
        try:
            copy = copy_model(stored.path, Path(folder) / stored.path.name)
        except OSError as error:  # that of a folder lists its files'
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) and os.strerror(errno.ENOSPC) not in str(error):
                raise
            room = f"there is no room in {tempfile.gettempdir()} for a copy; free some, or set TMPDIR to another folder"
            raise OSError(errno.ENOSPC, room) from error
        if _stamp(stored.path) != stored.stamp:
            raise ModelError(f"The model at {stored.path} is being written; it is loaded once it has stopped changing.")
        sha256 = fingerprint(copy)
        if stored.sha256 not in (None, sha256):
            raise ModelError(f"The fingerprint of the model at {stored.path} is not its manifest's; publish it again.")
        yield copy, sha256


def _model_in(path: Path) -> Path:
    """A path that is a model, or the only model in a folder, which may be MLflow's; weights beside it do not count."""
    if path.is_file() or is_model_folder(path):
        return path
    if (path / "MLmodel").is_file():
        path /= "data"
    files = [file for file in path.iterdir() if not (file.name.startswith(".") or file.name.endswith(".weights.h5"))]
    models = [file for file in files if is_model_folder(file) or file.suffix in SUFFIXES]
    if len(models) != 1:
        count = f"are {len(models)} models" if models else "is no model"
        raise ModelError(f"There {count} in {path}; put in one, or publish versions with: python -m ruo publish")
    return models[0]


def version_in(folder: Path) -> StoredModel:
    """A version of a store; one that was copied there by hand has no manifest."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        model = _model_in(folder)
        return StoredModel(model, folder.name, None, _stamp(model))
    try:
        values = json.loads(manifest.read_text())
        name, sha256 = values["model"], values["sha256"]
        if not isinstance(sha256, str) or Path(name).name != name:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{manifest} is broken; publish the model again.") from None
    return StoredModel(folder / name, folder.name, sha256, _stamp(folder / name))


def _stamp(path: Path) -> tuple[object, ...]:
    """The name, size, times and inode of every file; copying can keep all but the time of the last change (ctime)."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files]
    return tuple((name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino) for name, state in states)

"""The models on disk: which one is the newest, and a private copy of it with a known fingerprint.

`MODEL_PATH` is a model, a folder that holds one, or a folder of versions ("1", "2", ...) of which the highest number
is served. The server fingerprints and loads a copy, which cannot change in between.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ruo.errors import ModelError
from ruo.model.store import MANIFEST, SUFFIXES, is_saved_model, version_folders
from ruo.provenance import fingerprint

__all__ = ["StoredModel", "fetch", "newest"]


class StoredModel(NamedTuple):
    """A model on disk: `version` is its number in a store, and `stamp` changes when its files do."""

    path: Path
    version: str | None
    sha256: str | None
    stamp: tuple[object, ...]


def newest(path: Path) -> StoredModel:
    """The model to serve; raises ModelError if there is none."""
    with _reading(path):
        if not path.exists():
            raise ModelError(
                f"There is no model at {path}; set MODEL_PATH to a .keras or .h5 file, a SavedModel directory, "
                "or a folder of versions."
            )
        if path.is_file() or is_saved_model(path):
            return StoredModel(path, None, None, _stamp(path))
        versions = version_folders(path)
        if not versions:
            model = _only_model(path)
            return StoredModel(model, None, None, _stamp(model))
        folder = versions[-1]
        if (folder / MANIFEST).is_file():
            model, sha256 = _read_manifest(folder)
        else:
            model, sha256 = folder if is_saved_model(folder) else _only_model(folder), None
        return StoredModel(model, folder.name, sha256, _stamp(model))


@contextmanager
def fetch(stored: StoredModel) -> Iterator[tuple[Path, str]]:
    """A private copy for a block, and its fingerprint; raises ModelError if that is not the manifest's."""
    with tempfile.TemporaryDirectory(prefix="ruo-model-") as folder:
        copy = Path(folder) / stored.path.name
        with _reading(stored.path):
            if stored.path.is_dir():
                shutil.copytree(stored.path, copy, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(stored.path, copy)
            is_unchanged = _stamp(stored.path) == stored.stamp
        if not is_unchanged:
            raise ModelError(f"The model at {stored.path} is being written; it is loaded once it has stopped changing.")
        sha256 = fingerprint(copy)
        if stored.sha256 is not None and sha256 != stored.sha256:
            raise ModelError(
                f"The model at {stored.path} has the fingerprint {sha256[:12]}, its manifest says {stored.sha256[:12]}; "
                "publish it again."
            )
        yield copy, sha256


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # shutil.Error, which copytree raises, is one too
        raise ModelError(f"The model at {path} cannot be read: {error.strerror or error}.") from error


def _only_model(folder: Path) -> Path:
    models = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES or is_saved_model(path)]
    if len(models) != 1:
        count = f"{len(models)} models" if models else "no model"
        raise ModelError(f"There is {count} in {folder}; put in one, or publish versions with: python -m ruo publish")
    return models[0]


def _read_manifest(folder: Path) -> tuple[Path, str]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        name, sha256 = manifest["model"], manifest["sha256"]
        if not isinstance(sha256, str) or Path(name).name != name:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{folder / MANIFEST} is broken; publish the model again.") from None
    return folder / name, sha256


def _stamp(path: Path) -> tuple[object, ...]:
    """The name, size, time and inode of every file; a file that replaces another has its own inode."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files]
    return tuple((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states)

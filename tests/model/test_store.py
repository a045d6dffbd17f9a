"""Publishing: a version is there as a whole or not at all."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from ruo.errors import RuoError
from ruo.model.store import MANIFEST, fingerprint, publish, version_folders
from server.repository import fetch, newest


def test_versions_count_from_one(models, tmp_path):
    """The first version is 1, the next one more than the highest, as a number, which is the newest; other names are left alone."""
    store = tmp_path / "new" / "store"
    assert [publish(models["mlp"], store, check=False), publish(models["other"], store, check=False)] == ["1", "2"]
    (store / "9").mkdir()
    (store / "readme").mkdir()
    assert publish(models["mlp"], store, check=False) == "10"
    assert [path.name for path in version_folders(store)] == ["1", "2", "9", "10"]
    assert newest(store)[:2] == (store / "10" / "model.keras", "10")
    for name in ("9", "10"):
        shutil.rmtree(store / name)
    assert newest(store).version == "2"


def test_a_folders_fingerprint_follows_names_and_contents(tmp_path):
    """A folder's fingerprint changes with any name or content, not with times."""
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("content")
    os.utime(tmp_path / "b" / "sub" / "file", (1, 1))
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / "sub" / "file").rename(tmp_path / "b" / "file")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_a_keras_model_is_saved_and_a_savedmodel_is_copied(keras, models, tmp_path):
    """Servers of other users can read all of both, whatever the mask of the publisher."""
    mask = os.umask(0o077)
    try:
        publish(keras.saving.load_model(models["mlp"]), tmp_path, check=False)
        publish(models["saved"], tmp_path, check=False)
    finally:
        os.umask(mask)
    assert (tmp_path / "1" / "model.keras").is_file()
    assert fingerprint(tmp_path / "2" / "model") == fingerprint(models["saved"])
    modes = {path.stat().st_mode & 0o777 for folder in "12" for path in (tmp_path / folder).rglob("*")}
    assert modes == {0o644, 0o755}


def test_what_is_no_model_leaves_nothing(tmp_path):
    """A missing file, one of another kind, or a model whose saving fails halfway is never seen as a version."""

    class Model:
        def save(self, path):
            path.write_bytes(b"half")
            raise OSError("the disk is full")

    (tmp_path / "notes.txt").touch()
    store = tmp_path / "store"
    for path in (tmp_path / "notes.txt", tmp_path / "gone.keras", tmp_path):
        with pytest.raises(RuoError, match="There is no model"):
            publish(path, store)
    with pytest.raises(OSError, match="full"):
        publish(Model(), store)
    assert list(store.iterdir()) == []


def test_two_publishers_get_two_versions(models, tmp_path):
    """Publishing at the same moment gives every model a version of its own."""
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: publish(models["mlp"], tmp_path, check=False), range(16)))
    assert sorted(map(int, versions)) == list(range(1, 17))


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_a_version_is_whole_whenever_it_is_seen(models, tmp_path, count):
    """Whoever looks while versions are published finds whole ones, and a server's copy is whole: as over NFS, by looking."""
    known = {fingerprint(models[name]) for name in ("mlp", "other")}
    publish(models["mlp"], tmp_path, check=False)

    def write():
        for number in range(1, count):
            publish(models["other" if number % 2 else "mlp"], tmp_path, check=False)

    seen = set()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while str(count) not in seen:
            assert not writing.done() or writing.result() is None
            for folder in version_folders(tmp_path)[-3:]:
                manifest = json.loads((folder / MANIFEST).read_text())
                assert fingerprint(folder / manifest["model"]) == manifest["sha256"]
            found = newest(tmp_path)
            with fetch(found) as (path, sha256):
                assert fingerprint(path) == sha256
                assert sha256 in known
            seen.add(found.version)
    assert len(seen) > 2

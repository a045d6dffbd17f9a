"""Which model is the newest on disk, and the private copy of it."""

import errno
import hashlib
import json
import os
import shutil
from unittest.mock import Mock

import pytest

from ruo.errors import ModelError
from ruo.model.store import MANIFEST, publish
from server.repository import fetch, newest


def test_a_file_and_a_savedmodel_stand_for_themselves(models):
    """A path to a model is that model, without a version number."""
    for name in ("mlp", "mlp.h5", "saved"):
        found = newest(models[name])
        assert (found.path, found.version, found.sha256) == (models[name], None, None)


def test_a_folder_with_one_model_is_that_model(models, tmp_path):
    """Beside dot files and weights, a single model in a mounted folder stands for it; two, none or no folder are refused."""
    with pytest.raises(ModelError, match="MODEL_PATH"):
        newest(tmp_path / "gone")
    with pytest.raises(ModelError, match="no model in"):
        newest(tmp_path)
    shutil.copy(models["mlp"], tmp_path / "a.keras")
    for name in ("._a.keras", ".b.keras", "a.weights.h5"):
        (tmp_path / name).write_bytes(b"x")
    assert newest(tmp_path).path == tmp_path / "a.keras"
    shutil.copy(models["mlp"], tmp_path / "b.keras")
    with pytest.raises(ModelError, match="2 models in"):
        newest(tmp_path)


def test_versions_made_by_hand_need_no_manifest(models, tmp_path):
    """A version may be a SavedModel as TensorFlow Serving lays it, or a folder that somebody has copied a model to."""
    shutil.copytree(models["saved"], tmp_path / "3")
    assert newest(tmp_path).path == tmp_path / "3"
    (tmp_path / "4").mkdir()
    shutil.copy(models["mlp"], tmp_path / "4")
    assert newest(tmp_path)[:2] == (tmp_path / "4" / "mlp.keras", "4")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"model": "model.keras"}', '{"model": "../../x.keras", "sha256": "0"}', '{"model": 1}']
)
def test_a_broken_manifest_is_refused(models, tmp_path, text):
    """A manifest that is no manifest, or that points out of its folder, makes the version unusable."""
    publish(models["mlp"], tmp_path, check=False)
    (tmp_path / "1" / MANIFEST).write_text(text)
    with pytest.raises(ModelError, match="publish"):
        newest(tmp_path)


def test_the_copy_is_what_was_fingerprinted(models, tmp_path):
    """What is loaded is a private copy, which no later change of the original reaches; sha256sum says the same of it."""
    publish(models["mlp"], tmp_path, check=False)
    content = models["mlp"].read_bytes()
    with fetch(newest(tmp_path)) as (copy, sha256):
        (tmp_path / "1" / "model.keras").write_bytes(b"changed")
        assert copy.read_bytes() == content
    manifest = json.loads((tmp_path / "1" / MANIFEST).read_text())
    assert manifest == {"model": "model.keras", "sha256": sha256}
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert not copy.exists()


def test_a_file_that_changes_meanwhile_is_not_taken(models, tmp_path):
    """A file that is replaced between being found and being copied is left for the next look."""
    path = tmp_path / "m.keras"
    shutil.copy(models["mlp"], path)
    found = newest(path)
    shutil.copy(models["other"], tmp_path / "new")
    (tmp_path / "new").replace(path)
    with pytest.raises(ModelError, match="is being written"), fetch(found):
        pass


def test_the_stamp_changes_when_any_file_does(models, tmp_path):
    """Also one whose size and time are those of the old one, or as `rsync --inplace --times` makes it, in the same place."""
    shutil.copytree(models["saved"], tmp_path / "saved")
    before = newest(tmp_path / "saved").stamp
    assert newest(tmp_path / "saved").stamp == before
    path = tmp_path / "saved" / "variables" / "variables.index"
    times, content = (path.stat().st_atime_ns, path.stat().st_mtime_ns), path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=times)
    in_place = newest(tmp_path / "saved").stamp
    assert in_place != before
    shutil.copy2(path, tmp_path / "new")
    (tmp_path / "new").replace(path)
    assert newest(tmp_path / "saved").stamp != in_place


@pytest.mark.parametrize("name", ["mlp", "saved"])
def test_a_full_temporary_folder_is_named(models, monkeypatch, name):
    """Since it is not the model that cannot be read."""
    monkeypatch.setattr("shutil.copyfile", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device", "target")))
    with pytest.raises(OSError, match="no room in /.*TMPDIR"), fetch(newest(models[name])):
        pass

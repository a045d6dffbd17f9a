"""The versions that one worker holds: loading, swapping, and what stays when something is wrong."""

import re
import shutil
import time
import weakref

import numpy as np
import pytest

from ruo.model.store import publish
from ruo.wire import ONLY, WireError
from server.metrics import Metrics
from server.scheduler import Scheduler
from server.settings import Settings
from server.slots import WorkerSlots
from server.versions import NotReadyError, Serving, number_of

POLL_S = 0.05


@pytest.fixture
def serving():
    """Make a Serving of a path that looks for changes often; it stops at the end of the test."""
    made = []

    def make(path, **settings):
        config = {"MODEL_PATH": path, "MODEL_POLL_SECONDS": POLL_S, **settings}
        made.append(Serving(Settings.read(config), Metrics(), Scheduler()))
        return made[-1]

    yield make
    for each in made:
        object.__setattr__(each._settings, "model_poll_seconds", 0)


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def current(serving):
    return serving.get(wait_s=30)


def predict(served, rows):
    return served.model.run(served.model.fit({ONLY: rows}))[0]


def test_ready_only_after_warm_up(serving, models):
    """Before its model is warm a worker is not ready and says that it loads; then its slot says that it is ready."""
    slots = WorkerSlots()
    slot = slots.take()
    served = serving(models["mlp"])
    served.start(slots, slot)
    with pytest.raises(NotReadyError, match="being loaded"):
        served.get()
    assert served.ready_workers() == 0
    assert current(served).model.platform == "tensorflow_keras"
    wait_for(lambda: served.ready_workers() == 1)
    assert slots.is_ready(slot)


@pytest.mark.parametrize("name", ["mlp", "mlp.h5", "saved"])
def test_every_format_is_served_from_a_copy_that_is_gone(serving, models, rows, expected, name):
    """A model of any format needs none of its files once it is loaded."""
    served = current(serving(models[name], RUO_TRUST_MODEL="1"))
    np.testing.assert_allclose(predict(served, rows), expected["mlp"], atol=1e-6)


def test_a_files_version_is_its_content(serving, models):
    """A single file's version is a number made from its fingerprint, so all workers and pods agree on it."""
    served = current(serving(models["mlp"]))
    assert served.version == number_of(served.sha256)
    assert re.fullmatch(r"[1-9]\d{11}", served.version)
    assert current(serving(models["mlp"])).version == served.version
    assert current(serving(models["other"])).version != served.version


def test_a_published_version_replaces_the_old_one(serving, models, rows, expected, tmp_path):
    """A new version is taken on its own; the old one can still be asked for by its number, for a while."""
    publish(models["mlp"], tmp_path)
    serving = serving(tmp_path, MODEL_GRACE_SECONDS=1)
    old = current(serving)
    publish(models["other"], tmp_path)
    wait_for(lambda: serving.get().version == "2")
    np.testing.assert_allclose(predict(serving.get(), rows), expected["other"], atol=1e-6)
    np.testing.assert_allclose(predict(serving.get("1"), rows), expected["mlp"], atol=1e-6)
    assert serving.get("1") is old
    assert serving.versions() == ["1", "2"]
    wait_for(lambda: serving.versions() == ["2"])
    with pytest.raises(WireError, match='no version "1"') as refusal:
        serving.get("1")
    assert refusal.value.status == 404


def test_a_replaced_model_is_freed_with_its_last_request(serving, models, tmp_path):
    """What a replaced model is made of is gone soon after the grace time and the last request that uses it."""
    publish(models["mlp"], tmp_path)
    serving = serving(tmp_path, MODEL_GRACE_SECONDS=0)
    request = current(serving)
    inside = weakref.ref(request.model.run.__closure__[0].cell_contents)
    publish(models["other"], tmp_path)
    wait_for(lambda: serving.versions() == ["2"])
    time.sleep(5 * POLL_S)
    assert inside() is not None
    del request
    wait_for(lambda: inside() is None)


def test_a_file_replaced_in_place_is_taken(serving, models, rows, expected, tmp_path):
    """A single file that is overwritten is loaded anew, under a new version."""
    path = tmp_path / "m.keras"
    shutil.copy(models["mlp"], path)
    serving = serving(path)
    old = current(serving)
    shutil.copy(models["other"], path)
    wait_for(lambda: serving.get().version != old.version)
    np.testing.assert_allclose(predict(serving.get(), rows), expected["other"], atol=1e-6)


def test_a_half_written_file_is_never_served(serving, models, tmp_path):
    """While a file grows the old model serves; when the file is whole it is taken."""
    path = tmp_path / "m.keras"
    shutil.copy(models["mlp"], path)
    serving = serving(path)
    old = current(serving).version
    content = models["other"].read_bytes()
    with path.open("wb") as file:
        for start in range(0, len(content), len(content) // 8):
            file.write(content[start : start + len(content) // 8])
            file.flush()
            time.sleep(2 * POLL_S)
            assert serving.get().version == old or file.tell() == len(content)
    wait_for(lambda: serving.get().version != old)


@pytest.mark.parametrize("damage", ["broken", "wrong fingerprint", "manifest"])
def test_a_broken_version_leaves_the_old_one_serving(serving, models, tmp_path, damage):
    """A new version that cannot be loaded is counted and logged; the old one goes on until a good one comes."""
    publish(models["mlp"], tmp_path)
    serving = serving(tmp_path)
    current(serving)
    publish(models["other"], tmp_path / "aside")
    if damage == "broken":  # which cannot be published
        shutil.copy(models["broken"], tmp_path / "aside" / "1" / "model.keras")
        (tmp_path / "aside" / "1" / "MANIFEST.json").unlink()
    if damage == "wrong fingerprint":
        shutil.copy(models["mlp"], tmp_path / "aside" / "1" / "model.keras")
    if damage == "manifest":
        (tmp_path / "aside" / "1" / "MANIFEST.json").write_text("{")
    (tmp_path / "aside" / "1").rename(tmp_path / "2")
    wait_for(lambda: serving._error)
    assert serving.get().version == "1"
    assert serving._metrics.totals()["ruo_model_load_failures_total"] == 1
    with pytest.raises((WireError, NotReadyError)):
        serving.get("2")
    publish(models["other"], tmp_path)
    wait_for(lambda: serving.get().version == "3")


def test_removing_the_newest_version_goes_back(serving, models, tmp_path):
    """Where the newest version is taken away the one before it serves again."""
    publish(models["mlp"], tmp_path)
    publish(models["other"], tmp_path)
    serving = serving(tmp_path)
    assert current(serving).version == "2"
    (tmp_path / "2").rename(tmp_path / "withdrawn")
    wait_for(lambda: serving.get().version == "1")


def test_a_version_that_is_just_coming_is_worth_another_try(serving, models, tmp_path):
    """Asked for a version that another worker has already, a worker says 503 rather than 404, and goes to look."""
    publish(models["mlp"], tmp_path)
    serving = serving(tmp_path, MODEL_POLL_SECONDS=1000)
    current(serving)
    publish(models["other"], tmp_path)
    with pytest.raises(NotReadyError, match="being loaded"):
        serving.get("2")
    wait_for(lambda: serving.get().version == "2")
    serving._look.set()


@pytest.mark.parametrize("is_broken", [False, True])
def test_no_version_between_two_looks_is_left_out(serving, models, tmp_path, is_broken):
    """A run that another worker's version 2 was given can go on here, although 3 came before this worker looked."""
    publish(models["mlp"], tmp_path)
    serving = serving(tmp_path, MODEL_POLL_SECONDS=1000)
    current(serving)
    for name in ("other", "mlp", "mlp"):
        publish(models[name], tmp_path)
    if is_broken:
        (tmp_path / "3" / "MANIFEST.json").write_text("{")
    with pytest.raises(NotReadyError, match="being loaded"):
        serving.get("2")
    wait_for(lambda: serving.get().version == "4")
    assert serving.versions() == (["1", "2", "4"] if is_broken else ["1", "2", "3", "4"])
    serving._look.set()


def test_a_model_that_comes_later_is_taken(serving, models, tmp_path):
    """A server may start before its model is there; it says what is missing and takes the model when it comes."""
    serving = serving(tmp_path / "store")
    with pytest.raises(NotReadyError, match="There is no model at"):
        serving.get(wait_s=10)
    publish(models["mlp"], tmp_path / "store")
    wait_for(lambda: serving.ready_workers() == 1)
    assert serving.get().version == "1"


def test_only_the_pinned_model_is_loaded(serving, models):
    """With MODEL_SHA256 no other content is loaded."""
    sha256 = current(serving(models["mlp"])).sha256
    assert current(serving(models["mlp"], MODEL_SHA256=sha256.upper())).sha256 == sha256
    with pytest.raises(NotReadyError, match="MODEL_SHA256"):
        current(serving(models["other"], MODEL_SHA256=sha256))


@pytest.mark.soak
def test_no_more_than_three_replaced_versions_are_kept(serving, models, tmp_path):
    """However fast versions follow each other, the memory of a few is all that they take."""
    publish(models["mlp"], tmp_path)
    serving = serving(tmp_path)
    current(serving)
    for number in range(2, 7):
        publish(models["mlp" if number % 2 else "other"], tmp_path)
        wait_for(lambda number=number: serving.get().version == str(number))
    assert serving.versions() == ["3", "4", "5", "6"]

"""The versions that one worker holds: loading, swapping, and what stays when something is wrong."""

import errno
import re
import shutil
import threading
import time
import weakref
from unittest.mock import Mock

import numpy as np
import pytest
from werkzeug.exceptions import ServiceUnavailable

from ruo.errors import ModelError
from ruo.model.store import publish
from ruo.wire import ONLY, WireError
from server import versions
from server.settings import Settings
from server.slots import WorkerSlots
from server.versions import Serving, number_of
from tests.server.asking import wait_for

POLL_S = 0.05
STAYS = "The previous one stays in service."


@pytest.fixture
def serving():
    """Make a Serving of a path that looks for changes often; it stops at the end of the test."""
    made = []

    def make(path, **settings):
        config = {"MODEL_PATH": path, "MODEL_POLL_SECONDS": POLL_S, **settings}
        made.append(Serving(Settings.read(config)))
        return made[-1]

    yield make
    for each in made:
        object.__setattr__(each.settings, "model_poll_seconds", 0)


@pytest.fixture
def put(models, tmp_path):
    """Publish models, by name, as the next versions of the store at `tmp_path`."""

    def put(*names, folder=""):
        for name in names:
            publish(models[name], tmp_path / folder, check=False)

    return put


@pytest.fixture
def stored(serving, put, tmp_path):
    """Make a Serving of that store with models by name, once the last of them is in service."""

    def make(*names, **settings):
        put(*names)
        made = serving(tmp_path, **settings)
        assert current(made).version == str(len(names))
        return made

    return make


def current(serving):
    return serving.get(wait_s=30)


def predict(served, rows):
    return served.model.run(served.model.fit({ONLY: rows}))[0]


def test_ready_only_after_warm_up(serving, models, caplog):
    """Before its model is warm a worker is not ready and says that it loads; then its slot and its log say that it is."""
    caplog.set_level("INFO", "gunicorn.error")
    slots = WorkerSlots()
    slot = slots.take()
    served = serving(models["mlp"])
    served.start(slots, slot)
    with pytest.raises(ServiceUnavailable, match="being loaded"):
        served.get()
    assert served.ready_workers() == 0
    assert current(served).model.platform == "tensorflow_keras"
    wait_for(lambda: served.ready_workers() == 1)
    assert slots.is_ready[slot]
    assert re.search(r"ready after \d{1,2}\.\d s", caplog.text)


def test_a_files_version_is_its_content(serving, models):
    """A single file's version is a number made from its fingerprint, so all workers and pods agree on it."""
    served = current(serving(models["mlp"]))
    assert served.version == number_of(served.sha256)
    assert re.fullmatch(r"[1-9]\d{11}", served.version)
    assert current(serving(models["mlp"])).version == served.version
    assert current(serving(models["other"])).version != served.version
    assert [number_of(sign * 64) for sign in "0e"] == ["100000000000", "652254330606"]


def test_a_published_version_replaces_the_old_one(stored, put, rows, expected):
    """A new version is taken on its own; the old one can still be asked for by its number, for a while."""
    serving = stored("mlp", MODEL_GRACE_SECONDS=1)
    old = serving.get()
    put("other")
    wait_for(lambda: serving.get().version == "2")
    np.testing.assert_allclose(predict(serving.get(), rows), expected["other"], atol=1e-6)
    np.testing.assert_allclose(predict(serving.get("1"), rows), expected["mlp"], atol=1e-6)
    assert serving.get("1") is old
    assert serving.versions() == ["1", "2"]
    wait_for(lambda: serving.versions() == ["2"])
    with pytest.raises(WireError, match='no version "1"') as refusal:
        serving.get("1")
    assert refusal.value.status == 404


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_version_that_is_withdrawn_and_published_anew_is_another(stored, models, rows, expected, tmp_path, is_seen):
    """Its number is the same; whether a look fell between or not, only what is served counts as loaded."""
    serving = stored("mlp", "mlp", MODEL_POLL_SECONDS=1000)
    old = serving.get()
    shutil.rmtree(tmp_path / "2")
    if is_seen:
        serving._look.set()
        wait_for(lambda: serving.versions() == ["2", "1"])
    assert publish(models["other"], tmp_path, check=False) == "2"
    serving._look.set()
    wait_for(lambda: serving.get("2").sha256 != old.sha256)
    np.testing.assert_allclose(predict(serving.get(), rows), expected["other"], atol=1e-6)
    kept = ["1", "2"] if is_seen else ["2"]
    wait_for(lambda: sorted(re.findall(r'loaded{.*version="(.)"} 1', serving.metrics.text().decode())) == kept)
    assert serving.versions() == kept
    serving._look.set()


def test_a_replaced_model_is_freed_with_its_last_request(stored, put, monkeypatch):
    """What a replaced model is made of is gone soon after the grace time and the last request that uses it, not before."""
    serving = stored("mlp", MODEL_GRACE_SECONDS=0)
    request = serving.get()
    inside = weakref.ref(request.model.run.__closure__[0].cell_contents)
    put("other")
    wait_for(lambda: serving.versions() == ["2"])
    freed = []
    monkeypatch.setattr(versions, "_free_memory", lambda free=versions._free_memory: freed.append((free(), inside())))
    time.sleep(5 * POLL_S)
    assert inside() is not None
    del request
    assert wait_for(lambda: freed) == [(None, None)]


def test_a_file_is_taken_anew_when_it_is_whole(serving, models, rows, expected, tmp_path):
    """While a file is overwritten the old model serves; then the new one is taken, under a new version."""
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
    np.testing.assert_allclose(predict(serving.get(), rows), expected["other"], atol=1e-6)


@pytest.mark.parametrize(
    ("place", "error", "says"),
    [
        ("shutil.copyfile", OSError(errno.EIO, "Input/output error"), STAYS),
        ("shutil.copyfile", OSError(errno.ENOSPC, "No space left on device"), STAYS),
        ("server.versions.newest", ZeroDivisionError("what nobody thought of"), "ZeroDivisionError"),
    ],
)
def test_what_fails_for_a_moment_is_tried_again(stored, put, tmp_path, monkeypatch, caplog, place, error, says):
    """A published version does not change, so nothing else would have it taken; and a look that fails is not the last."""
    serving = stored("mlp")
    put("other", folder="aside")
    monkeypatch.setattr(place, Mock(side_effect=error))
    (tmp_path / "aside" / "1").rename(tmp_path / "2")
    wait_for(lambda: says in caplog.text)
    monkeypatch.undo()
    assert wait_for(lambda: serving.get().version == "2")


def test_without_looking_no_version_is_promised(stored, put):
    """Where a server looks once only, one that was published later is not being loaded."""
    serving = stored("mlp", MODEL_POLL_SECONDS=0)
    put("other")
    with pytest.raises(WireError, match='There is no version "2"'):
        serving.get("2")


def test_a_file_is_taken_when_two_looks_see_the_same(serving, models, tmp_path):
    """A file that was just written may not be whole yet, and nothing says so, without a manifest."""
    path = shutil.copy(models["mlp"], tmp_path / "m.keras")
    serving = serving(path, MODEL_POLL_SECONDS=0)
    old = current(serving)
    shutil.copy(models["other"], path)
    seen = serving._check(None)
    assert serving.get() is old
    serving._check(seen)
    assert serving.get().version == number_of(serving.get().sha256) != old.version


@pytest.mark.parametrize(("name", "says"), [("broken", "cannot be loaded"), ("mlp", "is not its manifest's")])
def test_a_broken_version_leaves_the_old_one_serving(stored, put, models, tmp_path, name, says, caplog):
    """A new version that is damaged, or not that of its manifest, is counted; the old one serves until a good one comes."""
    serving = stored("mlp")
    put("other", folder="aside")
    shutil.copy(models[name], tmp_path / "aside" / "1" / "model.keras")
    if name == "broken":  # which cannot be published
        (tmp_path / "aside" / "1" / "MANIFEST.json").unlink()
    (tmp_path / "aside" / "1").rename(tmp_path / "2")
    assert says in wait_for(lambda: serving._error)
    assert caplog.messages[-1].endswith(f" {STAYS}")
    assert serving.get().version == "1"
    assert serving.metrics.totals()["ruo_model_load_failures_total"] == 1
    with pytest.raises((WireError, ServiceUnavailable)):
        serving.get("2")
    put("other")
    wait_for(lambda: serving.get().version == "3")


@pytest.mark.parametrize(("newest", "is_broken"), [(2, False), (4, False), (4, True)])
def test_no_version_between_two_looks_is_left_out(stored, put, tmp_path, newest, is_broken):
    """Asked for one that another worker has, a worker says 503 rather than 404, and goes to look; it takes all in between."""
    serving = stored("mlp", MODEL_POLL_SECONDS=1000)
    put(*("other", "mlp", "mlp")[: newest - 1])
    if is_broken:
        (tmp_path / "3" / "MANIFEST.json").write_text("{")
    with pytest.raises(ServiceUnavailable, match="being loaded"):
        serving.get("2")
    wait_for(lambda: serving.get().version == str(newest))
    kept = [str(version) for version in range(1, newest + 1) if not (is_broken and version == 3)]
    assert serving.versions() == kept
    serving._look.set()


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_version_that_is_being_loaded_is_no_unknown_one(stored, put, monkeypatch, is_broken):
    """Whoever asks for it is told to try again until it is there, or cannot be loaded."""
    serving, begun, go, real = stored("mlp"), threading.Event(), threading.Event(), versions.load_model

    def load(*model):
        begun.set()
        assert go.wait(60)
        if is_broken:
            raise ModelError("It is broken.")
        return real(*model)

    monkeypatch.setattr(versions, "load_model", load)
    put("other")
    assert begun.wait(30)
    with pytest.raises(ServiceUnavailable, match="being loaded"):
        serving.get("2")
    go.set()
    wait_for(lambda: serving.behind if is_broken else serving.get().version == "2")
    if is_broken:
        with pytest.raises(WireError, match='There is no version "2"'):
            serving.get("2")


def test_a_disk_that_does_not_answer_holds_no_request(stored, monkeypatch):
    """As over NFS: whoever asks for an unknown version is told to try again, as often as wanted, and the others are served."""
    serving, answers = stored("mlp", MODEL_POLL_SECONDS=1000), threading.Event()
    real = versions.newest
    monkeypatch.setattr(versions, "_DISK_S", 0.05)
    monkeypatch.setattr(versions, "newest", lambda *where: real(*where) if answers.wait(60) else None)
    for _ in range(3):
        with pytest.raises(ServiceUnavailable, match="being loaded"):
            serving.get("9")
    assert serving.get("1") is serving.get()
    answers.set()
    monkeypatch.setattr(versions, "_DISK_S", 60)
    with pytest.raises(WireError, match='There is no version "9"'):
        serving.get("9")


def test_models_come_and_go(serving, put, tmp_path):
    """A server may start before its model is there; without its newest version the one before it serves again."""
    serving = serving(tmp_path / "store")
    with pytest.raises(ServiceUnavailable, match="There is no model at"):
        serving.get(wait_s=10)
    put("mlp", "other", folder="store")
    wait_for(lambda: serving.ready_workers() == 1 and serving.get().version == "2")
    (tmp_path / "store" / "2").rename(tmp_path / "store" / "withdrawn")
    wait_for(lambda: serving.get().version == "1")


def test_a_worker_is_behind_as_long_as_the_newest_version_cannot_be_loaded(serving, put, models, tmp_path):
    """Every look finds that version again; once it is withdrawn, the one that is served is the newest."""
    put("mlp", "other")
    (tmp_path / "2" / "model.keras").write_bytes(models["broken"].read_bytes())
    (tmp_path / "2" / "MANIFEST.json").unlink()
    serving = serving(tmp_path)
    assert current(serving).version == "1"
    time.sleep(5 * POLL_S)
    assert "cannot be loaded" in serving.behind
    shutil.rmtree(tmp_path / "2")
    wait_for(lambda: serving.behind is None)


def test_only_the_pinned_model_is_loaded(serving, models):
    """With MODEL_SHA256 no other content is loaded."""
    sha256 = current(serving(models["mlp"])).sha256
    assert current(serving(models["mlp"], MODEL_SHA256=sha256.upper())).sha256 == sha256
    with pytest.raises(ServiceUnavailable, match="MODEL_SHA256"):
        current(serving(models["other"], MODEL_SHA256=sha256))


@pytest.mark.soak
def test_no_more_than_three_replaced_versions_are_kept(stored, put):
    """However fast versions follow each other, the memory of a few is all that they take."""
    serving = stored("mlp")
    for number in range(2, 7):
        put("mlp" if number % 2 else "other")
        wait_for(lambda number=number: serving.get().version == str(number))
    assert serving.versions() == ["3", "4", "5", "6"]


def test_a_server_starts_with_the_newest_version_that_loads(make_app, put, models, tmp_path, caplog):
    """And says so in its log, its readiness and its metrics, until there is a version that it can load."""
    put("mlp", "other")
    shutil.copytree(tmp_path / "2", tmp_path / "3")
    (tmp_path / "3" / "model.keras").write_bytes(models["broken"].read_bytes())
    (tmp_path / "3" / "MANIFEST.json").unlink()
    shutil.copytree(tmp_path / "2", tmp_path / "4")
    (tmp_path / "4" / "MANIFEST.json").write_text("{")
    client = make_app(MODEL_PATH=tmp_path, MODEL_POLL_SECONDS=0.1, MODEL_GRACE_SECONDS=0)
    assert client.get("/v2/models/model").json["versions"] == ["2"]
    ready = client.get("/v2/health/ready")
    assert (ready.status_code, ready.json["version"]) == (200, "2")
    assert re.match(r"(?!.*cannot be read).*/4/MANIFEST.json is broken", ready.json["error"])
    assert "Version 2 is served" in caplog.text
    assert "The previous one" not in caplog.text
    assert b"ruo_model_is_behind 1.0" in client.get("/metrics").data
    put("mlp")
    while client.get("/v2/models/model").json["versions"][-1] != "5":
        assert client.get("/v2/health/ready").status_code == 200
    wait_for(lambda: "error" not in client.get("/v2/health/ready").json)
    metrics = client.get("/metrics").data
    assert b"ruo_model_is_behind 0.0" in metrics
    assert 0 < float(re.search(rb"\nruo_model_load_seconds (\S+)", metrics)[1]) < 60
    for version, workers in ((2, 0), (5, 1)):
        assert re.search(rb'ruo_model_loaded{[^}]*version="%d"} %d\.0' % (version, workers), metrics)

"""What lies in a folder of models, and which version a server starts with."""

import errno
import json
import shutil
import time

import numpy as np
import pytest

from ruo.errors import ModelError, SettingsError
from ruo.model.signature import Model
from ruo.model.store import publish
from server.repository import fetch, newest
from server.settings import Settings
from tests.server.serving import gunicorn


def test_what_lies_beside_a_model_is_left_alone(models, tmp_path):
    """Dot files, and weights without their model."""
    shutil.copy(models["mlp"], tmp_path / "a.keras")
    for name in ("._a.keras", ".b.keras", "a.weights.h5"):
        (tmp_path / name).write_bytes(b"x")
    assert newest(tmp_path).path == tmp_path / "a.keras"


def test_a_server_starts_with_the_newest_version_that_loads(make_app, models, tmp_path, caplog):
    """And says so in its log, its readiness and its metrics, until there is a version that it can load."""
    for name in ("mlp", "other"):
        publish(models[name], tmp_path, check=False)
    shutil.copytree(tmp_path / "2", tmp_path / "3")
    (tmp_path / "3" / "model.keras").write_bytes(models["broken"].read_bytes())
    (tmp_path / "3" / "MANIFEST.json").unlink()
    shutil.copytree(tmp_path / "2", tmp_path / "4")
    (tmp_path / "4" / "MANIFEST.json").write_text("{")

    client = make_app(MODEL_PATH=tmp_path, MODEL_POLL_SECONDS=0.1)

    assert client.get("/v2/models/model").json["versions"] == ["2"]
    ready = client.get("/v2/health/ready")
    assert (ready.status_code, ready.json["version"]) == (200, "2")
    assert "4/MANIFEST.json is broken" in ready.json["error"]
    assert "Version 2 is served" in caplog.text
    assert b"ruo_model_is_behind 1.0" in client.get("/metrics").data
    publish(models["mlp"], tmp_path, check=False)
    while client.get("/v2/models/model").json["versions"][-1] != "5":
        assert client.get("/v2/health/ready").status_code == 200
    assert "error" not in client.get("/v2/health/ready").json
    assert b"ruo_model_is_behind 0.0" in client.get("/metrics").data


@pytest.mark.parametrize("name", ["mlp", "saved"])
def test_a_full_temporary_folder_is_named(models, monkeypatch, name):
    """Since it is not the model that cannot be read."""

    def fill(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr("shutil.copyfile", fill)
    with pytest.raises(ModelError, match="no room in /.*TMPDIR"), fetch(newest(models[name])):
        pass


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"MODEL_NAME": "a/b"}, "MODEL_NAME='a/b'"),
        ({"MODEL_NAME": "a:b"}, "MODEL_NAME='a:b'"),
        ({"MODEL_MODULES": "acme.layers"}, "RUO_TRUST_MODEL=1"),
    ],
)
def test_settings_that_could_not_work_end_the_start(settings, says):
    """A name that no address can have, and code that is not trusted."""
    with pytest.raises(SettingsError, match=says):
        Settings.read(settings)


def test_a_page_of_a_named_origin_may_ask(make_app):
    """With its preflight, which has no token; and no other page."""
    client = make_app(CORS_ORIGINS="https://a.example, https://b.example", RUO_TOKEN="secret")
    for method, status in (("OPTIONS", 204), ("GET", 401)):
        answer = client.open("/v2/models", method=method, headers={"Origin": "https://b.example"})
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == "https://b.example"
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    other = client.get("/v2/health/live", headers={"Origin": "https://c.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert make_app().options("/v2/models").status_code == 405


def test_text_goes_in_and_out_as_v1_says(keras, make_app, tmp_path):
    """Strings, bytes as base64, and the signature by its name or by an empty one."""
    words = keras.layers.StringLookup(vocabulary=["red", "green"])
    keras.Sequential([keras.Input((1,), name="word", dtype="string"), words]).save(tmp_path / "words.keras")
    client = make_app(MODEL_PATH=tmp_path / "words.keras")
    for signature in ("", "serving_default"):
        for rows in (
            [["green"], ["?"]],
            [{"word": ["green"]}, {"word": ["?"]}],
            [[{"b64": "Z3JlZW4="}], [{"b64": "Pw=="}]],
        ):
            body = {"instances": rows, "signature_name": signature}
            assert client.post("/v1/models/model:predict", json=body).json == {"predictions": [[2], [0]]}
    assert client.get("/v2/models").json == {"models": ["model"]}
    assert client.get("/v2/models/model").json["inputs"] == [{"name": "word", "datatype": "BYTES", "shape": [-1, 1]}]
    assert json.dumps(client.get("/v2/models/model/config").json["input"]).count("TYPE_STRING") == 1
    refused = client.post("/v1/models/model:predict", json={"instances": [[1.5]]})
    assert (refused.status_code, "takes text" in refused.json["error"]) == (400, True)


@pytest.mark.parametrize("later_s", [0.3, *(pytest.param(0.2 * n, marks=pytest.mark.soak) for n in range(10))])
def test_a_server_that_is_ended_while_it_starts_leaves_nothing(models, tmp_path, later_s):
    """Neither a worker that has not heard of it, or that ends while it loads the model, nor a temporary folder."""
    with gunicorn(models["mlp"], TMPDIR=str(tmp_path), WEB_CONCURRENCY="2") as started:
        while b"Booting worker" not in started.log.read_bytes():
            time.sleep(0.01)
        time.sleep(later_s)
        started._process.process.terminate()
        assert started._process.process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shape", "rows"), [((8,), 2048), ((224, 224, 3), 27), ((4096, 4096), 1)])
def test_a_call_takes_as_many_rows_as_fit(shape, rows):
    """Of a table 2,048, of large images fewer, and always at least one."""
    model = Model("any", [], [], run=lambda arrays: arrays)
    assert model.rows_per_call([np.empty((5, *shape), np.float32)]) == rows

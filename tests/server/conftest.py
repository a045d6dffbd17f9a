"""Real Keras models, made once, the application around them, and real Gunicorn servers."""

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import server as package
from ruo import local_server
from ruo.deploy.local import LocalServer, server_process
from ruo.wire import WIRES, InferRequest
from server.application import create_app
from tests.models import FEATURES, keras, models

__all__ = ["keras", "models"]  # fixtures

HOME = str(Path(package.__file__).parent.parent)
CONFIG = str(Path(package.__file__).with_name("gunicorn.conf.py"))


@pytest.fixture(scope="session")
def rows():
    """A table of features, (100, 8)."""
    return np.random.default_rng(7).normal(size=(100, FEATURES)).astype("f4")


@pytest.fixture(scope="session")
def expected(models, keras, rows):
    """What the models "mlp" and "other" predict for `rows` in this process."""
    names = ("mlp", "other")
    return {name: keras.saving.load_model(models[name]).predict_on_batch(rows) for name in names}


@pytest.fixture(scope="session")
def make_app(models):
    """Make an application around a model and give its test client, once the model is ready."""

    def make(model="mlp", **config):
        defaults = {"MODEL_PATH": models[model], "MODEL_POLL_SECONDS": 0}
        app = create_app({**defaults, **config})
        client = app.test_client()
        client.serving = app.extensions["ruo"]
        client.serving.start()
        client.serving._tried.wait(60)
        return client

    return make


@pytest.fixture(scope="session")
def client(make_app):
    """A test client of the application around the model "mlp"."""
    return make_app()


@pytest.fixture(scope="session")
def serve():
    """Start a real server with settings: ``with serve(path, workers=2, MAX_WAITING=1) as server:``.

    OpenVINO computes unless another KERAS_BACKEND is named: it starts in half the time.
    """

    @contextmanager
    def start(model, workers=1, **settings):
        with local_server(model, workers=workers, settings={"KERAS_BACKEND": "openvino", **settings}) as server:
            yield server

    return start


@pytest.fixture(scope="session")
def gunicorn(free_port):
    """Start Gunicorn as a user does: ``with gunicorn(model, *options, **settings) as server:``, with one worker.

    `config` are Gunicorn's settings, and `before` is the command that runs it.
    """

    @contextmanager
    def start(model, *options, config=("-c", CONFIG), before=(), bind=None, **settings):
        port = free_port()
        address = bind or f"127.0.0.1:{port}"
        command = [*before, sys.executable, "-m", "gunicorn", *config, "-b", address, *options, "server:app"]
        given = {"KERAS_BACKEND": "openvino", "PYTHONPATH": HOME, "MODEL_PATH": str(model), "WEB_CONCURRENCY": "1"}
        with server_process("The server", command, {**os.environ, **given, **settings}) as process:
            yield LocalServer(model, int(settings.get("WEB_CONCURRENCY", 1)), process, port)

    return start


@pytest.fixture(scope="session")
def free_port():
    """Give a port that nobody listens on."""

    def find():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def four_workers(serve, models):
    """A real server of the model "mlp" with four workers."""
    with serve(
        models["mlp"], workers=4, LOG_LEVEL="info", LOG_FORMAT="json", POD_NAME="pod-7", KERAS_BACKEND="tensorflow"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def body_of():
    """A request's headers and its body in one piece, on a wire: ``body_of("v2", x=array)``."""

    def encode(wire, **tensors):
        encoded = WIRES[wire].encode_request(InferRequest(tensors))
        return SimpleNamespace(headers=encoded.headers, data=b"".join(bytes(buffer) for buffer in encoded.buffers))

    return encode


@pytest.fixture(scope="session")
def ask():
    """One request on a connection of its own: status, headers, body, and the seconds that it took."""

    def request(url, data=None, headers=(), timeout=60):
        began = time.monotonic()
        question = urllib.request.Request(url, data, dict(headers))
        try:
            with urllib.request.urlopen(question, timeout=timeout) as answer:
                status, given, body = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, given, body = error.code, error.headers, error.read()
        seconds = time.monotonic() - began
        return SimpleNamespace(status=status, headers=given, body=body, json=lambda: json.loads(body), seconds=seconds)

    return request

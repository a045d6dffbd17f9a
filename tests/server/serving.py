"""Real servers: as users of `ruo` start them, and as users of Gunicorn do."""

import os
import socket
import sys
from contextlib import contextmanager
from pathlib import Path

import server as package
from ruo import local_server
from ruo.deploy.local import LocalServer, server_process

HOME = Path(package.__file__).parent.parent
CONFIG = Path(package.__file__).with_name("gunicorn.conf.py")


def serve(model, workers=1, **settings):
    """A server with settings, of OpenVINO, which starts sooner: ``with serve(path, workers=2, MAX_WAITING=1) as server:``."""
    return local_server(model, workers=workers, settings={"KERAS_BACKEND": "openvino", **settings})


@contextmanager
def gunicorn(model, *options, config=("-c", str(CONFIG)), before=(), bind=None, **settings):
    """Gunicorn, with one worker unless WEB_CONCURRENCY says otherwise: ``with gunicorn(path, "-w", "2") as server:``.

    `config` are Gunicorn's settings, and `before` is the command that runs it.
    """
    port = free_port()
    address = bind or f"127.0.0.1:{port}"
    command = [*before, sys.executable, "-m", "gunicorn", *config, "-b", address, *options, "server:app"]
    given = {"KERAS_BACKEND": "openvino", "PYTHONPATH": str(HOME), "MODEL_PATH": str(model), "WEB_CONCURRENCY": "1"}
    with server_process("The server", command, {**os.environ, **given, **settings}) as process:
        yield LocalServer(model, int(settings.get("WEB_CONCURRENCY", 1)), process, f"http://127.0.0.1:{port}")


def free_port():
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]

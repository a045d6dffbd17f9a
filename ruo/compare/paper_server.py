"""The server of 2023 on this machine, until a block ends."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from ruo.compare.jobs import job_environment
from ruo.deploy.process import ServerProcess, fetch, server_process

_WORKERS = 4  # as many as it had
_WARM_ROWS = 10_000
_READY_S = 180.0
# Keras is imported once, before the workers are forked: four times as fast, and outside of what is measured.
_START = "import keras; from gunicorn.app.wsgiapp import run; run()"


class PaperServer:
    """The server of 2023. `url` is its only endpoint, `pid` the id of its process session."""

    def __init__(self, process: ServerProcess, port: int, testset: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/test"
        self.pid = process.pid
        self._process = process
        rows = pl.read_csv(testset, n_rows=_WARM_ROWS)
        features = [name for name in rows.columns if "Label_" not in name]
        self._body = json.dumps(json.dumps(rows.select(features).to_numpy().tolist())).encode()

    def warm(self) -> None:
        """Send requests until every worker has loaded its model: it does so at its first, and again after a kill.

        Raises DeploymentError where the server cannot score, has ended or needs too long.
        """
        self._process.wait_until(self._is_warm, _READY_S)

    def _is_warm(self) -> bool:
        loaded = set(re.findall(r"\[(\d+)\] \[INFO\] Model loaded", self._process.log_text()))
        if sum(_is_running(int(pid)) for pid in loaded) == _WORKERS:
            return True
        # a worker that loads its model takes no second request, so each of these reaches another worker
        with ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(self._post, [self._body] * _WORKERS))
        return False

    def _post(self, body: bytes) -> None:
        answer = fetch(self.url, body, {"Content-Type": "application/json"}, timeout_s=60)
        if answer is None:
            time.sleep(0.2)  # it does not listen yet
        elif answer[0] >= 400:
            raise self._process.error(f"cannot score (status {answer[0]})")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def paper_server(model: Path, testset: Path) -> Iterator[PaperServer]:
    """Run the server of 2023 on a free port, warm, until the block ends; the rows that warm it are of the test set."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        options = ["--workers", str(_WORKERS), "--bind", f"fd://{fd}", "--log-level", "debug", "--no-control-socket"]
        command = [sys.executable, "-c", _START, *options, "--preload", "ruo.compare.paper.server:app"]
        environment = {**job_environment(), "MODEL_PATH": str(model)}
        # no grace: it has nothing to finish
        with server_process("The paper's server", command, environment, grace_s=0, pass_fds=[fd]) as process:
            listener.close()
            server = PaperServer(process, port, testset)
            server.warm()
            yield server

"""Other servers of the Open Inference Protocol, each in an environment of its own, with a model that adds up rows."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """2,500 rows of three features."""
    return np.random.default_rng(0).normal(size=(2_500, 3)).astype("f4")


@pytest.fixture(scope="session")
def table(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows as a file."""
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    pl.DataFrame(rows, ["a", "b", "c"]).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def expected(rows: np.ndarray) -> np.ndarray:
    """What the models say: each row's sum and maximum."""
    return np.stack([rows.sum(axis=1), rows.max(axis=1)], axis=1)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Run a server's command until the block ends, and wait until its model is ready."""

    @contextmanager
    def run(command: list[str], url: str, cwd: Path) -> Iterator[str]:
        log = tmp_path_factory.mktemp("log") / "log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=cwd, stdout=output, stderr=output, env={**environ, "PYTHONPATH": str(cwd)}
            )
        try:
            until = time.monotonic() + 120
            while not is_ready(f"{url}/v2/models/sums/ready"):
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"{command[0]} did not come up: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return run


def is_ready(url: str) -> bool:
    """Whether the address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """So many ports that nobody listens on."""

    def find(count: int) -> list[int]:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        return ports

    return find

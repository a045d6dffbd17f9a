"""Other servers that are started for a benchmark."""

import sys
from pathlib import Path

import pytest

from benchmarks.peers.servers import free_ports, running
from ruo.deploy.local import fetch
from ruo.errors import DeploymentError


def test_a_peer_runs_until_the_block_ends(tmp_path: Path) -> None:
    """The block begins when the server answers, and nothing answers after it."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}/"
    with running([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], url, tmp_path):
        assert fetch(url)[0] == 200
    assert fetch(url)[0] == 0


def test_a_peer_that_ends_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    """A server that does not come up is named, with its status and its last words."""
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(DeploymentError, match=r"python\S* ended with status 1\. Its log says: no such model"),
        running(command, "http://127.0.0.1:9/", tmp_path),
    ):
        pass

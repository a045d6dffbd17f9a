"""The simulated network is as slow as it says, loses nothing, and is measured rightly."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ruo import score_csv
from ruo.deploy.local import LocalServer
from ruo.errors import DeploymentError
from ruo.experiment.network import measure_network, slow_network
from ruo.learn.demo import Demo


def test_everything_arrives(demo: Demo, server: LocalServer, expected: np.ndarray) -> None:
    """The predictions over a slow network are those of the model, whatever the request size."""
    with slow_network(server.url, round_trip_ms=4, megabits=200) as url:
        for size in (100, None):
            scores = score_csv(demo.testset, url, chunk_size=size, retries=0)
            np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)


def test_a_link_takes_at_least_its_time(demo: Demo, server: LocalServer) -> None:
    """2,500 rows of 256 bytes need 0.32 s at 16 Mbit/s, and a request two round trips: one to connect, one to be answered."""
    with slow_network(server.url, round_trip_ms=50, megabits=16) as url:
        scores = score_csv(demo.testset, url, chunk_size=None, retries=0)
    assert scores.timings.sending_s > 0.32 + 0.1


def test_a_network_is_measured(demo: Demo, server: LocalServer) -> None:
    """What was set is what is found: two round trips for a request, and the link's rate, within a machine's noise."""
    with slow_network(server.url, round_trip_ms=40, megabits=40) as url:
        found = measure_network(demo.testset, url, rows=2_000, tries=3)
    assert 0.08 < found.request_s < 0.2
    assert 0.5 * 5e6 < found.bytes_per_s < 1.6 * 5e6
    assert "Mbit/s" in found.sentence()


def test_this_machine_is_faster_than_a_slow_link(demo: Demo, server: LocalServer) -> None:
    """Without a link in between, a request takes less than the round trips of the slow one."""
    assert measure_network(demo.testset, server.url, rows=2_000, tries=3).request_s < 0.08


def test_the_link_ends_with_its_block(demo: Demo, server: LocalServer) -> None:
    """After the block nothing answers at the address any more."""
    with slow_network(server.url, 1, 1000) as url:
        pass
    began = time.monotonic()
    with pytest.raises(Exception, match="Nothing answers"):
        score_csv(demo.testset, url, retries=0)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("arguments", [{"round_trip_ms": -1}, {"megabits": 0}])
def test_links_that_cannot_be(arguments: dict) -> None:
    """Time does not run backwards, and a link carries something."""
    with pytest.raises(DeploymentError, match="must be"), slow_network("http://localhost:1", **arguments):
        pass

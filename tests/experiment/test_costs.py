"""What a model computes; and the simulated network: as slow as it says, without a loss, and measured rightly."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest

from ruo import score_csv
from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError, DeploymentError
from ruo.experiment.costs import Network, flops_per_row, measure_network, slow_network
from ruo.learn.demo import Demo


@pytest.mark.parametrize(("link", "chunk_size", "least_s"), [((50, 16), None, 0.32 + 0.1), ((4, 200), 100, 0)])
def test_a_link_takes_its_time_and_ends_with_its_block(
    demo: Demo, server: LocalServer, expected: np.ndarray, link: tuple[float, float], chunk_size: int, least_s: float
) -> None:
    """All rows arrive rightly: 2,500 of 256 bytes need 0.32 s at 16 Mbit/s, a request two round trips; many pass at once."""
    before = set(psutil.Process().children())
    with slow_network(server.url, *link) as url:
        # else a notebook's kernel would wait for it at its end, and be killed before it has restored a cluster
        assert all(os.getpgid(child.pid) != os.getpgid(0) for child in {*psutil.Process().children()} - before)
        scores = score_csv(demo.testset, url, chunk_size=chunk_size, retries=0)
    np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)
    assert scores.timings.sending_s > least_s
    began = time.monotonic()
    with pytest.raises(Exception, match="Nothing answers"):
        score_csv(demo.testset, url, retries=0)
    assert time.monotonic() - began < 10


def test_a_network_is_measured(demo: Demo, server: LocalServer) -> None:
    """The network is measured as it was set, with two round trips for a request; without it a request takes less."""
    with slow_network(server.url, round_trip_ms=40, megabits=40) as url:
        network = measure_network(demo.testset, url, rows=2_000, tries=3)
    assert 0.08 < network.request_s < 0.2
    assert 0.5 * 5e6 < network.bytes_per_s < 1.6 * 5e6
    assert "Mbit/s" in network.sentence()
    assert measure_network(demo.testset, server.url, rows=2_000, tries=3).request_s < 0.08


def test_what_cannot_be_measured(scripted: Callable, answers: Callable) -> None:
    """A server that reports no times, a table of one row, and links that cannot be are refused."""
    url = scripted(answers).url
    rows = pl.DataFrame({name: np.arange(4.0) for name in "abc"})
    with pytest.raises(DeploymentError, match="reports no times"):
        measure_network(rows, url, tries=1)
    with pytest.raises(ArgumentError, match="has one row; pass a table of two rows or more"):
        measure_network(rows[:1], url)
    fast = Network(0.001, math.inf)  # where a large request took no longer than a small one
    assert fast.sentence().endswith("and bytes travel faster than can be measured with this table.")
    for link in ({"round_trip_ms": -1}, {"megabits": 0}):
        with pytest.raises(DeploymentError, match="must be"), slow_network(url, **link):
            pass


@pytest.mark.slow
def test_what_is_not_counted_has_no_number(demo: Demo, tmp_path: Path) -> None:
    """A layer that is used twice, and recurrent ones; looking up an embedding is no operation, a multiply-add is two."""
    import keras

    assert flops_per_row(demo.models["mlp"]) == 2 * (64 * 128 + 128 * 64 + 64 * 32 + 32 * 10)
    tokens = keras.Input((5,), dtype="int32")
    embedded = keras.layers.Embedding(7, 3)(tokens)
    shared = keras.layers.Dense(4)
    for counted, output in (
        (2 * 5 * 3 * 4, keras.layers.Dense(4)(embedded)),
        (None, shared(shared(keras.layers.Dense(4)(embedded)))),
        (None, keras.layers.LSTM(2)(embedded)),
        (None, keras.layers.Conv1DTranspose(4, 3, strides=2)(embedded)),
    ):
        keras.Model(tokens, output).save(tmp_path / "model.keras")
        assert flops_per_row(tmp_path / "model.keras") == counted

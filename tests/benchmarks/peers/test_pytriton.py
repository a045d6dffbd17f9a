"""A table scored by Triton itself, as PyTriton brings it."""

import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks.peers.servers import free_ports, programs_of, running
from ruo import ScoringError, score_csv
from ruo.errors import TableError
from tests.environments import had

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A running Triton."""
    if (platform.system(), platform.machine()) not in (("Linux", "x86_64"), ("Linux", "aarch64")):
        pytest.skip("PyTriton is made for Linux on x86 and ARM only")
    python = had(partial(programs_of, "pytriton")) / "python"
    here = Path(__file__).parent
    http, grpc, metrics = free_ports(3)
    command = [str(python), str(here / "pytriton_sums.py"), str(http), str(grpc), str(metrics)]
    model = f"http://127.0.0.1:{http}/v2/models/sums"
    with running(command, f"{model}/ready", here):
        yield model


@pytest.mark.parametrize("wire", ["v2", "v2-json"])
@pytest.mark.parametrize("chunk_size", [300, None, "auto"])
def test_a_table_is_scored(url: str, table: Path, expected: np.ndarray, wire: str, chunk_size: Any) -> None:
    """All rows come back right, in binary and in JSON, from the version that the metadata name."""
    scores = score_csv(table, url, chunk_size=chunk_size, concurrency=4, wire=wire)
    np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)
    assert scores.choices.wire == wire
    assert scores.model.version == "1"


def test_nan_passes(url: str, table: Path, expected: np.ndarray) -> None:
    """NaN in a row is the model's affair on the binary wire."""
    frame = pl.read_parquet(table).with_columns(a=pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("a"))
    scores = score_csv(frame, url)
    assert np.isnan(scores.predictions[7]).any()
    np.testing.assert_allclose(np.delete(scores.predictions, 7, 0), np.delete(expected, 7, 0), atol=1e-5)


def test_mistakes_are_sentences(url: str, table: Path) -> None:
    """A model that is not there, one that is not named, and a table of other columns."""
    with pytest.raises(ScoringError, match="unknown model: 'other' is not found"):
        score_csv(table, url.replace("sums", "other"))
    with pytest.raises(ScoringError, match="keeps its list of models to itself; name one"):
        score_csv(table, url.partition("/v2")[0])
    with pytest.raises(TableError, match="has 2 feature columns, model 'sums' takes 3"):
        score_csv(pl.read_parquet(table).drop("c"), url)

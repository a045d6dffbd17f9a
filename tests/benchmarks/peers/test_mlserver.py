"""A table scored by MLServer, which has no binary tensors."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.peers.servers import free_ports, programs_of, running
from ruo import ScoringError, iter_scores, score_csv
from ruo.errors import TableError
from tests.environments import had

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

SETTINGS = {
    "name": "sums",
    "implementation": "mlserver_sums.Sums",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    "parameters": {"version": "v1"},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running MLServer."""
    folder = tmp_path_factory.mktemp("mlserver")
    programs = had(partial(programs_of, "mlserver"))
    http, grpc, metrics = free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    models = folder / "models"
    models.mkdir()
    (models / "settings.json").write_text(json.dumps({**ports, "host": "127.0.0.1", "parallel_workers": 0}))
    (models / "model-settings.json").write_text(json.dumps(SETTINGS))
    shutil.copy(Path(__file__).parent / "mlserver_sums.py", models)
    address = f"http://127.0.0.1:{http}"
    with running([str(programs / "mlserver"), "start", str(models)], f"{address}/v2/models/sums/ready", models):
        yield address


@pytest.mark.parametrize("path", ["", "/v2/models/sums"])
def test_a_table_is_scored(url: str, table: Path, expected: np.ndarray, path: str) -> None:
    """All rows come back right, and JSON was spoken, without being asked for."""
    scores = score_csv(table, url + path, chunk_size=300)
    np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)
    assert scores.choices.wire == "v2-json"
    assert scores.model.version == "v1"


def test_sizes_are_found(url: str, table: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """Request size and concurrency can be chosen automatically, in blocks, with a checkpoint."""
    for _ in range(2):
        blocks = iter_scores(table, url, chunk_size="auto", concurrency="auto", checkpoint=tmp_path / "run.ruo")
        predictions = np.concatenate([block.predictions for block in blocks])
        np.testing.assert_allclose(predictions, expected, atol=1e-5)


def test_mistakes_are_sentences(url: str, table: Path) -> None:
    """A model that is not there, and a table of other columns."""
    with pytest.raises(ScoringError, match="404: Model other not found"):
        score_csv(table, f"{url}/v2/models/other")
    with pytest.raises(TableError, match="has 2 feature columns, model 'sums' takes 3"):
        score_csv(pl.read_parquet(table).drop("c"), url)

"""Other servers of the Open Inference Protocol, each in an environment of its own, with a model that adds up rows."""

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

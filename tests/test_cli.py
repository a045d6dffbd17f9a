"""The command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ruo.__main__ import main
from ruo.demo import Demo
from ruo.deployments import LocalServer


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_score_writes_the_predictions(
    demo: Demo, server: LocalServer, expected: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    """`ruo score` says what it did and writes a row of predictions per row of the table."""
    path = tmp_path / f"p.{suffix}"

    result = CliRunner().invoke(main, ["score", str(demo.testset), server.url, "-o", str(path), "--chunk-size", "500"])

    assert result.exit_code == 0, result.output
    assert "2,500 rows x 10 outputs" in result.output
    assert "5 requests" in result.output
    frame = pl.read_csv(path) if suffix == "csv" else pl.read_parquet(path)
    np.testing.assert_allclose(frame.drop("label").to_numpy(), expected, atol=1e-5)


def test_publish_says_the_version(demo: Demo, tmp_path: Path) -> None:
    """Each publishing of a model is the next version, in a folder of its own."""
    for number in (1, 2):
        result = CliRunner().invoke(main, ["publish", str(demo.models["mlp"]), str(tmp_path / "store")])
        assert result.output == f"{tmp_path / 'store'}: version {number}\n"

    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["score", "nothing.csv", "http://127.0.0.1:9"], "Error: nothing.csv does not exist"),
        (["score", __file__, "127.0.0.1:9"], "is not the address of a server"),
        (["score", __file__, "http://127.0.0.1:9", "-o", "p.txt"], "p.txt must end in .csv or .parquet"),
        (["score", __file__, "http://127.0.0.1:9", "--wire", "v9"], "wire='v9' is not known"),
        (["demo", "--rows", "0", "--out", "."], "rows=0 must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's mistake ends with a sentence and a status that is not 0, never with a traceback."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code != 0
    assert sentence in result.output
    assert "Traceback" not in result.output

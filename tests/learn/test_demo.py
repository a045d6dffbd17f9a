"""The demo's data and models."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo import table
from ruo.errors import ArgumentError, OutputError
from ruo.experiment import flops_per_row
from ruo.learn import make_flows, train
from ruo.learn.demo import Demo, make_demo, make_testset

pytestmark = pytest.mark.slow


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """The same seed gives the same test set, another seed another."""
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_testset(tmp_path / name, 300, seed)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(ArgumentError, match="rows=0 must be at least 1"):
        make_testset(tmp_path / "d", 0)


@pytest.mark.soak
def test_a_longer_test_set_begins_with_the_shorter(tmp_path: Path) -> None:
    """The first rows of a longer demo are those of a shorter one, across the pieces in which they are written."""
    make_testset(tmp_path / "short", 60_000)
    make_testset(tmp_path / "long", 110_000)
    assert (tmp_path / "long").read_bytes().startswith((tmp_path / "short").read_bytes())


def test_the_columns_are_pixels_and_one_hot_labels(demo: Demo) -> None:
    """64 features with fractions, then ten one-hot label columns; the dense model is right of over 95 % of the rows."""
    frame = pl.read_csv(demo.testset)
    assert [*frame.columns[:2], *frame.columns[63:66]] == ["pixel_0_0", "pixel_0_1", "pixel_7_7", "Label_0", "Label_1"]
    assert frame.shape == (2_500, 74)
    pixels, labels = frame[:, :64].to_numpy(), frame[:, 64:].to_numpy()
    assert (pixels % 1 != 0).mean() > 0.99
    assert (labels.sum(axis=1) == 1).all()
    assert set(np.unique(labels)) == {0, 1}
    assert (labels.sum(axis=0) > 150).all()
    assert demo.accuracy["mlp"] > 0.95


def test_training_and_test_rows_come_from_disjoint_originals() -> None:
    """No digit that trains a model is in the test set."""
    from ruo.learn.demo import _originals

    train, test, *_ = _originals(0)

    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}
    assert len(train) + len(test) == 1_797


@pytest.mark.soak
def test_the_models_are_the_same_for_a_seed_and_good(demo: Demo, tmp_path: Path) -> None:
    """Both models classify over 95 % of the unseen digits correctly, and the seed determines the dense one."""
    import keras

    again = make_demo(tmp_path, 10)

    assert min(again.accuracy.values()) > 0.95
    weights = [keras.saving.load_model(made.models["mlp"]).get_weights() for made in (demo, again)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert flops_per_row(again.models["cnn"]) >= 3e6
    assert keras.saving.load_model(again.models["cnn"]).input_shape == (None, 64)


def test_a_half_written_test_set_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails, neither a partial CSV nor its draft is left."""
    write, starts = pl.DataFrame.write_csv, iter([True])

    def fail_at_second(frame: pl.DataFrame, *args: object, **kwargs: object) -> None:
        if not next(starts, False):
            raise OSError("disk full")
        write(frame, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(pl.DataFrame, "write_csv", fail_at_second)
    with pytest.raises(OutputError, match="disk full"):
        make_testset(tmp_path / "t.csv", 120_000)
    assert list(tmp_path.iterdir()) == []


def test_flows_have_the_warts_of_a_download(tmp_path: Path) -> None:
    """Blanks, a name twice, Infinity and an encoding of Windows; a model that has learnt from the rest can be wrong."""
    path = make_flows(tmp_path / "flows.csv")
    assert b", Fwd Header Length," in path.read_bytes()
    assert b"Web Attack \x96 Brute Force" in path.read_bytes()
    flows = pd.read_csv(path, encoding="cp1252")
    is_finite = np.isfinite(flows.select_dtypes("number")).all(axis=1)
    assert 0 < (~is_finite).sum() < 100
    trained = train(table(flows[is_finite], label="Label", keep=["Flow ID"]), epochs=5)
    assert trained.classes == ("BENIGN", "DoS Hulk", "PortScan", "Web Attack – Brute Force")  # noqa: RUF001
    assert 0.85 < trained.accuracy.value < 0.97

"""Training on a labelled table: the parts, the model, and the verdict."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ruo import local_server, score_csv, tables
from ruo.errors import RuoError, TableError
from ruo.learn.training import Trained, train
from ruo.model.store import publish

pytestmark = pytest.mark.slow

FEATURES = ["a", "b", "c"]


def table(rows: int = 400, noise: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Two one-hot classes that depend on the columns a and b; b is a thousand times as large, c is noise."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, 3)).astype(np.float32)
    second = values[:, 0] + values[:, 1] + random.normal(scale=noise, size=rows) > 0
    values[:, 1] = 1000 * values[:, 1] + 5000
    frame = pd.DataFrame(values, columns=FEATURES)
    return frame.assign(Label_no=(~second).astype(int), Label_yes=second.astype(int))


def raw(frame: pd.DataFrame) -> np.ndarray:
    return frame[FEATURES].to_numpy(np.float32)


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    table().to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def trained(csv: Path) -> Trained:
    return train(csv, units=[16], epochs=15)


def test_it_learns_columns_of_any_scale(trained: Trained) -> None:
    """Most unseen rows are classified correctly; history, table and verdict say so, with interval and baseline."""
    assert trained.accuracy.value > 0.85
    assert trained.classes == ("no", "yes")
    assert trained.features == tuple(FEATURES)
    assert trained.accuracy.low < trained.accuracy.value < trained.accuracy.high
    assert "<td>400</td> <td>3</td> <td>2</td>" in " ".join(trained._repr_html_().split())
    assert list(trained.history.columns) == ["epoch", "loss", "validation_loss", "accuracy", "validation_accuracy"]
    assert list(trained.history["epoch"]) == list(range(1, len(trained.history) + 1))
    assert trained.best_epoch == trained.history.set_index("epoch")["validation_loss"].idxmin()
    words = trained.verdict()
    assert words.startswith("We see that:\n- ")
    said = ("95 % interval", "better than always answering class", "No overfitting is seen", "of a later time")
    for sentence in ("of 80 unseen test rows", *said, "What may not be concluded:"):
        assert sentence in words


def test_classes_may_be_names_in_one_column() -> None:
    """They are numbered in sorted order, as the model's outputs are; a row without one is named."""
    frame = table()
    named = frame[FEATURES].assign(Label=np.where(frame["Label_yes"] == 1, "yes", "no"))

    trained = train(tables.table(named, label="Label"), units=[16], epochs=15)

    assert trained.classes == ("no", "yes")
    assert trained.accuracy.value > 0.85
    with pytest.raises(TableError, match="row 7 has no class"):
        train(tables.table(named.assign(Label=named["Label"].where(named.index != 7)), label="Label"))


def test_the_parts_are_disjoint_and_all(trained: Trained) -> None:
    """Every row is in one part, three fifths in the training part; the accuracy is that of the test part."""
    assert [len(part) for part in trained.parts] == [240, 80, 80]
    assert sorted(np.concatenate(trained.parts)) == list(range(400))
    frame = table().iloc[trained.parts.test]
    answers = trained.model.predict(raw(frame), verbose=0).argmax(axis=1)
    assert trained.accuracy.value == pytest.approx((answers == frame["Label_yes"]).mean())
    frequent, baseline = trained.evaluation.baseline
    assert baseline == pytest.approx((frame[f"Label_{frequent}"] == 1).mean())


def test_the_weights_are_those_of_the_best_epoch() -> None:
    """The model's loss on the validation rows is the lowest of the history, not the last."""
    frame = table(120, noise=2.0)
    result = train(frame, units=[64], epochs=40, patience=3)
    assert result.best_epoch < len(result.history) < 40
    held = frame.iloc[result.parts.validation]
    right = np.take_along_axis(result.model.predict(raw(held), verbose=0), held[["Label_yes"]].to_numpy(), axis=1)
    assert -np.log(right).mean() == pytest.approx(result.history["validation_loss"].min(), rel=1e-3)


@pytest.mark.soak
def test_the_verdict_on_overfitting_and_early_stopping() -> None:
    """A wide network memorises a few rows: the verdict says that it overfits, and that training stopped early."""
    frame = table(120, noise=2.0)
    for number, column in enumerate(np.random.default_rng(1).normal(size=(30, len(frame)))):
        frame[f"more_{number}"] = column
    words = train(frame, units=[256, 128], epochs=100, patience=8).verdict()
    assert "Training stopped early, after" in words
    assert "It overfits" in words
    assert "No overfitting" not in words


def test_labels_that_mean_nothing_do_not_beat_the_baseline() -> None:
    """The verdict does not call a model that has learnt nothing better than the baseline."""
    frame = table(300)
    lots = np.random.default_rng(1).integers(0, 2, len(frame))
    words = train(frame.assign(Label_no=1 - lots, Label_yes=lots), units=[8], epochs=5).verdict()
    assert "better than" not in words


def test_the_scaling_does_not_see_what_is_held_out(trained: Trained) -> None:
    """The scaling is that of the training rows; other values in the held-out rows do not change it."""
    frame = table()
    part = raw(frame.iloc[trained.parts.training]).astype(float)
    scaling = trained.scaling()
    assert scaling["feature"].tolist() == FEATURES
    np.testing.assert_allclose(scaling["mean"], part.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scaling["deviation"], part.std(axis=0), rtol=1e-4)
    held = np.concatenate([trained.parts.validation, trained.parts.test])
    frame.loc[held, FEATURES] = frame.loc[held, FEATURES] * 1000
    pd.testing.assert_frame_equal(train(frame, units=[16], epochs=1).scaling(), scaling, check_exact=True)


@pytest.mark.soak
def test_a_column_that_never_changed_does_no_harm_when_it_does() -> None:
    """A feature that was constant in training does not dominate when it differs later."""
    result = train(table().assign(c=7.5), units=[16], epochs=15)
    rows = raw(table().assign(c=8.0))
    assert (result.model.predict(rows, verbose=0).argmax(axis=1) == table()["Label_yes"]).mean() > 0.8


def test_the_saved_model_takes_raw_rows(trained: Trained, csv: Path, tmp_path: Path) -> None:
    """The file, loaded in safe mode, and `predict` give the probabilities of the model in memory for the raw rows."""
    import keras

    expected = trained.model.predict(raw(table()), verbose=0)
    np.testing.assert_allclose(trained.predict(csv), expected, atol=1e-6)
    trained.save(tmp_path, ["It was served too."])
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    np.testing.assert_allclose(loaded.predict(raw(pd.read_csv(csv)), verbose=0), expected, atol=1e-6)
    assert (tmp_path / "verdict.txt").read_text() == trained.verdict(["It was served too."]) + "\n"
    assert "\n- It was served too.\n" in trained.verdict(["It was served too."])
    assert len(pd.read_csv(tmp_path / "history.csv")) == len(trained.history)


def test_a_trained_model_knows_its_columns(trained: Trained, tmp_path: Path) -> None:
    """In any order of a table it gives the same answers, in this process and served; a wrong order is an error."""
    turned = table()[["c", "Label_yes", "b", "a", "Label_no"]]
    expected = trained.model.predict(raw(table()), verbose=0)
    trained.save(tmp_path)

    np.testing.assert_allclose(trained.predict(turned), expected, atol=1e-6)
    np.testing.assert_allclose(trained.predict(raw(table())), expected, atol=1e-6)
    with local_server(tmp_path / "model.keras", workers=1, settings={"KERAS_BACKEND": "openvino"}) as server:
        assert score_csv(turned, server.url).model.features == ("a", "b", "c")
        np.testing.assert_allclose(score_csv(turned, server.url).predictions, expected, atol=1e-5)
        np.testing.assert_allclose(score_csv(raw(table()), server.url).predictions, expected, atol=1e-5)
        v1 = score_csv(turned, f"{server.url}/v1/models/model")
        np.testing.assert_allclose(v1.predictions, expected, atol=1e-5)
        with pytest.raises(TableError, match="'c' is named where model 'model' takes 'a'"):
            score_csv(turned, server.url, columns=["c", "b", "a"])


@pytest.mark.soak
def test_a_published_model_is_served_and_answers_alike(trained: Trained, csv: Path, tmp_path: Path) -> None:
    """Published and served over HTTP, the model gives the same probabilities."""
    assert publish(trained.model, tmp_path / "store") == "1"
    with local_server(tmp_path / "store", workers=1) as server:
        scores = score_csv(csv, server.url)
    assert scores.model.version == "1"
    np.testing.assert_allclose(scores.predictions, trained.model.predict(raw(table()), verbose=0), atol=1e-5)
    test = trained.parts.test
    served = (scores.predictions[test].argmax(axis=1) == scores.labels[test]).mean()
    assert served == pytest.approx(trained.accuracy.value)


@pytest.mark.soak
def test_the_seed_decides() -> None:
    """The same seed gives the same history, parts and weights; another gives others."""
    one, same, other = (train(table(), units=[8], epochs=2, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one.history, same.history)
    for first, second in zip(one.model.get_weights(), same.model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one.parts.test, same.parts.test)
    assert list(one.parts.test) != list(other.parts.test)


@pytest.mark.soak
def test_one_column_of_whole_numbers() -> None:
    """A single column of classes 0, 1, ... works like one-hot columns, and its whole name may be the prefix."""
    frame = table()
    numbers = frame[FEATURES].assign(kind=frame["Label_yes"])
    one_hot, single = train(frame, units=[8], epochs=2), train(numbers, units=[8], epochs=2, label_prefix="kind")
    assert single.classes == ("0", "1")
    pd.testing.assert_frame_equal(one_hot.history, single.history)


@pytest.mark.soak
def test_units_shape_the_network() -> None:
    """Each number is a hidden layer; without any, the features go straight to the classes."""
    deep, flat = (train(table(), units=units, epochs=1).model for units in ([5, 4], []))
    assert [weights.shape for weights in deep.trainable_weights] == [(3, 5), (5,), (5, 4), (4,), (4, 2), (2,)]
    assert [weights.shape for weights in flat.trainable_weights] == [(3, 2), (2,)]


@pytest.mark.soak
def test_max_rows_draws_from_the_whole_table() -> None:
    """Only `max_rows` rows are used, drawn from all blocks of the table; the shares of the parts are kept."""
    frame = table(50_000)
    result = train(frame, units=[], epochs=1, max_rows=500, validation=0.1, test=0.3)
    assert [len(part) for part in result.parts] == [300, 50, 150]
    numbers = np.concatenate(result.parts)
    assert len(set(numbers)) == 500
    assert {*(numbers // 10_000)} == {0, 1, 2, 3, 4}
    part = raw(frame.iloc[result.parts.training]).astype(float)
    np.testing.assert_allclose(np.ravel(result.model.get_layer("scaling").mean), part.mean(axis=0), rtol=1e-5)


def test_repeated_rows_are_in_the_verdict() -> None:
    """Test rows that are in the training part too are counted, and the verdict says so."""
    frame = pd.concat([table(100)] * 3)
    result, values = train(frame, units=[], epochs=1), raw(frame)
    known = {row.tobytes() for row in values[result.parts.training]}
    assert result.repeated == sum(row.tobytes() in known for row in values[result.parts.test]) > 0
    assert f"{result.repeated} of the test rows are in the training part too" in result.verdict()


BARE = table(100)[FEATURES]
NAMED = tables.table(BARE.assign(x=["cat", "dog", *[None] * 98]), label="x")


def _with(column: str, row: int, value: float) -> pd.DataFrame:
    frame = table(100).astype(float)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "options", "sentence"),
    [
        (BARE, {}, "has no labels"),
        (table(100).assign(Label_no=1, Label_yes=0), {}, "only one class in 100 rows"),
        (table(1), {}, "only one class in 1 row; there is nothing to learn"),
        (table(49), {}, "gives 49 rows; parts of at least 10 rows need 50"),
        (_with("b", 17, np.nan), {}, 'row 17, column "b": nan cannot be learnt from'),
        (_with("c", 18, np.inf), {}, 'row 18, column "c": inf cannot be learnt from'),
        (_with("Label_no", 19, 2), {}, "row 19 has no class; give it a single 1 among"),
        (BARE.assign(Label_x=-1), {}, "row 0 has no class; give it a whole number"),
        (
            BARE.assign(Label_x=["cat", "dog"] * 50),
            {},
            "row 0 has no class; give it a whole number from 0 up (ruo.table(..., label='Label_x') takes names), or",
        ),
        (NAMED, {}, "row 2 has no class; give it a name, or leave the row out"),
        (BARE.assign(Label_x=[0, 50_000] * 50), {}, "has the class 50,000; number the classes from 0"),
        (table(100), {"epochs": 0}, "epochs: 0 is not a whole number from 1 up"),
        (table(100), {"units": [8, 0.5]}, "units=[8, 0.5] must be a list of whole numbers"),
        (table(100), {"max_rows": "many"}, "max_rows='many' must be a whole number or None"),
        (table(100), {"seed": -1}, "seed: -1 is not a whole number from 0 to 2**32 - 1"),
        (table(100), {"seed": 1 << 32}, "seed: 4294967296 is not a whole number from 0 to 2**32 - 1"),
        (table(100), {"patience": True}, "patience=True must be a whole number"),
        (table(100), {"validation": 0}, "validation=0 and test=0.2 must be above 0"),
        (table(100), {"validation": 0.5, "test": 0.5}, "leave rows to train with"),
    ],
)
def test_what_cannot_be_learnt_from(frame: pd.DataFrame, options: dict, sentence: str) -> None:
    """One sentence says what is wrong with the table, and where, or which keyword is wrong."""
    with pytest.raises(RuoError, match=rf"^[^\n]*{re.escape(sentence)}[^\n]*$"):
        train(frame, **{"epochs": 1, **options})


def test_as_many_rows_as_the_error_asks_for_are_enough() -> None:
    """A table of 49 rows is told that it needs 50, and 50 are trained on."""
    trained = train(table(50), units=[], epochs=1)
    assert sum(map(len, trained.parts)) == 50
    # one epoch shows no fall
    assert "- Training ran for the maximum of 1 epoch. The model has the weights of epoch 1." in trained.verdict()


def test_another_backend_is_refused(csv: Path) -> None:
    """A KERAS_BACKEND that cannot train is refused in one sentence."""
    program = f"from ruo.learn.training import train; train({str(csv)!r}, epochs=1)"
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    said = "ArgumentError: KERAS_BACKEND=numpy cannot train; unset it to train with TensorFlow."
    assert done.stderr.splitlines()[-1].endswith(said)

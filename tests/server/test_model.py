"""One loaded model: every format gives the predictions that Keras gives in this process."""

import re

import numpy as np
import pytest

from ruo.errors import ModelError
from ruo.model.loading import load_model
from ruo.model.signature import ROWS_PER_CALL, Model, TensorSpec, decode_raw
from ruo.wire import ONLY, WireError
from server.scheduler import Scheduler
from tests.server.models.kinds import SAVERS


def predict(model, tensors):
    return dict(zip([spec.name for spec in model.outputs], model.run(model.fit(tensors)), strict=True))


@pytest.fixture(scope="module")
def mlp(models):
    return load_model(models["mlp"])


@pytest.fixture(scope="module")
def two(models):
    return load_model(models["two"])


@pytest.mark.parametrize("name", ["mlp", "mlp.h5", "saved"])
def test_every_format_predicts_as_keras_does(models, rows, expected, tmp_path, monkeypatch, name):
    """A .keras file, an .h5 file and a SavedModel of one model; no temporary file is left, even until the process ends."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = load_model(models[name], trusted=True)
    (predictions,) = predict(model, {model.inputs[0].name: rows}).values()
    np.testing.assert_allclose(predictions, expected["mlp"], atol=1e-6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SAVERS)
def test_a_row_that_is_not_finite_gets_what_keras_says_of_it_from_every_format(keras, tmp_path, name):
    """NaN from a plain model with relu, also where the CPU's compiled activations would answer with a number."""
    dense = keras.layers.Dense
    keras_model = keras.Sequential([keras.Input((8,)), dense(64, "relu"), dense(16, "relu"), dense(3, "softmax")])
    SAVERS[name](keras_model, tmp_path / name)
    model = load_model(tmp_path / name, trusted=True)
    rows = np.random.default_rng(0).normal(size=(ROWS_PER_CALL, 8)).astype("f4")
    (before,) = model.run([rows])
    odd = [3, 17, 299]
    rows[odd, [0, 5, 7]] = np.nan, np.inf, -np.inf
    (predictions,) = model.run([rows])
    assert np.isnan(predictions[odd]).all()
    np.testing.assert_allclose(predictions, keras_model(rows), atol=1e-6)
    np.testing.assert_array_equal(np.delete(predictions, odd, axis=0), np.delete(before, odd, axis=0))


@pytest.mark.parametrize(
    ("name", "answer"),
    [*((name, "1, 4] for 4 ") for name in SAVERS if name != "model.h5"), ("model.h5", "2, 4] for 1")],
)
def test_a_model_without_one_row_for_each_row_is_not_loaded(keras, tmp_path, name, answer):
    """A mean over the rows, or every row twice, in every format: the error names the output and the shapes."""
    inputs = keras.Input((4,))
    if name == "model.h5":  # which has layers only
        outputs = keras.layers.Concatenate(axis=0)([inputs, inputs])
    else:
        outputs = keras.ops.mean(inputs, axis=0, keepdims=True)
    SAVERS[name](keras.Model(inputs, outputs), tmp_path / name)
    with pytest.raises(ModelError, match=re.escape(answer)) as refusal:
        load_model(tmp_path / name, trusted=True)
    assert "cannot be loaded: Output " in str(refusal.value)


@pytest.mark.slow
def test_every_call_of_a_request_has_one_row_for_each_row(tmp_path):
    """Rows that a model leaves out are noticed at the first answer, also where another call adds as many."""
    import tensorflow as tf

    class Uneven(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.float32)])
        def __call__(self, x):
            return {"y": tf.repeat(x, tf.cast(x[:, 0], tf.int32) + 1, axis=0)}

    module = Uneven()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    model = load_model(tmp_path, trusted=True)
    rows = np.zeros((2 * ROWS_PER_CALL, 1), np.float32)
    assert len(Scheduler().run(model, [rows])[0][0]) == len(rows)
    rows[0], rows[-1] = -1, 1
    with pytest.raises(WireError, match=rf'"y" .* \[{ROWS_PER_CALL - 1}, 1\] for {ROWS_PER_CALL} rows') as refusal:
        Scheduler().run(model, [rows])
    assert refusal.value.status == 500


@pytest.mark.slow
def test_the_tensors_of_a_saved_model_are_ordered_by_their_names(tmp_path):
    """Whoever takes them by their place gets the same ones from every worker; TensorFlow's own order is one of chance."""
    import tensorflow as tf

    module, names = tf.Module(), [f"x_{number}" for number in range(12)]
    module.call = tf.function(lambda **given: {f"y{name}": -values for name, values in given.items()}, autograph=False)
    specs = {name: tf.TensorSpec((None, 1), tf.float32, name) for name in names}
    signature = module.call.get_concrete_function(**specs)
    tf.saved_model.save(module, str(tmp_path), signatures=signature)
    model = load_model(tmp_path, trusted=True)
    assert [spec.name for spec in model.inputs] == names
    assert [spec.name for spec in model.outputs] == [f"y{name}" for name in names]
    rows = [np.full((1, 1), number, np.float32) for number in range(12)]
    assert [output.item() for output in model.run(rows)] == [-number for number in range(12)]


def test_a_model_that_mends_nan_gets_to_do_so(keras, tmp_path):
    """Operation by operation: a number where Keras says so, in rows of several calls."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu")(keras.ops.nan_to_num(inputs))
    keras_model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    keras_model.save(tmp_path / "model.keras")
    rows = np.random.default_rng(0).normal(size=(ROWS_PER_CALL + 9, 4)).astype("f4")
    rows[[3, ROWS_PER_CALL + 2], 1] = np.nan
    (predictions,) = predict(load_model(tmp_path / "model.keras"), {ONLY: rows}).values()
    np.testing.assert_allclose(predictions, keras_model(rows), atol=1e-6)
    assert np.isfinite(predictions).all()


def test_tensors_are_described(two):
    """Beside what test_application.py asks: datatypes, and the shapes of several outputs."""
    assert [(spec.name, spec.dtype.name) for spec in two.inputs] == [("a", "float32"), ("b", "int32")]
    assert [spec.shape for spec in two.outputs] == [(-1, 1), (-1, 2)]


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
def test_every_datatype_is_converted(mlp, dtype):
    """Numbers of any datatype are converted to what the model takes."""
    np.testing.assert_array_equal(*[predict(mlp, {"x": np.ones((2, 8), kind)})["y"] for kind in (dtype, "f4")])


def test_a_number_too_large_for_float32_is_infinity(two):
    """A float64 that float32 cannot hold becomes Infinity without a warning, as a cast does."""
    outputs = predict(two, {"a": np.full((1, 2), 1e300), "b": np.ones((1, 3))})
    assert not np.isfinite(outputs["left"]).any()


@pytest.mark.parametrize(
    ("name", "tensors", "says"),
    [
        ("mlp", {"x": np.zeros((2, 2, 4))}, "[2, 2, 4]"),
        ("mlp", {"x": np.zeros((2, 8)), "z": np.zeros((2, 8))}, 'no input "z"'),
        ("mlp", {}, '"x" is missing'),
        ("image", {ONLY: np.zeros((4, 8))}, "takes"),
        ("two", {ONLY: np.zeros((3, 2))}, '"a", "b"'),
        ("two", {"a": np.zeros((2, 2)), "b": np.zeros((3, 3))}, "numbers of rows"),
        ("two", {"a": np.zeros((1, 2)), "b": np.array([[1.0, 2.0, 2.5]])}, "INT32"),
    ],
)
def test_what_does_not_fit_is_named(models, name, tensors, says):
    """Beside what test_application.py sends: the sentence says what the model takes; nothing is rounded."""
    with pytest.raises(WireError) as refusal:
        load_model(models[name]).fit(tensors)
    assert says in str(refusal.value)
    assert refusal.value.status == 400


def test_what_fits_is_taken(mlp, two, models):
    """A tensor without a name where there is one input, whole numbers as floats, no rows, and a flat row that fills an image."""
    for rows in (3, 0):
        assert predict(mlp, {ONLY: np.zeros((rows, 8), "f4")})["y"].shape == (rows, 3)
    assert sorted(predict(two, {"a": np.ones((1, 2)), "b": np.array([[1.0, 2.0, 3.0]])})) == ["left", "right"]
    image, values = load_model(models["image"]), np.arange(32, dtype="f4")
    flat, shaped = (predict(image, {ONLY: values.reshape(shape)}) for shape in ((2, 16), (2, 4, 4, 1)))
    np.testing.assert_array_equal(*flat.values(), *shaped.values())


def test_raw_bytes_are_rows():
    """A raw body is as many rows as it holds, of the model's datatype; anything else is refused."""
    spec = TensorSpec("x", np.dtype("f4"), (-1, 2))
    body = np.frombuffer(np.arange(6, dtype="f4").tobytes(), np.uint8)
    assert decode_raw(body, spec).tolist() == [[0, 1], [2, 3], [4, 5]]
    for wrong in (body[:-1], body[:0]):
        with pytest.raises(WireError, match="8 bytes a row"):
            decode_raw(wrong, spec)
    with pytest.raises(WireError, match=r"describe it: the model takes \[-1, -1, 2\] \(FP32"):  # steps are no rows
        decode_raw(body, spec._replace(shape=(-1, -1, 2)))


@pytest.mark.parametrize(("shape", "rows"), [((8,), 2048), ((224, 224, 3), 27), ((4096, 4096), 1)])
def test_a_call_takes_as_many_rows_as_fit(shape, rows):
    """Of a table 2,048, of large images fewer, and always at least one."""
    model = Model("any", [], [], run=lambda arrays: arrays)
    assert model.rows_per_call([np.empty((5, *shape), np.float32)]) == rows

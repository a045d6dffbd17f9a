"""One loaded model: every format gives the predictions that Keras gives in this process."""

import numpy as np
import pytest

from ruo.errors import ModelError
from ruo.model.compiled import ROWS_PER_CALL, compile_keras
from ruo.wire import ONLY, WireError
from server.model import TensorSpec, decode_raw, load_model


@pytest.fixture(scope="module")
def mlp(models):
    return load_model(models["mlp"])


@pytest.fixture(scope="module")
def two(models):
    return load_model(models["two"])


@pytest.mark.parametrize("name", ["mlp", "mlp.h5", "saved"])
def test_every_format_predicts_as_keras_does(models, rows, expected, name):
    """A .keras file, an .h5 file and a SavedModel directory of one model all give Keras' own predictions."""
    model = load_model(models[name], trusted=True)
    (predictions,) = model({model.inputs[0].name: rows}).values()
    np.testing.assert_allclose(predictions, expected["mlp"], atol=1e-6)


@pytest.mark.parametrize("mends", [False, True])
def test_a_row_with_nan_gets_what_keras_says_of_it(keras, tmp_path, mends):
    """Operation by operation: NaN on every CPU from a plain model, a number from one that knows what to do with NaN."""
    inputs = keras.Input((4,))
    known = keras.ops.nan_to_num(inputs) if mends else inputs
    hidden = keras.layers.Dense(8, activation="relu")(known)
    keras_model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    keras_model.save(tmp_path / "model.keras")
    rows = np.random.default_rng(0).normal(size=(ROWS_PER_CALL + 9, 4)).astype("f4")
    rows[[3, ROWS_PER_CALL + 2], 1] = np.nan

    (predictions,) = load_model(tmp_path / "model.keras")({ONLY: rows}).values()

    np.testing.assert_allclose(predictions, keras_model(rows), atol=1e-6)
    assert np.isnan(predictions[[3, ROWS_PER_CALL + 2]]).all() == (not mends)
    assert np.isfinite(np.delete(predictions, [3, ROWS_PER_CALL + 2], axis=0)).all()


def test_only_a_row_with_nan_is_computed_operation_by_operation(keras):
    """On every CPU, whatever its compiled activations make of NaN."""
    import tensorflow as tf

    class SaysHow(keras.layers.Layer):
        def call(self, x):
            return keras.ops.nan_to_num(x) * 0 + (1.0 if tf.executing_eagerly() else 2.0)

    inputs = keras.Input((2,))
    function = compile_keras(keras, keras.Model(inputs, SaysHow()(inputs)), "f32")

    (answers,) = function([np.array([[1, 2], [np.nan, 2], [3e38, 3e38], [1, np.inf]], np.float32)])

    np.testing.assert_array_equal(answers[:, 0], [2, 1, 2, 1])


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("writeable", [True, False])
def test_answers_do_not_change_with_the_rows(keras, shift, writeable):
    """Wherever the rows lie in memory, the answer of a model that gives its input back is a copy."""
    memory = np.zeros(4096, np.uint8)
    begin = -memory.ctypes.data % 64 + shift  # where a backend can use memory as it is, or not
    rows = memory[begin : begin + 160].view(np.float32).reshape(20, 2)
    rows[:] = np.arange(40).reshape(20, 2)
    wanted = rows.copy()
    inputs = keras.Input((2,))
    function = compile_keras(keras, keras.Model(inputs, keras.layers.Identity()(inputs)), "f32")
    rows.flags.writeable = writeable

    (answers,) = function([rows])
    memory[:] = 0

    np.testing.assert_array_equal(answers, wanted)


def test_what_calls_change_is_not_frozen(keras):
    """Weights become constants of the compiled model; the state of a random layer does not."""

    class Noise(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(1)

        def call(self, x):
            return x + keras.random.uniform((1, 2), seed=self.seed)

    inputs = keras.Input((2,))
    function = compile_keras(keras, keras.Model(inputs, Noise()(keras.layers.Dense(2)(inputs))), "f32")
    rows = np.ones((1, 2), np.float32)

    assert not np.array_equal(function([rows])[0], function([rows])[0])


@pytest.mark.parametrize("name", ["mlp.h5", "saved"])
def test_what_can_run_code_needs_trust(models, name):
    """Formats that can run code of their maker are refused unless they are trusted."""
    with pytest.raises(ModelError, match="RUO_TRUST_MODEL=1"):
        load_model(models[name])


def test_a_lambda_in_a_keras_file_is_refused_even_if_trusted(keras, tmp_path):
    """A .keras file is always loaded in safe mode: code inside it is not run."""
    path = tmp_path / "code.keras"
    keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda t: t + 1)]).save(path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(path, trusted=True)


def test_broken_files_are_model_errors(models, tmp_path):
    """A cut file, a wrong ending and an empty directory are refused with a sentence that names the original path."""
    with pytest.raises(ModelError, match="/models/a.keras cannot be loaded"):
        load_model(models["broken"], origin=tmp_path / "models" / "a.keras")
    (tmp_path / "model.txt").touch()
    (tmp_path / "empty").mkdir()
    for name, says in (("model.txt", "must end in"), ("empty", "saved_model.pb")):
        with pytest.raises(ModelError, match=says):
            load_model(tmp_path / name, trusted=True)


def test_a_model_without_a_shape_is_refused(keras, tmp_path):
    """A model that was never built does not say what it takes, so it cannot be served."""
    path = tmp_path / "unbuilt.keras"
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([keras.layers.Dense(2)]).save(path)
    with pytest.raises(ModelError, match="build it"):
        load_model(path)


def test_tensors_are_described(mlp, two):
    """Names, datatypes and shapes are those that the model was built with; the rows are free."""
    assert mlp.inputs == [TensorSpec("x", np.dtype("f4"), (-1, 8))]
    assert [spec.shape for spec in mlp.outputs] == [(-1, 3)]
    assert [(spec.name, spec.dtype.name) for spec in two.inputs] == [("a", "float32"), ("b", "int32")]
    assert [spec.shape for spec in two.outputs] == [(-1, 1), (-1, 2)]
    assert mlp.platform == "tensorflow_keras"


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
def test_every_datatype_is_converted(mlp, dtype):
    """Numbers of any datatype are converted to what the model takes."""
    ones = np.ones((2, 8))
    np.testing.assert_array_equal(*[next(iter(mlp({"x": ones.astype(kind)}).values())) for kind in (dtype, "f4")])


def test_a_fraction_is_not_cut_off(two):
    """A value that the model's integer input cannot hold is refused, not rounded."""
    b = np.array([[1.0, 2.0, 2.5]])
    with pytest.raises(WireError, match="INT32"):
        two({"a": np.ones((1, 2)), "b": b})
    assert sorted(two({"a": np.ones((1, 2)), "b": np.floor(b)})) == ["left", "right"]


def test_a_number_too_large_for_float32_is_infinity(two):
    """A float64 that float32 cannot hold becomes Infinity without a warning, as a cast does."""
    outputs = two({"a": np.full((1, 2), 1e300), "b": np.ones((1, 3))})
    assert not np.isfinite(outputs["left"]).any()


def test_inputs_without_a_name_go_to_the_only_input(mlp, two):
    """A tensor without a name fits a model with one input, and only that."""
    assert len(next(iter(mlp({ONLY: np.zeros((3, 8))}).values()))) == 3
    with pytest.raises(WireError, match='"a", "b"'):
        two({ONLY: np.zeros((3, 2))})


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"x": (8,)}, "model takes"),
        ({"x": (2, 7)}, "[2, 7]"),
        ({"x": (2, 2, 4)}, "[2, 2, 4]"),
        ({"x": ()}, "single number"),
        ({"z": (2, 8)}, 'no input "z"'),
        ({"x": (2, 8), "z": (2, 8)}, 'no input "z"'),
        ({}, '"x" is missing'),
    ],
)
def test_what_does_not_fit_is_named(mlp, tensors, says):
    """A wrong shape or name is refused with a sentence that says what the model takes."""
    with pytest.raises(WireError) as refusal:
        mlp.fit({name: np.zeros(shape) for name, shape in tensors.items()})
    assert says in str(refusal.value)


def test_inputs_must_have_the_same_rows(two):
    """Two inputs with different numbers of rows are refused."""
    with pytest.raises(WireError, match="numbers of rows"):
        two({"a": np.zeros((2, 2)), "b": np.zeros((3, 3))})


def test_a_flat_row_fills_an_image(models):
    """A row of a table may come flat where the model takes an image of as many values."""
    image = load_model(models["image"])
    values = np.arange(32, dtype="f4").reshape(2, 16)
    flat, shaped = image({ONLY: values}), image({ONLY: values.reshape(2, 4, 4, 1)})
    np.testing.assert_array_equal(*flat.values(), *shaped.values())
    with pytest.raises(WireError, match="takes"):
        image({ONLY: values.reshape(4, 8)})


def test_no_rows_give_no_predictions(mlp):
    """An empty table is scored to an empty array of the right width."""
    (outputs,) = mlp({"x": np.empty((0, 8), "f4")}).values()
    assert outputs.shape == (0, 3)


def test_raw_bytes_are_rows():
    """A raw body is as many rows as it holds, of the model's datatype; anything else is refused."""
    spec = TensorSpec("x", np.dtype("f4"), (-1, 2))
    body = np.frombuffer(np.arange(6, dtype="f4").tobytes(), np.uint8)
    assert decode_raw(body, spec).tolist() == [[0, 1], [2, 3], [4, 5]]
    for wrong in (body[:-1], body[:0]):
        with pytest.raises(WireError, match="8 bytes a row"):
            decode_raw(wrong, spec)


def test_half_precision_of_the_other_kind_is_widened(keras, tmp_path):
    """A model whose output is bfloat16 answers float32, since neither numpy nor JSON has bfloat16."""
    path = tmp_path / "mixed.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="mixed_bfloat16")]).save(path)
    model = load_model(path)
    (outputs,) = model({ONLY: np.ones((1, 2))}).values()
    assert outputs.dtype == model.outputs[0].dtype == np.float32

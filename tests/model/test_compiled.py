"""A compiled model: what goes in, what comes out, and what is refused, the same on TensorFlow and on OpenVINO."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ruo.model.compiled import compile_keras
from ruo.wire import WireError


@pytest.fixture(scope="module")
def compiled(keras):
    """Compile a model of inputs of a shape: ``compiled((4,), layer)``; a layer is any function of the input."""

    def make(shape, layer, dtype="float32"):
        inputs = keras.Input(shape, dtype=dtype)
        return compile_keras(keras, keras.Model(inputs, layer(inputs)), "f32")

    return make


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda ops, x: ops.mean(x, axis=0, keepdims=True), [1, 4]),
        (lambda ops, x: ops.mean(x, axis=0), [4]),
        (lambda ops, x: ops.sum(x), []),
        (lambda ops, x: ops.reshape(x, (-1, 2)), [6, 2]),
        (lambda ops, x: ops.max(0 * x + 1, axis=0, keepdims=True), [1, 4]),
        (lambda ops, x: ops.concatenate([x, x], axis=0), [6, 4]),
    ],
)
@pytest.mark.parametrize("value", [1, np.nan])
def test_an_answer_has_one_row_for_each_row(keras, compiled, layer, shape, value):
    """A mean over the rows, a number, a constant, rows cut in two: refused by the output's name and shape, never broadcast."""
    function = compiled((4,), lambda x: layer(keras.ops, x))
    with pytest.raises(WireError, match="Output .* one row for each row") as refusal:
        function([np.full((3, 4), value, np.float32)])
    assert f"has the shape {shape} for 3 rows" in str(refusal.value)
    assert refusal.value.status == 500


def test_a_row_that_is_not_finite_gives_nan_and_leaves_the_others_alone(keras, compiled):
    """Of a plain model with relu; its compiled form by itself would answer with a plausible number."""
    layers = keras.layers
    network = keras.Sequential([layers.Dense(64, "relu"), layers.Dense(16, "relu"), layers.Dense(3)])
    function = compiled((8,), network)
    rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    (expected,) = function([rows])
    odd = [3, 17, 299]
    rows[odd, [0, 5, 7]] = np.nan, np.inf, -np.inf
    (predictions,) = function([rows])
    assert np.isnan(predictions[odd]).all()
    np.testing.assert_array_equal(np.delete(predictions, odd, axis=0), np.delete(expected, odd, axis=0))


def test_half_precision_is_exact_to_two_digits(keras):
    """Where bfloat16 is asked for, which only OpenVINO heeds."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")])
    rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    exact, rough = (compile_keras(keras, model, precision)([rows])[0] for precision in ("f32", "bf16"))
    np.testing.assert_allclose(rough, exact, atol=0.05)


def test_an_answer_has_the_datatype_that_is_described(keras, compiled):
    """Also where the runtime computes FP64 as FP32."""
    (answer,) = compiled((3,), keras.layers.Dense(2, dtype="float64"), "float64")([np.ones((2, 3))])
    assert answer.dtype == np.float64


PASSED_ON = {
    "identity": lambda layers: layers.Identity(),
    "dropout": lambda layers: layers.Dropout(0.5),
    "linear": lambda layers: layers.Activation("linear"),
    "rescaling": lambda layers: layers.Rescaling(1.0),
    "reshape": lambda layers: layers.Reshape((2, 2)),
    "the input": lambda layers: lambda x: x,
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_an_output_that_is_an_input_keeps_its_values(keras, compiled, name):
    """Through a thousand requests of other sizes and contents, alone and beside a computed output."""
    layer, dense = PASSED_ON[name](keras.layers), keras.layers.Dense(2)
    functions = [compiled((4,), layer), compiled((4,), lambda x: [dense(x), layer(x)])]
    generator = np.random.default_rng(0)
    answers = []
    for number in range(1000):
        rows = generator.normal(size=(generator.integers(1, 300), 4)).astype(np.float32)
        answers.append((functions[number % 2]([rows])[-1], rows.copy()))
        del rows  # its memory is free for the next request
        if len(answers) > 20:
            answer, wanted = answers.pop(0)
            np.testing.assert_array_equal(answer.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("writeable", [True, False])
def test_answers_do_not_change_with_the_rows(keras, compiled, shift, writeable):
    """Wherever the rows lie in memory, the answer of a model that gives its input back is a copy."""
    memory = np.zeros(4096, np.uint8)
    begin = -memory.ctypes.data % 64 + shift  # where a backend can use memory as it is, or not
    rows = memory[begin : begin + 160].view(np.float32).reshape(20, 2)
    rows[:] = np.arange(40).reshape(20, 2)
    wanted = rows.copy()
    function = compiled((2,), keras.layers.Identity())
    rows.flags.writeable = writeable
    (answers,) = function([rows])
    memory[:] = 0
    np.testing.assert_array_equal(answers, wanted)


def test_an_index_that_a_table_does_not_have_is_refused(keras, compiled):
    """With the runtime's reason on one line: OpenVINO by itself would answer with zeros."""
    embedding = keras.layers.Embedding(10, 2)
    function = compiled((3,), embedding, "int32")
    (answer,) = function([np.array([[1, 2, 9]], np.int32)])
    np.testing.assert_array_equal(answer[0], np.asarray(embedding.embeddings)[[1, 2, 9]])
    for index in (10, -11, 2**31 - 1):
        with pytest.raises(WireError, match="index|indices") as refusal:
            function([np.array([[1, 2, 3], [4, 5, index]], np.int32)])
        assert refusal.value.status == 400
        assert not {"\n", "{{", "/"} & set(str(refusal.value))
    assert function([np.empty((0, 3), np.int32)])[0].shape == (0, 3, 2)


def test_an_empty_sequence_is_refused(keras, compiled):
    """Where the runtime cannot compute it: OpenVINO by itself would answer with what it computed before."""
    function = compiled((None, 4), keras.layers.LSTM(3))
    function([np.ones((2, 5, 4), np.float32)])
    with pytest.raises(WireError, match="empty|list") as refusal:
        function([np.ones((2, 0, 4), np.float32)])
    assert refusal.value.status == 400


@pytest.mark.skipif("KERAS_BACKEND" in os.environ, reason="this is the test that sets it")
def test_all_of_this_holds_with_openvino():
    """In a process of its own, since Keras has one backend a process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    # without the options of this run: a second one that measures coverage takes away the first one's data
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment["KERAS_BACKEND"] = "openvino"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout

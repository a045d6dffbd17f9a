"""Files that are no model, or cannot be served: each is refused in one sentence with its cause."""

import gzip
import importlib
import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from ruo.errors import ModelError
from ruo.model.formats import reason_of
from ruo.model.loading import load_model
from ruo.model.store import publish

pytestmark = pytest.mark.filterwarnings("ignore")  # of Keras and TensorFlow, about what such models are


@pytest.fixture(scope="module")
def parts(keras, tmp_path_factory):
    """Models in every format, in one folder, to be broken."""
    folder, layers = tmp_path_factory.mktemp("parts"), keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(64, "relu"), layers.Dense(2)])
    model.save(folder / "good.keras")
    model.save(folder / "good.h5")
    model.save_weights(folder / "good.weights.h5")
    model.export(folder / "saved", verbose=False)
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x)]).save(folder / "code.keras")
    keras.Sequential([keras.Input(batch_shape=(3, 4)), layers.Dense(1)]).save(folder / "fixed.keras")
    stateful = layers.LSTM(2, stateful=True)
    keras.Sequential([keras.Input(batch_shape=(1, 5, 2)), stateful]).save(folder / "stateful.keras")
    keras.Sequential([layers.Dense(2)]).save(folder / "unbuilt.keras")
    inner = importlib.import_module("tests.server.models.own")
    rows, steps, chance = keras.Input((4,)), keras.Input((None, 1)), inner.Chance()
    text = keras.Input((), dtype="string")
    word = layers.StringLookup(vocabulary=["a"], output_mode="one_hot")(text)
    wide, sound, image = keras.Input((64,)), keras.Input((256,)), keras.Input((8, 8, 1), dtype="uint8")
    own = {
        "softmax": (rows, keras.ops.softmax(rows, axis=0)),
        "mean": (rows, [rows, rows - keras.ops.mean(rows, axis=0, keepdims=True)]),
        "sorted": (rows, keras.ops.sort(rows, axis=0)),
        "sums": (rows, keras.ops.cumsum(rows, axis=0)),
        "maximum": (rows, rows / (1 + keras.ops.max(rows))),
        "standard": (wide, (wide - keras.ops.mean(wide)) / keras.ops.std(wide)),
        "above": (wide, wide > keras.ops.mean(wide, axis=0)),
        "loud": (sound, layers.MelSpectrogram(num_mel_bins=8, fft_length=64, sequence_stride=32)(sound)),
        "bright": (image, keras.ops.cast(image, "float32") / keras.ops.cast(keras.ops.max(image), "float32")),
        "text": (text, keras.ops.softmax(keras.ops.cast(word, "float32"), axis=0)),
        "chance": (rows, [chance(rows), chance(rows)]),
        "steps": (steps, inner.Steps()(steps)),
    }
    for name, (inputs, outputs) in own.items():
        keras.Model(inputs, outputs).save(folder / f"{name}.keras")
    keras.Sequential([keras.Input((3,)), inner.Scale(3.0)]).save(folder / "own.keras")
    keras.Sequential([keras.Input((3,)), layers.Dense(1, inner.cubed)]).save(folder / "activation.keras")
    tf = importlib.import_module("tensorflow")
    module = tf.Module()
    spec = tf.TensorSpec((None, 1), tf.float32)
    functions = {name: tf.function(lambda x: {"y": 2 * x}, input_signature=[spec]) for name in ("first", "second")}
    module.first, module.second = functions.values()
    tf.saved_model.save(module, str(folder / "several"), signatures=functions)
    turn = tf.function(lambda x: {"y": tf.complex(x, x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "complex"), signatures=turn)
    nothing = tf.function(lambda: {"y": tf.zeros((1, 1))}, input_signature=[])
    tf.saved_model.save(module, str(folder / "constant"), signatures=nothing)
    layer = layers.TFSMLayer(str(folder / "saved"), call_endpoint="serve")
    keras.Model(rows, layer(rows)).save(folder / "graph.keras")
    tf.saved_model.save(tf.Module(), str(folder / "none"))
    return folder


def zipped(parts, **changed):
    """The good .keras file with other contents; None leaves a file out."""
    data = io.BytesIO()
    with zipfile.ZipFile(parts / "good.keras") as old, zipfile.ZipFile(data, "w") as new:
        for name in old.namelist():
            content = changed.get(name.split(".")[0], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return data.getvalue()


def packed(name):
    """A zip archive of one file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(name, b"{}")
    return data.getvalue()


def config(parts, old, new):
    with zipfile.ZipFile(parts / "good.keras") as file:
        return file.read("config.json").replace(old, new)


FILES = {
    "empty.keras": (lambda p: b"", "empty"),
    "empty.h5": (lambda p: b"", "empty"),
    "cut.keras": (lambda p: (p / "good.keras").read_bytes()[:3000], "cut off or damaged"),
    "cut.h5": (lambda p: (p / "good.h5").read_bytes()[:3000], "cut off or damaged"),
    "changed.keras": (lambda p: zipped(p).replace(b"HDF", b"XXX"), "cut off or damaged"),
    "page.keras": (lambda p: b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
    "page.h5": (lambda p: b"<html>404</html>", "web page"),
    "pointer.keras": (lambda p: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "hdf5.keras": (lambda p: (p / "good.h5").read_bytes(), "name it .h5"),
    "zip.h5": (lambda p: (p / "good.keras").read_bytes(), "name it .keras"),
    "text.keras": (lambda p: b"hello", "not a .keras file"),
    "text.h5": (lambda p: b"hello", "not an HDF5 file"),
    "model.onnx": (lambda p: b"\x08\x07\x12\x07pytorch", "must end in"),
    "onnx.keras": (lambda p: b"\x08\x07\x12\x08tf2onnx:", "ONNX"),
    "model.tflite": (lambda p: b"\x1c\0\0\0TFL3\x14\0", "TensorFlow Lite"),
    "archive.keras": (lambda p: gzip.compress(b"tar"), "unpack it"),
    "saved_model.pb": (lambda p: (p / "saved" / "saved_model.pb").read_bytes(), "the folder of a SavedModel"),
    "model.txt": (lambda p: b"hello", "must end in"),
    "good.weights.h5": (lambda p: (p / "good.weights.h5").read_bytes(), "weights only"),
    "weights.h5": (lambda p: (p / "good.weights.h5").read_bytes(), "weights only"),
    "half.keras": (lambda p: zipped(p, config=None), "no config.json"),
    "torch.keras": (lambda p: packed("model/data.pkl"), "PyTorch"),
    "nested.keras": (lambda p: packed("model/config.json"), "in a folder inside the archive"),
    "unweighted.keras": (lambda p: zipped(p, model=None), "model.weights.h5"),
    "json.keras": (lambda p: zipped(p, config=b"{"), "config.json"),
    "keras2.keras": (lambda p: zipped(p, metadata=json.dumps({"keras_version": "2.12.0"})), "tf_keras"),
    "layer.keras": (lambda p: zipped(p, config=config(p, b'"Dense"', b'"Gone"')), 'class "Gone"'),
    "argument.keras": (lambda p: zipped(p, config=config(p, b'"units"', b'"unitz"')), "'units'"),
    "function.keras": (lambda p: zipped(p, config=config(p, b'"relu"', b'"gone"')), '"gone"'),
    "units.keras": (lambda p: zipped(p, config=config(p, b'"units": 64', b'"units": 63')), "64"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_told_from_one(parts, tmp_path, name):
    """One sentence, with the file's own path and the cause; and it cannot be published either if its kind is wrong."""
    content, says = FILES[name]
    (tmp_path / name).write_bytes(content(parts))
    refuse(tmp_path / name, says, trusted=True)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "saved_model.pb"),
        ("variables", "variables/"),
        ("saved_model.pb", "saved_model.pb"),
        ("variables/variables.data-00000-of-00001", "cut off or damaged"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(parts, tmp_path, path, says):
    """With the part of it that is at fault: a folder that is not there, or a file of which there is the beginning."""
    gone = shutil.copytree(parts / "saved", tmp_path / "saved") / path
    shutil.rmtree(gone) if gone.is_dir() else gone.write_bytes(gone.read_bytes()[:40])
    (tmp_path / "saved").mkdir(exist_ok=True)
    refuse(tmp_path / "saved", says, trusted=True)


@pytest.mark.parametrize(
    ("name", "trusted", "says"),
    [
        ("good.h5", False, "RUO_TRUST_MODEL=1"),
        ("saved", False, "RUO_TRUST_MODEL=1"),
        ("code.keras", False, "RUO_TRUST_MODEL=1"),
        ("unbuilt.keras", False, "build it"),
        ("fixed.keras", False, "takes the shape [3, 4] only"),
        ("stateful.keras", False, "takes the shape [1, 5, 2] only"),
        *(
            (f"{name}.keras", False, "depends on the other rows of its batch")
            for name in ("softmax", "mean", "sorted", "sums", "maximum", "standard", "above", "loud", "bright", "text")
        ),
        ("own.keras", True, '"Scale"'),
        ("activation.keras", True, '"cubed"'),
        ("several", True, "first, second"),
        ("none", True, "no signature"),
        ("complex", True, "no datatype for numpy's complex64"),
        ("constant", True, "takes no input"),
        ("graph.keras", False, "code of its author"),
    ],
)
def test_what_cannot_be_served_says_what_to_do(parts, name, trusted, says):
    """Also the name of the variable, the class, the function or the signatures."""
    refuse(parts / name, says, trusted)


@pytest.mark.parametrize("name", ["good.keras", "saved"])
def test_a_module_that_is_not_there_is_named(parts, name):
    """Whatever kind of model it is for: a SavedModel may need its operations."""
    with pytest.raises(ModelError, match="MODEL_MODULES names no.such.module, which cannot be imported"):
        load_model(parts / name, trusted=True, modules="no.such.module")


@pytest.mark.parametrize("name", ["saved.keras", "saved-and-config"])
def test_a_saved_model_is_not_trusted_by_its_name(parts, tmp_path, name):
    """It runs its author's code whatever it is called, and whatever lies beside it."""
    folder = shutil.copytree(parts / "saved", tmp_path / name)
    (folder / "config.json").write_text("{}")
    refuse(folder, "RUO_TRUST_MODEL=1", trusted=False)


def test_outputs_never_share_a_name(keras, tmp_path):
    """Nor does the number of one, which layers that are used twice get, make the name of another."""
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    twice, once = keras.layers.Dense(1, name="dense"), keras.layers.Dense(1, name="dense_1")
    keras.Model([a, b], [twice(a), twice(b), once(a)]).save(tmp_path / "m.keras")
    model = load_model(tmp_path / "m.keras")
    assert [spec.name for spec in model.outputs] == ["dense_0", "dense_1", "dense_1_2"]


def test_a_model_that_takes_some_whole_numbers_only_is_served(keras, tmp_path):
    """Its warm-up cannot know them."""
    lookup = keras.layers.IntegerLookup(vocabulary=[1, 2, 5], num_oov_indices=0)
    keras.Sequential([keras.Input((1,), dtype="int64"), lookup]).save(tmp_path / "m.keras")
    assert load_model(tmp_path / "m.keras").run([np.array([[5], [1]])])[0].ravel().tolist() == [2, 0]


def test_a_model_may_answer_by_chance(parts):
    """Dropout that is on while it predicts is no dependence on other rows, even where two answers are alike by chance."""
    run = load_model(parts / "chance.keras", trusted=True, modules="tests.server.models.own").run
    rows = [np.ones((64, 4), np.float32)]
    assert not np.array_equal(run(rows)[0], run(rows)[0])


def test_a_model_that_takes_no_more_rows_than_it_has_steps_is_refused(parts):
    """Of fewer rows its answers depend on how many there are."""
    with pytest.raises(ModelError, match="depends on the other rows of its batch"):
        load_model(parts / "steps.keras", trusted=True, modules="tests.server.models.own")


CALL = "Exception encountered when calling {0}.call().\n\n\x1b[1m{1}\x1b[0m\n\nArguments received by {0}.call():\n  x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CALL.format("LSTM", "No loop."), "Exception encountered when calling LSTM.call(). No loop."),
        (CALL.format("Hashing", "An OpenVINOKerasTensor is symbolic"), "set KERAS_BACKEND=tensorflow"),
        ("`sparse=True` is not supported with the openvino backend.", "set KERAS_BACKEND=tensorflow"),
        (
            ModuleNotFoundError("No module named 'own'"),
            "it needs own, which is not installed; install it for the server",
        ),
    ],
)
def test_an_error_of_keras_is_told_in_one_sentence(tmp_path, text, says):
    """Without its colours and what a layer was called with."""
    reason = reason_of(ValueError(text) if isinstance(text, str) else text, tmp_path, tmp_path)
    assert reason.endswith(f"{says.rstrip('.')}.")
    assert "\x1b" not in reason


def refuse(path, says, trusted):
    with pytest.raises(ModelError) as refusal:
        load_model(path, trusted)
    sentence = str(refusal.value)
    assert sentence.startswith(f"The model at {path} cannot be loaded: ")
    assert says in sentence
    assert len(sentence) < 600
    assert "\n" not in sentence


def test_a_signature_is_chosen_by_its_name(parts):
    """Where a SavedModel has several, none of which is the default."""
    model = load_model(parts / "several", trusted=True, signature="second")
    assert model.signature == "second"
    assert model.run([np.ones((2, 1), np.float32)])[0].tolist() == [[2], [2]]


@pytest.mark.parametrize(
    ("content", "says"), [(b"<html>", "web page"), (b"PK\x03\x04cut", "cut off"), (None, "cannot be loaded")]
)
def test_what_cannot_be_loaded_is_not_published(parts, tmp_path, monkeypatch, content, says):
    """A wrong file never becomes a version; a model that Keras refuses only where that is not tried."""
    monkeypatch.setenv("KERAS_BACKEND", "openvino")  # of the processes that try, which start in half the time
    path, store = tmp_path / "model.keras", tmp_path / "store"
    path.write_bytes(content or zipped(parts, config=config(parts, b'"units"', b'"unitz"')))
    with pytest.raises(ModelError, match=says) as refusal:
        publish(path, store)
    assert str(path) in str(refusal.value)
    assert list(store.iterdir()) == []
    if content is None:
        assert publish(path, store, check=False) == "1"
        assert publish(parts / "good.keras", store) == "2"
    with pytest.raises(ModelError, match="cannot be made"):
        publish(parts / "good.keras", path)

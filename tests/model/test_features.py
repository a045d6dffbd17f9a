"""The names of the columns that a model takes, kept in the model."""

import zipfile

import pytest

from ruo.errors import ArgumentError, ModelError
from ruo.model.features import read_features, write_features
from ruo.model.loading import load_model


@pytest.fixture
def saved(keras, tmp_path):
    """A model of three columns, in both formats that can hold their names."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "saved", verbose=False)
    return tmp_path


@pytest.mark.parametrize("name", ["model.keras", "saved"])
def test_a_model_keeps_the_names_and_loads_as_before(saved, keras, name):
    """Keras and TensorFlow do not look at them; whoever serves the model has them."""
    assert read_features(saved / name) == []
    write_features(saved / name, ["b", " a ", 3])
    assert read_features(saved / name) == ["b", "a", "3"]
    assert load_model(saved / name, trusted=True).features == ["b", "a", "3"]
    with pytest.raises(ArgumentError, match="has the names of its columns already"):
        write_features(saved / name, ["x", "y", "z"])
    if name == "model.keras":
        assert keras.saving.load_model(saved / name).count_params() == 4


def test_names_that_do_not_fit_are_refused(saved, tmp_path):
    """More names than columns, anything but names, and a file that has no place for them."""
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ArgumentError, match=r"model.h5 cannot hold the names of columns; pass a .keras file"):
        write_features(tmp_path / "model.h5", ["a"])
    write_features(saved / "model.keras", ["a", "b", "c", "d"])
    with pytest.raises(ModelError, match="it has the names of 4 columns, which do not fit its inputs"):
        load_model(saved / "model.keras")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as file:
        file.writestr("features.json", '{"a": 1}')
    with pytest.raises(ModelError, match=r"its features.json is not a list of names"):
        read_features(tmp_path / "other.keras")
    (saved / "saved" / "features.json").write_text("[")
    with pytest.raises(ModelError, match=r"saved cannot be loaded: its features.json is not a list of names"):
        load_model(saved / "saved", trusted=True)
    for names in ([], ["a", "b", " a"]):
        with pytest.raises(ArgumentError, match="a name for each of its columns, and no name twice"):
            write_features(saved / "model.keras", names)

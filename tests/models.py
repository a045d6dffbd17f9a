"""Real Keras models, made once: the fixtures `keras` and `models`, for the folders whose conftest imports them."""

import pytest

FEATURES = 8


@pytest.fixture(scope="session")
def keras():
    """Keras, imported when a test needs it."""
    import keras

    return keras


@pytest.fixture(scope="session")
def models(tmp_path_factory, keras):
    """Paths of models by name: every format, several inputs, an image, a slow one, one that is no model."""
    folder = tmp_path_factory.mktemp("models")
    layers = keras.layers

    def mlp(seed):
        keras.utils.set_random_seed(seed)
        stack = [keras.Input((FEATURES,), name="x"), layers.Dense(16, "relu"), layers.Dense(3, "softmax", name="y")]
        return keras.Sequential(stack)

    first, second = mlp(1), mlp(2)
    first.save(folder / "mlp.keras")
    first.save(folder / "mlp.h5")
    first.export(folder / "saved", verbose=False)
    second.save(folder / "other.keras")

    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b", dtype="int32")
    both = layers.Concatenate()([a, layers.Rescaling(0.5)(b)])
    outputs = [layers.Dense(1, name="left")(both), layers.Dense(2, name="right")(both)]
    keras.Model([a, b], outputs).save(folder / "two.keras")

    image = [keras.Input((4, 4, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)]
    keras.Sequential(image).save(folder / "image.keras")

    heavy = layers.Dense(512, "tanh")
    given = keras.Input((FEATURES,))
    state = layers.Dense(512)(given)
    for _ in range(8):
        state = heavy(state)
    keras.Model(given, layers.Dense(1)(state)).save(folder / "slow.keras")

    (folder / "broken.keras").write_bytes((folder / "mlp.keras").read_bytes()[:2000])
    names = ["mlp.keras", "mlp.h5", "saved", "other.keras", "two.keras", "image.keras", "slow.keras", "broken.keras"]
    return {name.removesuffix(".keras"): folder / name for name in names}

"""Layers and an activation of somebody's own, which Keras does not know."""

import keras


class Scale(keras.layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class Chance(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return x * keras.random.uniform(keras.ops.shape(x), seed=self.seeds)


class Steps(keras.layers.Layer):
    """As many steps as there are rows, as TimeDistributed of Keras 3.15 takes them where the length is free."""

    def call(self, x):
        return keras.ops.take(x, keras.ops.arange(keras.ops.shape(x)[0]), axis=1)


def cubed(x):
    return x**3

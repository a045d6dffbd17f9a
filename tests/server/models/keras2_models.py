"""Run by a Python with tf_keras: writes models of Keras 2 into a folder, with rows for them and what they say of these."""

import sys
from pathlib import Path

import numpy as np
import tf_keras

layers = tf_keras.layers
STACKS = {
    "lstm": ((5, 3), [layers.LSTM(4)]),
    "gru": ((5, 3), [layers.GRU(4)]),
    "simple-rnn": ((5, 3), [layers.SimpleRNN(4)]),
    "bidirectional": ((5, 3), [layers.Bidirectional(layers.LSTM(4))]),
    "rnn": ((5, 3), [layers.RNN(layers.LSTMCell(4))]),
    "conv-lstm": ((3, 4, 4, 1), [layers.ConvLSTM2D(2, 2, recurrent_activation="sigmoid")]),
    "depthwise": ((6, 6, 2), [layers.DepthwiseConv2D(3)]),
    "depthwise-1d": ((6, 2), [layers.DepthwiseConv1D(3)]),
    "transpose": ((6, 6, 2), [layers.Conv2DTranspose(2, 3)]),
    "transpose-1d": ((6, 2), [layers.Conv1DTranspose(2, 3)]),
    "transpose-3d": ((3, 3, 3, 1), [layers.Conv3DTranspose(2, 2)]),
    "separable": ((6, 6, 2), [layers.SeparableConv2D(3, 3)]),
    "separable-1d": ((6, 2), [layers.SeparableConv1D(3, 3)]),
    "activations": ((4,), [layers.ReLU(6.0), layers.LeakyReLU(), layers.PReLU(), layers.ELU(), layers.Softmax()]),
    "names": ((4,), [layers.Dense(3, name) for name in ("swish", "gelu", "selu", "elu", "softplus", "exponential")]),
    "norms": ((4, 4, 4), [layers.BatchNormalization(), layers.LayerNormalization(), layers.GroupNormalization(2)]),
    "embedding": ((4,), [layers.Embedding(10, 3), layers.TimeDistributed(layers.Dense(2))]),
    "images": ((4, 4, 2), [layers.UpSampling2D(interpolation="bilinear"), layers.ZeroPadding2D(), layers.Cropping2D()]),
    "pooling": ((7, 7, 2), [layers.AveragePooling2D(3, padding="same"), layers.MaxPooling2D(2, padding="same")]),
    "resizing": ((5, 5, 2), [layers.Rescaling(0.5), layers.Resizing(3, 3), layers.CenterCrop(2, 2)]),
    "hard-sigmoid": ((4,), [layers.Dense(2, "hard_sigmoid")]),
}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, (shape, stack) in STACKS.items():
        model = tf_keras.Sequential([tf_keras.Input(shape), *stack])
        rows = np.random.default_rng(1).integers(0, 10, (4, *shape)).astype("f4")
        model.save(folder / f"{name}.h5")
        np.savez(folder / f"{name}.npz", rows=rows, expected=model.predict(rows, verbose=0))
    model.save(folder / "old.keras")
    model.export(folder / "hard-sigmoid")

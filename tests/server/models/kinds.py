"""The kinds of models that people have: each made small, by name, with what it needs to be served."""

import importlib
import shutil
import zipfile

import numpy as np

ROWS = 5
TEXTS = [b"red", b"green", b"blue green", b"", "grün".encode()]

# A shape and dtype, and the layers behind it.
STACKS = {
    "linear": ((4,), "float32", lambda kl: [kl.Dense(1)]),
    "softmax": ((4,), "float32", lambda kl: [kl.Dense(8, "relu"), kl.Dense(3, "softmax")]),
    "sigmoid": ((4,), "float32", lambda kl: [kl.Dense(1, "sigmoid", use_bias=False)]),
    "gelu": ((4,), "float32", lambda kl: [kl.Dense(8, "gelu"), kl.Dense(8, "swish"), kl.Dense(8, "mish")]),
    "selu": ((4,), "float32", lambda kl: [kl.Dense(8, "selu"), kl.Dense(8, "elu"), kl.Dense(8, "softplus")]),
    "prelu": ((4,), "float32", lambda kl: [kl.Dense(8), kl.PReLU(), kl.LeakyReLU(), kl.ReLU(6)]),
    "dropout": ((4,), "float32", lambda kl: [kl.Dense(8), kl.Dropout(0.5), kl.GaussianNoise(1.0), kl.AlphaDropout(0.3)]),
    "batch-norm": ((4,), "float32", lambda kl: [kl.BatchNormalization(), kl.Dense(2)]),
    "layer-norm": ((4,), "float32", lambda kl: [kl.LayerNormalization(), kl.UnitNormalization(), kl.RMSNormalization()]),
    "group-norm": ((4, 4, 4), "float32", lambda kl: [kl.GroupNormalization(2), kl.Flatten()]),
    "spectral-norm": ((4,), "float32", lambda kl: [kl.SpectralNormalization(kl.Dense(3))]),
    "einsum": ((4, 3), "float32", lambda kl: [kl.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d")]),
    "reshape": ((6,), "float32", lambda kl: [kl.Reshape((2, 3)), kl.Permute((2, 1)), kl.Flatten(), kl.RepeatVector(2)]),
    "conv1d": ((9, 2), "float32", lambda kl: [kl.Conv1D(3, 3, padding="causal", dilation_rate=2), kl.MaxPooling1D(2)]),
    "conv2d": ((8, 8, 1), "float32", lambda kl: [kl.Conv2D(3, 3, 2, "same"), kl.MaxPooling2D(), kl.Flatten(), kl.Dense(2)]),
    "conv3d": ((4, 4, 4, 1), "float32", lambda kl: [kl.Conv3D(2, 2), kl.AveragePooling3D(2), kl.Flatten()]),
    "depthwise": ((6, 6, 2), "float32", lambda kl: [kl.DepthwiseConv2D(3), kl.GlobalAveragePooling2D()]),
    "separable": ((6, 6, 2), "float32", lambda kl: [kl.SeparableConv2D(3, 3), kl.GlobalMaxPooling2D()]),
    "grouped-conv": ((6, 6, 4), "float32", lambda kl: [kl.Conv2D(4, 3, groups=2)]),
    "transpose": ((4, 4, 2), "float32", lambda kl: [kl.Conv2DTranspose(2, 3, 2), kl.UpSampling2D(), kl.Cropping2D(1)]),
    "padding": ((4, 4, 2), "float32", lambda kl: [kl.ZeroPadding2D(1), kl.AveragePooling2D(2)]),
    "lstm": ((5, 3), "float32", lambda kl: [kl.LSTM(4)]),
    "gru": ((5, 3), "float32", lambda kl: [kl.GRU(4, return_sequences=True), kl.GRU(3)]),
    "simple-rnn": ((5, 3), "float32", lambda kl: [kl.SimpleRNN(4, go_backwards=True)]),
    "bidirectional": ((5, 3), "float32", lambda kl: [kl.Bidirectional(kl.LSTM(4)), kl.Dense(1)]),
    "time-distributed": ((5, 3), "float32", lambda kl: [kl.TimeDistributed(kl.Dense(2)), kl.GlobalAveragePooling1D()]),
    "masking": ((5, 3), "float32", lambda kl: [kl.Masking(0.0), kl.LSTM(4)]),
    "conv-lstm": ((3, 4, 4, 1), "float32", lambda kl: [kl.ConvLSTM2D(2, 2), kl.Flatten()]),
    "embedding": ((6,), "int32", lambda kl: [kl.Embedding(10, 4), kl.Flatten(), kl.Dense(1)]),
    "masked-embedding": ((6,), "int64", lambda kl: [kl.Embedding(10, 4, mask_zero=True), kl.LSTM(3)]),
    "category": ((1,), "int32", lambda kl: [kl.CategoryEncoding(10, "one_hot")]),
    "discretization": ((2,), "float32", lambda kl: [kl.Discretization([-1.0, 0.0, 1.0])]),
    "normalization": ((3,), "float32", lambda kl: [kl.Normalization(mean=[1.0, 2, 3], variance=[1.0, 4, 9]), kl.Dense(1)]),
    "rescaling": ((4, 4, 1), "uint8", lambda kl: [kl.Rescaling(1 / 255), kl.Conv2D(2, 3), kl.Flatten()]),
    "resizing": ((8, 8, 1), "float32", lambda kl: [kl.Resizing(4, 4), kl.CenterCrop(2, 2), kl.Flatten()]),
    "bool": ((3,), "bool", lambda kl: [kl.Rescaling(1.0), kl.Dense(2)]),
    "int8": ((3,), "int8", lambda kl: [kl.Rescaling(0.5), kl.Dense(2)]),
    "half": ((3,), "float16", lambda kl: [kl.Dense(2)]),
    "double": ((3,), "float64", lambda kl: [kl.Dense(2, dtype="float64")]),
    "bfloat16": ((3,), "bfloat16", lambda kl: [kl.Dense(2, dtype="float32")]),
    "mixed-bfloat16": ((3,), "float32", lambda kl: [kl.Dense(2, dtype="mixed_bfloat16")]),
    "one-value": ((), "float32", lambda kl: [kl.Reshape((1,)), kl.Dense(2)]),
    "text-cnn": ((None,), "int32", lambda kl: [kl.Embedding(10, 4), kl.Conv1D(3, 5), kl.MaxPooling1D(3), kl.GlobalMaxPooling1D()]),
    "any-image": ((None, None, 3), "float32", lambda kl: [kl.Conv2D(2, 3), kl.MaxPooling2D(), kl.GlobalAveragePooling2D()]),
    "any-length": ((None, 2), "float32", lambda kl: [kl.LSTM(3, return_sequences=True), kl.Dense(1)]),
    "lookup": ((1,), "string", lambda kl: [kl.StringLookup(vocabulary=["red", "green"], output_mode="one_hot"), kl.Dense(2)]),
    "words": ((1,), "string", lambda kl: [kl.TextVectorization(vocabulary=["red", "green"], output_sequence_length=3),
                                         kl.Embedding(4, 2), kl.Flatten()]),
    "hashing": ((2,), "string", lambda kl: [kl.Hashing(5), kl.Embedding(5, 2)]),
    "integer-lookup": ((2,), "int64", lambda kl: [kl.IntegerLookup(vocabulary=[1, 2, 5])]),
    "lambda": ((3,), "float32", lambda kl: [kl.Lambda(lambda x: 2 * x + 1), kl.Dense(1)]),
}  # fmt: skip


# The shape of each input, and what is made of them.
GRAPHS = {
    "residual": ([(4,)], lambda kl, ops, x: kl.Add()([x, kl.Dense(4, "tanh")(x)])),
    "merged": ([(4,), (4,)], lambda kl, ops, a, b: [
        layer([a, b]) for layer in (kl.Add(), kl.Multiply(), kl.Subtract(), kl.Maximum(), kl.Minimum(), kl.Average(),
                                  kl.Concatenate(), kl.Dot(1))]),
    "attention": ([(5, 4), (3, 4)], lambda kl, ops, x, y: [
        kl.MultiHeadAttention(2, 2)(x, y), kl.Attention()([x, y]), kl.AdditiveAttention()([x, y])]),
    "operations": ([(4,)], lambda kl, ops, x: [
        ops.where(x > 0, ops.exp(-x), x), ops.cumsum(x, axis=1), ops.argmax(x, axis=1), ops.top_k(x, 2)]),
    "dict-outputs": ([(3,)], lambda kl, ops, x: {"z": kl.Dense(1, name="first")(x), "a": kl.Dense(2, name="second")(x)}),
    "encoder": ([(6, 4)], lambda kl, ops, x: kl.LSTM(3, return_state=True)(x)),
}  # fmt: skip


def _inputs(keras, **kinds):
    return {name: keras.Input(shape, name=f"layer_{name}", dtype=dtype) for name, (shape, dtype) in kinds.items()}


def _wide_and_deep(keras, kl):
    wide, deep, place = keras.Input((3,), name="wide"), keras.Input((2, 2), name="deep"), keras.Input((), dtype="int32")
    parts = [wide, kl.Flatten()(deep), kl.Embedding(10, 2)(place)]
    return keras.Model([wide, deep, place], kl.Dense(1)(kl.Concatenate()(parts)))


def _dict_inputs(keras, kl):
    given = _inputs(keras, zebra=((1,), "float32"), age=((1,), "float32"), kind=((1,), "int64"))
    parts = [given["zebra"], 10 * given["age"], kl.Flatten()(kl.Embedding(10, 2)(given["kind"]))]
    return keras.Model(given, kl.Dense(1)(kl.Concatenate()(parts)))


def _nested_dict(keras, kl):
    given = {"b": _inputs(keras, y=((2,), "float32"), x=((2,), "float32")), "a": keras.Input((2,))}
    return keras.Model(given, {"out": {"sum": given["b"]["y"] - 2 * given["b"]["x"] + 3 * given["a"]}})


def _scalars(keras, kl):
    given = _inputs(keras, b=((), "float32"), a=((), "int32"))
    return keras.Model(given, keras.ops.stack([given["b"], keras.ops.cast(given["a"], "float32") * 2], axis=1))


def _text_and_numbers(keras, kl):
    given = _inputs(keras, word=((1,), "string"), size=((1,), "float32"))
    parts = [kl.StringLookup(vocabulary=["red"], output_mode="multi_hot")(given["word"]), given["size"]]
    return keras.Model(given, kl.Dense(1)(kl.Concatenate()(parts)))


def _shared(keras, kl):
    a, b, tower = keras.Input((4,)), keras.Input((4,)), keras.Sequential([kl.Dense(3, "relu"), kl.Dense(2)])
    return keras.Model([a, b], kl.Dot(1, normalize=True)([tower(a), tower(b)]))


def _mobile_net(keras, kl):
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4)


def _own(keras, kl):
    own = importlib.import_module("tests.server.models.own")
    return keras.Sequential([keras.Input((3,)), own.Scale(3.0), kl.Dense(1, activation=own.cubed)])


def _quantized(keras, kl):
    model = keras.Sequential([keras.Input((8,)), kl.Dense(4), kl.Dense(2)])
    model.quantize("int8")
    return model


MAKERS = {
    function.__name__.strip("_").replace("_", "-"): function
    for function in (
        _wide_and_deep, _dict_inputs, _nested_dict, _scalars, _text_and_numbers, _shared, _mobile_net,
        _own, _quantized,
    )
}  # fmt: skip


def _unzipped(model, path):
    model.save(path.with_suffix(".keras"))
    with zipfile.ZipFile(path.with_suffix(".keras")) as file:
        file.extractall(path)


def _mlflow(model, path):
    (path / "data").mkdir(parents=True)
    (path / "MLmodel").write_text("flavors: {tensorflow: {data: data}}\n")
    model.save(path / "data" / "model.keras")
    model.save_weights(path / "data" / "model.weights.h5")
    shutil.copy(path / "MLmodel", path / "data" / ".hidden.keras")


def _signed(model, path):
    tf = importlib.import_module("tensorflow")
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=f"in{i}") for i, tensor in enumerate(model.inputs)]
    call = tf.function(lambda *given: {"out": model(given[0])}, input_signature=specs, autograph=False)
    module = tf.Module()
    module.model, module.call = model, call
    tf.saved_model.save(module, str(path), signatures={"classify": call})


# How a model gets to a path, by the path's name.
SAVERS = {
    "model.keras": lambda model, path: model.save(path),
    "model.h5": lambda model, path: model.save(path),
    "exported": lambda model, path: model.export(path, verbose=False),
    "saved": lambda model, path: importlib.import_module("tensorflow").saved_model.save(model, str(path)),
}
OTHER_SAVERS = {"unzipped": _unzipped, "mlflow": _mlflow, "signed": _signed}
# The same model in every form that it may have on disk.
FORMS = {f"{kind}-{form}": (kind, form) for form in [*SAVERS, *OTHER_SAVERS][1:] for kind in ("softmax", "conv2d")}
FORMS |= {f"{kind}-exported": (kind, "exported") for kind in ("lstm", "words", "dict-inputs", "text-cnn", "bfloat16")}

KINDS = [*STACKS, *GRAPHS, *MAKERS]
NAMES = [*KINDS, *FORMS]
# What OpenVINO cannot: text and code of TensorFlow (SavedModel, layers that Keras computes with TensorFlow only).
TENSORFLOW_ONLY = {name for name in NAMES if name.endswith(("-exported", "-saved", "-signed"))} | {
    name for name, (_, dtype, _) in STACKS.items() if dtype == "string"
} | {"text-and-numbers", "integer-lookup"}  # fmt: skip


def make(keras, name, folder):
    """A model of a kind in this process, its path on disk, and rows for it by the names of its inputs, in Keras' order."""
    keras.utils.set_random_seed(7)
    folder.mkdir()
    kind, form = FORMS.get(name, (name, "model.keras"))
    if kind in STACKS:
        shape, dtype, layers = STACKS[kind]
        model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers(keras.layers)])
    elif kind in GRAPHS:
        shapes, layers = GRAPHS[kind]
        inputs = [keras.Input(shape) for shape in shapes]
        model = keras.Model(inputs if len(inputs) > 1 else inputs[0], layers(keras.layers, keras.ops, *inputs))
    else:
        model = MAKERS[kind](keras, keras.layers)
    for weight in model.trainable_variables:  # biases as well, which begin as zeros
        weight.assign_add(keras.random.uniform(weight.shape, -0.1, 0.1, dtype=weight.dtype))
    (SAVERS | OTHER_SAVERS)[form](model, folder / form)
    random = np.random.default_rng(3)
    rows = [_rows(random, tensor) for tensor in model.inputs]
    return model, folder / form, dict(zip(_names(keras, model), rows, strict=True))


def _names(keras, model):
    """Keys, where the model takes a dict."""
    keys = [(path or (0,))[-1] for path, _ in keras.tree.flatten_with_path(getattr(model, "input", model.inputs))]
    return [key if isinstance(key, str) else tensor.name for key, tensor in zip(keys, model.inputs, strict=True)]


def _rows(random, tensor):
    shape = [ROWS, *(size or 12 for size in tensor.shape[1:])]
    if tensor.dtype == "string":
        return np.resize(np.array(TEXTS, object), shape)
    if tensor.dtype == "bool":
        return random.random(shape) < 0.5
    if "int" in tensor.dtype:
        return random.integers(0, 10, shape).astype(tensor.dtype)
    return random.normal(size=shape).astype("float32" if tensor.dtype == "bfloat16" else tensor.dtype)

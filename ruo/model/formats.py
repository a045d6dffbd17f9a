"""What a model is on disk, and in one sentence why a file is none, or why one cannot be loaded."""

import json
import re
import zipfile
from pathlib import Path

from ruo.errors import ModelError
from ruo.model.keras2 import CONVERT

SUFFIXES = (".keras", ".h5", ".hdf5")  # of models that are one file
_HDF5 = b"\x89HDF\r\n\x1a\n"
_DAMAGED = "its file is cut off or damaged; copy it again."
_EXPORT = "save it as .keras, or export it as a SavedModel, with Keras"
_NESTED = "its files are in a folder inside the archive; pack them without."
_NO_CONFIG = "it has no config.json, so it holds weights at most; save the whole model with model.save()."
_KERAS2 = f"Keras 2 (tf_keras) made it, whose .keras files Keras 3 cannot read; {CONVERT.format('.keras')}"

# What other programs write, by how the file begins.
_FOREIGN = (
    (rb"\Z", "the file is empty; copy it again."),
    (rb"\s*version https://git-lfs", "it is a pointer of Git LFS and not the model; run: git lfs pull"),
    (rb"(?i)\s*<(!doctype|html|\?xml|head)", "it is a web page; download the model's file itself."),
    (rb".{4}TFL3", f"it is a model of TensorFlow Lite; {_EXPORT}."),
    (rb"(?i)\x08.*onnx", f"it is an ONNX model; {_EXPORT}."),
    (rb"\x1f\x8b|.{257}ustar", "it is an archive; unpack it first."),
)

_CLASS = (
    r'it needs the {0} "{1}", which is not one of Keras; name the module that defines it in MODEL_MODULES '
    "(with RUO_TRUST_MODEL=1), or export the model as a SavedModel."
)
_OPERATION = (
    "it needs the operation {0}, which this TensorFlow does not have; name what defines it in MODEL_MODULES "
    "(with RUO_TRUST_MODEL=1), or export the model without it."
)
_LAMBDA = "it has code of its author (a Lambda layer or the like); set RUO_TRUST_MODEL=1 if you trust the author."
_BACKEND = "it works with Keras' backend {0} only; set KERAS_BACKEND to it, or export the model as a SavedModel."
_OPENVINO = "OpenVINO cannot compute one of its layers; set KERAS_BACKEND=tensorflow."
_DAMAGE = (
    r"[Tt]runcated file|[Bb]ad symbol table|Unable to (synchronously )?open|BadZipFile|[Bb]ad CRC|zip file|Read less bytes"
    r"|Error -?\d+ while decompressing|Can't (synchronously )?read"
)
# What an error of Keras or TensorFlow has in it, and the sentence for it.
_ERRORS = (
    (r"Python lambda|safe_mode", _LAMBDA),
    (r"JSONDecodeError", "its config.json is damaged; save the model again."),
    (r"Could not deserialize ()'[\w.]*?(\w+)' because", _CLASS),
    (r"Could not (?:locate|deserialize) (\w+) '(?:\w+>)?([\w.]+)'", _CLASS),
    (r"Unknown ()(?:layer|class|object|\w+ function): '?([\w.]+)'?", _CLASS),
    (r"Could not interpret (\w+)(?: \w+)? identifier: (\w+)", _CLASS),
    (r"requires? (?:the )?`?(TensorFlow|JAX|PyTorch|Torch)`? backend", _BACKEND),
    (r"OpenVINOKerasTensor|openvino backend|`convert_to_numpy` failed|src/core/src", _OPENVINO),
    (r"^ModuleNotFoundError: .*'([\w.]+)'", "it needs {0}, which is not installed; install it for the server."),
    (_DAMAGE, _DAMAGED),
    (
        r"variables/variables|[Vv]ariables file",
        "its folder variables/ is missing or incomplete; copy the whole folder.",
    ),
    (r"Op type not registered '(\w+)'", _OPERATION),
    (
        r"^DecodeError|[Cc]annot parse file|Error parsing message",
        "its saved_model.pb is cut off or damaged; copy it again.",
    ),
)


def is_saved_model(path: Path) -> bool:
    """Whether a path is a SavedModel directory."""
    return (path / "saved_model.pb").is_file()


def is_model_folder(path: Path) -> bool:
    """Whether a path is a SavedModel directory, or what is inside a .keras file, unpacked."""
    return is_saved_model(path) or (path / "config.json").is_file()


def refuse_foreign(path: Path) -> None:
    """Raise ModelError for what is not a model of Keras or TensorFlow, by its first bytes and what it contains."""
    if path.is_dir():
        if not is_model_folder(path):
            raise ModelError("a SavedModel directory has a file saved_model.pb.")
        return
    with path.open("rb") as file:
        head = file.read(4096)
    for begin, reason in _FOREIGN:
        if re.match(begin, head, re.DOTALL):
            raise ModelError(reason)
    if path.suffix == ".keras":
        _require_keras(path, head)
    elif path.suffix in SUFFIXES:
        _require_hdf5(path, head)
    else:
        raise ModelError("it must end in .keras or .h5, or be the folder of a SavedModel.")


def _require_keras(path: Path, head: bytes) -> None:
    if head.startswith(_HDF5):
        raise ModelError("it is an HDF5 file; name it .h5.")
    if not zipfile.is_zipfile(path):
        raise ModelError(
            _DAMAGED if head[:2] == b"PK" else "it is not a .keras file; save the model with model.save()."
        )
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        if any(name.endswith("data.pkl") for name in names):
            raise ModelError(f"it is a model of PyTorch; {_EXPORT}.")
        if "config.json" not in names:
            raise ModelError(_NESTED if any(name.endswith("/config.json") for name in names) else _NO_CONFIG)
        metadata = json.loads(file.read("metadata.json")) if "metadata.json" in names else {}
        if str(metadata.get("keras_version", "")).startswith("2."):
            raise ModelError(_KERAS2)
        if file.testzip():
            raise ModelError(_DAMAGED)


def _require_hdf5(path: Path, head: bytes) -> None:
    if head[:2] == b"PK":
        raise ModelError("it is a zip archive; name it .keras if Keras saved it.")
    if not head.startswith(_HDF5):
        raise ModelError("it is not an HDF5 file; save the model with model.save().")
    import h5py

    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise ModelError("it holds weights only; save the whole model with model.save().")


def reason_of(error: Exception, path: Path, origin: Path) -> str:
    """One sentence: our own, or one for what is known, or else the cause, which Keras and TensorFlow put last."""
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, ModelError):
        last = text.rsplit("Exception encountered:", 1)[-1].strip()
        for pattern, sentence in _ERRORS:
            if found := re.search(pattern, f"{type(error).__name__}: {last}"):
                return sentence.format(*(part or "class" for part in found.groups()))
        # without colours, configurations, which are as long as the model, and TensorFlow's places in graphs
        last = re.split(r"\s*(?:Full (?:object )?config|config=|\[\[\{\{|Arguments received by)", last)[0]
        text = " ".join(re.sub(r"\[Op:.*?\]|\{\{.*?\}\}|\x1b\[\d*m", "", last).split())[:400].rstrip(" .:") + "."
    return text.replace(str(path), str(origin))

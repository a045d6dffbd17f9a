"""What a model is on disk, told from its first bytes and its parts, and what other files are."""

import json
import zipfile
from pathlib import Path

from ruo.errors import ModelError

SUFFIXES = (".keras", ".h5", ".hdf5")  # of models that are one file
UNREADABLE = "its file is cut off or damaged; copy it again."
_HDF5 = b"\x89HDF\r\n\x1a\n"
_EXPORT = "save it as .keras, or export it as a SavedModel, with Keras"
_KERAS2 = (
    "Keras 2 (tf_keras) made it, whose .keras files Keras 3 cannot read; load it with tf_keras and export it: "
    'tf_keras.models.load_model("model.keras").export("folder") makes a SavedModel.'
)


def is_saved_model(path: Path) -> bool:
    """Whether a path is a SavedModel directory."""
    return (path / "saved_model.pb").is_file()


def is_model_folder(path: Path) -> bool:
    """Whether a path is a SavedModel directory, or what is inside a .keras file, unpacked."""
    return is_saved_model(path) or (path / "config.json").is_file()


def is_weights(path: Path) -> bool:
    """Whether a file holds weights without their model."""
    return path.name.endswith(".weights.h5")


def refuse_foreign(path: Path) -> None:
    """Raise ModelError for what is not a model of Keras or TensorFlow, by its first bytes and what it contains."""
    if path.is_dir():
        if not is_model_folder(path):
            raise ModelError("a SavedModel directory has a file saved_model.pb.")
        return
    with path.open("rb") as file:
        head = file.read(4096)
    reason = _foreign(path, head)
    if reason is None and path.suffix == ".keras":
        reason = _not_keras(path, head)
    elif reason is None and path.suffix in SUFFIXES:
        reason = _not_hdf5(path, head)
    if reason is None and path.suffix not in SUFFIXES:
        reason = "it must end in .keras or .h5, or be a SavedModel directory."
    if reason is not None:
        raise ModelError(reason)


def _foreign(path: Path, head: bytes) -> str | None:
    """What other programs write, by the beginning of the file."""
    begin = head.lstrip().lower()
    kinds = (
        (not head and path.suffix in SUFFIXES, "the file is empty; copy it again."),
        (
            begin.startswith(b"version https://git-lfs"),
            "it is a pointer of Git LFS and not the model; run: git lfs pull",
        ),
        (
            begin.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")),
            "it is a web page; download the model's file itself.",
        ),
        (head[4:8] == b"TFL3", f"it is a model of TensorFlow Lite; {_EXPORT}."),
        (
            path.suffix == ".onnx" or (head[:1] == b"\x08" and b"onnx" in head.lower()),
            f"it is an ONNX model; {_EXPORT}.",
        ),
        (head[:1] == b"\x80" and head[1:2] <= b"\x05", "it is a pickle (scikit-learn, joblib), not a Keras model."),
        (head[:2] in (b"x\x9c", b"x\x01", b"x\xda"), "it is a compressed pickle (joblib), not a Keras model."),
        (head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar", "it is an archive; unpack it first."),
        (head[:6] == b"\x93NUMPY", "it is an array of NumPy, not a model."),
        (is_weights(path), "it holds weights only; save the whole model with model.save()."),
        (path.suffix == ".pb", "it is a part of a SavedModel; give the folder that it is in."),
        (begin.startswith(b"{"), f"it is JSON and has no weights; {_EXPORT}."),
    )
    return next((reason for is_it, reason in kinds if is_it), None)


def _not_keras(path: Path, head: bytes) -> str | None:
    if head.startswith(_HDF5):
        return "it is an HDF5 file; name it .h5."
    if not zipfile.is_zipfile(path):
        return UNREADABLE if head[:2] == b"PK" else "it is not a .keras file; save the model with model.save()."
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        metadata = json.loads(file.read("metadata.json")) if "metadata.json" in names else {}
        kinds = (
            (any(name.endswith("data.pkl") for name in names), f"it is a model of PyTorch; {_EXPORT}."),
            ("config.json" in names, None),
            (
                any(name.endswith("/config.json") for name in names),
                "its files are in a folder inside the archive; pack them without.",
            ),
            (True, "it has no config.json, so it holds weights at most; save the whole model with model.save()."),
        )
        reason = next(reason for is_it, reason in kinds if is_it)
        is_old = str(metadata.get("keras_version", "")).startswith("2.")
        return reason or (_KERAS2 if is_old else None) or (UNREADABLE if file.testzip() else None)


def _not_hdf5(path: Path, head: bytes) -> str | None:
    if head[:2] == b"PK":
        return "it is a zip archive; name it .keras if Keras saved it."
    if not head.startswith(_HDF5):
        return "it is not an HDF5 file; save the model with model.save()."
    import h5py

    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            return "it holds weights only; save the whole model with model.save()."
    return None

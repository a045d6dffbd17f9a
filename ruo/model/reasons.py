"""Why a model cannot be loaded, in a sentence: Keras and TensorFlow say it at the end of theirs."""

import re
from pathlib import Path

from ruo.errors import ModelError
from ruo.model.formats import UNREADABLE

_CLASS = (
    r'it needs the {0} "{1}", which is not one of Keras; name the module that defines it in MODEL_MODULES '
    "(with RUO_TRUST_MODEL=1), or export the model as a SavedModel."
)
_LAMBDA = "it has a Lambda layer, which is code of its author; set RUO_TRUST_MODEL=1 if you trust the author."

_BACKEND = "it works with Keras' backend {0} only; set KERAS_BACKEND to it, or export the model as a SavedModel."
_OPERATION = (
    "it needs the operation {0}, which this TensorFlow does not have; name what defines it in MODEL_MODULES "
    "(with RUO_TRUST_MODEL=1), or export the model without it."
)
_DAMAGE = (
    r"[Tt]runcated file|[Bb]ad symbol table|Unable to (synchronously )?open|BadZipFile|[Bb]ad CRC|zip file|Read less bytes"
    r"|Error -?\d+ while decompressing|Can't (synchronously )?read"
)

# What a message has in it, and the sentence for it.
_KNOWN = (
    (r"Python lambda|safe_mode", _LAMBDA),
    (r"JSONDecodeError", "its config.json is damaged; save the model again."),
    (r"Could not deserialize ()'[\w.]*?(\w+)' because", _CLASS),
    (r"Could not (?:locate|deserialize) (\w+) '(?:\w+>)?([\w.]+)'", _CLASS),
    (r"Unknown ()(?:layer|class|object|\w+ function): '?([\w.]+)'?", _CLASS),
    (r"Could not interpret (\w+)(?: \w+)? identifier: (\w+)", _CLASS),
    (r"requires? (?:the )?`?(TensorFlow|JAX|PyTorch|Torch)`? backend", _BACKEND),
    (_DAMAGE, UNREADABLE),
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


def reason_of(error: Exception, path: Path, origin: Path) -> str:
    """One sentence: our own, or one for what is known, or else the cause, which Keras and TensorFlow put last."""
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, ModelError):
        last = text.rsplit("Exception encountered:", 1)[-1].strip()
        for pattern, sentence in _KNOWN:
            if found := re.search(pattern, f"{type(error).__name__}: {last}"):
                return sentence.format(*(part or "class" for part in found.groups()))
        text = _shorten(last)
    return text.replace(str(path), str(origin))


def _shorten(text: str) -> str:
    """The text without configurations, which are as long as the model, and without TensorFlow's places in graphs."""
    text = re.split(r"\s*(?:Full (?:object )?config|config=|\[\[\{\{)", text)[0]
    text = re.sub(r"\[Op:.*?\]|\{\{.*?\}\}", "", text)
    return " ".join(text.split())[:400].rstrip(" .:") + "."

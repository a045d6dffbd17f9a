"""The Open Inference Protocol (V2) over HTTP, with the binary tensor data extension.

A message is a JSON object; a tensor's values are its `data`, or raw bytes behind the object, in the tensors' order. The
comments quote the rule beside each decision: [OIP] is "inference_rest.md", [BIN] Triton's "extension_binary_data.md".
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ruo.wire.jsontext import MAX_DIMENSIONS, as_bytes, as_texts, dumps, encode_json, loads, require_finite, to_array
from ruo.wire.messages import ONLY, Array, Buffer, Encoded, InferRequest, InferResponse, WireError

HEADER_LENGTH = "Inference-Header-Content-Length"

# of numbers: [BIN] "little-endian byte order, row major, without stride or padding between elements"
# [BIN] "For BOOL type element true is a single byte with value 1 and false is a single byte with value 0."
_CODES = {"BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2"}
_CODES |= {"INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
DATATYPES = {name: np.dtype(code) for name, code in _CODES.items()}
BYTES = np.dtype(object)  # text: arrays of `bytes`, or of `str` where they are written
TENSORS = {**DATATYPES, "BYTES": BYTES}
_NAMES = {dtype: name for name, dtype in TENSORS.items()}
_KINDS: dict[type, str] = {dict: "a JSON object", list: "a list", str: "a string", bool: "true or false"}

# [BIN] "For BYTES type each element is represented by a 4-byte unsigned integer giving the length followed by the actual
# bytes."
_LENGTH = struct.Struct("<I")

T = TypeVar("T")
D = TypeVar("D")


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a numpy dtype; raises WireError where it has none."""
    if dtype.kind in "SU":
        return "BYTES"
    try:
        return _NAMES[np.dtype(dtype).newbyteorder("<")]
    except KeyError:
        raise WireError(f"The protocol has no datatype for numpy's {dtype}.") from None


def encode_request(request: InferRequest, *, binary: bool = True) -> Encoded:
    """All inputs as binary tensors, with a request for binary outputs; contiguous arrays are not copied."""
    # [BIN] "true if all outputs should be returned as binary data and false (or not given) if [...] as JSON"
    message: dict[str, Any] = {"parameters": {"binary_data_output": True}} if binary else {}
    if request.id is not None:
        message["id"] = request.id
    if request.outputs is not None:
        outputs = request.outputs.items()
        message["outputs"] = [{"name": name, "parameters": {"binary_data": flag}} for name, flag in outputs]
    return _encode(message, "inputs", request.inputs, dict.fromkeys(request.inputs, binary))


def encode_json_request(request: InferRequest) -> Encoded:
    """All inputs as JSON `data`; raises WireError for NaN and Infinity."""
    require_finite(request.inputs)
    return encode_request(request, binary=False)


def decode_request(headers: Mapping[str, str], body: Buffer) -> InferRequest:
    """Tensors by name; a raw binary request (header length 0) has one tensor of bytes, named `ONLY`."""
    text, rest = _parts(headers, body)
    if not text and HEADER_LENGTH in headers:
        # Triton's "raw binary request": the header is 0, the whole body is the data of the model's only input. Only
        # the model knows its datatype and shape.
        return InferRequest({ONLY: np.frombuffer(body, dtype=np.uint8)}, binary=True)
    message = loads(text)
    parameters = _field(message, "The message", "parameters", dict, {})
    binary = _field(parameters, "parameters", "binary_data_output", bool, False)
    return InferRequest(
        inputs=_tensors(message, "inputs", rest),
        id=_field(message, "The message", "id", str, None),
        outputs=_requested(_field(message, "The message", "outputs", list, None), binary),
        binary=binary,
    )


def _requested(outputs: list[object] | None, default: bool) -> dict[str, bool] | None:
    """The names of the requested outputs, True for those requested as binary."""
    # [OIP] "outputs": "Optional, if not specified all outputs produced by the model will be returned"
    if outputs is None:
        return None
    requested: dict[str, bool] = {}
    for index, output in enumerate(outputs):
        where = f"outputs[{index}]"
        parameters = _field(output, where, "parameters", dict, {})
        for name in ("classification", "shared_memory_region"):  # Triton's, which change what the answer holds
            if parameters.get(name):
                raise WireError(f'{where}: no output is answered by "{name}" here; leave it out.')
        # [BIN] 'If "binary_data" is specified on an output it overrides this setting', binary_data_output
        requested[_name(output, where)] = _field(parameters, f"{where}.parameters", "binary_data", bool, default)
    return requested


def encode_response(response: InferResponse, request: InferRequest) -> Encoded:
    """The requested outputs, each as binary or JSON as requested."""
    requested = request.outputs or dict.fromkeys(response.outputs, request.binary)
    message: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    # [OIP] "Optional, but if specified this identifier must be returned in the response."
    if response.id is not None:
        message["id"] = response.id
    return _encode(message, "outputs", {name: response.outputs[name] for name in requested}, requested)


def decode_response(headers: Mapping[str, str], body: Buffer) -> InferResponse:
    """Outputs by name, and the model's name and version."""
    text, rest = _parts(headers, body)
    message = loads(text)
    return InferResponse(
        outputs=_tensors(message, "outputs", rest),
        model_name=_field(message, "The message", "model_name", str, None) or "",
        # [OIP] "Inference servers that do not implement versioning should not provide this field in the response."
        model_version=_field(message, "The message", "model_version", str, None) or "",
        id=_field(message, "The message", "id", str, None),
    )


def _encode(message: dict[str, Any], key: str, tensors: Mapping[str, Array], binary: Mapping[str, bool]) -> Encoded:
    entries, buffers = [], []
    for name, tensor in tensors.items():
        datatype = datatype_of(tensor.dtype)
        # [OIP] "the shape and data must represent the full shape and contents of the entire batch"
        entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": datatype}
        array = np.ascontiguousarray(tensor, dtype=TENSORS[datatype])
        if binary[name]:
            buffers.append(_bytes_of(array))
            # [BIN] "int64 parameter indicating the size of the tensor binary data, in bytes"
            entry["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            entry["data"] = _json_of(array)
        entries.append(entry)
    message = {**message, key: entries}
    if not any(binary.values()):
        return encode_json(message)
    # [BIN] "If any binary data is present in the request or response the Inference-Header-Content-Length header must be
    # provided to give the length of the JSON object, and Content-Length continues to give the full body length"
    text = dumps(message)
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return Encoded(headers, [text, *buffers])


def _bytes_of(array: Array) -> Buffer:
    if array.dtype == BYTES:
        return b"".join(_LENGTH.pack(len(text)) + text for text in as_bytes(array))
    return array.data.cast("B") if array.size else b""  # a view of no bytes cannot be cast


def _json_of(array: Array) -> Array | list[Any]:
    """[OIP] "data" may be nested or flat, in row-major order; flat is shorter."""
    if array.dtype == BYTES:
        return as_texts(array).ravel().tolist()
    # orjson does not write FP16, and FP32 is read back to the same value
    return array.ravel().astype(np.float32) if array.dtype == np.float16 else array.ravel()


class _Entry(NamedTuple):
    """The description of one tensor, from `where` in the message."""

    where: str
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f'Tensor "{self.name}" ({_NAMES[self.dtype]} {list(self.shape)!s:.80})'


def _tensors(message: object, key: str, rest: memoryview) -> dict[str, Array]:
    """The tensors in the list `key`; `rest` is what follows the message."""
    entries = _field(message, "The message", key, list, [])
    if not entries:
        raise WireError(f'"{key}" must be a list of at least one tensor.')
    tensors: dict[str, Array] = {}
    for index, fields in enumerate(entries):
        where = f"{key}[{index}]"
        size = _field(fields, where, "parameters", dict, {}).get("binary_data_size")
        entry = _entry(fields, where)
        if entry.name in tensors:
            raise WireError(f'Tensor "{entry.name}" is given twice in "{key}".')
        if (size is None) == ("data" not in fields):
            raise WireError(f'{entry} needs either "data" or parameters.binary_data_size.')
        if size is None:
            tensors[entry.name] = _from_json(fields["data"], entry)
        else:
            # [BIN] "the binary tensor data in the same order as the order of the input or output tensors [...] in the JSON"
            tensors[entry.name] = _from_bytes(rest, size, entry)
            rest = rest[size:]
    if rest:
        raise WireError(f"The body has {len(rest)} bytes behind its last tensor.")
    return tensors


def _entry(fields: dict[str, Any], where: str) -> _Entry:
    name, datatype = _name(fields, where), fields.get("datatype")
    if not isinstance(datatype, str) or datatype not in TENSORS:
        raise WireError(f'Tensor "{name}" has datatype {datatype!r:.40}; use one of {", ".join(TENSORS)}.')
    shape = fields.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise WireError(f'Tensor "{name}" needs a "shape": a list of whole numbers from 0 up.')
    # numpy counts bytes in 63 bits, and the dimensions beside one of 0 as well; rows of nothing are computed, too
    most, power = MAX_DIMENSIONS, 24 if 0 in shape else 59
    if len(shape) > most or math.prod(max(size, 1) for size in shape) >= 2**power:
        raise WireError(f'Tensor "{name}" needs a "shape" of at most {most} dimensions and 2**{power} values.')
    return _Entry(where, name, TENSORS[datatype], tuple(shape))


def _from_bytes(rest: memoryview, size: object, entry: _Entry) -> Array:
    if type(size) is not int or size < 0:
        raise WireError(f"{entry}: binary_data_size must be a whole number from 0 up.")
    count = math.prod(entry.shape)
    expected = size if entry.dtype == BYTES else count * entry.dtype.itemsize
    if size != expected:
        raise WireError(f"{entry} takes {expected} bytes, binary_data_size says {size}.")
    if size > len(rest):
        raise WireError(f"{entry} takes {size} bytes, the body has {len(rest)} left for it.")
    if entry.dtype == BYTES:
        return _texts_of(rest[:size], entry, count).reshape(entry.shape)
    array = np.frombuffer(rest, dtype=entry.dtype, count=count)
    # numpy does not define what a bool of any other byte is
    if entry.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise WireError(f"{entry} holds a byte other than 0 and 1.")
    return array.reshape(entry.shape)


def _texts_of(data: memoryview, entry: _Entry, count: int) -> Array:
    texts, end = list[bytes](), 0
    while len(texts) < count and end + 4 <= len(data):
        begin = end + 4
        end = begin + int.from_bytes(data[end:begin], "little")
        texts.append(bytes(data[begin:end]))
    if len(texts) != count or end != len(data):
        raise WireError(f"{entry}: its {len(data)} bytes are not {count} elements, each behind its length.")
    return np.array(texts, object)


def _from_json(data: object, entry: _Entry) -> Array:
    if not isinstance(data, list):
        raise WireError(f"{entry}: data must be a list.")
    array = to_array(data, f"{entry.where}.data", may_be_text=entry.dtype == BYTES)
    if array.size and (entry.dtype == BYTES) != (array.dtype == BYTES):
        raise WireError(f"{entry} holds a value that {_NAMES[entry.dtype]} cannot hold.")
    if array.size != math.prod(entry.shape):
        raise WireError(f"{entry} takes {math.prod(entry.shape)} values, data has {array.size}.")
    is_rounded = False
    if array.dtype.kind == "f" and entry.dtype.kind != "f":
        array = np.asarray(data, dtype=object)  # numpy makes floats of whole numbers from 2**63 up; these stay exact
        is_rounded = any(type(cell) is float and cell <= -(2**63) for cell in array.flat)  # by the parser, to -2**63
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(entry.dtype)
    except (OverflowError, TypeError, ValueError):
        converted = None
    if converted is None or is_rounded or (entry.dtype.kind != "f" and not np.array_equal(converted, array)):
        raise WireError(f"{entry} holds a value that {_NAMES[entry.dtype]} cannot hold.")
    return converted.reshape(entry.shape)


def _parts(headers: Mapping[str, str], body: Buffer) -> tuple[memoryview, memoryview]:
    """The text of the message, and the bytes behind it."""
    size = memoryview(body).nbytes
    text = headers.get(HEADER_LENGTH, str(size))
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > size:
        raise WireError(f"{HEADER_LENGTH} is {text[:40]!r}; it must be a number from 0 to the body's {size} bytes.")
    return memoryview(body)[: int(text)], memoryview(body)[int(text) :]


def _field(fields: object, where: str, name: str, kind: type[T], default: D) -> T | D:
    """The value of `name` in the JSON object at `where`, of the given kind."""
    if not isinstance(fields, dict):
        raise WireError(f"{where} must be a JSON object.")
    value = fields.get(name, default)
    if value is None:  # as serialisers write what is left out
        return default
    if value is not default and not isinstance(value, kind):
        raise WireError(f'{where}: "{name}" must be {_KINDS[kind]}.')
    return value


def _name(fields: object, where: str) -> str:
    name = _field(fields, where, "name", str, "")
    if not name:
        raise WireError(f'{where} needs a "name".')
    return name

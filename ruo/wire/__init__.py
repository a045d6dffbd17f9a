"""The protocols: arrays to bytes and back. Client and server share them.

No input or output; only numpy, orjson and the standard library. Every protocol has the same four functions, which do
not know on which side they are. Lengths are checked before memory is allocated, and large arrays are never joined.
"""

from dataclasses import replace
from typing import Any

from ruo.wire import paper, v1, v2
from ruo.wire.messages import ONLY, Encoded, InferRequest, InferResponse, Wire, WireError

__all__ = ["ONLY", "WIRES", "Encoded", "InferRequest", "InferResponse", "Wire", "WireError"]


def _wire(name: str, path: str, protocol: Any, **abilities: Any) -> Wire:
    functions = (protocol.encode_request, protocol.decode_request, protocol.encode_response, protocol.decode_response)
    return Wire(name, path, *functions, **abilities)


_V2 = _wire("v2", "/v2/models/{model}/infer", v2, has_metadata=True, is_binary=True, fallback="v2-json")
_V2_JSON = replace(_V2, name="v2-json", encode_request=v2.encode_json_request, is_binary=False, fallback=None)
_V1 = _wire("v1", "/v1/models/{model}:predict", v1)
_PAPER = _wire("paper", "/test", paper, has_models=False)

WIRES = {wire.name: wire for wire in (_V2, _V2_JSON, _V1, _PAPER)}

"""The protocols: arrays to bytes and back. Client and server share them.

No input or output; only numpy, orjson and the standard library. Every protocol has the same four functions, which do
not know on which side they are. Lengths are checked before memory is allocated, and large arrays are never joined.
"""

from dataclasses import replace

from ruo.wire import paper, v1, v2
from ruo.wire.messages import ONLY, Encoded, InferRequest, InferResponse, Wire, WireError

__all__ = ["ONLY", "WIRES", "Encoded", "InferRequest", "InferResponse", "Wire", "WireError"]

_V2 = Wire(
    "v2",
    "/v2/models/{model}/infer",
    v2.encode_request,
    v2.decode_request,
    v2.encode_response,
    v2.decode_response,
    versioned_path="/v2/models/{model}/versions/{version}/infer",
    has_metadata=True,
    is_binary=True,
    fallback="v2-json",
)
_V2_JSON = replace(_V2, name="v2-json", encode_request=v2.encode_json_request, is_binary=False, fallback=None)
_V1 = Wire(
    "v1",
    "/v1/models/{model}:predict",
    v1.encode_request,
    v1.decode_request,
    v1.encode_response,
    v1.decode_response,
    versioned_path="/v1/models/{model}/versions/{version}:predict",
)
_PAPER = Wire(
    "paper",
    "/test",
    paper.encode_request,
    paper.decode_request,
    paper.encode_response,
    paper.decode_response,
    has_models=False,
)

WIRES = {wire.name: wire for wire in (_V2, _V2_JSON, _V1, _PAPER)}

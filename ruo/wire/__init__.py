"""The protocols: arrays to bytes and back. Client and server share them.

The rules of this folder: no input or output, no web framework, no data frames; only numpy, orjson and the standard
library. A codec does not know which side it is on. Lengths are checked before memory is taken. Every module
has the same four functions, an encoder gives headers and a list of buffers (large arrays are never joined),
and a message that breaks its protocol is a `WireError`, which carries the status for the answer.
"""

from __future__ import annotations

from ruo.wire import paper, v1, v2
from ruo.wire.messages import ONLY, Encoded, InferRequest, InferResponse, Wire, WireError

__all__ = ["ONLY", "WIRES", "Encoded", "InferRequest", "InferResponse", "Wire", "WireError"]

_V2_VERSION = "/v2/models/{model}/versions/{version}/infer"

WIRES = {
    "v2": Wire(
        "v2",
        "/v2/models/{model}/infer",
        v2.encode_request,
        v2.decode_request,
        v2.encode_response,
        v2.decode_response,
        versioned_path=_V2_VERSION,
        has_metadata=True,
        has_request_id=True,
        is_binary=True,
        fallback="v2-json",
    ),
    "v2-json": Wire(
        "v2-json",
        "/v2/models/{model}/infer",
        v2.encode_json_request,
        v2.decode_request,
        v2.encode_response,
        v2.decode_response,
        versioned_path=_V2_VERSION,
        has_metadata=True,
        has_request_id=True,
    ),
    "v1": Wire(
        "v1",
        "/v1/models/{model}:predict",
        v1.encode_request,
        v1.decode_request,
        v1.encode_response,
        v1.decode_response,
        versioned_path="/v1/models/{model}/versions/{version}:predict",
    ),
    "paper": Wire(
        "paper",
        "/test",
        paper.encode_request,
        paper.decode_request,
        paper.encode_response,
        paper.decode_response,
        has_models=False,
    ),
}

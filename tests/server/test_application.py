"""The routes, as a client sees them: status, headers and body."""

import gzip
import json
import re
import zlib
from itertools import product

import numpy as np
import pytest
import zstandard

from ruo.wire import v2
from tests.server.asking import INFER, PACK, RAW, message

V1_PREDICT = "/v1/models/model:predict"


def v2_body(rows, **changes):
    return {**tensor(shape=list(rows.shape), data=rows.ravel().tolist()), **changes}


def tensor(**changes):
    return {"inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP32", "data": [0] * 8, **changes}]}


@pytest.fixture(scope="module")
def two(make_app):
    """The application around a model with two inputs and two outputs."""
    return make_app("two")


@pytest.fixture
def served(client):
    """The model that is served, with its version and fingerprint."""
    return client.serving.get()


# --- what the server says of itself


def test_the_server_says_what_it_is(client):
    """Its name, version and extensions, with or without the last slash; the probes answer as KServe's client reads them."""
    about = client.get("/v2").json
    assert client.get("/v2/").json == about
    assert (about["name"], type(about["version"])) == ("ruo", str)
    assert "binary_tensor_data" in about["extensions"]
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"live": True, "ready": True, "workers": 1, "of": 1}
    assert client.get("/v2/models/model/ready").json == {"name": "model", "ready": True}
    assert client.get("/").json == {"status": "alive"}
    assert client.get("/v1/models").json == {"models": ["model"]}


def test_model_metadata(client, served):
    """The model's metadata name its tensors, its version, its fingerprint and the largest request."""
    _, version, sha256, _ = served
    about = client.get("/v2/models/model").json
    assert about == {
        "name": "model",
        "versions": [version],
        "platform": "tensorflow_keras",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 8]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
        "parameters": {"sha256": sha256, "max_request_bytes": 256 * 2**20},
    }
    assert client.get(f"/v2/models/model/versions/{version}").json == about


def test_v1_model_status(client, served):
    """A V1 model's status is KServe's and TensorFlow Serving's in one; a header has the fingerprint."""
    _, version, sha256, _ = served
    for path in ("/v1/models/model", f"/v1/models/model/versions/{version}"):
        answer = client.get(path)
        about = answer.json
        assert (about["name"], about["ready"]) == ("model", True)
        (status,) = about["model_version_status"]
        assert (status["version"], status["state"], status["status"]["error_code"]) == (version, "AVAILABLE", "OK")
        assert (answer.headers["Ruo-Model-Version"], answer.headers["Ruo-Model-Sha256"]) == (version, sha256)
    signature = client.get("/v1/models/model/metadata").json["metadata"]["signature_def"]["signature_def"]
    assert signature["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


def test_what_tools_of_triton_ask(client, served):
    """The configuration has the tensors without the batch, and the largest one that a request can hold; the index the model."""
    config = client.get("/v2/models/model/config").json
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [8]}]
    assert config["max_batch_size"] == 256 * 2**20 // 32
    entry = {"name": "model", "version": served.version, "state": "READY", "reason": ""}
    for question in ({}, {"json": {"ready": True}}):
        assert client.post("/v2/repository/index", **question).json == [entry]
    assert client.post("/v2/repository/models/model/load").status_code == 400


def test_a_server_whose_model_is_broken_lives_and_is_not_ready(make_app, rows):
    """With a model that cannot be loaded the server lives, is not ready, and answers 503 with the reason."""
    broken = make_app("broken")
    assert broken.get("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/model/ready", "/v2/models/model", "/v1/models/model"):
        answer = broken.get(path)
        assert answer.status_code == 503
        assert "cannot be loaded" in answer.json["error"]
    answer = broken.post(INFER, json=v2_body(rows))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert broken.post("/v2/repository/index").json[0]["state"] == "UNAVAILABLE"
    assert broken.post("/v2/repository/index", json={"ready": True}).json == []


# --- predictions


def test_answers_say_who_made_them(client, rows, served):
    """Every answer carries the version and fingerprint of its model, the worker and the server's own times."""
    _, version, sha256, _ = served
    answer = client.post(INFER, json=v2_body(rows, id="7"))
    assert (answer.json["model_name"], answer.json["model_version"], answer.json["id"]) == ("model", version, "7")
    assert (answer.headers["Ruo-Model-Version"], answer.headers["Ruo-Model-Sha256"]) == (version, sha256)
    assert "/" in answer.headers["Ruo-Worker"]
    stages = re.findall(r"(\w+);dur=(-?[\d.]+)", answer.headers["Server-Timing"])
    assert [name for name, _ in stages] == ["decode", "queue", "predict", "encode"]
    assert all(0 <= float(duration) for _, duration in stages)  # and together no more than all, see test_worker.py


@pytest.mark.parametrize("path", ["/v2/models/model/versions/{}/infer", "/v1/models/model/versions/{}:predict"])
def test_a_version_can_be_asked_for(client, rows, served, path):
    """The version in the address is the one that answers; another is 404."""
    body = v2_body(rows) if "infer" in path else {"instances": rows.tolist()}
    assert client.post(path.format(served.version), json=body).status_code == 200
    answer = client.post(path.format("7"), json=body)
    assert answer.status_code == 404
    assert served.version in answer.json["error"]


def test_outputs_are_chosen_and_mixed(two):
    """Of two outputs only the ones named come back, each as JSON or binary as it was asked for."""
    inputs = [
        {"name": "b", "shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]},
        {"name": "a", "shape": [1, 2], "datatype": "FP64", "data": [[0.5, 1]]},
    ]
    everything = two.post(INFER, json={"inputs": inputs}).json["outputs"]
    assert [output["name"] for output in everything] == ["left", "right"]
    wanted = [{"name": "right", "parameters": {"binary_data": True}}, {"name": "left"}]
    answer = two.post(INFER, json={"inputs": inputs, "outputs": wanted})
    head = json.loads(answer.data[: int(answer.headers[v2.HEADER_LENGTH])])
    assert [("data" in output, output["name"]) for output in head["outputs"]] == [(False, "right"), (True, "left")]
    outputs = v2.decode_response(dict(answer.headers), answer.data).outputs
    for output in everything:
        np.testing.assert_allclose(outputs[output["name"]].ravel(), output["data"], rtol=1e-5)


def test_two_inputs_by_row_and_by_column(two):
    """V1 takes two inputs as named columns and as rows of named values, with the same result."""
    rows = [{"a": [1, 2], "b": [3, 4, 5]}, {"a": [6, 7], "b": [8, 9, 10]}]
    columns = {name: [row[name] for row in rows] for name in "ab"}
    by_row = two.post(V1_PREDICT, json={"instances": rows}).json["predictions"]
    by_column = two.post(V1_PREDICT, json={"inputs": columns}).json["outputs"]
    assert sorted(by_column) == ["left", "right"]
    assert [row["right"] for row in by_row] == by_column["right"]


def test_content_type_is_never_asked_for(client, rows):
    """Official clients send no Content-Type, or a wrong one; the body counts."""
    for content_type in (None, "text/plain", "application/x-www-form-urlencoded"):
        answer = client.post(INFER, data=json.dumps(v2_body(rows)), content_type=content_type)
        assert answer.status_code == 200


# --- compression


@pytest.mark.parametrize(("coding", "pack"), PACK.items())
def test_compressed_requests(make_app, client, rows, coding, pack):
    """gzip, deflate and zstd bodies are read; a broken one is 400, and one that unpacks to too much is 413."""
    noise = np.random.default_rng(0).normal(size=(10_000, rows.shape[1])).astype("f4").tobytes()  # many blocks of zstd
    packed, headers = pack(noise), {"Content-Encoding": coding, **RAW}
    for data, status in ((packed, 200), (packed * 2, 200), (packed[:-9], 400), (b"plain", 400)):
        assert client.post(INFER, data=data, headers=headers).status_code == status
    bomb = make_app(MAX_REQUEST_MB=1).post(INFER, data=pack(b" " * 50_000_000), headers=headers)
    assert bomb.status_code == 413


@pytest.mark.parametrize(("log", "status"), [(27, 200), (28, 400)])
def test_a_body_in_zstd_has_a_window_of_128_mb_at_most(client, rows, log, status):
    """A larger one would take that much memory beside the body."""
    parameters = zstandard.ZstdCompressionParameters(window_log=log)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(json.dumps(v2_body(rows)).encode()) + packer.flush()
    assert client.post(INFER, data=packed, headers={"Content-Encoding": "zstd"}).status_code == status


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_answers_are_compressed_for_those_who_want_nothing_else(client, rows, coding, unpack):
    """A client that names one coding gets it; one that lists what it knows gets the plain answer, which is faster."""
    plain = client.post(INFER, json=v2_body(rows))
    packed = client.post(INFER, json=v2_body(rows), headers={"Accept-Encoding": coding})
    assert packed.headers["Content-Encoding"] == coding
    assert unpack(packed.data) == plain.data
    assert len(packed.data) < len(plain.data)
    for listed in ("gzip, deflate", "gzip, deflate, br, zstd", "identity", "*"):
        answer = client.post(INFER, json=v2_body(rows), headers={"Accept-Encoding": listed})
        assert "Content-Encoding" not in answer.headers


def test_what_is_left_out_may_be_null(client):
    """Serialisers write it so."""
    body = {**tensor(parameters=None), "id": None, "outputs": None, "parameters": None}
    assert client.post(INFER, json=body).status_code == 200


# --- who is let in


def test_a_token_closes_everything_but_the_probes(make_app, rows):
    """With RUO_TOKEN set, whoever has no token gets 401, except for the probes."""
    closed = make_app(RUO_TOKEN="säcret")
    assert closed.get("/v2/health/ready").status_code == 200  # for every route see test_openapi.py
    for path in ("/v2", "/nothing"):
        answer = closed.get(path)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="ruo"')
    for given in ("Bearer wrong", "Bearer", "Basic säcret", "säcret", "Bearer säcret2", "bearer säcret"):
        headers = {"Authorization": given.encode().decode("latin-1")}
        status = closed.post(INFER, json=v2_body(rows), headers=headers).status_code
        assert status == (200 if given == "bearer säcret" else 401), given


def test_the_model_has_the_name_it_is_given(make_app, rows):
    """MODEL_NAME is the name in every address and answer."""
    named = make_app(MODEL_NAME="digits")
    assert named.post("/v2/models/digits/infer", json=v2_body(rows)).json["model_name"] == "digits"
    assert named.get("/v2/models/model").status_code == 404


# --- whatever is wrong with a request; how a message can be malformed is told in tests/wire

NESTED = b'{"instances": %b{"b64": "YQ=="}%b}' % (b"[" * 600, b"]" * 600)
MALFORMED = [
    # the address
    ("GET", "/nothing", None, 404, "nothing at /nothing"),
    ("GET", "/v2//health/live", None, 404, "nothing"),
    ("GET", "/v2/models/other", None, 404, 'no model "other"'),
    ("GET", "/v2/models/other/ready", None, 404, 'no model "other"'),
    ("POST", "/v2/models/other/infer", {}, 404, 'no model "other"'),
    ("POST", "/v1/models/other:predict", {}, 404, 'no model "other"'),
    ("GET", "/v2/models/model/versions/0", None, 404, 'no version "0"'),
    ("GET", "/v2/models/model/versions/0/ready", None, 404, 'no version "0"'),
    ("GET", "/v2/models/model/versions/0/config", None, 404, 'no version "0"'),
    ("GET", "/v1/models/model/versions/0", None, 404, 'no version "0"'),
    ("POST", "/v2/models/model/versions/0/infer", tensor(), 404, 'no version "0"'),
    ("POST", "/v1/models/model:classify", {}, 404, "nothing"),
    ("POST", "/v2/repository/models/other/unload", {}, 404, 'no model "other"'),
    # the verb
    ("GET", INFER, None, 405, "does not take GET"),
    ("DELETE", "/v2/models/model", None, 405, "does not take DELETE"),
    ("POST", "/v2/health/live", {}, 405, "does not take POST"),
    ("PATCH", "/", None, 405, "does not take PATCH"),
    ("OPTIONS", "/v2", None, 405, "does not take OPTIONS"),
    # V2
    ("POST", INFER, b"{", 400, "not JSON"),
    ("POST", INFER, tensor(name="z"), 400, 'no input "z"'),
    ("POST", INFER, tensor(name="\ud800\n"), 400, ""),
    ("POST", V1_PREDICT, {"instances": [{"\udfff": [1] * 8}]}, 400, ""),
    ("GET", "/v2/models/%ed%a0%80", None, 404, "no model"),
    ("POST", INFER, tensor(shape=[8]), 400, "model takes"),
    ("POST", INFER, tensor(shape=[], data=[1]), 400, "single number"),
    ("POST", INFER, tensor(shape=[2, 4]), 400, "[2, 4]"),
    ("POST", INFER, tensor(shape=[0, 7], data=[]), 400, "[0, 7]"),
    ("POST", INFER, {**tensor(), "outputs": [{"name": "z"}]}, 400, 'no output "z"'),
    # V1
    ("POST", V1_PREDICT, b"", 400, "not JSON"),
    ("POST", V1_PREDICT, {"instances": [1, 2]}, 400, "model takes"),
    ("POST", V1_PREDICT, {"instances": [[1] * 7]}, 400, "[1, 7]"),
    ("POST", V1_PREDICT, {"instances": [{"z": [1] * 8}]}, 400, 'no input "z"'),
    ("POST", V1_PREDICT, {"inputs": {"x": "abc"}}, 400, "holds text"),
    ("POST", V1_PREDICT, {"instances": [[1] * 8], "signature_name": "z"}, 400, "signature"),
    ("POST", V1_PREDICT, {"inputs": 7}, 400, "single number"),
    pytest.param("POST", V1_PREDICT, NESTED, 400, "", id="deeply nested, where values are encoded"),
    # the paper's
    ("POST", "/test", "no json", 400, "not JSON"),
    ("POST", "/test", "[[1, 2]]", 400, "model takes"),
    ("POST", "/test", [], 400, "model takes"),
    # the repository
    ("POST", "/v2/repository/index", [], 400, "JSON object"),
    ("POST", "/v2/repository/index", {"ready": 1}, 400, '"ready"'),
    ("POST", "/v2/repository/index", b"{", 400, "not JSON"),
    pytest.param("POST", "/v2/repository/index", b" " * 100_000 + b"{}", 413, "", id="a question that takes memory"),
    ("POST", "/v2/repository/models/model/unload", {}, 400, "MODEL_PATH"),
]
BAD_HEADERS = [
    ({"Content-Encoding": "b" * 41}, 415, f"'{'b' * 40}' is not known"),
    ({"Content-Encoding": "gzip, gzip"}, 415, "not known"),
    ({"Content-Encoding": "gzip"}, 400, "not gzip"),
    ({v2.HEADER_LENGTH: "99999999"}, 400, v2.HEADER_LENGTH),
    ({v2.HEADER_LENGTH: "0"}, 400, "32 bytes a row"),
    ({v2.HEADER_LENGTH: "10"}, 400, "not JSON"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "says"), MALFORMED)
def test_malformed_requests(client, rows, expected, method, path, body, status, says):
    """The answer is a status and one JSON sentence that names what is wrong; the next request gets its predictions."""
    data = body if isinstance(body, bytes | None) else json.dumps(body)
    answer = client.open(path, method=method, data=data)
    assert answer.status_code == status
    assert list(answer.json) == ["error"]
    assert says in answer.json["error"]
    assert ("Allow" in answer.headers) == (status == 405)
    predictions = client.post("/test", json=json.dumps(rows.tolist())).json
    np.testing.assert_allclose(predictions, expected["mlp"], atol=1e-5)


@pytest.mark.parametrize(("headers", "status", "says"), BAD_HEADERS)
def test_malformed_headers(client, headers, status, says):
    """A header that makes no sense is refused in the same way."""
    answer = client.post(INFER, json=tensor(), headers=headers)
    assert answer.status_code == status
    assert says in answer.json["error"]


def test_a_raw_request_is_for_a_model_with_one_input(two):
    """Bytes without a description do not say which of several inputs they are."""
    answer = two.post(INFER, data=bytes(32), headers={v2.HEADER_LENGTH: "0"})
    assert answer.status_code == 400
    assert "one input only" in answer.json["error"]


def test_errors_of_our_own_are_in_the_log_only(make_app, rows, caplog):
    """A failure inside the server is a 500 that tells the client nothing of its inside; the log has it all."""
    app = make_app()
    app.serving._current = app.serving._current._replace(model=None)
    answer = app.post(INFER, json=v2_body(rows))
    assert answer.status_code == 500
    assert answer.json == {"error": "The server failed on this request; its log says why."}
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize("length", ["gzip", "-1", "²", "0"])
def test_the_wires_without_binary_tensors_take_no_heed_of_their_header(client, rows, length):
    """What V2 says in a header means nothing to V1 and to the wire of 2023."""
    for wire, path in (("v1", V1_PREDICT), ("paper", "/test")):
        data, headers = message(wire, x=rows)
        assert client.post(path, data=data, headers={**headers, v2.HEADER_LENGTH: length}).status_code == 200


# --- pages of others, and text


def test_a_page_of_a_named_origin_may_ask(make_app):
    """With its preflight, which has no token; and no other page."""
    client = make_app(CORS_ORIGINS="https://a.example, https://b.example", RUO_TOKEN="secret")
    for method, status in (("OPTIONS", 204), ("GET", 401)):
        answer = client.open("/v2/models", method=method, headers={"Origin": "https://b.example"})
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == "https://b.example"
        assert {"Authorization", "Content-Encoding"} <= set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    other = client.get("/v2/health/live", headers={"Origin": "https://c.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert make_app().options("/v2/models").status_code == 405


def test_text_goes_in_and_out_as_v1_says(keras, make_app, tmp_path):
    """Strings, bytes as base64, and the signature by its name or by an empty one."""
    words = keras.layers.StringLookup(vocabulary=["red", "green"])
    keras.Sequential([keras.Input((1,), name="word", dtype="string"), words]).save(tmp_path / "words.keras")
    client = make_app(MODEL_PATH=tmp_path / "words.keras")
    base64 = [[{"b64": "Z3JlZW4="}], [{"b64": "Pw=="}]]
    texts = [[["green"], ["?"]], [{"word": ["green"]}, {"word": ["?"]}], base64]
    for rows, signature in product(texts, ["", "serving_default"]):
        body = {"instances": rows, "signature_name": signature}
        assert client.post(V1_PREDICT, json=body).json == {"predictions": [[2], [0]]}
    assert client.get("/v2/models").json == {"models": ["model"]}
    assert client.get("/v2/models/model").json["inputs"] == [{"name": "word", "datatype": "BYTES", "shape": [-1, 1]}]
    assert json.dumps(client.get("/v2/models/model/config").json["input"]).count("TYPE_STRING") == 1
    refused = client.post(V1_PREDICT, json={"instances": [[1.5]]})
    assert (refused.status_code, "takes text" in refused.json["error"]) == (400, True)

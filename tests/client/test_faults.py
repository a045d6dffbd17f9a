"""What a server or a network can do to a request, each with the sentence in which it must end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import ScoringError, iter_scores, score_csv
from ruo.deploy.local import LocalServer
from ruo.errors import TableError
from ruo.learn.demo import Demo
from tests.client.conftest import Scoring, Scripted, always
from tests.conftest import METADATA, Reply, ScriptedServer
from tests.proxy import UNAVAILABLE, Fault, Proxy

JSON = {"Content-Type": "application/json"}


def output(head: Any = None, **changes: Any) -> Reply:
    """An answer in JSON that is right except for the changes of its head and of its only tensor."""
    tensor = {"name": "y", "datatype": "FP32", "shape": [10, 1], "data": [1.0] * 10, **changes}
    return answer({"model_name": "model", "model_version": "1", **(head or {}), "outputs": [tensor]})


def answer(message: Any) -> Reply:
    return Reply(body=json.dumps(message).encode(), headers=JSON)


def binary(head: str, data: bytes | np.ndarray, length: int | str | None = None) -> Reply:
    stated = len(head) if length is None else length
    return Reply(body=head.encode() + bytes(data), headers={"Inference-Header-Content-Length": str(stated)})


HEAD = '{"outputs": [{"name": "y", "datatype": "FP32", "shape": [10, 1], "parameters": {"binary_data_size": 40}}]}'
NAN, INFINITY = np.full(10, np.nan, "<f4"), np.where(np.arange(10) == 7, np.inf, 1).astype("<f4")

# what is answered, and what must stand in the error
ANSWERS = {
    "HTML": (Reply(body=b"<html>Welcome</html>", headers={"Content-Type": "text/html"}), "not JSON"),
    "nothing": (Reply(), "not JSON"),
    "half JSON": (Reply(body=b'{"outputs": [{"name": "y"', headers=JSON), "not JSON"),
    "bytes that are no text": (Reply(body=b"\xff\xfe\x00", headers=JSON), "not JSON"),
    "no outputs": (answer({"model_name": "model"}), '"outputs" must be a list of at least one'),
    "outputs that are text": (answer({"outputs": "y"}), r'"outputs" must be a list\.'),
    "empty outputs": (answer({"outputs": []}), '"outputs" must be a list of at least one'),
    "a shape that is astronomical": (output(shape=[10, 10**18]), r"at most 32 dimensions and 2\*\*59 values"),
    "text for numbers": (output(datatype="BYTES", data=["a"] * 10), "the predictions are text"),
    "numbers as text": (output(data=["1"] * 10), r'is "1", which is not a number'),
    "too few rows": (output(shape=[2, 1], data=[1, 2]), "2 predictions for 10 rows"),
    "a single number": (output(shape=[], data=[1.0]), "a single number"),
    "a number beyond float32": (output(datatype="FP64", data=[*[1.0] * 9, 1e300]), r"row 9 has the prediction 1e\+300"),
    "NaN for numbers": (binary(HEAD, NAN), "row 0 has the prediction nan, though its features are numbers"),
    "Infinity in one row": (binary(HEAD, INFINITY), "row 7 has the prediction inf"),
    "whole numbers that float32 cannot hold": (output(datatype="INT64", data=[2**40 + 1] * 10), r"2\*\*24"),
    "the answer to another request": (output({"id": "rows 90-99"}), "another request, 'rows 90-99'"),
    "another model": (output({"model_name": "other"}), "with these predictions: they are of another model, 'other'"),
    "a head longer than the message": (binary(HEAD, b"", 9999), "Inference-Header-Content-Length"),
    "bytes missing": (binary(HEAD, b"1234"), "takes 40 bytes, the body has 4 left"),
    "bytes left over": (binary(HEAD, bytes(44)), "has 4 bytes behind its last tensor"),
    "a size that does not fit the shape": (binary(HEAD.replace("40", "80"), bytes(80)), "takes 40 bytes, .* says 80"),
    "a redirect": (Reply(302, headers={"Location": "http://elsewhere/"}), "a redirect to http://elsewhere/"),
    "no content": (Reply(204), "204"),
    "400 in words": (Reply(400, b'{"error": "x has the wrong shape"}', JSON), "answered 400: x has the wrong shape"),
    "escapes": (Reply(400, b'{"error": "\\u001b[31mred\\u0007 \\n \\u202e"}'), r"400: \\x1b\[31mred\\x07 \\u202e"),
    "escapes in an output's name": (output(name="\x1b[2J", shape=None), r'Tensor "\\x1b\[2J" needs a "shape"'),
    "401": (Reply(401, b'{"error": "token, please"}', JSON), "answered 401: token, please"),
    "403 of a proxy": (Reply(403, b"<h1>Forbidden</h1>"), "answered 403: <h1>Forbidden</h1>"),
    "404": (Reply(404), "answered 404"),
    "422 as FastAPI says it": (Reply(422, b'{"detail": [{"loc": ["body"]}]}', JSON), "answered 422: "),
    "500 with an endless reason": (Reply(500, b"x" * 100_000), "answered 500: x{300}$"),
    "503 until a time that is none": (
        Reply(503, b'{"error": "queue full"}', {"Retry-After": "Thu, 01 Jan 1970 00:00:00 +99999999999999"}),
        r"answered 503: queue full \(Tried 2 times",
    ),
    "413 down to a single row": (Reply(413, b"too large"), "a single one is too large.*answered 413: too large"),
    "an answer that is always cut": (Reply(body=b"x" * 100, cut_after=20), r"broke.*Tried 2 times"),
}


@pytest.mark.parametrize(("reply", "sentence"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_cannot_be_is_an_error(small_csv: Path, scripted: Scripted, reply: Reply, sentence: str) -> None:
    """A wrong answer ends in one sentence that names the rows and what is wrong, and never in predictions."""
    server = scripted(always(reply))
    with pytest.raises(ScoringError, match=sentence) as caught:
        score_csv(small_csv, server.url, retries=1)

    assert str(caught.value).startswith("Rows 0 to 9 were not scored: ")
    assert str(caught.value).isprintable()
    tries = 4 if reply.status == 413 else 2 if "Tried 2 times" in sentence else 1  # halves; what is final is sent once
    assert len(server.requests) == tries
    assert not np.isfinite(caught.value.scores.predictions).any()


def inputs(*names: str, **changes: Any) -> bytes:
    """Metadata of a model with these inputs, which are right except for the changes."""
    tensor = {"datatype": "FP32", "shape": [-1, 3], **changes}
    return json.dumps({**METADATA, "inputs": [{"name": name, **tensor} for name in names]}).encode()


METADATA_FAULTS = {
    "HTML": (b"<html>", "did not answer JSON"),
    "no inputs": (inputs(), "does not describe the inputs of model 'model'"),
    "an input without a shape": (inputs("x", shape=None), "does not follow"),
    "an endless shape": (inputs("x").replace(b"3]", b"Infinity]"), "does not follow"),
    "two inputs": (inputs("a", "b"), "takes an input 'a' of 3 columns, and small.csv has no column of that name"),
    "escapes": (inputs("\x1b[2J", "a"), r"takes an input '\\x1b\[2J' of 3 columns.*inputs=\{['\"]\\x1b\[2J['\"]: \["),
    "another number of features": (inputs("x", shape=[-1, 4]), "has 3 feature columns, model 'model' takes 4"),
}


@pytest.mark.parametrize(("metadata", "sentence"), METADATA_FAULTS.values(), ids=METADATA_FAULTS)
def test_metadata_that_cannot_be_used_is_an_error(small_csv: Path, well: Any, metadata: bytes, sentence: str) -> None:
    """The model's metadata are checked before a row is sent."""
    well.pages |= {"/v2/models/model": metadata, "/v2/models/model/versions/1": metadata}
    with pytest.raises((ScoringError, TableError), match=sentence):
        score_csv(small_csv, well.url, retries=1)

    assert well.requests == []


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (b"{}", "name one: http://host/v2/models/NAME"),
        (b"[]", "name one: http://host/v2/models/NAME"),
        (b'[{"name": "a"}, {"name": "b"}]', r"has 2 models \(a, b\); name one: http://host/v2/models/NAME"),
        (b'[{"nom": "a"}]', "list of models does not follow"),
        (b"3", "list of models does not follow"),
        (Reply(403), "keeps its list of models to itself; name one: http://host/v2/models/NAME"),
    ],
)
def test_a_list_of_models_that_cannot_be_used_is_an_error(
    small_csv: Path, well: ScriptedServer, index: bytes | Reply, sentence: str
) -> None:
    """Where the address names no model, the server must have exactly one."""
    well.pages["/v2/repository/index"] = index
    with pytest.raises(ScoringError, match=sentence):
        score_csv(small_csv, well.url)


def test_an_answer_has_no_more_bytes_than_the_metadata_allow(small_csv: Path, scripted: Scripted) -> None:
    """The first one neither: a megabyte, and 64 bytes for each value of the shape that the server tells."""
    server = scripted(lambda number, body, headers: Reply(200, bytes(3 << 20)))

    with pytest.raises(ScoringError, match="answered more than 1,049,216 bytes, the most that can be right"):
        score_csv(small_csv, server.url)


NETWORKS = {
    "resets in the request": lambda number: Fault(reset_request_after=300) if number % 3 == 1 else Fault(),
    "resets late in the request": lambda number: Fault(reset_request_after=20_000) if number % 3 == 1 else Fault(),
    "resets in the answer": lambda number: Fault(reset_answer_after=100) if number % 3 == 1 else Fault(),
    "resets before the answer": lambda number: Fault(reset_answer_after=0) if number % 3 == 1 else Fault(),
    "delays": lambda number: Fault(delay_s=0.02 * (number % 5)),
    "every third is 503": lambda number: UNAVAILABLE if number % 3 == 1 else Fault(),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bad_network_loses_nothing(
    demo: Demo, server: LocalServer, demo_scores: Scoring, expected: np.ndarray, name: str
) -> None:
    """Whatever the network does to some requests, every row is scored, in order, as without a network."""
    with Proxy(server.url, NETWORKS[name]) as proxy:
        scores = demo_scores(url=proxy.url, chunk_size=100)
        blocks = list(iter_scores(demo.testset, proxy.url, chunk_size=100))

    assert (scores.requests["attempts"] > 1).any() == (name != "delays")
    assert [block.start for block in blocks] == list(range(0, 2_500, 100))
    np.testing.assert_allclose(np.concatenate([block.predictions for block in blocks]), expected, atol=1e-5)

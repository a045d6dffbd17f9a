"""Where the servers are and what every request carries: Unix sockets, labels of TensorFlow Serving, own headers."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import ArgumentError, ScoringError, score_csv
from ruo.client.http import HttpClient
from ruo.deploy.local import server_process
from tests.client.conftest import Scoring, Scripted, computed, statuses
from tests.conftest import METADATA, Reply, row_sums

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["v2", "v1"])
def test_a_gunicorn_on_a_unix_socket(demo: Any, expected: np.ndarray, tmp_path: Path, wire: Any) -> None:
    """A whole table goes through a Unix socket, in small requests that share connections and in large ones."""
    path = tmp_path / "ruo.sock"
    command = [sys.executable, "-m", "gunicorn", "-c", "server/gunicorn.conf.py", "-b", f"unix:{path}", "server:app"]
    settings = {"MODEL_PATH": str(demo.models["mlp"]), "KERAS_BACKEND": "openvino", "WEB_CONCURRENCY": "1"}
    with server_process("Gunicorn", command, {**os.environ, **settings}, cwd=ROOT) as running:
        running.wait_until(path.exists, 30)
        for chunk_size in (100, None):
            for url in (f"unix://{path}", f"unix:{path}"):
                scores = score_csv(demo.testset, url, chunk_size=chunk_size, wire=wire)
                np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)
                assert {record.server for record in scores.records} == {url}


def test_a_unix_socket_that_is_not_there_is_named(small_csv: Path, tmp_path: Path) -> None:
    """Nothing answers at a path without a socket."""
    with pytest.raises(ScoringError, match=r"Nothing answers at unix:///.*/no\.sock.*no such file") as caught:
        score_csv(small_csv, f"unix://{tmp_path}/no.sock", retries=0)
    assert (caught.value.start, caught.value.stop, caught.value.status, caught.value.scores) == (None, None, None, None)


def test_a_name_with_a_percent_sign_is_found(right_scores: Scoring, scripted: Scripted) -> None:
    """%41 in the name of a server's only model is no quoted A, and the answers' name is the model's."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        reply = row_sums(body, headers)
        return replace(reply, body=reply.body.replace(b'"model"', b'"50%41"'))

    server = scripted(script)
    page = json.dumps({**METADATA, "name": "50%41"}).encode()
    server.pages |= dict.fromkeys(("/v2/models/50%2541", "/v2/models/50%2541/versions/1"), page)
    server.pages["/v2/repository/index"] = b'[{"name": "50%41"}]'
    right_scores(server.url)
    assert server.paths == ["/v2/models/50%2541/versions/1/infer"]


def test_a_label_is_one_version_for_the_whole_run(small_csv: Path, right_scores: Scoring, scripted: Scripted) -> None:
    """The label is looked up once; every request then names the version it stood for, also if versions may change."""
    server = scripted(lambda number, body, headers: computed(body, headers, "v1"))
    server.pages |= dict.fromkeys(["/v1/models/m/labels/stable", "/v1/models/m/versions/7"], statuses("7"))
    for may_change in (False, True):
        url = f"{server.url}/v1/models/m/labels/stable:predict"
        assert right_scores(url, chunk_size=4, allow_version_change=may_change).model.version == "7"
    assert set(server.paths) == {"/v1/models/m/versions/7:predict"}

    server.pages["/v1/models/m/labels/canary"] = b"{}"
    with pytest.raises(ScoringError, match="which version of 'm' has the label 'canary'; name the version"):
        score_csv(small_csv, f"{server.url}/v1/models/m/labels/canary")
    with pytest.raises(ArgumentError, match="wire='v2-json' has no labels; name a version"):
        score_csv(small_csv, f"{server.url}/v1/models/m/labels/stable", wire="v2-json")


def test_headers_go_with_every_request_and_are_never_shown(small_csv: Path, scripted: Scripted) -> None:
    """Host for a gateway and an API key are sent as they are, and stand in no repr, record or error."""
    seen: list[dict[str, str]] = []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        seen.append(headers)
        return row_sums(body, headers) if number < 3 else Reply(500, b"boom")

    server = scripted(script)
    headers = {"host": "model.example.com", "X-Api-Key": "s3cret", "authorization": "Basic s3cret"}
    scores = score_csv(small_csv, server.url, headers=headers, chunk_size=4)
    with pytest.raises(ScoringError) as caught:
        score_csv(small_csv, server.url, headers=headers)

    assert all(sent["Host"] == "model.example.com" and sent["X-Api-Key"] == "s3cret" for sent in seen)
    assert {sent["authorization"] for sent in seen} == {"Basic s3cret"}
    assert "s3cret" not in repr([scores, scores.records, caught.value, scores.model])


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({"X-Key": "s3cret\r\nX: y"}, "the value of X-Key must be text that an HTTP header can carry"),
        ({"X-Key": "s3crét"}, "the value of X-Key"),
        ({"X: y\r\nX-Key": "s3cret"}, "is not a name that an HTTP header can have"),
        ({"": "s3cret"}, "is not a name"),
        ({"content-length": "0"}, "content-length is set for each request by itself"),
        ({"Authorization": "s3cret"}, "Give the token or the header Authorization, not both"),
        *((token, "The token has a character") for token in ("s3cret\r\nX: y", "s3cret\nb", "s3cr\udcff", "s3cret\0b")),
    ],
)
def test_headers_that_no_request_can_carry_are_refused(headers: Any, sentence: str) -> None:
    """A line break could add another header, or another request; the message does not repeat the value or the token."""
    token = headers if isinstance(headers, str) else "t0ken" if "Authorization" in headers else None
    with pytest.raises(ArgumentError, match=sentence) as caught:
        HttpClient(1.0, token, None, {} if token == headers else headers)
    assert "s3cr" not in str(caught.value).replace(repr("X: y\r\nX-Key"), "")

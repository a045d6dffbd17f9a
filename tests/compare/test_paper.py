"""The reference system of 2023: what it does, and the faults that ruo is compared with."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo.compare.jobs import job_environment
from ruo.compare.systems import PaperServer, paper_server
from ruo.learn.demo import Demo

# looked for and not imported: grequests would replace the sockets of this process
pytestmark = pytest.mark.skipif(find_spec("grequests") is None, reason="the paper's client is not installed")

Ran = tuple[subprocess.CompletedProcess[str], dict[str, Any], np.ndarray]
Client = Callable[[Path, str, int], Ran]


@pytest.fixture(scope="module")
def paper(demo: Demo) -> Iterator[PaperServer]:
    """The paper's server, with the demo's dense model."""
    with paper_server(demo.models["mlp"], demo.testset) as running:
        yield running


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Run the paper's client: the ended process, what it measured, and the answers that it wrote."""

    def run(csv: Path, url: str, chunk_size: int) -> Ran:
        options = ["--chunk-size", str(chunk_size), "--answers", str(tmp_path / "answers.npy")]
        command = [sys.executable, "-m", "ruo.compare.paper.client", str(csv), url, *options]
        done = subprocess.run(command, capture_output=True, text=True, env=job_environment(), timeout=120, check=False)
        assert done.returncode == 0
        return done, json.loads(done.stdout), np.load(tmp_path / "answers.npy")

    return run


@pytest.mark.soak
@pytest.mark.parametrize(
    ("system", "chunk_size", "requests"),
    [("paper", 400, 7), ("paper", 0, 1), ("server", 400, 7)],
    ids=["in chunks", "the whole set in one request", "with ruo's server"],
)
def test_every_row_is_scored_in_request_order(
    demo: Demo, client: Client, expected: np.ndarray, request: pytest.FixtureRequest, system: str, chunk_size: int,
    requests: int,
) -> None:  # fmt: skip
    """The unchanged client gets the model's prediction for each row, from its own server and from ruo's."""
    url = request.getfixturevalue(system).url.removesuffix("/test") + "/test"
    _, measured, answers = client(demo.testset, url, chunk_size)
    assert [measured[name] for name in ("requests", "responses", "ok_responses")] == [requests] * 3
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)


def post(url: str, body: bytes) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.soak
def test_client_forms_every_request_before_it_sends_the_first(demo: Demo, client: Client, paper: PaperServer) -> None:
    """In the log every request is formed, numbered from 0, before there is any response."""
    done, measured, _ = client(demo.testset, paper.url, 1000)
    logged = [line.rpartition(":ruo.compare.paper.client:") for line in done.stderr.splitlines()]
    lines = [line for _, client, line in logged if client]
    assert lines[:3] == [f"Forming request for chunk {number}..." for number in range(3)]
    assert len(lines) == 6
    assert all(line.startswith("Response") for line in lines[3:])
    assert measured["total_s"] == pytest.approx(measured["forming_s"] + measured["sending_s"])
    assert measured["peak_rss_mb"] > 10


@pytest.mark.soak
def test_paper_server_decodes_twice(paper: PaperServer, features: np.ndarray, expected: np.ndarray) -> None:
    """The server takes JSON within JSON and answers the text of a Python list."""
    answer = post(paper.url, json.dumps(json.dumps(features[:3].tolist())).encode())
    np.testing.assert_allclose(answer, expected[:3], rtol=0, atol=1e-5)
    with pytest.raises(urllib.error.HTTPError, match="500"):
        post(paper.url, json.dumps(features[:3].tolist()).encode())  # JSON, but only once


def test_body_is_json_within_json_and_without_labels(scripted: Callable, reply: Callable, client: Client, tmp_path: Path) -> None:  # fmt: skip
    """A request is a JSON string whose text is an array of rows, without the columns that have Label_ in their name."""
    csv = tmp_path / "labelled.csv"
    csv.write_text("a,Label_0,b,old_Label_1\n1,0,2.5,1\n3,1,4,0\n")
    server = scripted(lambda number, body, headers: reply(body=b"[[0.0]]"))
    client(csv, f"{server.url}/test", 10)
    [body] = server.requests
    text = json.loads(body)
    assert isinstance(text, str)
    assert json.loads(text) == [[1, 2.5], [3, 4.0]]


def test_no_more_than_ten_requests_are_under_way(scripted: Callable, reply: Callable, client: Client, tmp_path: Path) -> None:  # fmt: skip
    """The client has ten requests under way where there are more, and never eleven."""
    csv = tmp_path / "many.csv"
    csv.write_text("a\n" + "1\n" * 24)
    server = scripted(lambda number, body, headers: reply(body=b"[[0.0]]", wait_s=0.3))
    client(csv, f"{server.url}/test", 1)
    assert len(server.requests) == 24
    assert server.most_at_once == 10


def test_failed_requests_vanish_without_a_word(scripted: Callable, reply: Callable, client: Client, small_csv: Path) -> None:  # fmt: skip
    """A broken connection is no response, a 500 one like any other: the exit status is 0, and their rows are missing."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Any:
        rows = json.loads(json.loads(body))
        if rows[0][0] == 0:
            return reply(body=b"[[0.0]]" * 100, cut_after=10)
        return reply(status=500) if rows[0][0] == 4 else reply(body=json.dumps([[sum(row)] for row in rows]).encode())

    done, measured, answers = client(small_csv, f"{scripted(script).url}/test", 2)
    assert (measured["requests"], measured["responses"], measured["ok_responses"]) == (5, 4, 3)
    assert "Error" not in done.stderr
    np.testing.assert_allclose(answers[:, 0], [2 * row + 1.5 for row in (2, 3, 6, 7, 8, 9)])
    # where nobody listens
    _, measured, answers = client(small_csv, "http://127.0.0.1:9/test", 5)
    assert (measured["requests"], measured["responses"], measured["ok_responses"]) == (2, 0, 0)
    assert len(answers) == 0

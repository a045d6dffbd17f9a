"""Who is let in, how much, and for how long: on real sockets, where it matters."""

import gzip
import io
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from werkzeug.exceptions import ServiceUnavailable

from server.body import read_body
from server.limits import Gate
from tests.server.asking import INFER, RAW, ask
from tests.server.serving import serve

ROW = bytes(32)  # of the model "mlp", and of the model "slow"


@pytest.fixture(scope="module")
def narrow(models):
    """A real server with one worker, a slow model and narrow limits."""
    with serve(models["slow"], workers=1, MAX_REQUEST_MB=1, MAX_WAITING=2) as server:
        yield server


def test_a_gate_counts_requests_and_bytes():
    """One request computes and two wait until a place is free; large bodies are refused, but never one that comes alone."""
    gate = Gate(2, limit=100)
    with gate.place(), gate.place():
        with gate.place(), pytest.raises(ServiceUnavailable) as refusal, gate.place():
            pass
        with gate.place():
            pass
    assert refusal.value.code == 503
    with gate.place(500), pytest.raises(ServiceUnavailable), gate.place(1):
        pass
    with gate.place(60), gate.place(40), pytest.raises(ServiceUnavailable), gate.place(1):
        pass
    with gate.place(100):
        pass


def test_a_full_worker_refuses_at_once_and_its_probes_answer(narrow):
    """With all places taken the next request gets 503 and Retry-After at once; probes and metrics go on answering."""
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, narrow.url + INFER, ROW * 16000, RAW) for _ in range(10)]
        time.sleep(0.3)
        probes = [ask(narrow.url + path) for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/")]
        answers = [each.result() for each in asked]
    assert all(probe.status == 200 and probe.seconds < 1 for probe in probes)
    refused = [answer for answer in answers if answer.status != 200]
    assert 3 <= len(answers) - len(refused) < 10
    for answer in refused:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "busy" in answer.json()["error"]
        assert answer.seconds < 1


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(narrow, is_chunked):
    """By its length, or while it comes in chunks, with a sentence that the client gets to see."""
    body = bytes(3 * 2**20)
    answer = ask(narrow.url + INFER, iter([body[: 2**20], body]) if is_chunked else body, RAW)
    assert answer.status == 413
    assert "larger than 1 MB" in answer.json()["error"]
    assert ask(narrow.url + "/v2/models/model").json()["parameters"]["max_request_bytes"] == 2**20


def test_a_body_of_unknown_length_is_counted_as_it_grows():
    """Every megabyte is counted before it is kept; of a packed body, beside what it is unpacked from."""
    body, sizes = bytes(3 * 2**20), []
    for coding, sent in (("", body), ("gzip", gzip.compress(body))):
        environ = {"wsgi.input": io.BytesIO(sent), "wsgi.input_terminated": True, "HTTP_CONTENT_ENCODING": coding}
        assert read_body(environ, 2**23, 5, sizes.append) == body
        beside = len(sent) if coding else 0
        assert sizes[-1] == beside + len(body)
        assert sizes[-2] < sizes[-1]
    assert sizes[:3] == [2**20, 2 * 2**20, 3 * 2**20]


def test_a_request_that_waits_too_long_is_refused(make_app):
    """With REQUEST_TIMEOUT a request that does not get its turn in time is 503, while the one before it is done."""
    app = make_app("slow", REQUEST_TIMEOUT=0.4)  # of which one request takes a tenth, and all of them twice as long
    clients = [app.application.test_client() for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda client: client.post(INFER, data=ROW * 4000, headers=RAW), clients))
    statuses = sorted(answer.status_code for answer in answers)
    assert (statuses[0], statuses[-1]) == (200, 503)
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["Retry-After"] == "1"
    assert "in time" in refused.json["error"]

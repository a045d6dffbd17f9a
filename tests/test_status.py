"""`ruo status`: how a server is, in a terminal."""

import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from ruo import score_csv
from ruo.__main__ import main
from ruo.cli import Metrics, quantile
from ruo.deploy.local import LocalServer, fetch
from ruo.learn.demo import Demo


def test_it_says_how_the_server_is(demo: Demo, server: LocalServer) -> None:
    """Model, version and ready workers, what goes on now, requests since the start with their latency, each worker."""
    score_csv(demo.testset, server.url, chunk_size=500)

    result = CliRunner().invoke(main, ["status", server.url])

    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        rf"model version \d+ at {server.url}: 2 of 2 workers ready\n"
        r"  now          [\d,]+ rows/s, \d+ requests under way, \d+ waiting\n"
        r"  since start  [\d,]+ rows in [\d,]+ requests, \d+ failed\n"
        r"  latency      p50 [\d.,]+ ms, p95 [\d.,]+ ms\n\n"
        r"  worker    ready  connections  memory\n"
        r"(  \d+ +yes +\d+  [\d,]+ MB\n){2}",
        result.output,
    ), result.output


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_watching_ends_with_ctrl_c(server: LocalServer, ending: signal.Signals, status: int) -> None:
    """`--watch` goes on until Ctrl-C, which is no error; SIGTERM has its own status, as with every verb."""
    command = [sys.executable, "-m", "ruo", "status", server.url, "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert "2 of 2 workers ready" in process.stdout.readline()
        process.send_signal(ending)
        process.communicate(timeout=10)
    assert process.returncode == status


def test_what_is_no_server_of_ruo_is_one_sentence(scripted: Any, answers: Any) -> None:
    """Where nothing listens, or another server does, or it says nonsense, or an option cannot be, a sentence says so."""
    other = scripted(answers)
    for url, page, sentence, *option in [
        ("http://127.0.0.1:9", None, "Nothing answers at http://127.0.0.1:9/metrics"),
        ("nowhere", None, "'nowhere' is not the address of a server"),
        (other.url, None, "answered 404"),
        (other.url, b"up 1\n", "is not that of a server of ruo"),
        (other.url, b"ruo {{{", "is not that of a server of ruo"),
        ("https://127.0.0.1:9", None, "The token has a character", "--token=a\nb"),
        ("https://127.0.0.1:9", None, "ca='nowhere.pem' is not", "--ca=nowhere.pem"),
    ]:
        other.pages |= {} if page is None else {"/metrics": page}
        result = CliRunner().invoke(main, ["status", url, *option])
        assert (result.exit_code, result.output.count("\n")) == (2 if option or url == "nowhere" else 1, 1)
        assert sentence in result.output


@pytest.mark.parametrize(
    ("counts", "share", "said"),
    [
        ([0, 0, 0], 0.5, "none yet"),
        ([10, 10, 10], 0.5, "50 ms"),
        ([10, 20, 20], 0.95, "910 ms"),
        ([0, 1, 4], 0.95, "over 1,000 ms"),
    ],
)
def test_latency_is_taken_from_the_buckets(counts: list[int], share: float, said: str) -> None:
    """Within a bucket requests are taken as even, as Prometheus does, and nothing is said beyond the last bound."""
    buckets = [({"le": le}, float(n)) for le, n in zip(("0.1", "1", "+Inf"), counts, strict=True)]
    assert quantile(Metrics({"ruo_request_seconds_bucket": buckets}, 0.0), share) == said


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("accept", [BROWSER, "*/*", "application/json", ""])
def test_only_a_browser_gets_a_page(server: LocalServer, accept: str) -> None:
    """At / a browser finds a page about the server, and any other client what it always found."""
    _, found = fetch(f"{server.url}/", headers={"Accept": accept})
    assert found.startswith(b"<!DOCTYPE html>" if accept == BROWSER else b'{"status":"alive"}')

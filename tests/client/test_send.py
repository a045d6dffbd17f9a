"""One chunk to its predictions, against servers that fail in every way."""

import email.utils
import json
import logging
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ruo import ArgumentError, ScoringError, iter_scores, score_csv
from ruo.errors import TableError
from tests.client.conftest import Scoring, Scripted, always, computed, describe, late, sometimes, sums, too_large_if
from tests.conftest import Reply, ScriptedServer, row_sums

BOOM = Reply(500, b"boom")


def test_order_is_kept_when_answers_come_out_of_order(right_scores: Scoring, scripted: Scripted) -> None:
    """Predictions are in row order even where the first chunk's answer comes last."""
    server = scripted(late(lambda number: 0.3 if number == 0 else 0))

    right_scores(server.url, chunk_size=3, concurrency=4)


def test_a_silent_server_is_asked_for_its_model_once(small_csv: Path, serving: Any) -> None:
    """A wrong address costs one time-out, and not two."""
    server = serving(lambda connection, number: time.sleep(1))
    with pytest.raises(ScoringError, match=r"gave no answer within 0\.3 s"):
        score_csv(small_csv, server.url, timeout=0.3)
    assert server.connections == 1


def test_a_request_has_its_time(small_csv: Path, scripted: Scripted) -> None:
    """From its begin to its answer, in seconds."""
    scores = score_csv(small_csv, scripted(late(lambda number: 0.2)).url, chunk_size=5)
    assert scores.requests["seconds"].between(0.2, scores.timings.total_s).all()


@pytest.mark.parametrize("wire", ["v2-json", "v1", "paper"])
@pytest.mark.parametrize(("row", "column", "value"), [(0, "a", np.nan), (3, "c", np.inf), (5, "b", -np.inf)])
def test_json_cannot_carry_nan(scripted: Scripted, wire: str, row: int, column: str, value: float) -> None:
    """The cell is named by its row in the table and its column, wherever the table was cut; its chunk is not sent."""
    frame = pl.DataFrame(np.zeros((6, 3), np.float32), list("abc"))
    frame[row, column] = value
    server = scripted(lambda _, *request: computed(*request, wire))
    with pytest.raises(TableError, match=rf'row {row}, column "{column}": .*use the binary wire v2') as caught:
        score_csv(frame, server.url, wire=wire, chunk_size=3, concurrency=1)
    assert (caught.value.row, caught.value.column) == (row, column)
    assert len(server.requests) <= row // 3


@pytest.mark.parametrize(("status", "tries"), [(408, 2), (429, 2), (502, 2), (503, 2), (504, 2), (503, 4)])
def test_a_busy_server_is_asked_again(right_scores: Scoring, scripted: Scripted, status: int, tries: int) -> None:
    """Only the refused chunk is sent again, until the server is ready, and its record counts the tries."""
    server = scripted(sometimes(Reply(status), *range(1, tries)))

    scores = right_scores(server.url, chunk_size=5, concurrency=1)
    assert (scores.requests["attempts"].tolist(), len(server.requests)) == ([1, tries], 1 + tries)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "least_s"),
    [(lambda: "0.7", 0.7), (lambda: email.utils.formatdate(time.time() + 2, usegmt=True), 1)],
    ids=["seconds", "a date"],
)
def test_retry_after_is_honoured(small_csv: Path, scripted: Scripted, header: Any, least_s: float) -> None:
    """The next try waits at least as long as the server asks for, in either form of the header."""
    times: list[float] = []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        times.append(time.monotonic())
        return row_sums(body, headers) if number else Reply(503, headers={"Retry-After": header()})

    score_csv(small_csv, scripted(script).url)

    assert times[1] - times[0] >= least_s


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_bounds_the_tries(small_csv: Path, scripted: Scripted, retries: int) -> None:
    """A server that always refuses is asked 1 + retries times, and the error repeats its reason."""
    server = scripted(always(Reply(503, b'{"error": "queue full"}')))

    with pytest.raises(ScoringError, match="Rows 0 to 9 were not scored: .* answered 503: queue full") as caught:
        score_csv(small_csv, server.url, retries=retries)

    assert len(server.requests) == 1 + retries
    assert (caught.value.start, caught.value.stop, caught.value.status) == (0, 10, 503)


def test_a_failure_keeps_what_was_scored(small_csv: Path, small_sums: np.ndarray, scripted: Scripted) -> None:
    """The error names the rows and holds the predictions so far; with errors="collect" the rest is scored as well."""
    options: dict[str, Any] = {"chunk_size": 2, "concurrency": 1}

    with pytest.raises(ScoringError, match="Row 0 was not scored: .* answered 500: boom"):
        score_csv(small_csv, scripted(always(BOOM)).url, chunk_size=1, concurrency=1)
    with pytest.raises(ScoringError, match="Rows 4 to 5 were not scored: .* answered 500: boom") as caught:
        score_csv(small_csv, scripted(sometimes(BOOM, 2)).url, **options)
    first = caught.value.scores
    np.testing.assert_array_equal(small_sums[:4], first.predictions[:4])
    assert np.isnan(first.predictions[4:]).all()

    scores = score_csv(small_csv, scripted(sometimes(BOOM, 2)).url, errors="collect", **options)
    assert [(4, 6, 500)] == [(f.start, f.stop, f.status) for f in scores.failures.itertuples()]
    assert np.isnan(scores.predictions[4:6]).all()
    np.testing.assert_array_equal(np.delete(small_sums, [4, 5], 0), np.delete(scores.predictions, [4, 5], 0))
    assert "2 rows not scored" in repr(scores)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_bounds_the_requests_in_flight(small_csv: Path, scripted: Scripted, concurrency: int) -> None:
    """There are never more requests in flight than asked for, and as many where there is work."""
    server = scripted(late(lambda number: 0.05))
    score_csv(small_csv, server.url, chunk_size=1, concurrency=concurrency)

    assert server.most_at_once == concurrency


def test_what_went_wrong_is_logged(small_csv: Path, scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    """Failed tries, halved chunks, and servers left out and taken back are told at INFO; how long is waited at DEBUG."""
    busy = Reply(503, b'{"error": "busy\\u001b[31m"}')
    first = [Reply(413, b'{"error": "too large"}'), busy, busy, busy]
    server = scripted(lambda number, *request: first[number] if number < len(first) else row_sums(*request))

    with caplog.at_level(logging.DEBUG, logger="ruo"):
        score_csv(small_csv, server.url, concurrency=1, timeout=5)

    told = {level: [r.getMessage() for r in caplog.records if r.levelname == level] for level in ("INFO", "DEBUG")}
    assert {record.name for record in caplog.records if record.name.startswith("ruo")} == {"ruo"}
    for sentence in (
        "Rows 0 to 9: try 1 failed. ",
        "Rows 0 to 9 are too large for one request, and are halved.",
        "Rows 0 to 4: try 3 failed. ",
        f"{server.url} is left out until it answers. ",
        f"{server.url} answers, and is taken back.",
    ):
        assert any(line.startswith(sentence) for line in told["INFO"]), (sentence, told)
    assert not any("\x1b" in line for line in told["INFO"])
    assert any(line.startswith("Rows 0 to 4: tried again in ") for line in told["DEBUG"])


# ---- requests that are too large ----


def test_one_huge_text_leaves_the_other_rows_alone(tmp_path: Path, scripted: Scripted) -> None:
    """The rows beside it are scored, and no other request becomes smaller for it."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        if len(body) > 50_000:
            return Reply(413, b'{"error": "too large"}')
        return computed(body, headers, compute=lambda inputs: np.char.str_len(inputs["x"].astype(bytes)).astype("f4"))

    server = scripted(script)
    describe(server, outputs=[], inputs=[{"name": "x", "datatype": "BYTES", "shape": [-1, 1]}])
    texts = ["a" * (200_000 if row == 7 else 5) for row in range(400)]
    scores = score_csv(pl.DataFrame({"x": texts}), server.url, chunk_size=100, errors="collect")
    assert scores.failures[["start", "stop"]].to_numpy().tolist() == [[7, 8]]
    assert np.flatnonzero(scores.predictions.ravel() != 5).tolist() == [7]
    assert len(scores.records) < 20


@pytest.mark.parametrize("chunk_size", [3, 7, 10, None])
def test_what_is_too_large_is_sent_in_halves(right_scores: Scoring, scripted: Scripted, chunk_size: int | None) -> None:
    """A chunk that is answered 413 is halved until it fits, later ones before they are sent; no row is lost."""
    server = scripted(too_large_if(lambda rows: len(rows) > 2))
    scores = right_scores(server.url, chunk_size=chunk_size, concurrency=1)
    assert scores.requests["rows"].max() <= 2
    assert scores.requests["rows"].sum() == 10


def test_halves_keep_their_labels(labelled_csv: Path, scripted: Scripted) -> None:
    """Labels stay with their rows where a chunk was split, in blocks as well."""
    blocks = list(iter_scores(labelled_csv, scripted(too_large_if(lambda rows: len(rows) > 3)).url))

    assert np.concatenate([block.labels for block in blocks if block.labels is not None]).tolist() == [1, 0] * 5
    assert np.concatenate([block.predictions for block in blocks])[:, 0].tolist() == [i + 2 for i in range(10)]


def test_rows_behind_one_that_is_too_large_fail_with_it(scripted: Scripted) -> None:
    """Those of its chunk before it are scored, and so are other chunks; every row is accounted for."""
    server = scripted(too_large_if(lambda rows: 7 in rows[:, 0]))
    scores = score_csv(pl.DataFrame({"a": range(15), "b": 0, "c": 0}), server.url, chunk_size=5, errors="collect")
    assert scores.failures[["start", "stop", "status"]].to_numpy().tolist() == [[7, 10, 413]]
    assert scores.predictions[:, 0].tolist() == pytest.approx([*range(7), *[np.nan] * 3, *range(10, 15)], nan_ok=True)


def test_the_servers_limit_is_known_in_advance(small_csv: Path, right_scores: Scoring, well: ScriptedServer) -> None:
    """No request is larger than the metadata allow; without retries a chunk is sent as it is."""
    describe(well, parameters={"max_request_bytes": 330})

    right_scores(well.url)
    assert len(well.requests) > 1
    assert max(map(len, well.requests)) <= 330
    assert len(score_csv(small_csv, well.url, retries=0).records) == 1


@pytest.mark.parametrize(("retries", "rows"), [(10, [3, 3, 3, 1]), (0, [10])])
def test_wide_rows_go_in_requests_of_a_bounded_size(
    well: ScriptedServer, small_csv: Path, monkeypatch: pytest.MonkeyPatch, retries: int, rows: list[int]
) -> None:
    """All requests in flight share the memory; without retries a request is sent as it is."""
    monkeypatch.setattr("ruo.client.pace._MOST_BYTES", 8 * 3 * 12)  # three rows of three numbers for each of eight

    assert score_csv(small_csv, well.url, retries=retries).requests["rows"].tolist() == rows


# ---- versions ----


def test_a_server_is_asked_no_more_than_needed(small_csv: Path, well: ScriptedServer) -> None:
    """Once for the model and once for the version that all requests go to, and for its extensions."""
    score_csv(small_csv, well.url)
    assert well.asked == ["/v2/models/model", "/v2/models/model/versions/1", "/v2"]


def test_a_version_that_is_gone_is_an_error(small_csv: Path, scripted: Scripted) -> None:
    """Where the server loses the version during a run, the error says what to do."""
    server = scripted(sometimes(Reply(404, b'{"error": "gone"}'), 1))

    with pytest.raises(ScoringError, match=r"gone\. The run began with version 1 of the model; score"):
        score_csv(small_csv, server.url, chunk_size=2, concurrency=1)


@pytest.mark.parametrize("call", [score_csv, lambda *args, **how: list(iter_scores(*args, **how))])
def test_another_number_of_outputs_is_an_error(small_csv: Path, scripted: Scripted, call: Any) -> None:
    """A model whose output changes shape during a run does not end in an array of mixed rows."""
    server = scripted(lambda number, *request: computed(*request, compute=partial(sums, width=1 + (number > 1))))

    with pytest.raises(ScoringError, match=r"Rows 4 to 5 .*each row has the shape \(2,\), in earlier answers \(1,\)"):
        call(small_csv, server.url, chunk_size=2, concurrency=1)


# ---- what the server can take ----


@pytest.mark.parametrize(("more", "wire"), [({"extensions": []}, "v2-json"), ({}, "v2")])
def test_without_binary_tensors_json_is_spoken(right_scores: Scoring, scripted: Scripted, more: Any, wire: str) -> None:
    """A server that does not list the extension gets JSON; one that lists no extensions at all gets binary."""
    server = scripted(lambda _, *request: computed(*request, wire))
    server.pages["/v2"] = json.dumps({"name": "mlserver", **more}).encode()

    assert right_scores(server.url, chunk_size=4).choices.wire == wire


# ---- who is who ----


def test_a_token_is_sent_and_not_shown(small_csv: Path, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bearer token is in the header, and in no repr, record or error; RUO_TOKEN is used where none is given."""
    seen: list[str] = []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        seen.append(headers.get("Authorization", ""))
        return row_sums(body, headers)

    monkeypatch.setenv("RUO_TOKEN", "s3cret")
    scores = [score_csv(small_csv, scripted(script).url, **token) for token in ({}, {"token": "sécret-2"})]

    assert seen == ["Bearer s3cret", "Bearer sécret-2".encode().decode("latin-1")]
    shown = " ".join(f"{each!r} {each.requests.to_string()}" for each in scores)
    assert not any(secret in shown for secret in ("s3cret", "sécret-2"))
    with pytest.raises(ScoringError) as caught:
        score_csv(small_csv, "http://127.0.0.1:9", retries=0)
    assert "s3cret" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"


NO_ADDRESSES = (
    "localhost:8000|ftp://localhost|http://|http://:8000|http://localhost:99999|http://localhost:port|http://a..b|"
    "http://local host:8000|http://localhost\r\nX-Evil: y|http://127.1:8000|http://host\\name:8000|"
    "http://2130706433:8000|http://localhost/v2/models/a\nb|http://localhost?model=a|http://localhost#model|"
    "unix://|unix:///|unix://run/ruo.sock"  # a socket has its whole path, with three slashes
)


@pytest.mark.parametrize("url", NO_ADDRESSES.split("|"))
def test_an_address_that_is_none_is_refused(small_csv: Path, url: str) -> None:
    """It is refused before anything is sent, and the error shows what an address looks like."""
    with pytest.raises(ArgumentError, match=r"is not the address of a server; write it as http://host:8000"):
        score_csv(small_csv, url)


FORKED = """
import asyncio, os, sys
from ruo import RuoError, ascore_csv, iter_scores, score_csv

table, url = sys.argv[1:]
if os.fork() == 0:
    print(len(score_csv(table, url)), flush=True)
    os._exit(0)
os.wait()
blocks = iter_scores(table, url, chunk_size=1, concurrency=1)
next(blocks)
if os.fork() == 0:
    for call in (lambda *_: next(blocks), score_csv, iter_scores, lambda *arguments: asyncio.run(ascore_csv(*arguments))):
        try:
            call(table, url)
        except RuoError as error:
            print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.slow
def test_a_process_that_is_forked_after_a_run_says_so(small_csv: Path, well: ScriptedServer) -> None:
    """Instead of waiting for threads that it lacks for ever, it names the other way; before a run forking is no fault."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, small_csv, well.url]

    lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()

    assert lines[0] == "10"
    assert len(lines) == 5
    assert all('start it with multiprocessing.get_context("spawn")' in line for line in lines[1:])


def test_an_address_with_a_password_is_refused_and_not_repeated(small_csv: Path) -> None:
    """Secrets in an address would stand in records and logs."""
    for url in ("http://me:s3cret@127.0.0.1:9", "http://me:s3cret@host:99999", "me:s3cret@host", "http://me:s3/cret@h"):
        with pytest.raises(ArgumentError, match="holds a user or password; pass a token instead") as caught:
            score_csv(small_csv, url)
        assert "s3" not in str(caught.value)
    with pytest.raises(ArgumentError, match="is not the address of a server") as caught:
        score_csv(small_csv, "http://127.0.0.1:9?api_key=s3cret")
    assert "s3cret" not in str(caught.value)


def test_https_is_verified(small_csv: Path, right_scores: Scoring, well: ScriptedServer, certificates: Any) -> None:
    """It works with the authority's certificate; without it, or under another name, the error says what to do."""
    well.encrypt(certificates["me.pem"], certificates["me.key"])
    url = well.url.replace("http://127.0.0.1", "https://localhost")

    right_scores(url, ca=certificates["ca.pem"])

    with pytest.raises(ScoringError, match="cannot be trusted .*name the certificate authority with ca="):
        score_csv(small_csv, url)
    with pytest.raises(ScoringError, match="cannot be trusted"):
        score_csv(small_csv, url.replace("localhost", "127.0.0.1"), ca=certificates["ca.pem"])

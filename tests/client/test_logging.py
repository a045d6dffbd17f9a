"""What the logger "ruo" tells of a run."""

import logging
from pathlib import Path

import pytest

from ruo import score_csv
from tests.client.conftest import Scripted
from tests.conftest import Reply, row_sums


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

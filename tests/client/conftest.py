"""What the client's tests share: scripts of servers that fail now and then, and tables."""

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import Scores, score_csv
from tests.conftest import Reply, Script, ScriptedServer, row_sums

Scoring = Callable[..., Scores]
Scripted = Callable[[Script], ScriptedServer]


def always(reply: Reply) -> Script:
    """Give the same answer to every request."""
    return lambda number, body, headers: reply


def sometimes(reply: Reply, *numbers: int) -> Script:
    """Give this answer to the requests with these numbers, the right one to all others."""
    return lambda number, body, headers: reply if number in numbers else row_sums(body, headers)


def late(seconds: Callable[[int], float]) -> Script:
    """Give the right answers, so late as each request's number says."""
    return lambda number, body, headers: replace(row_sums(body, headers), wait_s=seconds(number))


def python(program: str) -> str:
    """Return what a program prints, warnings too."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
    return run.stdout


def signalled(program: str, number: int, wait_s: float) -> str:
    """Return what a program prints after its first line, if it gets a signal so long after that line."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait_s)
        process.send_signal(number)
        return process.communicate(timeout=10)[0]


@pytest.fixture
def right_scores(small_csv: Path, small_sums: np.ndarray) -> Scoring:
    """Score `small_csv`, every row of which comes back right."""

    def scoring(url: str, **options: Any) -> Scores:
        scores = score_csv(small_csv, url, **options)
        np.testing.assert_array_equal(scores.predictions, small_sums)
        return scores

    return scoring


@pytest.fixture
def well(scripted: Scripted, answers: Script) -> ScriptedServer:
    """A server that answers rightly."""
    return scripted(answers)


@pytest.fixture
def long_csv(tmp_path: Path) -> Path:
    """20,000 rows whose sums are 6."""
    path = tmp_path / "long.csv"
    path.write_text("a,b,c\n" + "1,2,3\n" * 20_000)
    return path


@pytest.fixture
def labelled_csv(tmp_path: Path) -> Path:
    """Ten rows whose sums are 2, 3, ..., 11, and whose labels are 1, 0, 1, 0, ..."""
    path = tmp_path / "labelled.csv"
    path.write_text("a,b,c,Label_0,Label_1\n" + "".join(f"{i},1,1,{i % 2},{1 - i % 2}\n" for i in range(10)))
    return path


@pytest.fixture
def gone() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"

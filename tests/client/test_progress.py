"""The progress bar, seen as a person sees it."""

import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from ruo.deploy.local import LocalServer
from ruo.learn.demo import Demo
from tests.client.conftest import Scripted, late


def _seen(program: str, terminal: bool) -> str:
    """What a program writes to its standard error, which is a terminal or not."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", program], stderr=theirs) as process:
        os.close(theirs)
        text = b""
        with suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 10_000):
                text += piece
    os.close(ours)
    assert process.returncode == 0, text
    return text.decode()


@pytest.mark.parametrize(
    ("call", "progress", "terminal", "shown"),
    [
        ("score_csv({})", "None", True, True),
        ("score_csv({})", "None", False, False),
        ("score_csv({})", "False", True, False),
        ("score_csv({})", "True", False, True),
        ("list(iter_scores({}))", "None", True, True),
        ("asyncio.run(ascore_csv({}))", "None", True, True),
    ],
)
def test_the_bar_is_drawn_in_a_terminal_only(
    demo: Demo, server: LocalServer, call: str, progress: str, terminal: bool, shown: bool
) -> None:
    """In a terminal unless it is switched off, elsewhere only if it is switched on; with rows, speed and time."""
    arguments = f"{str(demo.testset)!r}, {server.url!r}, progress={progress}"
    text = _seen(f"import asyncio\nfrom ruo import *\n{call.format(arguments)}", terminal)

    assert bool(re.search(r"Scoring: 100%.*2\.50k/2\.50k.*rows/s\]", text)) is (text != "") is shown


STUCK = r"5\.00/10\.0 \[00:0(\d)<00:0\d, *(\d\.\d+) ?rows/s\]"


@pytest.mark.slow
def test_rate_and_clock_are_those_of_the_whole_run(small_csv: Path, scripted: Scripted) -> None:
    """Between answers the clock goes on, and the rate is the average, whatever the last answers were like."""
    url = scripted(late(lambda number: 3.2 if number == 5 else 0.0)).url
    call = f"score_csv({str(small_csv)!r}, {url!r}, chunk_size=1, concurrency=1)"
    text = _seen(f"from ruo import score_csv\n{call}", terminal=True)

    stuck = [(int(seconds), float(rate)) for seconds, rate in re.findall(STUCK, text)]
    assert {seconds for seconds, _ in stuck} >= {1, 2}, text
    assert all(rate * seconds <= 5 for seconds, rate in stuck)
    assert "10.0/10.0" in text


@pytest.mark.slow
def test_a_notebook_has_the_right_total_and_one_line_for_an_error(small_csv: Path, scripted: Any, answers: Any) -> None:
    """In a notebook the bar is as wide as its cell and full at the end only; an error of ruo is one sentence."""
    calls = [f"scores = score_csv({str(small_csv)!r}, {url!r})" for url in (scripted(answers).url, "127.0.0.1:9")]
    sources = [f"from ruo import score_csv\n{calls[0]}", calls[1]]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])

    NotebookClient(notebook, allow_errors=True, kernel_name="python3", store_widget_state=True).execute()

    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    states = [model["state"] for model in widgets.values()]
    [bar] = [state for state in states if state.get("_model_name") == "FloatProgressModel"]
    assert (bar["max"], bar["value"], bar["bar_style"]) == (10, 10, "success")
    assert not any(state.get("width") == "20px" for state in states)
    [error] = notebook.cells[1].outputs
    [line] = error.traceback
    assert line.startswith("ArgumentError: '127.0.0.1:9' is not the address of a server; write it as")

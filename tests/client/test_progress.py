"""The progress bar, seen as a person sees it."""

import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress

import pytest

from ruo.deploy.local import LocalServer
from ruo.learn.demo import Demo


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
    ("entry", "progress", "terminal", "shown"),
    [
        ("score_csv", "None", True, True),
        ("score_csv", "None", False, False),
        ("score_csv", "False", True, False),
        ("score_csv", "True", False, True),
        ("iter_scores", "None", True, True),
        ("ascore_csv", "None", True, True),
    ],
)
def test_the_bar_is_drawn_in_a_terminal_only(
    demo: Demo, server: LocalServer, entry: str, progress: str, terminal: bool, shown: bool
) -> None:
    """In a terminal unless it is switched off, elsewhere only if it is switched on; with rows, speed and time."""
    call = f"{entry}({str(demo.testset)!r}, {server.url!r}, progress={progress})"
    wrapped = {"iter_scores": f"list({call})", "ascore_csv": f"asyncio.run({call})"}.get(entry, call)

    text = _seen(f"import asyncio\nfrom ruo import {entry}\n{wrapped}", terminal)

    assert (text != "") is shown
    if shown:
        assert "Scoring: 100%" in text
        assert "2.50k/2.50k" in text
        assert "rows/s]" in text

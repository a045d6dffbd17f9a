"""The server's page, in a browser."""

import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from ruo import local_server, score_csv
from ruo.learn.demo import Demo

pytestmark = pytest.mark.soak

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]


def seen(chromium: str, url: str) -> str:
    """The text of the page, once its script has run."""
    page = subprocess.run([chromium, *FLAGS, url], capture_output=True, text=True, check=True, timeout=120).stdout
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<form.*?hidden.*?</form>|<[^>]*>", " ", body, flags=re.DOTALL)).split())


def test_a_browser_sees_how_the_server_is(chromium: str, demo: Demo, server: Any) -> None:
    """The page names the model and its ready workers, and what the metrics say of requests and of each worker."""
    score_csv(demo.testset, server.url, chunk_size=500)

    text = seen(chromium, server.url)

    assert re.search(r"model version \d+: 2 of 2 workers ready", text), text
    assert re.search(r"half take less than [\d.]+ ms 95 of 100 take less than [\d.,]+ ms", text)
    assert re.search(r"rows scored [\d,]+", text)
    assert len(re.findall(r"\d+ yes \d+ \d+ MB", text)) == 2
    assert "token" not in text


def test_with_a_token_the_page_asks_for_it(chromium: str, demo: Demo, tmp_path: Path) -> None:
    """Without the token nothing but the page itself is shown."""
    settings = {"KERAS_BACKEND": "openvino", "RUO_TOKEN": "t"}
    with local_server(demo.models["mlp"], workers=1, settings=settings) as closed:
        text = seen(chromium, closed.url)

    assert "The numbers need the server's token" in text
    assert "version" not in text

"""A JupyterLab with nobody's settings, and a browser that uses it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.environments import cannot, make_environment

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent.parent / "notebooks"
PLAYWRIGHT = "playwright==1.65.2"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: `root` is the folder that it shows."""

    url: str
    token: str
    root: Path

    def address(self, notebook: str) -> str:
        """Where a notebook is alone on the page of a new workspace."""
        return f"{self.url}/lab/workspaces/{Path(notebook).stem}/tree/{notebook}?token={self.token}"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab over a copy of the notebooks, as it is for somebody who never started one."""
    home = tmp_path_factory.mktemp("lab")
    root = home / "notebooks"
    shutil.copytree(NOTEBOOKS, root, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # else it asks, over the notebook, whether it may fetch news
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    own = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(), root)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={root}",
        f"--IdentityProvider.token={running.token}",
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=root, env={**os.environ, **own, "IPYTHONDIR": str(home / "ipython")}, stdout=log, stderr=log
        )
    try:
        _wait_for(process, running, home / "log")
        yield running
    finally:
        process.terminate()  # it ends its kernels
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], running: Lab, log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"{running.url}/api/status?token={running.token}", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"JupyterLab did not come up: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program of a browser."""
    return next(filter(None, map(shutil.which, BROWSERS)), None) or cannot(
        "There is no Chromium here; on Debian and Ubuntu: apt-get install chromium"
    )


@pytest.fixture(scope="session")
def drive(chromium: str) -> Callable[[str, str, Path], dict]:
    """Do one of drive.py's actions at an address, leave a picture, and say what was seen."""
    works = ("python", "-c", "import playwright.sync_api")
    python = make_environment("playwright", PLAYWRIGHT, works=works) / "bin" / "python"

    def run(address: str, action: str, picture: Path) -> dict:
        command = [str(python), str(HERE / "drive.py"), address, chromium, action, str(picture)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=540)
        assert done.returncode == 0, f"{done.stderr[-3000:]} (see {picture})"
        return json.loads(done.stdout)

    return run

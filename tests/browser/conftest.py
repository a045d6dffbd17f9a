"""A JupyterLab with nobody's settings, and a browser that uses it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.peers.servers import free_ports
from ruo.deploy.local import fetch, server_process
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
    [port] = free_ports(1)
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(), root)
    options = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "root_dir": root}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    command += [f"--IdentityProvider.token={lab.token}"]
    environment = {**os.environ, **own, "IPYTHONDIR": str(home / "ipython")}
    with server_process("JupyterLab", command, environment, cwd=root) as process:  # it ends its kernels
        process.wait_until(lambda: fetch(f"{lab.url}/api/status?token={lab.token}")[0] == 200, 120)
        yield lab


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

"""The images, built for real, and containers of them as Kubernetes runs them: no root, nothing to write to, no rights."""

import functools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ruo.learn.demo import Demo, make_demo
from ruo.model.store import publish
from tests.environments import cannot

ROOT = Path(__file__).parent.parent.parent
CONFINED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]


def docker(*arguments: str, check: bool = True, **how: Any) -> str:
    """What docker prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, **how)
    if check and done.returncode:
        pytest.fail(f"docker {' '.join(arguments)}: {done.stderr[-3000:]}")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def image() -> Callable[[str], str]:
    """Build a target of the Dockerfile and give the image's name."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        cannot("The images' tests need a running Docker engine; on Debian and Ubuntu: apt-get install docker.io")

    @functools.cache
    def build(target: str) -> str:
        name = f"ruo-test-{target}"
        docker("build", "--network=host", "--target", target, "-t", name, "--build-arg=VERSION=test", str(ROOT))
        return name

    return build


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A test set of 20,000 rows and both models."""
    return make_demo(tmp_path_factory.mktemp("demo"), 20_000)


@pytest.fixture(scope="session")
def store(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the dense model as version 1, readable by everybody."""
    folder = tmp_path_factory.mktemp("store")
    publish(demo.models["mlp"], folder)
    for path in [folder, *folder.parents]:
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def expected(demo: Demo) -> np.ndarray:
    """What the dense model says of the test set, in this process."""
    import keras

    frame = pl.read_csv(demo.testset)
    features = frame.select([name for name in frame.columns if not name.startswith("Label_")]).to_numpy()
    return keras.saving.load_model(demo.models["mlp"]).predict(features.astype("f4"), batch_size=1000, verbose=0)


class Container:
    """A running server: its id, and its address on this machine."""

    def __init__(self, image: str, store: Path, *options: str) -> None:
        self.image = image
        mount = ["-v", f"{store}:/app/model:ro", "-p", "127.0.0.1::8000"]
        self.id = docker("run", "-d", *CONFINED, *mount, "--cpus", "2", "--memory", "2g", *options, image)
        self.url = f"http://{docker('port', self.id, '8000').splitlines()[0]}"

    def wait_until_ready(self) -> None:
        """Wait until every worker has its model."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5) as answer:
                    if json.load(answer)["workers"] == len(self.workers()):
                        return
            except OSError:
                pass
            time.sleep(0.2)
        pytest.fail(f"The container was not ready: {docker('logs', self.id)[-3000:]}")

    def workers(self) -> list[str]:
        """The commands of Gunicorn's processes but the first."""
        return [line for line in docker("top", self.id, "-o", "pid,args").splitlines()[1:] if "gunicorn" in line][1:]

    def inside(self, program: str) -> str:
        """What a Python program prints in the container."""
        return docker("exec", self.id, "python3", "-c", program)

    def stop(self) -> int:
        """Stop it as `docker stop` does, with time to end; the status it ended with."""
        docker("stop", "-t", "75", self.id)
        return int(docker("inspect", "-f", "{{.State.ExitCode}}", self.id))


@pytest.fixture(scope="session")
def run(image: Callable[[str], str], store: Path) -> Callable[..., Any]:
    """Run a server's image until the block ends."""

    @contextmanager
    def start(target: str, *options: str) -> Iterator[Container]:
        container = Container(image(target), store, *options)
        try:
            container.wait_until_ready()
            yield container
        finally:
            docker("rm", "-f", container.id, check=False)

    return start

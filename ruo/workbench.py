"""What a notebook needs before it can begin: a table, a server that holds a model, and a folder for the results."""

from __future__ import annotations

import atexit
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ruo
from ruo.demo import make_demo
from ruo.deployments import local_server
from ruo.errors import RuoError, TableError

__all__ = ["Workbench", "prepare", "sizes", "whole"]

_DEMO_ROWS = 20_000  # a sweep over it takes seconds


class Workbench:
    """`testset` and `model` (a path, or None where the server is somebody else's), `url`, and `results_dir`."""

    def __init__(self, testset: Path, model: Path | None, results_dir: Path) -> None:
        self.testset = testset
        self.model = model
        self.results_dir = results_dir
        self.url = ""
        self._open = ExitStack()
        atexit.register(self._open.close)  # where a notebook breaks off before its last cell

    def serve(self, server_url: str | None) -> None:
        """Use the server at an address, or start one on this machine."""
        if server_url:
            self.url = server_url
            return
        if self.model is None:
            raise RuoError("A table of your own needs a model: pass model (a file), or server_url (a running server).")
        self.url = self._open.enter_context(local_server(self.model)).url

    def close(self) -> None:
        """Stop the server, if it was started here."""
        self._open.close()

    def __repr__(self) -> str:
        model = f"the model {self.model.name}" if self.model else "its model"
        return f"Workbench: {self.testset.name}, scored by {model} at {self.url}; results in {self.results_dir.name}"


def prepare(
    server_url: str | None = None,
    testset: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    results_dir: str | os.PathLike[str] | None = None,
) -> Workbench:
    """Everything that is None is made: a demo of 20,000 rows and its dense model, a local server, a temporary folder.

    Relative paths start where the notebook runs. Raises TableError where there is no such table, RuoError where the
    parts do not go together, DeploymentError where no server starts.
    """
    if testset is not None and not Path(testset).is_file():
        raise TableError(f"There is no table at {testset}; paths start in {Path.cwd().name}, where the notebook runs.")
    if testset is None:
        demo = _demo()
        testset, model = demo / "testset.csv", model or demo / "mlp.keras"
    folder = Path(results_dir) if results_dir else Path(tempfile.mkdtemp(prefix="ruo-results-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Workbench(Path(testset), Path(model) if model else None, folder)
    bench.serve(server_url)
    return bench


def sizes(values: Any) -> list[int | None]:
    """Request sizes from a notebook's parameter: a list, one value, or text such as "1000,5000,none"."""
    items = values.split(",") if isinstance(values, str) else values if isinstance(values, Sequence) else [values]
    return [
        None if str(item).strip().lower() in ("none", "whole", "") else whole("chunk_sizes", item) for item in items
    ]


def whole(name: str, value: Any) -> int:
    """A whole number from 1 up, from a parameter that came as 5, 5.0, 1e5 or "5"; raises RuoError."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= 1 or not number.is_integer():
        raise RuoError(f"{name}: {value!r} is not a whole number from 1 up.")
    return int(number)


def _demo() -> Path:
    """The demo's folder, made once for each user and version."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    folder = Path(tempfile.gettempdir()) / f"ruo-demo-{ruo.__version__}-{_DEMO_ROWS}-{user}"
    if not (folder / "testset.csv").exists() or not (folder / "mlp.keras").exists():
        make_demo(folder, _DEMO_ROWS, models=["mlp"])
    return folder

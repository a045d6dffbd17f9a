"""Who may import whom, tried in fresh processes that refuse the other side's packages."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ruo

ROOT = Path(ruo.__file__).parent.parent
CLIENT = ["polars", "pandas", "httptools", "tqdm", "matplotlib", "scipy", "papermill"]
SERVER = ["flask", "gunicorn", "keras", "tensorflow", "openvino", "prometheus_client"]

# Each may import what stands before it; the names in one line may import one another's line only to the left.
ORDER = [
    ["errors", "cpus", "lean", "load", "memory", "stats", "validity", "laws", "wire"],
    ["chunks", "compiled", "connection", "csvtext", "blocks", "loops", "progress", "publish", "timing", "provenance"],
    ["labels", "transport", "answers", "discovery", "pace", "checkpoint"],
    ["reading", "servers"],
    ["sweeps"],
    ["client"],
    ["pipeline"],
    ["scores"],
    ["scoring", "shards", "cluster"],
    ["deployments", "demo", "network", "flops", "peers"],
    ["measuring", "scorejob", "inprocess", "systems", "targets"],
    ["baresocket", "experiment", "comparison", "scaling", "versus", "evaluation"],
    ["training"],
    ["drawing"],
    ["figures", "scaling_figures", "evaluation_figures", "training_figures", "workbench"],
    ["report", "compare"],
    ["bench"],
    ["grid", "binding"],
    ["__main__"],
]


def _run(program: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("import server.app, server.model, server.worker", CLIENT),
        ("from ruo import score_csv, ascore_csv, iter_scores, Scores, ScoringError, local_server", SERVER),
        ("import ruo, ruo.wire, ruo.errors, ruo.cpus", [*CLIENT, *SERVER]),
        ("import ruo.demo, ruo.deployments, ruo.__main__", [*SERVER, "sklearn"]),
    ],
)
def test_neither_side_needs_the_others_packages(statement: str, refused: list[str]) -> None:
    """With the other side's packages refused, the import still works."""
    _run(f"""
        import sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {refused!r}:
                    raise ImportError("refused: " + name)

        sys.meta_path.insert(0, Refuse())
        {statement}
    """)


def test_importing_ruo_imports_next_to_nothing() -> None:
    """`import ruo` loads no third-party package."""
    loaded = _run("import sys; import ruo; print(*sorted({name.split('.')[0] for name in sys.modules}))").split()

    assert not {"numpy", "polars", "httptools", "pandas"} & set(loaded)


def test_every_public_name_is_there() -> None:
    """What `__all__` promises can be had, and `dir` shows it; anything else is an AttributeError."""
    for name in ruo.__all__:
        assert getattr(ruo, name).__doc__
        assert name in dir(ruo)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ruo.nothing  # type: ignore[attr-defined]


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    hidden = {  # what only type checkers see binds nobody
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_imports_run_one_way() -> None:
    """A module of ruo imports only modules that stand before it."""
    rank = {name: number for number, line in enumerate(ORDER) for name in line}
    files = [path for path in (ROOT / "ruo").glob("*.py") if path.stem != "__init__"]

    assert {path.stem for path in files} <= set(rank)
    for path in files:
        for module in _imports(path):
            if module.startswith("ruo."):
                used = module.split(".")[1]
                assert rank[used] < rank[path.stem] or used == path.stem, f"{path.stem} imports {used}"


def test_the_server_takes_little_of_ruo() -> None:
    """The server imports the wires, the errors, the CPU limit, Keras alone and the form of a published model, nothing else."""
    for path in (ROOT / "server").glob("*.py"):
        used = {module for module in _imports(path) if module.split(".")[0] == "ruo"}
        assert {module.split(".")[1] for module in used} <= {"wire", "compiled", "errors", "cpus", "lean", "publish"}, (
            path.name
        )


def test_the_wires_do_no_input_or_output() -> None:
    """The wires import numpy, orjson, the standard library's pure parts and one another."""
    allowed = {"__future__", "collections", "dataclasses", "json", "math", "typing", "numpy", "orjson", "ruo"}
    for path in (ROOT / "ruo" / "wire").glob("*.py"):
        used = _imports(path)
        assert {module.split(".")[0] for module in used} <= allowed, path.name
        assert all(module.startswith("ruo.wire") for module in used if module.startswith("ruo")), path.name

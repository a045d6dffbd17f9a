"""Who may import whom, tried in fresh processes that refuse the other side's packages."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ruo

ROOT = Path(ruo.__file__).parent.parent
CLIENT = ["polars", "pandas", "aiohttp", "tqdm", "matplotlib", "scipy", "papermill"]
SERVER = ["flask", "gunicorn", "keras", "tensorflow", "openvino", "prometheus_client"]

# A room is a folder or a file of its own; it imports rooms of the lines above it.
LAYERS = """
    errors
    wire stats machine arguments
    answer timing provenance deploy
    model tables
    client
    learn experiment distributed
    figures
    compare
    notebook
    cli
    __main__
"""
SERVER_TAKES = {"errors", "wire", "machine", "provenance", "model"}
SERVER_LAYERS = """
    settings limits logs scratch
    metrics slots body
    repository worker
    scheduler
    versions
    inference
    views
    application
"""


def _run(program: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("import server.application, ruo.model.loading, server.worker", CLIENT),
        ("from ruo import score_csv, ascore_csv, iter_scores, Scores, ScoringError, local_server", SERVER),
        ("import ruo, ruo.wire, ruo.errors, ruo.machine", [*CLIENT, *SERVER]),
        ("import ruo.learn, ruo.deploy.local, ruo.__main__", [*SERVER, "sklearn"]),
        ("from ruo.notebook import prepare, run_notebook", [*SERVER, "sklearn", "papermill", "nbconvert", "nbformat"]),
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
    assert not {"numpy", "polars", "aiohttp", "pandas"} & set(loaded)


def test_every_public_name_is_there() -> None:
    """What `__all__` promises can be had, and `dir` shows it; anything else is an AttributeError."""
    for name in ruo.__all__:
        assert getattr(ruo, name).__doc__
        assert name in dir(ruo)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ruo.nothing  # type: ignore[attr-defined]


def _modules(package: str) -> dict[str, Path]:
    """Every module of a package, by its full name; a folder's own is that of its `__init__`."""
    files = (ROOT / package).rglob("*.py")
    named = {path.relative_to(ROOT).with_suffix("").parts: path for path in files if path.name != "gunicorn.conf.py"}
    return {".".join(parts).removesuffix(".__init__"): path for parts, path in named.items()}


def _imports(path: Path, modules: Iterable[str] = ()) -> set[str]:
    """What a file imports, wherever it does so and for whom: what only type checkers see counts as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _arrows(package: str) -> Iterator[tuple[str, str]]:
    """Who imports whom in a package, but for its own front, which hands out names of all rooms."""
    modules = _modules(package)
    for name, path in modules.items():
        if name != package:
            yield from ((name, used) for used in _imports(path, modules) if used.startswith(f"{package}."))


@pytest.mark.parametrize(("package", "layers"), [("ruo", LAYERS), ("server", SERVER_LAYERS)])
def test_a_room_imports_only_rooms_above_it(package: str, layers: str) -> None:
    """Every room has its layer, and no import climbs or stays on its level."""
    rank = {room: number for number, line in enumerate(layers.split("\n")) for room in line.split()}
    assert {name.split(".")[1] for name in _modules(package) if name != package} == set(rank)
    for name, used in _arrows(package):
        own, other = name.split(".")[1], used.split(".")[1]
        assert own == other or rank[other] < rank[own], f"{name} imports {used}"


@pytest.mark.parametrize("package", ["ruo", "server", "benchmarks"])
def test_no_import_comes_back(package: str) -> None:
    """There is no circle, neither between rooms nor between the files of one."""
    graph: dict[str, set[str]] = {}
    for name, used in _arrows(package):
        if not name.startswith(f"{used}.") and not used.startswith(f"{name}."):
            graph.setdefault(name, set()).add(used)
    TopologicalSorter(graph).prepare()


def test_the_server_takes_little_of_ruo() -> None:
    """What the server may import of ruo, and thus all of it that an image of the server holds."""
    for path in (ROOT / "server").glob("*.py"):
        used = {module.split(".")[1] for module in _imports(path) if module.startswith("ruo.")}
        assert used <= SERVER_TAKES, path.name


def test_the_wires_do_no_input_or_output() -> None:
    """The wires import numpy, orjson, the standard library's pure parts and one another."""
    allowed = {"__future__", "collections", "contextlib", "dataclasses", "itertools", "json", "math", "typing"}
    allowed |= {"base64", "re", "struct", "numpy", "orjson", "ruo"}
    for path in (ROOT / "ruo" / "wire").glob("*.py"):
        used = _imports(path)
        assert {module.split(".")[0] for module in used} <= allowed, path.name
        assert all(module.startswith("ruo.wire") for module in used if module.startswith("ruo")), path.name

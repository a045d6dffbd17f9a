"""The notebooks: how they are committed, and that they run with parameters from another folder.

nbval, which pyproject.toml switches on, runs them as they are.
"""

import ast
import os
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import ruo
from ruo.deploy.local import LocalServer
from ruo.learn.demo import Demo

HOME = Path(ruo.__file__).parent.parent
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def parameters_of(path: Path) -> dict:
    cells = [cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    body = ast.parse(cells[0].source).body
    return {name_of(node): ast.literal_eval(node.value) for node in body}


def name_of(node: ast.stmt) -> str:
    return node.target.id if isinstance(node, ast.AnnAssign) else node.targets[0].id


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_are_notebooks() -> None:
    """The notebooks are found, so that the tests below check something."""
    assert {"benchmark", "quickstart"} <= {path.stem for path in NOTEBOOKS}


@every_notebook
def test_committed_without_outputs(path: Path) -> None:
    """A notebook is valid, of format 4.5 or newer, for the kernel python3, and holds neither outputs nor counts."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    assert notebook.metadata.kernelspec == KERNEL
    for cell in notebook.cells:
        assert cell.source.strip()
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@every_notebook
def test_cells_are_short_and_define_nothing(path: Path) -> None:
    """A cell has at most 20 lines and no function, class, magic or absolute path; what repeats is in the library."""
    for source in code_of(path):
        assert len(source.splitlines()) <= 20
        tree = ast.parse(source)  # a magic would not parse
        assert not any(
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for node in ast.walk(tree)
        )
        words = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not any(word.startswith("/") for word in words)


@every_notebook
def test_prose_leads_and_imports_are_few(path: Path) -> None:
    """At least 45 % of the cells are prose, half of the others have 4 lines or fewer, and ruo is imported a few times."""
    cells = nbformat.read(path, 4).cells
    assert sum(cell.cell_type == "markdown" for cell in cells) >= 0.45 * len(cells)
    assert statistics.median(len(source.splitlines()) for source in code_of(path)) <= 4
    imports = [line for source in code_of(path) for line in source.splitlines() if line.startswith("from ruo")]
    assert len(imports) <= 5


@every_notebook
def test_parameters_are_literals_on_a_line_each(path: Path) -> None:
    """Parameters are literals, with one equals sign to the line, so that papermill reads every one of them."""
    import papermill

    names = parameters_of(path)
    assert list(papermill.inspect_notebook(str(path))) == list(names)
    source = next(source for source in code_of(path) if next(iter(names)) in source)
    assert all(line.count("=") == 1 for line in source.splitlines())


@every_notebook
def test_the_readme_names_every_parameter(path: Path) -> None:
    """The table of the notebooks has each of them and each of its parameters."""
    text = (HOME / "notebooks" / "README.md").read_text()
    assert f"({path.name})" in text
    assert all(f"`{name}`" in text for name in parameters_of(path))


def test_papermill_from_another_folder(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """Relative paths are those of the caller, numbers may come as text or floats, and the figure is in the notebook."""
    (tmp_path / "mine.csv").write_bytes(demo.testset.read_bytes())
    done = run(
        "-m",
        "papermill",
        str(HOME / "notebooks" / "benchmark.ipynb"),
        "out.ipynb",
        "--no-progress-bar",
        "-p",
        "server_url",
        server.url,
        "-p",
        "testset",
        "mine.csv",
        "-p",
        "chunk_sizes",
        "1e3",
        "-p",
        "runs",
        "1.0",
        "-p",
        "results_dir",
        "results",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "results" / "runs.jsonl").read_text().splitlines()) == 4
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))

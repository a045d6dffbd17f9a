"""The notebooks: how they are committed, and that they run with parameters from another folder.

nbval, which pyproject.toml switches on, runs them as they are.
"""

import ast
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

import ruo
from ruo.compare.jobs import job_environment
from ruo.deploy.local import LocalServer
from ruo.learn import evaluate
from ruo.learn.demo import Demo
from tests.learn.test_evaluation import scores_of

HOME = Path(ruo.__file__).parent.parent
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


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
def test_prose_leads_and_cells_are_short_and_define_nothing(path: Path) -> None:
    """At least 45 % of the cells are prose; a cell has few lines and no function, class, magic or absolute path."""
    cells, sources = nbformat.read(path, 4).cells, code_of(path)
    assert sum(cell.cell_type == "markdown" for cell in cells) >= 0.45 * len(cells)
    assert statistics.median(len(source.splitlines()) for source in sources) <= 4
    assert "\n".join(["", *sources]).count("\nfrom ruo") <= 5
    for source in sources:
        assert len(source.splitlines()) <= 20
        for node in ast.walk(ast.parse(source)):  # a magic would not parse
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            assert not (isinstance(node, ast.Constant) and str(node.value).startswith("/"))


@every_notebook
def test_parameters_are_literals_on_a_line_each(path: Path) -> None:
    """Parameters are literals of a line each, so that papermill reads every one; the notebooks' table names them."""
    [cell] = [cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    parameters = ast.parse(cell.source).body
    names = [node.target.id if isinstance(node, ast.AnnAssign) else node.targets[0].id for node in parameters]
    assert list(papermill.inspect_notebook(str(path))) == names
    for node in parameters:
        ast.literal_eval(node.value)  # raises where it is none
        assert node.lineno == node.end_lineno
    text = (HOME / "notebooks" / "README.md").read_text()
    assert f"({path.name})" in text
    assert all(f"`{name}`" in text for name in names)


def test_the_quickstart_counts_one_output_as_two_classes() -> None:
    """The share of right rows is that of `evaluate`, whether a model has an output for each class or one for two."""
    [quickstart] = [path for path in NOTEBOOKS if path.stem == "quickstart"]  # so the tests above check something
    *_, last = code_of(quickstart)
    names = {"evaluate": evaluate, "scores": scores_of([[0.9], [0.2], [0.6], [0.4]], [1, 0, 1, 1])}
    exec(last, names)
    assert names["right"].startswith("Right are 75.0 % (95 % interval ")
    exec(last, names | {"scores": SimpleNamespace(labels=None)}, told := {})
    assert told["right"] == "The table has no labels that name a class."  # also where it has some, such as prices


def test_a_model_is_not_judged_by_the_rows_that_it_has_learnt_from() -> None:
    """Of the raw table, the rows of the test part are judged, and those that were left out for their infinities."""
    [cell] = [source for source in code_of(HOME / "notebooks" / "intrusion.ipynb") if "local_server(" in source]
    raw = pd.DataFrame({"a": range(6), "Label": list("xyxyxy")})
    parts = SimpleNamespace(training=[0, 2], validation=[3], test=[1, 4])  # of all rows but the first
    names = {"np": np, "table": ruo.table, "raw": raw, "finite": raw[1:], "trained": SimpleNamespace(parts=parts)}
    exec(cell.partition("names =")[0], names | {"label": "Label", "keep": []}, made := {})
    assert made["unseen"].source["a"].tolist() == [0, 2, 5]


def test_numbers_as_text_name_the_simulated_network() -> None:
    """The sentence on the slower network takes the numbers that were read, not what papermill gave."""
    [cell] = [source for source in code_of(HOME / "notebooks" / "scaling.ipynb") if "Mbit/s" in source]
    names = {"work": SimpleNamespace(parameters={"megabits": 100.0, "round_trip_ms": 5.0})}
    exec(cell.splitlines()[0], names)
    assert names["where"] == "a network of 100 Mbit/s and 5 ms"


def test_papermill_from_another_folder(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """Relative paths are those of the caller, numbers may come as text or floats, and the figure is in the notebook."""
    (tmp_path / "mine.csv").write_bytes(demo.testset.read_bytes())
    parameters = {"server_url": server.url, "testset": "mine.csv", "chunk_sizes": "1e3", "runs": "1.0"}
    parameters |= {"patience": "0", "results_dir": "r"}
    command = [sys.executable, "-m", "papermill", str(HOME / "notebooks/benchmark.ipynb"), "out.ipynb"]
    command += ["--no-progress-bar", *(part for pair in parameters.items() for part in ("-p", *pair))]
    done = subprocess.run(command, cwd=tmp_path, env=job_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "r" / "runs.jsonl").read_text().splitlines()) == 4
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))

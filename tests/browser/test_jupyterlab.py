"""The notebooks in JupyterLab, as a person uses them: a browser, the menus, the stop button."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

Drive = Callable[[str, str, Path], dict]


def outputs_of(path: Path) -> list[list[Any]]:
    return [cell.outputs for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", ["benchmark", "quickstart"])
def test_all_cells_run_and_the_figure_is_there(drive: Drive, lab: Any, tmp_path: Path, name: str) -> None:
    """Run All Cells ends without an error, and the figure or table is on the page and in the saved notebook."""
    seen = drive(lab.address(f"{name}.ipynb"), "run_all", tmp_path / f"{name}.png")

    assert not seen or (seen["pixels"] > 600 and seen["shown"] > 400)
    outputs = [output for cell in outputs_of(lab.root / f"{name}.ipynb") for output in cell]
    assert "error" not in {output.output_type for output in outputs}
    shows = {kind for output in outputs for kind in output.get("data", {})}
    assert ("image/png" if name == "benchmark" else "text/html") in shows
    assert bool(seen) == (name == "benchmark")


def test_a_wrong_address_is_one_sentence(drive: Drive, lab: Any, tmp_path: Path) -> None:
    """In the cell that checks the parameters, before anything else runs: no traceback, but what to do."""
    notebook = nbformat.read(lab.root / "quickstart.ipynb", 4)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += '\nserver_url = "http://127.0.0.1:9"'
    nbformat.write(notebook, lab.root / "wrong.ipynb")

    seen = drive(lab.address("wrong.ipynb"), "fail", tmp_path / "wrong.png")

    assert seen["lines"] == 1
    outputs = [output for cell in outputs_of(lab.root / "wrong.ipynb") for output in cell]
    [error] = [output for output in outputs if output.output_type == "error"]
    assert (error.ename, "start the server, or check the address" in error.evalue) == ("ScoringError", True)


def test_the_stop_button_stops(
    drive: Drive, lab: Any, tmp_path: Path, scripted: Any, answers: Any, reply: Any, small_csv: Path
) -> None:
    """A scoring that hangs at half is stopped at once by the stop button, and the kernel works on."""
    server = scripted(lambda number, *request: answers(number, *request) if number < 5 else reply(wait_s=600))
    scoring = f"score_csv({str(small_csv)!r}, {server.url!r}, chunk_size=1, concurrency=1, timeout=600)"
    cells = [nbformat.v4.new_code_cell(source) for source in (f"from ruo import score_csv\n{scoring}", "6 * 7")]
    kernel = json.loads((lab.root / "benchmark.ipynb").read_text())["metadata"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab.root / "stopped.ipynb")

    seen = drive(lab.address("stopped.ipynb"), "interrupt", tmp_path / "stopped.png")

    assert seen["seconds"] < 20
    assert len(server.requests) == 6
    stopped, following, *_ = outputs_of(lab.root / "stopped.ipynb")  # after the last cell, JupyterLab adds one
    assert [output.ename for output in stopped if output.output_type == "error"] == ["KeyboardInterrupt"]
    assert [output.data["text/plain"] for output in following] == ["42"]

"""The report from the command line: a real notebook against a real server, and a page that needs no network."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

import ruo
from ruo.__main__ import main
from ruo.deploy.local import LocalServer
from ruo.errors import RuoError
from ruo.learn.demo import Demo
from ruo.notebook.report import page, to_body
from ruo.notebook.run import run_notebook

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(ruo.__file__).parent.parent / "notebooks"


@pytest.fixture(scope="module")
def results(demo: Demo, server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command for two sizes and one run, called from another folder."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(demo.testset, folder / "mine.csv")
        parameters = ["-p", "server_url", server.url, "-p", "testset", "mine.csv", "-p", "chunk_sizes", "500,none"]
        done = CliRunner().invoke(
            main,
            ["run", str(NOTEBOOKS / "benchmark.ipynb"), "--results", "out", "-y", "{runs: 1}", *parameters],
        )
    assert done.exit_code == 0, done.output
    assert "VALID" in done.output
    return folder / "out"


def test_everything_is_left_in_the_folder(results: Path) -> None:
    """The notebook, its page, the figure in two formats, the summary, the verdict and every run are there."""
    names = {path.name for path in results.iterdir()}
    assert {
        "benchmark.ipynb",
        "benchmark.html",
        "figure.png",
        "figure.svg",
        "summary.csv",
        "verdict.txt",
        "runs.jsonl",
    } <= names
    assert len((results / "runs.jsonl").read_text().splitlines()) == 8


def test_the_page_shows_the_figure(results: Path) -> None:
    """The page contains the figure, with alternative text."""
    page = (results / "benchmark.html").read_text()
    assert re.search(r'<img[^>]+src="data:image/png;base64,', page.replace("\n", " "))
    assert "No description has been provided for this image" not in page


def test_the_page_needs_no_network(results: Path) -> None:
    """No script, style sheet or picture of the page comes from the network, and no script fetches one."""
    page = (results / "benchmark.html").read_text()
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page)
    scripts = "".join(re.findall(r"<script.*?</script>", page, re.DOTALL))
    assert not re.search(r"(?:import|from|src)[^;\n]{0,40}https?://", scripts)


def test_code_is_folded(results: Path) -> None:
    """Each code cell is folded, and opens without a script."""
    cells = [cell for cell in nbformat.read(results / "benchmark.ipynb", 4).cells if cell.cell_type == "code"]
    assert (results / "benchmark.html").read_text().count("<details") >= len(cells)


def test_unknown_names_are_refused_before_anything_runs(tmp_path: Path) -> None:
    """An unknown parameter is refused, the known ones are listed, and nothing is written."""
    done = CliRunner().invoke(
        main, ["run", str(NOTEBOOKS / "benchmark.ipynb"), "--results", str(tmp_path / "r"), "-p", "runz", "3"]
    )
    assert done.exit_code == 1
    assert "runz" in done.output
    assert "chunk_sizes" in done.output
    assert not (tmp_path / "r").exists()


def test_parameters_from_a_file(tmp_path: Path) -> None:
    """A file in YAML gives parameters as -y does, so an unknown name in it is refused too."""
    (tmp_path / "parameters.yaml").write_text("runs: 3\nrunz: 4\n")
    arguments = ["run", str(NOTEBOOKS / "benchmark.ipynb"), "--results", str(tmp_path / "r")]
    done = CliRunner().invoke(main, [*arguments, "-f", str(tmp_path / "parameters.yaml")])
    assert done.exit_code == 1
    assert "Error: benchmark.ipynb has no parameter 'runz'" in done.output


def test_results_dir_is_refused_as_a_parameter(tmp_path: Path) -> None:
    """The folder is given once: results_dir as a parameter is refused, not silently overruled."""
    with pytest.raises(RuoError, match="results"):
        run_notebook(
            NOTEBOOKS / "benchmark.ipynb", tmp_path / "r", {"results_dir": "elsewhere", "server_url": "nowhere"}
        )
    assert not (tmp_path / "r").exists()


def test_a_finished_run_is_kept(results: Path, tmp_path: Path) -> None:
    """A new run does not replace a finished one."""
    folder = tmp_path / "out"
    shutil.copytree(results, folder)
    before = (folder / "runs.jsonl").read_bytes()
    with pytest.raises(RuoError):
        run_notebook(NOTEBOOKS / "benchmark.ipynb", folder, {"testset": "nothing.csv"})
    assert before in [path.read_bytes() for path in tmp_path.rglob("runs.jsonl")]


def test_a_failed_cell(tmp_path: Path) -> None:
    """A failed cell is reported with its error, and the notebook is kept as far as it ran."""
    with pytest.raises(RuoError, match=r"There is no table at nothing\.csv"):
        run_notebook(NOTEBOOKS / "benchmark.ipynb", tmp_path / "r", {"testset": "nothing.csv"})
    assert (tmp_path / "r" / "benchmark.ipynb").exists()


def test_progress_bars_are_not_on_the_page() -> None:
    """A widget, which would need a script, is left out."""
    output = nbformat.v4.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "BAR"}
    )
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": json.loads("{}")})
    assert "BAR" not in page(*to_body(notebook))

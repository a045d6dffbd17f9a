"""The report from the command line: a real notebook against a real server, and a page that needs no network."""

import re
import shutil
from html import escape
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner, Result

import ruo
from ruo.__main__ import main
from ruo.deploy.local import LocalServer
from ruo.errors import RuoError
from ruo.learn.demo import Demo
from ruo.notebook.run import run_notebook

pytestmark = pytest.mark.slow

BENCHMARK = Path(ruo.__file__).parent.parent / "notebooks" / "benchmark.ipynb"


def command(folder: Path, *arguments: str) -> Result:
    """`ruo run benchmark.ipynb` with its results in this folder."""
    return CliRunner().invoke(main, ["run", str(BENCHMARK), "--results", str(folder), *arguments])


@pytest.fixture(scope="module")
def results(demo: Demo, server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command for two sizes and one run, called from another folder."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(demo.testset, folder / "mine.csv")
        parameters = ["-p", "server_url", server.url, "-p", "testset", "mine.csv", "-p", "chunk_sizes", "500,none"]
        done = command(Path("out"), "-y", "{runs: 1, patience: 0}", *parameters)
    assert done.exit_code == 0, done.output
    assert "VALID" in done.output
    assert f"Open {folder / 'out' / 'benchmark.html'}" in done.output
    assert ("with more patience." in done.output) == ("ruo run" in done.output)
    return folder / "out"


def test_everything_is_left_in_the_folder(results: Path) -> None:
    """The notebook, its page, the figure in two formats, the summary, the verdict and every run are there."""
    names = "benchmark.ipynb benchmark.html figure.png figure.svg summary.csv verdict.txt runs.jsonl"
    assert set(names.split()) <= {path.name for path in results.iterdir()}
    assert len((results / "runs.jsonl").read_text().splitlines()) == 8


def test_the_page_needs_no_network(results: Path) -> None:
    """The page has the figure with its text and each cell's code folded; nothing of it comes from the network."""
    page = (results / "benchmark.html").read_text()
    assert re.search(r'<img[^>]+src="data:image/svg\+xml;base64,', page.replace("\n", " "))
    answer, status = (results / "verdict.txt").read_text().splitlines()[:2]
    assert f'<div class="summary"><p>{escape(answer)}</p><p>{escape(status)}</p></div>' in page
    assert ".ipynb" not in re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)  # no link leads nowhere
    assert "No description has been provided for this image" not in page
    assert "<script" not in page
    assert not re.search(r"<(?:link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page)
    cells = [cell for cell in nbformat.read(results / "benchmark.ipynb", 4).cells if cell.cell_type == "code"]
    assert page.count("<details") >= len(cells)


def test_unknown_names_are_refused_before_anything_runs(tmp_path: Path) -> None:
    """An unknown parameter, given as a pair or in a file, is refused; the known ones are listed; nothing is written."""
    (tmp_path / "parameters.yaml").write_text("runs: 3\nrunz: 4\n")
    for arguments in (["-p", "runz", "3"], ["-f", str(tmp_path / "parameters.yaml")]):
        done = command(tmp_path / "r", *arguments)
        assert done.exit_code == 2
        assert re.search(r"Error: benchmark.ipynb has no parameter 'runz'.*chunk_sizes", done.output)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "bare.ipynb")
    with pytest.raises(RuoError, match=r"bare\.ipynb has no parameter 'runs'; it has none\."):
        run_notebook(tmp_path / "bare.ipynb", tmp_path / "r", {"runs": 3})
    assert not (tmp_path / "r").exists()


def test_a_failed_cell_and_a_finished_run(results: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The notebook is kept as far as it ran, or was written, and a finished run is not replaced by it."""
    folder = shutil.copytree(results, tmp_path / "out")
    executed, before = folder / "benchmark.ipynb", (folder / "runs.jsonl").read_bytes()
    with pytest.raises(RuoError, match=r"nothing\.csv does not exist"):
        run_notebook(BENCHMARK, folder, {"testset": "nothing.csv"})
    assert executed.exists()
    [kept] = tmp_path.rglob("runs.jsonl")
    assert (kept.read_bytes(), kept.parent != folder) == (before, True)
    executed.write_text(executed.read_text()[:999])  # as a full disk leaves it; the same command goes on
    with pytest.raises(RuoError, match=r"nothing\.csv does not exist"):
        run_notebook(BENCHMARK, folder, {"testset": "nothing.csv"})
    assert "IPKernelApp" not in capfd.readouterr().err

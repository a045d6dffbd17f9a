"""A notebook run for a grid of parameters: small notebooks that really run, each in its own folder."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ruo.__main__ import main
from ruo.compare.jobs import job_environment
from ruo.errors import RuoError
from ruo.notebook.run import GATHERED, VERDICTS, folder_name, run_grid

pytestmark = pytest.mark.slow

PARAMETERS = 'size = 1\nname = "x"\nlevels = [1]\nresults_dir = None'

# Fails for size 13, as a user's notebook does; kills its kernel for 99, as a machine without memory does.
WORK = """
import os, pathlib, signal
folder = pathlib.Path(results_dir)
with (folder / "log.txt").open("a") as log:
    log.write("ran\\n")
if size == 99:
    os.kill(os.getpid(), signal.SIGKILL)
if size == 13:
    raise ValueError("thirteen is\\nunlucky")
(folder / "summary.csv").write_text(f"n,size,seconds\\n1,{size},0.5\\n2,{size},0.25\\n")
(folder / "verdict.txt").write_text(f"VALID: {size} of {name}, {levels}.\\n")
"""


def write_notebook(path: Path, *cells: str) -> Path:
    first = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    rest = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *rest], metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook that writes its parameters into a summary and a verdict."""
    return write_notebook(tmp_path_factory.mktemp("grid") / "work.ipynb", WORK)


@pytest.fixture(scope="module")
def gathered(notebook: Path) -> pd.DataFrame:
    """The results of two sizes, one of which fails, for two names."""
    grid = {"size": [2, 13], "name": ["a", "b/c"]}
    return run_grid(notebook, notebook.parent / "results", grid, {"levels": [1, None]})


@pytest.fixture
def results(gathered: pd.DataFrame, notebook: Path, tmp_path: Path) -> Path:
    """A copy of its results, to be resumed."""
    return Path(shutil.copytree(notebook.parent / "results", tmp_path / "results"))


def run_one(folder: Path, *cells: str, **grid: list) -> pd.DataFrame:
    """The results of a notebook with these cells for size 1, in the folder r."""
    return run_grid(write_notebook(folder / "work.ipynb", *cells), folder / "r", grid or {"size": [1]})


def times_run(folder: Path) -> int:
    return (folder / "log.txt").read_text().count("ran")


def test_every_combination_has_its_folder(gathered: pd.DataFrame, results: Path) -> None:
    """Each combination leaves its notebook and its results in a folder named after its values, even if it failed."""
    folders = {path.name for path in results.iterdir() if path.is_dir()}
    assert len(folders) == 4
    assert {"size=2,name=a", "size=13,name=a"} < folders
    assert (results / "size=2,name=a" / "verdict.txt").read_text() == "VALID: 2 of a, [1, None].\n"
    assert (results / "size=2,name=a" / "work.html").exists()
    assert (results / "size=13,name=a" / "work.ipynb").exists()


def test_gathered_has_the_grid_in_front(gathered: pd.DataFrame, results: Path) -> None:
    """The summaries are stacked behind the grid's parameters; a failed combination has its error and no numbers."""
    assert list(gathered.columns) == ["size", "name", "error", "n", "summary_size", "seconds"]
    good, failed = gathered[gathered["error"].isna()], gathered[gathered["error"].notna()]
    assert good[["size", "name", "n"]].to_numpy().tolist() == [[2, "a", 1], [2, "a", 2], [2, "b/c", 1], [2, "b/c", 2]]
    assert failed["size"].tolist() == [13, 13]
    assert failed["error"].str.contains("ValueError: thirteen is unlucky").all()
    assert failed["seconds"].isna().all()
    assert (results / GATHERED).read_text().splitlines()[1] == "2,a,,1,2,0.5"  # whole numbers stay whole
    assert len(pd.read_csv(results / GATHERED)) == len(gathered) == 6


def test_every_verdict_is_in_one_file(gathered: pd.DataFrame, results: Path) -> None:
    """Each combination has its section, with its verdict and a link to its report, or with its error."""
    text = (results / VERDICTS).read_text()
    assert text.startswith("# work: 4 of 4 combinations\n")
    assert "## size=2, name=a ([report](size%3D2%2Cname%3Da/work.html))\n\nVALID: 2 of a, [1, None].\n" in text
    assert "## size=13, name=b/c\n\nFAILED: Cell" in text


@pytest.mark.parametrize(
    ("cell", "sizes", "failed", "error"),
    [
        (WORK, [99, 1], [True, False, False], "The kernel of work.ipynb died"),
        ("open(results_dir + '/summary.csv', 'w').close()", [1], [True], "summary.csv cannot be read"),
    ],
)
def test_a_failure_does_not_end_the_grid(tmp_path: Path, cell: str, sizes: list, failed: list, error: str) -> None:
    """A killed kernel, or a summary that is not a table, is a failure like any other."""
    frame = run_one(tmp_path, cell, size=sizes)
    assert frame["error"].notna().tolist() == failed
    assert error in frame["error"].iloc[0]


def test_a_notebook_may_write_nothing_and_runs_again_once_it_has_changed(tmp_path: Path) -> None:
    """A combination without summary and verdict has a row and a section, and its results are those of its code."""
    for _ in range(2):
        frame = run_one(tmp_path, "open(results_dir + '/log.txt', 'a').write('ran ')")
    assert frame.to_dict("records") == [{"size": 1, "error": None}]
    assert "It wrote no verdict." in (tmp_path / "r" / VERDICTS).read_text()
    assert times_run(tmp_path / "r" / "size=1") == 1
    run_one(tmp_path, "open(results_dir + '/log.txt', 'a').write('ran') and None")
    assert times_run(tmp_path / "r" / "size=1") == 2


def test_finished_combinations_are_taken_as_they_are(notebook: Path, results: Path, capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    """A second call runs only what failed or is new, says so with the time left, and gathers everything."""
    frame = run_grid(notebook, results, {"size": [2, 13, 3], "name": ["a"]}, {"levels": [1, None]})
    assert times_run(results / "size=2,name=a") == 1
    assert times_run(results / "size=13,name=a") == 2
    assert frame["size"].tolist() == [2, 2, 13, 3, 3]
    lines = [line for line in capsys.readouterr().err.splitlines() if line[1:3] == "/3"]
    assert lines[0] == "1/3 size=2,name=a ... is finished already"
    assert lines[1] == "2/3 size=13,name=a ..."
    assert re.fullmatch(r"2/3 size=13,name=a \.\.\. 0:00:\d\d, about 0:00:\d\d left; FAILED: Cell .*", lines[2])
    assert lines[3] == "3/3 size=3,name=a ..."
    assert re.fullmatch(r"3/3 size=3,name=a \.\.\. 0:00:\d\d", lines[4])


def test_other_parameters_are_another_result(notebook: Path, results: Path) -> None:
    """If a fixed parameter has changed, the combination runs again, and the earlier result is kept beside it."""
    run_grid(notebook, results, {"size": [2], "name": ["a"]}, {"levels": [5]})
    assert (results / "size=2,name=a" / "verdict.txt").read_text() == "VALID: 2 of a, [5].\n"
    [kept] = results.glob("size=2,name=a-*")
    assert (kept / "verdict.txt").read_text() == "VALID: 2 of a, [1, None].\n"


@pytest.mark.soak
def test_an_interrupted_grid_is_resumed(tmp_path: Path) -> None:
    """Ctrl-C ends the command with status 130; the same command runs the interrupted combination and the rest."""
    wait = "import time\nif size == 2 and not pathlib.Path('go').exists():\n    pathlib.Path('here').touch()\n    time.sleep(60)"
    write_notebook(tmp_path / "work.ipynb", "import pathlib", wait, WORK)
    command = [sys.executable, "-m", "ruo", "sweep", "work.ipynb", "-p", "size", "1,2,3", "--results", "r"]
    how: dict[str, Any] = {"cwd": tmp_path, "env": job_environment(), "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how) as process:
        while not (tmp_path / "here").exists():
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted; the same command goes on from there." in output
    assert set(pd.read_csv(tmp_path / "r" / GATHERED)["size"]) == {1}

    (tmp_path / "go").touch()
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, **how)
    assert done.returncode == 0, done.stderr
    assert [times_run(tmp_path / "r" / f"size={size}") for size in (1, 2, 3)] == [1, 1, 1]
    assert "VALID: 3 of x" in (tmp_path / "r" / VERDICTS).read_text()


ALIKE = [1, 1.0, "1", True, "true", "True", None, "none", "a/b", "a_b", "a b", "A_B", [1, 2], "1,2", "[1,2]", [1, "2"]]
ALIKE += [[], "", "..", "a.", "-", 1e300, -1, "-1", "x" * 300, "x" * 301, "ü", "u"]


def test_different_values_never_share_a_folder() -> None:
    """Values that look alike have different folders, even if the file system ignores case; equal ones have the same."""
    assert len({folder_name({"name": value}).lower() for value in ALIKE}) == len(ALIKE)
    assert folder_name({"name": "a,b=c"}) != folder_name({"name": "a", "b": "c"})
    numpy_and_paths = {"a": Path("x.csv"), "b": np.int64(3), "c": (1, 2)}
    assert folder_name(numpy_and_paths) == folder_name({"a": "x.csv", "b": 3, "c": [1, 2]})


def test_names_of_folders_are_portable() -> None:
    """Names have only characters that every file system allows and are short; plain values are kept as they are."""
    names = [folder_name({"name": value}) for value in ALIKE] + [folder_name(dict.fromkeys("abcdefgh", "long" * 9))]
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=,._~-")
    assert set("".join(names)) <= allowed
    assert max(map(len, names)) <= 120
    assert not [name for name in names if name.endswith(".")]
    assert {"name=1", "name=1.0", "name=true", "name=none", "name=a_b", "name=-1"} <= set(names)


@pytest.mark.parametrize(
    ("grid", "fixed", "sentence"),
    [
        ({"sise": [1, 2]}, {}, r"work.ipynb has no parameter 'sise'; it has size, name, levels"),
        ({"size": [1, 2]}, {"nome": 1}, "has no parameter 'nome'"),
        ({"results_dir": ["a", "b"]}, {}, "results_dir is the folder that --results names"),
        ({}, {"size": 1}, "Nothing varies"),
        ({"size": []}, {}, "size has no value"),
        ({"size": [1, 2, 1]}, {}, "size=1,2,1 has a value twice"),
        ({"size": [1, 2]}, {"size": 3}, "size cannot vary and be fixed"),
    ],
)
def test_mistakes_are_found_before_anything_runs(notebook: Path, tmp_path: Path, grid: dict, fixed: dict, sentence: str) -> None:  # fmt: skip
    """An impossible grid is refused with a sentence, and nothing is written."""
    with pytest.raises(RuoError, match=sentence):
        run_grid(notebook, tmp_path / "r", grid, fixed)
    with pytest.raises(RuoError, match=r"There is no notebook at .*nothing\.ipynb"):
        run_grid(tmp_path / "nothing.ipynb", tmp_path / "r", {"size": [1, 2]})
    assert not (tmp_path / "r").exists()


def test_the_exit_status(notebook: Path, results: Path) -> None:
    """The command says where the verdicts are; its status is 3 if a combination failed, and 2 if a parameter is wrong."""
    arguments = ["sweep", str(notebook), "--results", str(results), "-p", "levels", "[1,none]", "-p", "name", "a,b/c"]
    done = CliRunner().invoke(main, [*arguments, "-p", "size", "2,13"])
    assert done.exit_code == 3
    assert "verdicts.md" in done.output
    assert "FAILED: Cell" in done.output
    done = CliRunner().invoke(main, [*arguments, "-p", "sise", "2,13"])
    assert done.exit_code == 2
    assert "Error: work.ipynb has no parameter 'sise'" in done.output

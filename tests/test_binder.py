"""What Binder finds: it reads the folder .binder alone, and calls pip in the repository's root."""

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.environments import make_environment

ROOT = Path(__file__).parent.parent
BINDER = ROOT / ".binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines() -> list[str]:
    text = (line.partition("#")[0].strip() for line in (BINDER / "requirements.txt").read_text().splitlines())
    return [line for line in text if line]


def test_what_the_notebooks_need_is_installed() -> None:
    """The path of ruo starts where pip is called, with the notebooks' extras, and constraints.txt is found from there."""
    named = [line.removeprefix("-c ") for line in lines() if line.startswith("-c ")]
    (editable,) = (line.removeprefix("-e ") for line in lines() if line.startswith("-e "))
    path, _, extras = editable.rstrip("]").partition("[")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]

    assert [(BINDER / path).resolve() for path in named] == [ROOT / "constraints.txt"]
    assert (ROOT / path / "pyproject.toml").is_file()
    assert {"server", "notebooks"} <= set(extras.split(",")) <= set(known["optional-dependencies"])
    assert [Requirement(line).name for line in lines() if not line.startswith("-")] == ["notebook"]


def test_python_is_one_that_ruo_runs_on() -> None:
    """runtime.txt is of Binder's form, with a version that pyproject.toml allows; no file hides requirements.txt."""
    name, _, version = (BINDER / "runtime.txt").read_text().strip().partition("-")
    assert name == "python"
    assert version.count(".") == 1
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert not (ROOT / "binder").exists()
    assert {path.name for path in BINDER.iterdir()} == {"requirements.txt", "runtime.txt"}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_repo2docker_reads_it_so() -> None:
    """Binder's own program would build an image of this Python, and call pip as the tests above take it."""
    works = ("jupyter-repo2docker", "--version")
    programs = make_environment("repo2docker", "jupyter-repo2docker==2026.4.0", works=works) / "bin"
    command = [str(programs / "jupyter-repo2docker"), "--no-build", "--debug", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr

    assert 'pip install --no-cache-dir -r ".binder/requirements.txt"' in said
    assert f"for {(BINDER / 'runtime.txt').read_text().strip().replace('-', '=')}" in said

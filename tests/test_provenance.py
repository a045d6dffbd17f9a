"""The machine, the versions and the fingerprints of data."""

import getpass
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import ruo
from ruo.errors import ArgumentError
from ruo.machine import cpu_limit
from ruo.provenance import Provenance, fingerprint, machine
from ruo.tables import open_table


def test_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """The facts name the CPUs, memory, system, Python and versions, and the variables that set a number of threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    facts = machine()
    assert facts["cpu"]
    assert facts["cpu_limit"] == cpu_limit()
    assert facts["memory_gb"] > 0
    assert platform.python_version() in facts["python"]
    assert facts["versions"]["polars"] == pl.__version__
    assert set(facts["versions"]) == {"ruo", "numpy", "polars", "aiohttp", "keras", "tensorflow", "gunicorn", "flask"}
    assert facts["versions"]["tensorflow"] is not None
    assert facts["environment"]["OMP_NUM_THREADS"] == "3"


def test_machine_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the host, nor the user, nor a folder of this machine, nor any other variable is in the facts."""
    monkeypatch.setenv("RUO_TOKEN", "secret")
    text = json.dumps(machine())
    for name in {platform.node(), str(Path.home()), str(Path.cwd()), sys.prefix, "secret"} - {"", "/"}:
        assert name not in text
    assert f'"{getpass.getuser()}"' not in text


def test_nothing_heavy_is_imported() -> None:
    """Versions are read without importing TensorFlow, Keras, Flask, Gunicorn or polars."""
    script = (
        "import sys; from ruo.provenance import machine; machine()\n"
        "print({'tensorflow', 'keras', 'flask', 'gunicorn', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _commit_seen(folder: Path) -> list:
    script = "import json; from ruo.provenance import machine as m; print(json.dumps([m()['commit'], m()['clean']]))"
    command = [sys.executable, "-B", "-c", script]  # -B: no file of its own
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    return json.loads(done.stdout)


def test_commit_of_the_checkout(tmp_path: Path) -> None:
    """The facts name a checkout's commit and whether it is changed; untracked files, and other projects, do not count."""
    (tmp_path / "ruo").mkdir()
    for name in ("__init__.py", "machine.py", "errors.py", "provenance.py"):
        (tmp_path / "ruo" / name).write_bytes((Path(ruo.__file__).parent / name).read_bytes())
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "ruo")
    _git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "first")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "results.txt").write_text("new")
    assert _commit_seen(tmp_path) == [commit, True]
    with (tmp_path / "ruo" / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert _commit_seen(tmp_path) == [commit, False]
    _git(tmp_path, "rm", "-q", "--cached", "-r", "ruo")  # as an installed ruo lies in the repository of another project
    assert _commit_seen(tmp_path) == [None, None]


def test_fingerprint_of_a_file(tmp_path: Path) -> None:
    """A file's fingerprint, also as a table's, is its SHA-256; a path at which nothing lies is refused."""
    (tmp_path / "a.csv").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for path in (tmp_path / "a.csv", str(tmp_path / "a.csv")):
        assert fingerprint(path) == open_table(path).fingerprint() == expected
    with pytest.raises(ArgumentError, match="does not exist; pass"):
        fingerprint(tmp_path / "none.csv")


def test_fingerprint_of_a_folder(tmp_path: Path) -> None:
    """A folder's fingerprint depends on the names and bytes within it and not on where it lies."""

    def make(name: str, file: str, text: str) -> str:
        (tmp_path / name / "variables").mkdir(parents=True)
        (tmp_path / name / "variables" / file).write_text(text)
        (tmp_path / name / "saved_model.pb").write_text("graph")
        return fingerprint(tmp_path / name)

    first = make("one", "index", "1")
    assert make("two", "index", "1") == first
    assert len({first, make("three", "index", "2"), make("four", "data", "1")}) == 3


def test_digest_stands_for_the_facts() -> None:
    """The digest does not depend on the order of facts and changes with any of them."""
    first = Provenance({"a": 1, "b": {"c": [1, 2]}})
    assert first.digest == Provenance({"b": {"c": [1, 2]}, "a": 1}).digest
    assert first.digest != Provenance({"a": 1, "b": {"c": [1, 3]}}).digest
    assert first.flat() == {"a": 1, "b.c": [1, 2]}


def test_notebook_shows_a_table() -> None:
    """A notebook shows each fact in a row, escaped; the repr is one line with the digest and the CPU."""
    provenance = Provenance({"machine": machine(), "data": {"name": "<b>"}, "model": None, "good": True})
    shown = provenance._repr_html_()
    assert "<td>data.name</td><td>&lt;b&gt;</td>" in shown
    assert "<td>good</td><td>yes</td>" in shown
    assert provenance.facts["machine"]["cpu"] in repr(provenance)
    assert provenance.digest in repr(provenance)
    assert "\n" not in repr(provenance)

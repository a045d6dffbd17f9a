"""The machine, the versions and the fingerprints of data."""

import getpass
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from ruo.errors import ArgumentError
from ruo.machine import cpu_limit
from ruo.provenance import Provenance, fingerprint, machine
from ruo.tables import fingerprint_table


def test_machine_is_described() -> None:
    """The facts name this machine's CPUs, memory, system, Python and the versions that are installed."""
    facts = machine()
    assert facts["cpu"]
    assert facts["cpu_limit"] == cpu_limit()
    assert facts["memory_gb"] > 0
    assert platform.python_version() in facts["python"]
    assert facts["versions"]["polars"] == pl.__version__
    assert set(facts["versions"]) == {"ruo", "numpy", "polars", "aiohttp", "keras", "tensorflow", "gunicorn", "flask"}
    assert facts["versions"]["tensorflow"] is not None


def test_machine_names_nobody() -> None:
    """Neither the host, nor the user, nor a folder of this machine is in the facts."""
    text = json.dumps(machine())
    for name in {platform.node(), str(Path.home()), str(Path.cwd()), sys.prefix} - {"", "/"}:
        assert name not in text
    assert f'"{getpass.getuser()}"' not in text


def test_thread_variables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that sets a number of threads is kept, any other is not."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("RUO_TOKEN", "secret")
    facts = machine()
    assert facts["environment"]["OMP_NUM_THREADS"] == "3"
    assert "secret" not in json.dumps(facts)


def test_nothing_heavy_is_imported() -> None:
    """Versions are read without importing TensorFlow, Keras, Flask, Gunicorn or polars."""
    script = (
        "import sys; from ruo.provenance import machine; machine()\n"
        "print({'tensorflow', 'keras', 'flask', 'gunicorn', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository that holds a copy of what `machine` needs of ruo, committed."""
    (tmp_path / "ruo").mkdir()
    import ruo

    for name in ("__init__.py", "machine.py", "errors.py", "provenance.py"):
        (tmp_path / "ruo" / name).write_bytes((Path(ruo.__file__).parent / name).read_bytes())
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "ruo")
    _git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "first")
    return tmp_path


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _commit_seen(folder: Path) -> list:
    script = "import json; from ruo.provenance import machine as m; print(json.dumps([m()['commit'], m()['clean']]))"
    command = [sys.executable, "-B", "-c", script]  # -B: no file of its own
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    return json.loads(done.stdout)


def test_commit_of_the_checkout(checkout: Path) -> None:
    """The facts name the commit of a checkout and whether it is changed; untracked files are no change."""
    commit = _git(checkout, "rev-parse", "HEAD")
    (checkout / "results.txt").write_text("new")
    assert _commit_seen(checkout) == [commit, True]
    with (checkout / "ruo" / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert _commit_seen(checkout) == [commit, False]


def test_a_checkout_of_another_project_does_not_count(checkout: Path) -> None:
    """An installed ruo that lies untracked in another repository has no commit."""
    _git(checkout, "rm", "-q", "--cached", "-r", "ruo")
    assert _commit_seen(checkout) == [None, None]


def test_fingerprint_of_a_file(tmp_path: Path) -> None:
    """A file's fingerprint is its SHA-256."""
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert fingerprint(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(str(tmp_path / "a")) == hashlib.sha256(b"abc").hexdigest()


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


def test_fingerprint_of_nothing(tmp_path: Path) -> None:
    """A path at which nothing lies is refused."""
    with pytest.raises(ArgumentError, match="does not exist; pass"):
        fingerprint(tmp_path / "none")
    with pytest.raises(ArgumentError, match="does not exist; pass"):
        fingerprint_table(tmp_path / "none.csv")


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_fingerprint_of_a_frame(kind: type) -> None:
    """A DataFrame's fingerprint changes with a cell, a name, a type and the order of columns, and with nothing else."""
    columns = {"a": [1.0, 2.0], "b": ["x", None]}
    same = [kind(columns), kind(columns)]
    others = [
        kind({"a": [1.0, 2.5], "b": ["x", None]}),
        kind({"a": [1.0, 2.0], "b": ["x", "y"]}),
        kind({"c": [1.0, 2.0], "b": ["x", None]}),
        kind({"a": [1, 2], "b": ["x", None]}),
        kind({"b": ["x", None], "a": [1.0, 2.0]}),
    ]
    assert len({fingerprint_table(frame) for frame in same}) == 1
    assert len({fingerprint_table(frame) for frame in [same[0], *others]}) == 6


def test_index_does_not_count() -> None:
    """A pandas DataFrame's index, which is not scored, does not change its fingerprint."""
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    assert fingerprint_table(frame) == fingerprint_table(frame.set_axis([7, 8]))


def test_table_file_is_its_bytes(tmp_path: Path) -> None:
    """A table at a path has the fingerprint of the file."""
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    assert fingerprint_table(path) == fingerprint(path)


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

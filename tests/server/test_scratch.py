"""What a server writes to the temporary folder, and what is left of it."""

import os
import signal
import time
from pathlib import Path

import pytest

import server as package
from server.scratch import make_scratch


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def kill(process):
    """Kill a server and its workers, as a node does that is out of memory."""
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)
    process.wait(10)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.slow
def test_what_a_killed_server_leaves_is_removed_by_the_next(gunicorn, models, tmp_path, monkeypatch):
    """Its counters and its copy of the model; the folder of one that is still there stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = ["-c", str(Path(package.__file__).with_name("gunicorn.conf.py")), "-b", "127.0.0.1:0"]
    settings = {"MODEL_PATH": str(models["mlp"]), "TMPDIR": str(tmp_path), "WEB_CONCURRENCY": "1"}
    kept = make_scratch()

    with gunicorn(*options, **settings) as killed:
        wait_for(lambda: any(tmp_path.glob("ruo-scratch-*/ruo-model-*/mlp.keras")))
        kill(killed.process)
        (left,) = set(tmp_path.glob("ruo-*")) - {kept}
        assert any(left.glob("counters/*.db"))
    with gunicorn(*options, **settings) as running:
        wait_for(lambda: "ready after" in running.log.read_text())
        assert not left.exists()
        assert len(list(tmp_path.glob("ruo-*"))) == 2

    assert list(tmp_path.glob("ruo-*")) == [kept]


def test_only_what_this_kind_of_server_left_is_removed(tmp_path, monkeypatch):
    """Other folders, and links to them, stay as they are."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("ruo-scratch-left", "ruo-model-other", "precious"):
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / "ruo-scratch-link").symlink_to(tmp_path / "precious")
    (tmp_path / "ruo-scratch-file").touch()

    folder = make_scratch()

    assert folder.parent == tmp_path
    names = {path.name for path in tmp_path.iterdir()} - {folder.name}
    assert names == {"ruo-model-other", "precious", "ruo-scratch-link", "ruo-scratch-file"}
    assert (tmp_path / "precious" / "inside").is_dir()

"""What a server writes to the temporary folder, and what is left of it."""

import time

import psutil
import pytest

from server.scratch import make_scratch
from tests.server.asking import wait_for
from tests.server.serving import gunicorn


@pytest.mark.slow
def test_what_a_killed_server_leaves_is_removed_by_the_next(models, tmp_path, monkeypatch):
    """Its counters and its copy of the model; the folder of one that is still there stays."""
    with monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(tmp_path))
        kept = make_scratch()
    with gunicorn(models["mlp"], TMPDIR=str(tmp_path)) as killed:
        wait_for(lambda: any(tmp_path.glob("ruo-scratch-*/ruo-model-*/mlp.keras")))
        workers = psutil.Process(killed.pid).children()
        for process in (killed._process.process, *workers):
            process.kill()  # all of them, as a node does that is out of memory
        killed._process.process.wait(10)
        assert psutil.wait_procs(workers, 60)[1] == []
        (left,) = set(tmp_path.glob("ruo-*")) - {kept}
        assert any(left.glob("counters/*.db"))
    with gunicorn(models["mlp"], TMPDIR=str(tmp_path)) as running:
        running.wait_until_ready(60)
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


@pytest.mark.slow
@pytest.mark.parametrize("later_s", [0.3, *(pytest.param(0.2 * n, marks=pytest.mark.soak) for n in range(10))])
def test_a_server_that_is_ended_while_it_starts_leaves_nothing(models, tmp_path, later_s):
    """Neither a worker that has not heard of it, or that ends while it loads the model, nor a temporary folder."""
    with gunicorn(models["mlp"], TMPDIR=str(tmp_path), WEB_CONCURRENCY="2") as started:
        wait_for(lambda: b"Booting worker" in started.log.read_bytes())
        time.sleep(later_s)
        started._process.process.terminate()
        assert started._process.process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []

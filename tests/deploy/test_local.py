"""A server on this machine, for as long as it is needed."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

from ruo import local_server, score_csv
from ruo.deploy.local import LocalServer, server_process
from ruo.errors import ArgumentError, DeploymentError, ScoringError
from ruo.learn.demo import Demo
from ruo.model.store import publish
from tests.server.asking import wait_for

OPENVINO = {"KERAS_BACKEND": "openvino"}  # it starts in half the time


def _wait_for_the_end(pid: int) -> None:
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 20)


def test_a_server_is_there_in_the_block_and_gone_after_it(demo: Demo) -> None:
    """Inside the block every worker is ready; after it, even by an error, nothing listens and no process is left."""
    with pytest.raises(ZeroDivisionError), local_server(demo.models["mlp"], workers=2, settings=OPENVINO) as server:
        children = psutil.Process(server.pid).children()
        assert len(children) == 2
        assert len(score_csv(demo.testset, server.url)) == 2_500
        assert repr(server) == f"LocalServer({server.url}, mlp.keras, 2 workers)"
        _ = 1 / 0

    for pid in (server.pid, *(child.pid for child in children)):
        _wait_for_the_end(pid)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url, timeout=5)


@pytest.mark.parametrize(
    ("model", "settings", "sentence"),
    [
        ("nothing.keras", {}, r"There is no model at .*nothing\.keras, or none to read; make one"),
        ("broken.keras", {}, r"broken\.keras cannot be loaded: "),
        ("broken.keras", {"MAX_WAITING": "lots"}, r"ended with status \d+\. Its log says: .*MAX_WAITING"),
    ],
)
def test_a_server_that_cannot_start_is_an_error_at_once(tmp_path: Path, model: str, settings: dict, sentence: str) -> None:  # fmt: skip
    """A missing or broken model, or a setting that is refused: the error has the reason, and nothing is waited for."""
    (tmp_path / "broken.keras").write_bytes(b"this is no model")
    server, began = local_server(tmp_path / model, workers=1, settings={**OPENVINO, **settings}), time.monotonic()
    with pytest.raises(DeploymentError, match=sentence), server:
        pass
    assert time.monotonic() - began < 60


def test_a_server_does_not_outlive_its_maker(demo: Demo) -> None:
    """When the process that started a server is killed, the server stops by itself."""
    program = f"""
        import time
        from ruo import local_server
        with local_server({str(demo.models["mlp"])!r}, workers=1, settings={OPENVINO!r}) as server:
            print(server.pid, flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    _wait_for_the_end(pid)


def test_a_forked_child_leaves_the_server_alone() -> None:
    """A child that was forked in the block, and leaves it, ends neither the server nor its log."""
    program = """
        import os
        from ruo.deploy.local import server_process
        with server_process("A server", ["sleep", "60"], os.environ) as server:
            if not os.fork():
                raise SystemExit
            os.wait()
            print(server.process.poll(), server.log.exists())
        print(server.process.poll(), server.log.parent.exists())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.stdout == "None True\n-15 False\n", done.stderr


def test_a_log_that_cannot_be_copied_is_no_end() -> None:
    """Where the terminal is gone or the disk is full, a server goes on until it ends by itself."""
    with (
        server_process("A server", ["sh", "-c", "sleep 0.2; echo a line; sleep 0.2; exit 3"], {}) as running,
        io.TextIOWrapper(Path("/dev/full").open("wb", buffering=0), write_through=True) as full,
        pytest.raises(DeploymentError, match="A server ended with status 3. Its log says: a line"),
    ):
        LocalServer(Path("m.keras"), 1, running, "http://127.0.0.1:9").wait(full)


def test_workers_are_kept_to_cores_and_their_number_changes(demo: Demo, expected: np.ndarray) -> None:
    """With cores=1 each worker has a CPU of its own, and the server scales up and down while it is there."""
    with local_server(demo.models["mlp"], workers=1, cores=1, settings=OPENVINO) as server:
        for workers in (3, 2):
            server.scale(workers)
            children = psutil.Process(server.pid).children()
            assert len(children) == workers
            cores = [tuple(child.cpu_affinity()) for child in children]
            assert all(len(cpus) == 1 for cpus in cores)
            assert len(set(cores)) == min(workers, len(os.sched_getaffinity(0)))
            scores = score_csv(demo.testset, server.url, chunk_size=100)
            np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)
        with pytest.raises(DeploymentError, match="workers=0 must be at least 1"):
            server.scale(0)
        for wrong in (1.5, "2", True):
            with pytest.raises(ArgumentError, match=f"workers={wrong!r} must be a whole number"):
                server.scale(wrong)


def test_settings_are_for_the_server_alone(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come before this process's variables, and change none; a proxy of the environment is not asked for this machine."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    monkeypatch.setenv("MAX_REQUEST_MB", "7")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # at which nobody listens
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    settings = {**OPENVINO, "MAX_REQUEST_MB": 1, "SOME_OTHER_NAME": "word"}
    with local_server(demo.models["mlp"], workers=1, settings=settings) as server:
        environment = psutil.Process(server.pid).environ()
        request = urllib.request.Request(f"{server.url}/v2/models/model/infer", bytes(2 << 20))
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with pytest.raises(urllib.error.HTTPError, match="413"):
            direct.open(request, timeout=10)

    # the allocator keeps large buffers, unless this process says otherwise
    sizes = {"TRIM_THRESHOLD_": 1 << 30, "TOP_PAD_": 64 << 20, "MMAP_THRESHOLD_": 32 << 20, "ARENA_MAX": 3}
    wanted = {**settings, **{f"MALLOC_{name}": size for name, size in sizes.items()}}
    assert {name: environment[name] for name in wanted} == {name: str(value) for name, value in wanted.items()}
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("model", "settings", "sentence"),
    [
        ("a.keras", {"MODEL_PATH": "b.keras"}, "settings: pass model=b.keras in place of MODEL_PATH."),
        ("a.keras", {"WORKER_CORES": 2}, "settings: pass cores=2 in place of WORKER_CORES."),
        ("a.keras", {"A=B": 1}, "settings: no variable can be 'A=B' with the value 1; correct them."),
        ("a.keras", {"A": "x\0y"}, r"settings: no variable can be 'A' with the value 'x\x00y'; correct them."),
        ("", {}, 'is empty; pass one, or "."'),
    ],
)
def test_arguments_that_cannot_be_are_refused(model: str, settings: dict[str, object], sentence: str) -> None:
    """What is an argument, which could name another model, what no variable can be, and a folder that nobody meant."""
    with pytest.raises(ArgumentError, match=re.escape(sentence)), local_server(model, settings=settings):
        pass


def test_no_time_at_all_is_not_waited_for() -> None:
    """NaN seconds are none, and not any number of them."""
    with (
        server_process("A server", ["sleep", "60"], {}) as running,
        pytest.raises(DeploymentError, match="A server was not ready after nan s"),
    ):
        running.wait_until(lambda: False, float("nan"))


def test_a_server_whose_newest_version_is_broken_is_ready_with_the_one_before(demo: Demo, tmp_path: Path) -> None:
    """As it falls back by itself; it can still be scaled, and goes where the link to its store is switched."""
    for store in ("old", "new"):
        publish(demo.models["mlp"], tmp_path / store, check=False)
    (tmp_path / "old" / "2").mkdir()
    (tmp_path / "old" / "2" / "model.keras").write_bytes(demo.models["mlp"].read_bytes()[:3000])
    (tmp_path / "new" / "1").rename(tmp_path / "new" / "3")
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to("old")
    other.symlink_to("new")
    with local_server(link, workers=1, settings={**OPENVINO, "MODEL_POLL_SECONDS": 0.1}) as server:
        server.scale(2)
        assert score_csv(demo.testset, server, progress=False).model.version == "1"
        other.replace(link)

        def answers_with() -> str:
            with contextlib.suppress(ScoringError):  # while the two workers have different versions
                return score_csv(np.zeros((1, 64)), server).model.version
            return ""

        wait_for(lambda: answers_with() == "3", 20)


@pytest.mark.parametrize("precision", ["f32", "wrong"])
def test_every_line_of_the_log_is_json(demo: Demo, precision: str) -> None:
    """With LOG_FORMAT=json all lines are, from TensorFlow's first to the last of all, and those of a failed start."""
    settings = {"LOG_FORMAT": "json", "LOG_LEVEL": "info", "TF_CPP_MIN_LOG_LEVEL": "2"}  # as without this process
    settings |= {"KERAS_BACKEND": "tensorflow", "MODEL_PRECISION": precision}
    program = f"""
        import sys
        from ruo import local_server
        with local_server({str(demo.models["mlp"])!r}, workers=1, settings={settings!r}) as server:
            log = server.log.open()
        sys.stdout.write(log.read())
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, env=environment)
    if precision == "wrong":
        [log] = [line for line in done.stderr.decode().splitlines() if "Its log says: " in line]
        lines = log.partition("Its log says: ")[2].split(" | ")
    else:
        lines = done.stdout.decode().splitlines()
    messages = [json.loads(line)["message"] for line in lines]

    expected = ["oneDNN", "ready after", "Shutting down"] if precision == "f32" else ["MODEL_PRECISION='wrong'"]
    assert all(any(words in message for message in messages) for words in expected)

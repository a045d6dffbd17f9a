"""The server as a whole: Gunicorn, its workers, its settings, and its end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from ruo.errors import DeploymentError
from ruo.model.store import publish
from ruo.wire import WIRES
from tests.server.asking import INFER, RAW, ask, clients_without_a_pause, message, predictions, total, wait_for
from tests.server.serving import gunicorn, serve


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_gives_the_models_predictions(four_workers, rows, expected, wire):
    """Over HTTP, on every wire, the predictions are those of the model in this process."""
    path = {"v1": "/v1/models/model:predict", "paper": "/test"}.get(wire, INFER)
    answer = ask(four_workers.url + path, *message(wire, x=rows))
    assert answer.status == 200
    (output,) = WIRES[wire].decode_response(answer.headers, answer.body).outputs.values()
    np.testing.assert_allclose(output.reshape(-1, 3), expected["mlp"], atol=1e-6)


@pytest.mark.parametrize("kind", ["binary", "raw", "doubles"])
def test_a_large_body_is_scored(four_workers, rows, expected, kind):
    """Megabytes of rows give the predictions of each row, in whatever way a request may carry them."""
    many = np.tile(rows, (2700, 1)).astype("f8" if kind == "doubles" else "f4")
    answer = ask(four_workers.url + INFER, *((many.tobytes(), RAW) if kind == "raw" else message("v2", x=many)))
    assert answer.status == 200
    np.testing.assert_allclose(predictions(answer.body, len(many)), np.tile(expected["mlp"], (2700, 1)), atol=1e-6)


def test_numbers_are_those_of_all_workers(four_workers, rows):
    """Whichever worker is asked, its metrics and statistics are the sums over all of them, and never fall."""
    before = total(ask(four_workers.url + "/metrics").body.decode(), "ruo_rows_total")
    workers, requests = set(), 0
    with ThreadPoolExecutor(8) as pool:
        while len(workers) < 4 and requests < 4000:  # quick requests may all find the same few of them idle
            answers = pool.map(lambda _: ask(four_workers.url + INFER, rows.tobytes(), RAW), range(40))
            workers |= {answer.headers["Ruo-Worker"] for answer in answers}
            requests += 40
    assert len(workers) == 4
    texts = [ask(four_workers.url + "/metrics").body.decode() for _ in range(12)]
    assert {total(text, "ruo_rows_total") - before for text in texts} == {100 * requests}
    assert {total(text, "ruo_model_loaded") for text in texts} == {4}
    assert total(texts[0], "ruo_requests_in_flight") == 0
    assert texts[0].count("\nruo_worker_memory_bytes{") == 4
    stats = [ask(four_workers.url + "/v2/models/model/stats").json()["model_stats"][0] for _ in range(8)]
    assert len({each["inference_count"] for each in stats}) == 1


def test_every_request_leaves_a_line_and_says_who_answers(four_workers, rows):
    """As JSON the line has the status, size, times and version; the answer names the pod and the process that made it."""
    answer = ask(four_workers.url + INFER + "?mark", rows.tobytes(), RAW)
    ask(four_workers.url + "/v2/health/live")
    time.sleep(0.2)
    line = json.loads([line for line in four_workers.log.read_text().splitlines() if line.startswith("{")][-1])
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", INFER, 200, "info")
    assert (line["bytes_in"], line["version"]) == (3200, answer.headers["Ruo-Model-Version"])
    assert line["timing"] == answer.headers["Server-Timing"]
    assert line["ms"] > 0
    pod, pid = answer.headers["Ruo-Worker"].split("/")
    assert pod == "pod-7"
    os.kill(int(pid), 0)


def test_a_worker_that_dies_is_replaced(models, rows, tmp_path):
    """Killing one of two workers leaves the other serving, until a new one is ready, which counts where it had ended."""
    with serve(models["mlp"], workers=2, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as server:
        before, files = ask(server.url + INFER, rows.tobytes(), RAW), set(tmp_path.iterdir())
        os.kill(int(before.headers["Ruo-Worker"].split("/")[1]), signal.SIGKILL)
        time.sleep(0.1)
        answers = [ask(server.url + INFER, rows.tobytes(), RAW) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        server.wait_until_ready(60)
        text = ask(server.url + "/metrics").body.decode()
        assert total(text, "ruo_rows_total") == 2100
        assert total(text, "ruo_model_loaded") == 2
        assert set(tmp_path.iterdir()) == files


def test_the_end_waits_for_what_is_under_way(models):
    """After SIGTERM requests under way are finished, new ones are not taken, and the exit status is 0."""
    with serve(models["slow"], workers=2) as server, ThreadPoolExecutor(4) as pool:
        work = [pool.submit(ask, server.url + INFER, bytes(32) * 20000, RAW) for _ in range(4)]
        time.sleep(0.2)
        assert not any(each.done() for each in work)
        os.kill(server.pid, signal.SIGTERM)
        assert [each.result().status for each in work] == [200] * 4
        assert server._process.process.wait(30) == 0
        with pytest.raises(OSError, match="refused"):
            ask(server.url + "/v2/health/live")


def test_new_versions_reach_all_workers(models, rows, expected, tmp_path):
    """While clients ask without a pause, a published version takes over in every worker, and no request fails."""
    publish(models["mlp"], tmp_path, check=False)
    with serve(tmp_path, workers=2, MODEL_POLL_SECONDS=0.2) as server:
        ask_once = partial(ask, server.url + INFER, rows.tobytes(), RAW)
        with clients_without_a_pause(4, ask_once) as answers:
            publish(models["other"], tmp_path, check=False)
            wait_for(lambda: {ask_once().headers["Ruo-Model-Version"] for _ in range(8)} == {"2"})
        answers += [ask_once() for _ in range(8)]
        pinned = ask(f"{server.url}/v2/models/model/versions/1/infer", rows.tobytes(), RAW)
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["Ruo-Model-Version"] for answer in answers} == {"1", "2"}
    for answer in [*answers, pinned]:
        name = {"1": "mlp", "2": "other"}[answer.headers["Ruo-Model-Version"]]
        np.testing.assert_allclose(predictions(answer.body), expected[name], atol=1e-6)
    assert pinned.headers["Ruo-Model-Version"] == "1"


@pytest.mark.parametrize("environment", [{"WEB_CONCURRENCY": "3", "PORT": "1234"}, {}])
def test_workers_and_port_come_from_the_environment(environment):
    """WEB_CONCURRENCY and PORT are obeyed; the threads of all workers together are as many as the CPUs."""
    script = (
        "import runpy, os, server, json; c = runpy.run_path(os.path.dirname(server.__file__) + '/gunicorn.conf.py');"
        "from types import SimpleNamespace as N; user = os.geteuid() or 65534;"  # root hands on to Gunicorn's -u
        "s = N(num_workers=300, cfg=N(uid=user, gid=os.getegid())); c['on_starting'](s);"
        "assert s.slots.free() > 600 and s.scratch.stat().st_uid == user; c['on_exit'](s);"  # slots for a reload
        "print(json.dumps([c['workers'], c['bind'], int(os.environ['TF_NUM_INTRAOP_THREADS']), c['_cpus']]))"
    )
    ours = {name: value for name, value in os.environ.items() if name not in ("PORT", "WEB_CONCURRENCY")}
    ours.pop("TF_NUM_INTRAOP_THREADS", None)
    told = subprocess.check_output([sys.executable, "-c", script], env={**ours, **environment})
    workers, bind, threads, cpus = json.loads(told)
    assert workers == int(environment.get("WEB_CONCURRENCY", max(1, int(cpus))))
    assert bind.endswith(f":{environment.get('PORT', 8000)}")
    assert threads == max(1, int(cpus // workers))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MAX_WAITING", "many", "MAX_WAITING='many' must be a whole number of at least 0; the default is 32."),
        ("PROMETHEUS_MULTIPROC_DIR", "/dev/null", "The server cannot write to /dev/null (File exists); set TMPDIR, "),
    ],
)
def test_a_wrong_setting_ends_the_server_in_one_sentence(models, name, value, sentence):
    """Before any worker starts, and without a traceback."""
    with gunicorn(models["mlp"], **{name: value}) as server:
        wait_for(lambda: server.log.read_text())
        with pytest.raises(DeploymentError, match="ended with status 1"):
            server.wait_until_ready(10)
        *_, last = lines = server.log.read_text().splitlines()
        assert last.startswith(sentence)
        assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("options", [[], ["-k", "gthread", "--threads", "4"]])
def test_plain_gunicorn(models, rows, expected, options):
    """With Gunicorn's own workers and settings, as in 2023, every protocol is answered."""
    with gunicorn(models["mlp"], *options, config=(), WEB_CONCURRENCY="2") as server:

        def ask_loaded(path, *request):
            # nobody may listen yet; and each worker stands alone, so any answer may come from one that is still loading
            with contextlib.suppress(OSError):
                answer = ask(server.url + path, *request)
                assert answer.status != 503 or ("being loaded" in answer.json()["error"] and path != "/test")
                return answer if answer.status != 503 else None

        # a client of 2023 does not try again: its first request waits for the model
        first = wait_for(lambda: ask_loaded("/test", json.dumps(rows.tolist()).encode()))
        np.testing.assert_allclose(first.json(), expected["mlp"], atol=1e-5)
        for _ in range(8):
            assert wait_for(lambda: ask_loaded(INFER, rows.tobytes(), RAW)).status == 200
        health = wait_for(lambda: ask_loaded("/v2/health/ready"))
        assert health.json() == {"live": True, "ready": True, "workers": 1, "of": 1}
        assert ask(server.url + "/metrics").status == 200


def serves_and_counts(server):
    """Ten requests are answered and counted, and the server ends well; gives its log."""
    server.wait_until_ready(60)
    assert [ask(server.url + INFER, bytes(32), RAW).status for _ in range(10)] == [200] * 10
    assert total(ask(server.url + "/metrics").body.decode(), "ruo_rows_total") == 10
    server._process.process.terminate()
    assert server._process.process.wait(30) == 0
    return server.log.read_text()


SANDBOX = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
FULL_DISK = [*SANDBOX, 'mount -t tmpfs -o size=64k tmpfs "$PROMETHEUS_MULTIPROC_DIR"; exec "$@"', "sh"]
NO_LARGE_FILES = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh"]


def test_a_full_folder_of_metrics(models, tmp_path):
    """Where the workers' counters find no room, the server says so, serves on, and loses no worker."""
    has_namespaces = subprocess.run([*SANDBOX, "true"], check=False, capture_output=True).returncode == 0
    before = FULL_DISK if has_namespaces else NO_LARGE_FILES
    with gunicorn(models["mlp"], before=before, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as server:
        text = serves_and_counts(server)
    assert text.count(f"There is no room for metrics in {tmp_path}") == 1
    assert text.count("Booting worker") == 1


def test_preload_and_lists_of_threads(models):
    """With --preload the workers still count together; of OpenMP's list of threads the first number is taken."""
    with gunicorn(models["mlp"], "--preload", WEB_CONCURRENCY="2", OMP_NUM_THREADS="2,1") as server:
        serves_and_counts(server)


@pytest.mark.soak
def test_a_read_only_file_system(models, tmp_path):
    """Where one folder is all that can be written to, /dev/shm included, the server serves and counts."""
    mounts = f"mount --bind {tmp_path} {tmp_path}; for each in / /dev/shm; do mount -o remount,bind,ro $each; done"
    script = f'set -e; {mounts}; ! touch {tmp_path.parent}/a /dev/shm/a 2>/dev/null; touch {tmp_path}/a; exec "$@"'
    sandbox = [*SANDBOX, script, "sh"]
    try:
        subprocess.run([*sandbox, "true"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespaces here: {error}")
    # Keras imports matplotlib where a notebook's environment has it
    settings = {"WEB_CONCURRENCY": "2", "TMPDIR": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)}
    with gunicorn(models["mlp"], before=sandbox, KERAS_BACKEND="tensorflow", **settings) as server:
        text = serves_and_counts(server)
    assert "Traceback" not in text

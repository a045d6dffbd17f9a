"""The server as a whole: Gunicorn, its workers, its settings, and its end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import server as package
from ruo.deploy.local import LocalServer, ServerProcess
from ruo.model.store import publish

INFER = "/v2/models/model/infer"
RAW = {"Inference-Header-Content-Length": "0"}


def total(text, name, **labels):
    """The sum of the samples of that name and labels in Prometheus' text."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def lines_of(server):
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_every_wire_over_http(four_workers, ask, body_of, rows, expected):
    """Over HTTP every wire gives the predictions of the model in this process."""
    for wire, path in (("v1", "/v1/models/model:predict"), ("paper", "/test")):
        body = body_of(wire, x=rows)
        answer = ask(four_workers.url + path, body.data, body.headers).json()
        predictions = answer["predictions"] if wire == "v1" else answer
        np.testing.assert_allclose(predictions, expected["mlp"], atol=1e-6)
    body = body_of("v2", x=rows)
    answer = ask(four_workers.url + INFER, body.data, body.headers)
    np.testing.assert_allclose(np.frombuffer(answer.body[-100 * 12 :], "f4").reshape(-1, 3), expected["mlp"], atol=1e-6)


@pytest.mark.parametrize("kind", ["binary", "raw", "doubles", "JSON beside it"])
def test_a_large_body_is_scored(four_workers, ask, body_of, rows, expected, kind):
    """Megabytes of rows give the predictions of each row, in whatever way a request may carry them."""
    times = 2700
    many = np.tile(rows, (times, 1)).astype("f8" if kind == "doubles" else "f4")
    if kind == "raw":
        answer = ask(four_workers.url + INFER, many.tobytes(), RAW)
    else:
        body = body_of("v2", x=many)
        head = int(body.headers["Inference-Header-Content-Length"])
        message = json.loads(body.data[:head])
        if kind == "JSON beside it":  # a tensor of no use to the model, so that what is asked for is refused
            message["inputs"].append({"name": "y", "shape": [1], "datatype": "FP32", "data": [1.0]})
        text = json.dumps(message).encode()
        headers = {**body.headers, "Inference-Header-Content-Length": str(len(text))}
        answer = ask(four_workers.url + INFER, text + body.data[head:], headers)
    if kind == "JSON beside it":
        assert answer.status == 400
        assert 'no input "y"' in answer.json()["error"]
        return
    assert answer.status == 200
    predictions = np.frombuffer(answer.body[-len(many) * 12 :], "f4").reshape(-1, 3)
    np.testing.assert_allclose(predictions, np.tile(expected["mlp"], (times, 1)), atol=1e-6)


def test_a_large_body_that_breaks_off_holds_nobody_up(four_workers, ask, rows, expected):
    """A client that is gone after half of its rows leaves workers that answer the next one."""
    host, port = four_workers.url.removeprefix("http://").split(":")
    for _ in range(8):
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\nContent-Length: {10 << 20}\r\n\r\n"
            connection.sendall(head.encode() + bytes(5 << 20))
    for _ in range(8):
        answer = ask(four_workers.url + INFER, rows.tobytes(), RAW)
        assert answer.status == 200
        np.testing.assert_allclose(
            np.frombuffer(answer.body[-100 * 12 :], "f4").reshape(-1, 3), expected["mlp"], atol=1e-6
        )


def test_numbers_are_those_of_all_workers(four_workers, ask, rows):
    """Whichever worker is asked, its metrics and statistics are the sums over all of them, and never fall."""
    until = time.monotonic() + 10
    while total(text := ask(four_workers.url + "/metrics").body.decode(), "ruo_requests_in_flight"):
        assert time.monotonic() < until  # those of the tests before, whose clients have gone, end soon
        time.sleep(0.05)
    before = total(text, "ruo_rows_total")
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
    memory = [line for line in texts[0].splitlines() if line.startswith("ruo_worker_memory_bytes{")]
    assert len(memory) == 4
    counts = [
        ask(four_workers.url + "/v2/models/model/stats").json()["model_stats"][0]["inference_count"] for _ in range(8)
    ]
    assert len(set(counts)) == 1


def test_a_line_in_the_log_for_every_request(four_workers, ask, rows):
    """With LOG_FORMAT=json a request for predictions is one JSON object with its status, size, times and version."""
    answer = ask(four_workers.url + INFER + "?mark", rows.tobytes(), RAW)
    ask(four_workers.url + "/v2/health/live")
    time.sleep(0.2)
    line = lines_of(four_workers)[-1]
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", INFER, 200, "info")
    assert (line["bytes_in"], line["version"]) == (3200, answer.headers["Ruo-Model-Version"])
    assert line["timing"] == answer.headers["Server-Timing"]
    assert line["ms"] > 0


def test_answers_name_the_pod_and_the_process(four_workers, ask, rows):
    """With POD_NAME set, answers carry it and the process that made them."""
    pod, pid = ask(four_workers.url + INFER, rows.tobytes(), RAW).headers["Ruo-Worker"].split("/")
    assert pod == "pod-7"
    os.kill(int(pid), 0)


def test_a_worker_that_dies_is_replaced(serve, models, ask, rows):
    """Killing one of two workers leaves the other serving, until a new one is ready; what it had counted stays."""
    with serve(models["mlp"], workers=2) as server:
        before = ask(server.url + INFER, rows.tobytes(), RAW)
        os.kill(int(before.headers["Ruo-Worker"].split("/")[1]), signal.SIGKILL)
        time.sleep(0.1)
        answers = [ask(server.url + INFER, rows.tobytes(), RAW) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        server.wait_until_ready(60)
        text = ask(server.url + "/metrics").body.decode()
        assert total(text, "ruo_rows_total") == 2100
        assert total(text, "ruo_model_loaded") == 2


def test_the_end_waits_for_what_is_under_way(serve, models, ask):
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


def test_new_versions_reach_all_workers(serve, models, ask, rows, expected, tmp_path):
    """While clients ask without a pause, a published version takes over in every worker, and no request fails."""
    publish(models["mlp"], tmp_path)
    with serve(tmp_path, workers=2, MODEL_POLL_SECONDS=0.2) as server, ThreadPoolExecutor(4) as pool:
        stop = threading.Event()

        def client(_):
            answers = []
            while not stop.is_set():
                answers.append(ask(server.url + INFER, rows.tobytes(), RAW))
            return answers

        clients = [pool.submit(client, number) for number in range(4)]
        publish(models["other"], tmp_path)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            answers = [ask(server.url + INFER, rows.tobytes(), RAW) for _ in range(8)]
            if {answer.headers["Ruo-Model-Version"] for answer in answers} == {"2"}:
                break
        stop.set()
        answers += [answer for each in clients for answer in each.result()]
        pinned = ask(f"{server.url}/v2/models/model/versions/1/infer", rows.tobytes(), RAW)
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["Ruo-Model-Version"] for answer in answers} == {"1", "2"}
    for answer in [*answers, pinned]:
        name = {"1": "mlp", "2": "other"}[answer.headers["Ruo-Model-Version"]]
        predictions = np.frombuffer(answer.body[-100 * 12 :], "f4").reshape(-1, 3)
        np.testing.assert_allclose(predictions, expected[name], atol=1e-6)
    assert pinned.headers["Ruo-Model-Version"] == "1"


def command(*options):
    settings = Path(package.__file__).with_name("gunicorn.conf.py")
    return [sys.executable, "-m", "gunicorn", "-c", str(settings), *options, "server:app"]


def test_a_wrong_setting_ends_the_server_at_once():
    """A setting that makes no sense is told before any worker starts."""
    done = subprocess.run(
        command("-b", "127.0.0.1:0"),
        env={**os.environ, "MAX_WAITING": "lots"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "MAX_WAITING='lots'" in done.stderr


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"WEB_CONCURRENCY": "3", "PORT": "1234"}, (3, "1234")), ({}, (None, "8000"))],
)
def test_workers_and_port_come_from_the_environment(environment, expected):
    """WEB_CONCURRENCY and PORT are obeyed; the threads of all workers together are as many as the CPUs."""
    script = (
        "import runpy, os, server, json; c = runpy.run_path(os.path.dirname(server.__file__) + '/gunicorn.conf.py');"
        "print(json.dumps([c['workers'], c['bind'], int(os.environ['TF_NUM_INTRAOP_THREADS']), c['_cpus']]))"
    )
    ours = {name: value for name, value in os.environ.items() if name not in ("PORT", "WEB_CONCURRENCY")}
    ours.pop("TF_NUM_INTRAOP_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env={**ours, **environment}, capture_output=True, text=True, check=True
    )
    workers, bind, threads, cpus = json.loads(done.stdout)
    assert workers == expected[0] or (expected[0] is None and workers == max(1, int(cpus)))
    assert bind.endswith(f":{expected[1]}")
    assert threads == max(1, int(cpus // workers))


@pytest.mark.parametrize("options", [[], ["-k", "gthread", "--threads", "4"]])
def test_plain_gunicorn(gunicorn, free_port, models, ask, rows, expected, options):
    """With Gunicorn's own workers and settings, as in 2023, every protocol is answered."""
    port = free_port()
    with gunicorn("-w", "2", "-b", f"127.0.0.1:{port}", *options, MODEL_PATH=str(models["mlp"])) as running:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 60
        while True:
            assert time.monotonic() < until, running.log.read_text()
            with contextlib.suppress(OSError):
                answer = ask(url + "/test", json.dumps(rows.tolist()).encode())
                break
            time.sleep(0.05)
        # a client of 2023 does not try again: its first request waits for the model
        np.testing.assert_allclose(answer.json(), expected["mlp"], atol=1e-5)
        until = time.monotonic() + 60

        def ask_until_loaded(*request):
            # each worker stands alone, so any answer may come from one that is still loading
            while (answer := ask(*request)).status == 503:
                assert "being loaded" in answer.json()["error"]
                assert time.monotonic() < until, running.log.read_text()
                time.sleep(0.1)
            return answer

        for _ in range(8):
            assert ask_until_loaded(url + INFER, rows.tobytes(), RAW).status == 200
        health = ask_until_loaded(url + "/v2/health/ready")
        assert (health.status, health.json()) == (200, {"live": True, "ready": True, "workers": 1, "of": 1})
        assert ask(url + "/metrics").status == 200


SANDBOX = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
FULL_DISK = [*SANDBOX, 'mount -t tmpfs -o size=64k tmpfs "$PROMETHEUS_MULTIPROC_DIR"; exec "$@"', "sh"]
NO_LARGE_FILES = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh"]


def test_a_full_folder_of_metrics(models, ask, tmp_path, free_port):
    """Where the workers' counters find no room, the server says so, serves on, and loses no worker."""
    has_namespaces = subprocess.run([*SANDBOX, "true"], check=False, capture_output=True).returncode == 0
    port, folder = free_port(), tmp_path / "counters"
    folder.mkdir()
    settings = {"MODEL_PATH": str(models["mlp"]), "WEB_CONCURRENCY": "1", "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*(FULL_DISK if has_namespaces else NO_LARGE_FILES), *command("-b", f"127.0.0.1:{port}")],
            env={**os.environ, "KERAS_BACKEND": "openvino", **settings},
            stdout=log,
            stderr=log,
        )
    server = LocalServer(models["mlp"], 1, ServerProcess("The server", process, tmp_path / "log"), port)
    try:
        server.wait_until_ready(60)
        assert {ask(server.url + INFER, bytes(32), RAW).status for _ in range(10)} == {200}
        assert total(ask(server.url + "/metrics").body.decode(), "ruo_rows_total") == 10
    finally:
        process.terminate()
        assert process.wait(30) == 0
    text = server.log.read_text()
    assert text.count(f"There is no room for metrics in {folder}") == 1
    assert text.count("Booting worker") == 1


@pytest.mark.soak
def test_a_read_only_file_system(models, ask, tmp_path):
    """Where one folder is all that can be written to, /dev/shm included, the server serves and counts."""
    writable = tmp_path / "tmp"
    writable.mkdir()
    mounts = f"mount --bind {writable} {writable}; for each in / /dev/shm; do mount -o remount,bind,ro $each; done"
    script = f'set -e; {mounts}; ! touch {tmp_path}/a /dev/shm/a 2>/dev/null; touch {writable}/a; exec "$@"'
    sandbox = [*SANDBOX, script, "sh"]
    try:
        subprocess.run([*sandbox, "true"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespaces here: {error}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"MODEL_PATH": str(models["mlp"]), "WEB_CONCURRENCY": "2", "TMPDIR": str(writable)}
    settings["MPLCONFIGDIR"] = str(writable)  # Keras imports matplotlib where a notebook's environment has it
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*sandbox, *command("-b", f"127.0.0.1:{port}")], env={**os.environ, **settings}, stdout=log, stderr=log
        )
    server = LocalServer(models["mlp"], 2, ServerProcess("The server", process, tmp_path / "log"), port)
    try:
        server.wait_until_ready(60)
        assert [ask(server.url + INFER, bytes(32), RAW).status for _ in range(10)] == [200] * 10
        assert total(ask(server.url + "/metrics").body.decode(), "ruo_rows_total") == 10
    finally:
        process.terminate()
        status = process.wait(30)
    assert status == 0
    assert "Traceback" not in server.log.read_text()

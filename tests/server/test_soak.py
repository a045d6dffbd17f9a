"""What takes minutes: replacing the model under load, floods, and memory."""

import http.client
import re
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ruo.model.store import publish
from tests.server.asking import INFER, RAW, ask, clients_without_a_pause, predictions, wait_for
from tests.server.serving import serve

pytestmark = [pytest.mark.soak, pytest.mark.alone, pytest.mark.timeout(600)]


def memory_of(server):
    """The resident bytes of every worker, by process."""
    text = ask(server.url + "/metrics").body.decode()
    found = re.findall(r'ruo_worker_memory_bytes\{worker="(\d+)"\} (\S+)', text)
    return {pid: float(value) for pid, value in found}


@pytest.mark.parametrize("way", ["store", "in place"])
def test_replacing_the_model_under_load(models, rows, expected, tmp_path, way):
    """Five replacements in a minute under eight clients: no request fails, each answer is of exactly one version."""
    names = ["mlp", "other"] * 3
    path = tmp_path / "store" if way == "store" else tmp_path / "m.keras"
    put = partial(publish, check=False) if way == "store" else shutil.copy
    put(models["mlp"], path)
    with serve(path, workers=4, MODEL_POLL_SECONDS=1, KERAS_BACKEND="tensorflow") as server:

        def ask_once():
            answer = ask(server.url + INFER, rows.tobytes(), RAW)
            assert answer.status == 200, answer.body
            fits = [name for name in expected if np.allclose(predictions(answer.body), expected[name], atol=1e-5)]
            return answer.headers["Ruo-Model-Version"], answer.headers["Ruo-Model-Sha256"], *fits

        with clients_without_a_pause(8, ask_once) as answers:
            for name in names[1:]:
                time.sleep(10)
                put(models[name], path)
            time.sleep(10)
    seen = set(answers)
    assert all(len(key) == 3 for key in seen)  # the predictions are those of exactly one of the models
    if way == "store":
        served = {(str(number), name) for number, name in enumerate(names, 1)}
        assert {(version, name) for version, _, name in seen} == served
    else:
        assert {name for *_, name in seen} == {"mlp", "other"}
        assert len({version for version, *_ in seen}) == 2
    assert len(answers) > 1000


def test_the_memory_of_replaced_models_comes_back(keras, tmp_path):
    """Three times a large model is replaced under load; after the grace time a worker has the memory of one again."""
    store, large = tmp_path / "store", tmp_path / "large.keras"
    layers = [keras.layers.Dense(width, "relu") for width in [4096] * 3 + [1024] * 15]
    keras.Sequential([keras.Input((8,)), *layers]).save(large)
    publish(large, store, check=False)
    settings = {"MODEL_POLL_SECONDS": 1, "MODEL_GRACE_SECONDS": 3, "KERAS_BACKEND": "tensorflow"}
    with serve(store, workers=2, **settings) as server:
        with clients_without_a_pause(2, lambda: ask(server.url + INFER, bytes(32) * 10, RAW).status) as statuses:
            time.sleep(2)
            before = memory_of(server)
            for version in ("2", "3", "4"):
                publish(large, store, check=False)
                wait_for(lambda version=version: is_alone(server, version), 300)
            time.sleep(3)  # one more look after the grace time
            after = memory_of(server)
        assert set(statuses) == {200}
    assert before.keys() == after.keys()
    for pid, size in before.items():
        assert after[pid] < size + 0.3 * large.stat().st_size, (before, after)


def is_alone(server, version):
    """Whether every worker holds that version and no other."""
    text = ask(server.url + "/metrics").body.decode()
    held = re.findall(r'ruo_model_loaded\{.*version="(\d+)".*\} (\S+)', text)
    return {each for each, workers in held if float(workers)} == {version}


def test_a_flood(models):
    """Each of 2,000 requests is 200 or 503 with Retry-After, probes answer within a second, and later all is as before."""
    with serve(models["slow"], workers=2, MAX_WAITING=15, KERAS_BACKEND="tensorflow") as server:

        def typical_s():
            return statistics.median(ask(server.url + INFER, bytes(32) * 200, RAW).seconds for _ in range(40))

        typical_s()  # every worker has answered something
        before = typical_s()

        def probe():
            time.sleep(0.05)
            return [ask(server.url + path) for path in ("/v2/health/live", "/v2/health/ready", "/metrics")]

        with clients_without_a_pause(1, probe) as probed, ThreadPoolExecutor(128) as pool:
            answers = list(pool.map(lambda _: ask(server.url + INFER, bytes(32) * 200, RAW, 120), range(2000)))
        after = typical_s()
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {200, 503}
    assert len(answers) - len(refused) >= 32
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    probes = [probe for three in probed for probe in three]
    assert {probe.status for probe in probes} == {200}
    assert max(probe.seconds for probe in probes) < 1
    assert after < 1.5 * before + 0.01, (before, after)


@pytest.mark.parametrize("size", [1, 2_500_000])
def test_a_flood_of_large_bodies_sees_its_answers(models, size):
    """Clients that are refused while they are still sending get to see 503, not a broken connection."""
    body = bytes(32) * max(1, size // 32)
    with serve(models["mlp"], MAX_WAITING=1, KERAS_BACKEND="tensorflow") as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(server.url + INFER, body, RAW, 120), range(400)))
    assert {answer.status for answer in answers} <= {200, 503}


def test_memory_stays(models):
    """Ten thousand requests of 1,000 rows: after the first thousand a worker grows by less than 5 %."""
    body = np.random.default_rng(1).normal(size=(1000, 8)).astype("f4").tobytes()
    settings = {"LOG_LEVEL": "warning", "KERAS_BACKEND": "tensorflow"}
    with serve(models["mlp"], workers=2, **settings) as server, ThreadPoolExecutor(4) as pool:
        memory = []
        for count in (1000, 9000):
            statuses = pool.map(lambda _: ask(server.url + INFER, body, RAW).status, range(count))
            assert set(statuses) == {200}
            memory.append(memory_of(server))
    before, after = memory
    assert before.keys() == after.keys()
    for pid, size in before.items():
        assert after[pid] < 1.05 * size, (before, after)


def test_hours_of_connections_leave_no_descriptors(models):
    """Thousands of connections, also broken and silent ones, leave as many open files as before."""
    with serve(models["mlp"], workers=1, KERAS_BACKEND="tensorflow") as server:
        (pid,) = memory_of(server)
        files = Path(f"/proc/{pid}/fd")
        before = len(list(files.iterdir()))
        host = server.url.removeprefix("http://")
        for number in range(3000):
            connection = http.client.HTTPConnection(host, timeout=10)
            connection.request("POST", INFER, bytes(32), RAW if number % 3 else {**RAW, "Content-Length": "64"})
            if number % 3:
                connection.getresponse().read()
            connection.close()
        time.sleep(3)
        assert len(list(files.iterdir())) <= before + 2

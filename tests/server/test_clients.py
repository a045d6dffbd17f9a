"""The official clients against a real server: Triton's, and in environments of their own perf_analyzer and KServe's."""

import asyncio
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.environments import cannot, make_environment

triton = pytest.importorskip("tritonclient.http")
triton_aio = pytest.importorskip("tritonclient.http.aio")

KSERVE = "kserve>=0.15"  # newer ones need pandas and protobuf of other versions than TensorFlow
PERF_ANALYZER = ("--no-deps", "tritonclient==2.50.0", "nvidia-cuda-runtime-cu12")  # later ones come without it


@pytest.fixture(scope="module")
def address(four_workers):
    """The server's address as Triton's client wants it."""
    return four_workers.url.removeprefix("http://")


@pytest.fixture
def sync(address):
    """Triton's synchronous client."""
    with triton.InferenceServerClient(address, concurrency=2) as client:
        yield client


def tensor(rows, binary=True):
    return triton.InferInput("x", list(rows.shape), "FP32").set_data_from_numpy(rows, binary_data=binary)


def test_triton_asks_what_it_asks(sync, rows):
    """Health, metadata, configuration, statistics, index and versions are what Triton's client understands."""
    version = sync.get_model_metadata("model")["versions"][-1]
    health = [sync.is_server_live(), sync.is_server_ready(), sync.is_model_ready("model", version)]
    assert [*health, sync.is_model_ready("model"), sync.is_model_ready("other")] == [True, True, True, True, False]
    assert "binary_tensor_data" in sync.get_server_metadata()["extensions"]
    assert sync.get_model_config("model")["max_batch_size"] > 0
    for name in ("model", ""):
        assert sync.get_inference_statistics(name)["model_stats"][0]["version"] == version
    assert sync.get_model_repository_index()[0]["state"] == "READY"
    assert sync.infer("model", [tensor(rows)], model_version=version).get_response()["model_version"] == version
    with pytest.raises(triton.InferenceServerException, match='no version "99"'):
        sync.infer("model", [tensor(rows)], model_version="99")


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_triton_infers(sync, rows, expected, binary_in, binary_out, coding):
    """Predictions are right for binary and JSON in both directions, compressed or not."""
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    codings = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    result = sync.infer("model", [tensor(rows, binary_in)], outputs=outputs, request_id="7", **codings)
    np.testing.assert_allclose(result.as_numpy("y"), expected["mlp"], atol=1e-6)
    assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("kind", ["classification", "shared_memory_region"])
def test_what_triton_alone_answers_is_refused(sync, rows, kind):
    """Labels in place of numbers, or nothing since it is in memory that both have: whoever asks for it expects no other answer."""
    output = triton.InferRequestedOutput("y", class_count=2 * (kind == "classification"))
    if kind == "shared_memory_region":
        output.set_shared_memory("region", 1200)
    with pytest.raises(triton.InferenceServerException, match=rf'outputs\[0\].*"{kind}"'):
        sync.infer("model", [tensor(rows)], outputs=[output])


def test_triton_asks_several_at_once(sync, address, rows, expected):
    """In threads of Triton's client, and by its asyncio client."""
    asked = [sync.async_infer("model", [tensor(rows[start : start + 10])]) for start in range(0, 100, 10)]
    predictions = np.concatenate([each.get_result().as_numpy("y") for each in asked])
    np.testing.assert_allclose(predictions, expected["mlp"], atol=1e-6)

    async def infer():
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            pieces = (client.infer("model", [tensor(rows[start : start + 10])]) for start in range(0, 100, 10))
            return [result.as_numpy("y") for result in await asyncio.gather(*pieces)]

    np.testing.assert_allclose(np.concatenate(asyncio.run(infer())), expected["mlp"], atol=1e-6)


@pytest.fixture(scope="module")
def perf_analyzer():
    """Run Triton's perf_analyzer with arguments; skips where it cannot run."""
    folder = make_environment("perf-analyzer", *PERF_ANALYZER)
    if not list(folder.rglob("libb64.so.*")) and shutil.which("apt-get"):
        unpack = "apt-get download libb64-0d && dpkg-deb -x libb64-0d*.deb ."
        subprocess.run(unpack, shell=True, cwd=folder, check=False)
    libraries = {str(file.parent) for name in ("libb64.so.*", "libcudart.so.*") for file in folder.rglob(name)}

    def run(*arguments):
        command = [folder / "bin" / "perf_analyzer", *arguments]
        variables = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)

    if "Perf Analyzer" not in run("--version").stderr:
        cannot("perf_analyzer needs Linux on x86-64 and libb64 (Debian: libb64-0d)")
    return run


@pytest.mark.soak
@pytest.mark.parametrize(
    "options",
    [
        ("-b", "1000", "--concurrency-range", "1:4:3"),
        ("-b", "10", "--input-tensor-format", "json", "--output-tensor-format", "json", "--async"),
        ("-b", "1", "--request-rate-range", "50"),
    ],
)
def test_perf_analyzer(perf_analyzer, address, options):
    """Triton's perf_analyzer measures a throughput, and reads the rows and requests that the server has counted."""
    done = perf_analyzer("-m", "model", "-u", address, "--measurement-interval", "1000", "-s", "999", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    client, server = done.stdout.split("Server:", 1)
    assert float(re.search(r"Throughput: (\S+) infer/sec", client)[1]) > 10
    rows, requests = (int(re.search(rf"{name}: (\d+)", server)[1]) for name in ("Inference count", "Execution count"))
    assert requests > 10
    assert rows == pytest.approx(int(options[1]) * requests, rel=0.05)  # some are under way


KSERVE_SCRIPT = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceRESTClient, RESTConfig, InferRequest, InferInput

url, rows = sys.argv[1], json.load(sys.stdin)

async def main():
    v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
    v2 = InferenceRESTClient(RESTConfig(protocol="v2"))
    found = {"v1 live": await v1.is_server_live(url), "v1 model": await v1.is_model_ready(url, "model")}
    for name in ("is_server_live", "is_server_ready"):
        found["v2 " + name] = await getattr(v2, name)(url)
    found["v2 model"] = await v2.is_model_ready(url, "model")
    found["v1"] = (await v1.infer(url, {"instances": rows}, model_name="model"))["predictions"]
    for binary in (False, True):
        tensor = InferInput("x", [len(rows), len(rows[0])], "FP32")
        tensor.set_data_from_numpy(np.array(rows, "f4"), binary_data=binary)
        answer = await v2.infer(url, InferRequest("model", [tensor]), model_name="model")
        found["v2 binary" if binary else "v2 json"] = answer.outputs[0].as_numpy().tolist()
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.mark.soak
def test_kserve_v1_and_v2(four_workers, rows, expected):
    """KServe's client finds the server ready, and gets the predictions on V1 and V2, JSON and binary."""
    command = [make_environment("kserve", KSERVE) / "bin" / "python", "-c", KSERVE_SCRIPT, four_workers.url]
    done = subprocess.run(command, input=json.dumps(rows.tolist()), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(found[name] for name in found if name not in ("v1", "v2 json", "v2 binary"))
    for name in ("v1", "v2 json", "v2 binary"):
        np.testing.assert_allclose(np.reshape(found[name], (-1, 3)), expected["mlp"], atol=1e-5)

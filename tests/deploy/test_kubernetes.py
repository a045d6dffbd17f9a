"""Scaling a Deployment, against an API server of the test's own that keeps what is patched."""

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

from ruo.deploy.kubernetes import KubernetesDeployment
from ruo.errors import ArgumentError, DeploymentError
from tests.server.asking import wait_for

LABELS = {"app.kubernetes.io/name": "ruo"}
APPS = "/apis/apps/v1/namespaces/ruo/deployments/ruo-server"
AUTOSCALERS = "/apis/autoscaling/v2/namespaces/ruo/horizontalpodautoscalers"


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """JSON merge patch, RFC 7396."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


class Cluster:
    """The part of a cluster that is used: a Deployment, its autoscaler, its pods and Services."""

    def __init__(self) -> None:
        template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "server"}]}}
        self.deployment: dict[str, Any] = {
            "metadata": {"name": "ruo-server", "annotations": {}},
            "spec": {"replicas": 2, "selector": {"matchLabels": LABELS}, "template": template},
        }
        target = {"kind": "Deployment", "name": "ruo-server", "apiVersion": "apps/v1"}
        self.autoscalers = [
            {"metadata": {"name": "ruo"}, "spec": {"minReplicas": 2, "maxReplicas": 10, "scaleTargetRef": target}},
            {"metadata": {"name": "x"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {**target, "name": "other"}}},
        ]
        self.services: list[dict[str, Any]] = []
        self.hosts = ["203.0.113.1"]  # of the nodes that the pods are on, in turn
        self.most_ready = 100
        self.port = 0  # of this API server, which also answers for the pods
        self.slow_workers: list[int] = []  # how many workers a pod says are ready, one answer after the other; then all
        self.patches: list[tuple[str, Any]] = []

    def get(self, path: str) -> Any:
        """The resource at a path, or None."""
        resources: dict[str, Any] = {
            APPS: self.deployment,
            f"{APPS}/scale": {"status": {"replicas": self.replicas, "selector": "app.kubernetes.io/name=ruo"}},
            AUTOSCALERS: {"items": self.autoscalers},
            "/api/v1/namespaces/ruo/pods": {"items": [self.pod(number) for number in range(self.replicas)]},
            "/api/v1/namespaces/ruo/services": {"items": self.services},
            "/v2/health/ready": {"workers": self.slow_workers.pop(0) if self.slow_workers else 2, "of": 2},
        }
        return resources.get(path)

    def patch(self, path: str, body: Any) -> Any:
        """Merge the patch, and keep the replicas within the autoscaler's bounds, as a real one does within seconds."""
        if path.removesuffix("/scale") != APPS and path != f"{AUTOSCALERS}/ruo":
            return None
        self.patches.append((path.rpartition("/")[2], copy.deepcopy(body)))
        target = self.autoscalers[0] if path == f"{AUTOSCALERS}/ruo" else self.deployment
        merge(target, body)
        least, most = bounds(self)
        self.deployment["spec"]["replicas"] = min(max(self.replicas, least), most)
        return target

    @property
    def replicas(self) -> int:
        """The number of pods that is wanted."""
        return int(self.deployment["spec"]["replicas"])

    def pod(self, number: int) -> dict[str, Any]:
        """A pod; the last ones are not ready where `most_ready` says so."""
        ready = number < self.most_ready
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        state = {"running": {}} if ready else waiting
        status = {"name": "server", "image": "i", "imageID": "i", "ready": ready, "restartCount": 0, "state": state}
        return {
            "metadata": {"name": f"ruo-server-{number}", "labels": LABELS},
            "spec": {"containers": [{"name": "server", "ports": [{"containerPort": self.port}]}]},
            "status": {
                "phase": "Running",
                "podIP": f"127.0.0.{number + 1}",
                "hostIP": self.hosts[number % len(self.hosts)],
                "conditions": [{"type": "Ready", "status": str(ready)}],
                "containerStatuses": [status],
            },
        }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster, and a kubeconfig that leads to it."""
    state = Cluster()

    app = Flask("cluster")

    @app.route("/<path:_>", methods=["GET", "PATCH"])
    def answer(_: str) -> tuple[Response, int]:
        resource = state.get(request.path) if request.method == "GET" else state.patch(request.path, request.json)
        return jsonify(resource or {"message": f"{request.path} not found"}), 404 if resource is None else 200

    http = make_server("0.0.0.0", 0, app, threaded=True)  # on each address of 127.0.0.0/8, as pods have one each
    state.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    config = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{http.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    (tmp_path / "config").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("ruo.deploy.kubernetes._LOOK_S", 0.01)
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    line = f"Forwarding from 127.0.0.1:{http.server_port} -> 8000"
    kubectl.write_text(f'#!/bin/sh\necho $$ >>{tmp_path}/forwards\necho "{line}"\nexec sleep 60\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{kubectl.parent}:/usr/bin:/bin")
    yield state
    http.shutdown()
    thread.join()


def is_as_before(cluster: Cluster) -> bool:
    return (cluster.replicas, bounds(cluster)) == (2, (2, 10)) and cluster.deployment["metadata"]["annotations"] == {}


def bounds(cluster: Cluster) -> tuple[int, int]:
    spec = cluster.autoscalers[0]["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


def test_scaling_holds_the_autoscaler_and_restores_it(cluster: Cluster) -> None:
    """In the block there are as many replicas as asked for, whatever the autoscaler says; after it, or an error, as before."""
    with pytest.raises(ZeroDivisionError), KubernetesDeployment("ruo-server", "ruo") as servers:
        for replicas in (1, 4, 3):
            servers.scale(replicas)
            assert cluster.replicas == replicas
            assert bounds(cluster) == (replicas, replicas)
        _ = 1 / 0

    assert is_as_before(cluster)
    assert {name for name, _ in cluster.patches} == {"ruo", "ruo-server", "scale"}  # and not the other one's


def test_after_a_crash_it_can_be_restored(cluster: Cluster) -> None:
    """The state before the first scaling is kept in the cluster, so another process can restore it."""
    KubernetesDeployment().scale(7)  # and no end of a block
    with KubernetesDeployment() as servers:
        servers.scale(1)
    assert is_as_before(cluster)
    KubernetesDeployment().restore()  # nothing to do is no error


def test_the_error_says_why_a_pod_is_not_ready(cluster: Cluster) -> None:
    """When the time is up, the error has the reason that Kubernetes gives."""
    cluster.most_ready = 2
    sentence = "ruo-server has 2 of 3 servers ready after 0.2 s. ruo-server-2: ImagePullBackOff: no such image"
    with pytest.raises(DeploymentError, match=sentence), KubernetesDeployment() as servers:
        servers.scale(3, timeout_s=0.2)
    assert is_as_before(cluster)


def test_mistakes_are_sentences(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name, number, context or kubeconfig is an error in one sentence, and nothing is patched."""
    with pytest.raises(DeploymentError, match=r"Kubernetes refuses \(404\): .*deployments/nothing not found"):
        KubernetesDeployment("nothing").scale(1)
    with pytest.raises(DeploymentError, match="replicas=0 must be at least 1"):
        KubernetesDeployment().scale(0)
    with pytest.raises(DeploymentError, match="There is no cluster to ask: .*nowhere"):
        KubernetesDeployment(context="nowhere")
    for replicas in (1.5, "2", True):
        with pytest.raises(ArgumentError, match=f"replicas={replicas!r} must be a whole number"):
            KubernetesDeployment().scale(replicas)
    with pytest.raises(ArgumentError, match="namespace=None must be a string"):
        KubernetesDeployment(namespace=None)
    for text in ("a: [", "[1]", "\0"):
        (tmp_path / "broken").write_text(text)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "broken"))
        with pytest.raises(DeploymentError, match="There is no cluster to ask: .*; correct kubeconfig"):
            KubernetesDeployment()
    assert cluster.patches == []


@pytest.mark.parametrize("page", ["<html>Sign in</html>", {"kind": "Status"}])
def test_what_is_no_kubernetes_is_a_sentence(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, page: Any) -> None:
    """Where something else answers, with a page of its own, the error says so."""
    monkeypatch.setattr(cluster, "get", lambda path: page)
    with pytest.raises(DeploymentError, match=r"The cluster does not answer \(.*\); try: kubectl cluster-info"):
        KubernetesDeployment().scale(2)


def test_an_autoscaler_that_is_gone_is_not_restored(cluster: Cluster) -> None:
    """When somebody deletes it meanwhile, the replicas are still restored, and the next block begins anew."""
    with KubernetesDeployment() as servers:
        servers.scale(3)
        cluster.autoscalers[0]["metadata"]["name"] = "another"
        cluster.autoscalers[0]["spec"] |= {"minReplicas": 1, "maxReplicas": 9}
    assert (cluster.replicas, bounds(cluster)) == (2, (1, 9))
    assert cluster.deployment["metadata"]["annotations"] == {}


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selector": LABELS, "ports": [{"port": 8000}], **spec}}


def test_the_node_port_is_used_from_outside(cluster: Cluster, scripted: Any, answers: Any) -> None:
    """The addresses are those of the reachable nodes that run a pod, with the node port of the Service of these pods."""
    server = scripted(answers)
    server.pages["/v2/health/ready"] = b"{}"
    port = int(server.url.rpartition(":")[2])
    cluster.services = [
        service("other", type="NodePort", ports=[{"port": 8000, "nodePort": 1}], selector={"app": "other"}),
        service("ruo-headless", clusterIP="None"),
        service("ruo", ports=[{"port": 8000, "nodePort": port}]),
    ]
    cluster.hosts = ["127.0.0.1", "127.0.0.77", "127.0.0.1"]
    cluster.deployment["spec"]["replicas"] = 3
    assert KubernetesDeployment().urls == [server.url]


def forwards(folder: Path, count: int) -> list[int]:
    """The process ids of the forwards that run, once there are so many."""

    def running() -> list[int]:
        started = map(int, (folder / "forwards").read_text().split())
        return [pid for pid in started if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]

    wait_for(lambda: len(running()) == count, 10)
    return running()


def test_kubectl_forwards_to_each_pod(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no node is reached, a port of this machine for each ready pod, for as long as the block runs."""
    cluster.services = [service("ruo")]

    with KubernetesDeployment() as servers:
        assert servers.urls == [f"http://127.0.0.1:{cluster.port}"] * 2
        servers.scale(3)
        assert len(servers.urls) == len(forwards(tmp_path, 3)) == 3
        servers.scale(1)
        assert len(servers.urls) == len(forwards(tmp_path, 1)) == 1
        os.kill(forwards(tmp_path, 1)[0], signal.SIGKILL)
        forwards(tmp_path, 0)
        assert len(servers.urls) == len(forwards(tmp_path, 1)) == 1
    assert forwards(tmp_path, 0) == []

    path = os.environ["PATH"]
    for path_now, line, wait_s, sentence in (
        (path, "echo error: pods not found", 30, "ended with status 0. Its log says: error: pods not found"),
        (path, "exec sleep 60", 0.1, "was not ready after 0.1 s. Its log is empty."),
        (str(tmp_path), "", 30, "ended with status 127. Its log says: .*kubectl.* not found"),
    ):
        (tmp_path / "bin" / "kubectl").write_text(f"#!/bin/sh\n{line}\n")
        monkeypatch.setenv("PATH", path_now)
        monkeypatch.setattr("ruo.deploy.kubernetes._FORWARD_S", wait_s)
        with pytest.raises(DeploymentError, match=f"kubectl's forward to ruo-server-[01] {sentence}"):
            _ = KubernetesDeployment().urls


def test_a_forward_is_not_held_up_by_what_kubectl_writes(cluster: Cluster, tmp_path: Path) -> None:
    """It may warn before it forwards, and writes a line for each connection: more of them than a pipe holds."""
    kubectl = tmp_path / "bin" / "kubectl"
    before, _, _ = kubectl.read_text().partition("exec sleep")
    lines = f"head -c 300000 /dev/zero\ntouch {tmp_path}/written\nexec sleep 60\n"
    kubectl.write_text(before.replace("\n", "\necho W1130 a plugin is deprecated >&2\n", 1) + lines)
    cluster.deployment["spec"]["replicas"] = 1

    with KubernetesDeployment() as servers:
        assert servers.urls == [f"http://127.0.0.1:{cluster.port}"]
        wait_for((tmp_path / "written").exists, 10)


def test_ports_are_where_they_are_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container beside the server may have none, as may a headless Service; without any, a sentence says what to add."""
    pod, beside = cluster.pod, {"name": "beside"}

    def pod_with(*containers: dict[str, Any]) -> Any:
        return lambda number: {**pod(number), "spec": {"containers": [*containers]}}

    cluster.services = [service("bare", clusterIP="None", ports=None)]
    monkeypatch.setattr(cluster, "pod", pod_with(beside, *pod(0)["spec"]["containers"]))
    with KubernetesDeployment() as servers:
        assert len(servers.urls) == 2
    monkeypatch.setattr(cluster, "pod", pod_with(beside))
    with pytest.raises(DeploymentError, match="ruo-server-0 names no port; give its container a containerPort"):
        _ = KubernetesDeployment().urls


@pytest.mark.parametrize("end", ["", "import os; os.kill(os.getpid(), 9)"], ids=["its end", "a kill"])
def test_forwards_without_a_block_end_with_the_process(cluster: Cluster, tmp_path: Path, end: str) -> None:
    """Addresses that were taken without `with` last as long as the process that took them, however that ends."""
    cluster.services = [service("ruo")]
    program = f"""
        from ruo import KubernetesDeployment
        urls = KubernetesDeployment().urls
        print(len(urls), len(open({str(tmp_path / "forwards")!r}).readlines()))
        input()
        {end}
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2 2\n"
        assert len(forwards(tmp_path, 2)) == 2
        process.communicate("\n")

    assert forwards(tmp_path, 0) == []


@pytest.fixture
def inside(cluster: Cluster) -> KubernetesDeployment:
    """A deployment as a pod of the cluster has it."""
    servers = KubernetesDeployment()
    servers._is_inside = True  # a pod's account cannot be had here
    return servers


def test_in_the_cluster_the_addresses_are_the_pods(cluster: Cluster, inside: KubernetesDeployment) -> None:
    """Within the cluster the addresses are the ready pods' own, at once, since names are known late; an evicted one has none."""
    cluster.services = [service("ruo"), service("ruo-headless", clusterIP="None")]
    inside.scale(3)
    assert inside.urls == [f"http://127.0.0.{number}:{cluster.port}" for number in (1, 2, 3)]
    cluster.most_ready = 1
    assert inside.urls == [f"http://127.0.0.1:{cluster.port}"]


def test_scaling_waits_for_all_workers(cluster: Cluster, inside: KubernetesDeployment) -> None:
    """A pod is ready with its first worker, and scaling waits for the others; the error says which are late."""
    cluster.slow_workers = [2, 1, 0, 2, 1, 1]
    inside.scale(2)
    assert cluster.slow_workers == []
    cluster.slow_workers = [1] * 1000
    with pytest.raises(DeploymentError, match=r"2 of 2 servers ready .* ruo-server-0 has 1 of 2 workers ready\."):
        inside.scale(2, timeout_s=0.2)

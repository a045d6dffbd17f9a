"""Servers in a Kubernetes cluster: their number and their addresses.

Source: Kubernetes API, "apps/v1 Deployment", "autoscaling/v2 HorizontalPodAutoscaler". An autoscaler whose minimum and
maximum are equal keeps the Deployment at that number, whatever its metrics say.
"""

import json
import os
import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import Any, Self

from ruo.errors import DeploymentError

_ANNOTATION = "ruo/before-scaling"  # holds the replicas and bounds from before the first `scale`
_LOOK_S = 1.0


class KubernetesDeployment:
    """A Deployment of servers in a Kubernetes cluster.

    The end of the block restores the replicas and the autoscaler, even after an error. After a crash `restore` does so,
    from an annotation of the Deployment. A cluster that cannot be reached is a DeploymentError.

    Parameters
    ----------
    name, namespace : str
        The Deployment.
    context : str, optional
        A context of kubeconfig; by default the current one, or in a pod the pod's own account.

    Examples
    --------
    >>> with KubernetesDeployment("ruo-server", "ruo") as cluster:
    ...     for replicas in (1, 2, 4):
    ...         cluster.scale(replicas)
    ...         score_csv("testset.csv", cluster.urls)
    """

    def __init__(self, name: str = "ruo-server", namespace: str = "ruo", context: str | None = None) -> None:
        try:
            import kubernetes
        except ModuleNotFoundError:
            raise DeploymentError("The Kubernetes client is not installed; run: pip install 'ruo[cluster]'") from None
        self.name = name
        self.namespace = namespace
        self._context = context
        self._is_inside = context is None and "KUBERNETES_SERVICE_HOST" in os.environ
        self._forwards: dict[str, tuple[Popen[str], str]] = {}
        try:
            if self._is_inside:
                kubernetes.config.load_incluster_config()
                client = kubernetes.client.ApiClient()
            else:
                # named here, since the package reads the variable once, when it is imported
                client = kubernetes.config.new_client_from_config(os.environ.get("KUBECONFIG"), context)
        except kubernetes.config.ConfigException as error:
            raise DeploymentError(f"There is no cluster to ask: {_one_line(error)}.") from None
        self._apps = kubernetes.client.AppsV1Api(client)
        self._core = kubernetes.client.CoreV1Api(client)
        self._autoscaling = kubernetes.client.AutoscalingV2Api(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process, _url in self._forwards.values():
            _end(process)
        self._forwards.clear()
        self.restore()

    def __repr__(self) -> str:
        return f"KubernetesDeployment({self.name!r}, {self.namespace!r})"

    @property
    def urls(self) -> list[str]:
        """The addresses for requests: in the cluster the headless Service, which resolves to all pods.

        From outside, the node port of every reachable node, or else a forwarded local port for each ready pod.
        """
        labels = (self._deployment().spec.template.metadata.labels or {}).items()
        services = [
            service
            for service in self._ask(self._core.list_namespaced_service).items
            if service.spec.selector and service.spec.selector.items() <= labels
        ]
        for service in services:
            if self._is_inside and service.spec.cluster_ip == "None":
                return [f"http://{service.metadata.name}.{self.namespace}:{service.spec.ports[0].port}"]
        for service in services:
            port = service.spec.ports[0].node_port
            if port and (reachable := [url for url in self._node_urls(port) if _answers(url)]):
                return reachable
        return self._forward()

    def scale(self, replicas: int, timeout_s: float = 300.0) -> None:
        """Run `replicas` servers and return when all are ready; an autoscaler is held at that number until `restore`.

        Raises DeploymentError, with the reason that Kubernetes gives, if that takes longer than `timeout_s` seconds.
        """
        if replicas < 1:
            raise DeploymentError(f"replicas={replicas} must be at least 1.")
        autoscalers = self._autoscalers()
        if not self._remembered():  # else an earlier block has not ended, and its annotation counts
            before = {"replicas": self._deployment().spec.replicas, "autoscalers": autoscalers}
            self._annotate(json.dumps(before))
        self._set(replicas, dict.fromkeys(autoscalers, (replicas, replicas)))
        deadline = time.monotonic() + timeout_s
        while not (len(pods := self._pods()) == replicas and all(map(_is_ready, pods))):
            if time.monotonic() > deadline:
                ready = f"{sum(map(_is_ready, pods))} of {replicas} servers ready after {timeout_s:g} s"
                raise DeploymentError(f"{self.name} has {ready}. {self._reason(pods)}")
            time.sleep(_LOOK_S)

    def restore(self) -> None:
        """Restore the replicas and the autoscaler's bounds from before the first `scale`."""
        if before := self._remembered():
            self._set(**before)
            self._annotate(None)

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(**arguments, namespace=self.namespace, _request_timeout=30)
        except ApiException as error:
            try:
                reason = json.loads(error.body)["message"]
            except (TypeError, ValueError, KeyError):
                reason = error.reason
            raise DeploymentError(f"Kubernetes refuses ({error.status}): {reason}") from None
        except HTTPError as error:
            raise DeploymentError(f"The cluster does not answer: {_one_line(error)[:200]}") from None

    def _deployment(self) -> Any:
        return self._ask(self._apps.read_namespaced_deployment, name=self.name)

    def _autoscalers(self) -> dict[str, tuple[int, int]]:
        """The bounds of each autoscaler of the Deployment, by its name."""
        return {
            autoscaler.metadata.name: (autoscaler.spec.min_replicas, autoscaler.spec.max_replicas)
            for autoscaler in self._ask(self._autoscaling.list_namespaced_horizontal_pod_autoscaler).items
            if autoscaler.spec.scale_target_ref.kind == "Deployment"
            and autoscaler.spec.scale_target_ref.name == self.name
        }

    def _set(self, replicas: int, autoscalers: Mapping[str, Sequence[int]]) -> None:
        for name, (least, most) in autoscalers.items():
            body = {"spec": {"minReplicas": least, "maxReplicas": most}}
            self._ask(self._autoscaling.patch_namespaced_horizontal_pod_autoscaler, name=name, body=body)
        self._ask(self._apps.patch_namespaced_deployment_scale, name=self.name, body={"spec": {"replicas": replicas}})

    def _remembered(self) -> dict[str, Any] | None:
        text = (self._deployment().metadata.annotations or {}).get(_ANNOTATION)
        return json.loads(text) if text else None

    def _annotate(self, value: str | None) -> None:
        body = {"metadata": {"annotations": {_ANNOTATION: value}}}
        self._ask(self._apps.patch_namespaced_deployment, name=self.name, body=body)

    def _pods(self) -> list[Any]:
        labels = self._deployment().spec.selector.match_labels
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        return list(self._ask(self._core.list_namespaced_pod, label_selector=selector).items)

    def _reason(self, pods: list[Any]) -> str:
        """Why the first pod that is not ready is not."""
        for pod in pods:
            for container in pod.status.container_statuses or []:
                if (waiting := container.state.waiting) is not None:
                    return f"{pod.metadata.name}: {waiting.reason}: {waiting.message or ''}"
            for condition in pod.status.conditions or []:
                if condition.status != "True" and condition.message:
                    return f"{pod.metadata.name}: {condition.reason}: {condition.message}"
        return f"Look at: kubectl -n {self.namespace} describe deployment {self.name}"

    def _node_urls(self, port: int) -> list[str]:
        from kubernetes.client.exceptions import ApiException

        try:
            nodes = self._core.list_node(_request_timeout=30).items
        except ApiException:  # listing nodes needs a right to the whole cluster
            return []
        entries = [entry for node in nodes for entry in node.status.addresses]
        addresses = [entry.address for entry in entries if entry.type == "InternalIP"]
        hosts = [f"[{address}]" if ":" in address else address for address in addresses]
        return [f"http://{host}:{port}" for host in hosts]

    def _forward(self) -> list[str]:
        pods = filter(_is_ready, self._pods())
        ready = {pod.metadata.name: pod.spec.containers[0].ports[0].container_port for pod in pods}
        for name in list(self._forwards):
            if name not in ready or self._forwards[name][0].poll() is not None:
                _end(self._forwards.pop(name)[0])
        for name, port in ready.items():
            if name not in self._forwards:
                self._forwards[name] = self._forward_to(name, port)
        return [url for _, url in self._forwards.values()]

    def _forward_to(self, pod: str, port: int) -> tuple[Popen[str], str]:
        command = ["kubectl", "-n", self.namespace, "port-forward", f"pod/{pod}", f":{port}"]
        if self._context:
            command[1:1] = ["--context", self._context]
        try:
            process = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True, start_new_session=True)
        except FileNotFoundError:
            raise DeploymentError("kubectl is not installed, and no node can be reached from here.") from None
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"Forwarding from 127\.0\.0\.1:(\d+)", line)
        if match is None:
            _end(process)
            raise DeploymentError(f"kubectl cannot forward a port to {pod}: {line.strip() or 'it said nothing'}")
        return process, f"http://127.0.0.1:{match[1]}"


def _end(process: Popen[str]) -> None:
    process.terminate()
    process.communicate()


def _is_ready(pod: Any) -> bool:
    conditions = [(condition.type, condition.status) for condition in pod.status.conditions or []]
    return pod.metadata.deletion_timestamp is None and ("Ready", "True") in conditions


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2):  # noqa: S310  of a node
            return True
    except OSError:
        return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")

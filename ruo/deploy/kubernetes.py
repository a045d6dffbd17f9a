"""Servers in a Kubernetes cluster: their number and their addresses.

Source: Kubernetes API, "apps/v1 Deployment", "autoscaling/v2 HorizontalPodAutoscaler". An autoscaler whose minimum and
maximum are equal keeps the Deployment at that number, whatever its metrics say.
"""

import atexit
import json
import os
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

from ruo.arguments import typed
from ruo.deploy.local import ServerProcess, fetch, server_process, url_host
from ruo.errors import DeploymentError, in_a_line, needs

_ANNOTATION = "ruo/before-scaling"  # holds the replicas and bounds from before the first `scale`
_LOOK_S = 1.0
_FORWARD_S = 30.0
# Runs a command, which ends with a pipe, and so with this process, however that comes to its end.
_TIED = '{ cat "$0"; kill 0; } >/dev/null & exec "$@"'


class KubernetesDeployment(AbstractContextManager["KubernetesDeployment"]):
    """A Deployment of servers in a Kubernetes cluster.

    The end of the block restores the replicas and the autoscaler, even after an error. After a crash `restore` does so,
    from an annotation of the Deployment. The autoscaler then reads the load of the last minutes, those of the run.
    A cluster that cannot be reached is a DeploymentError.

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

    @typed
    def __init__(self, name: str = "ruo-server", namespace: str = "ruo", context: str | None = None) -> None:
        with needs("cluster"):
            import kubernetes
        self.name = name
        self.namespace = namespace
        self._context = context
        self._maker = os.getpid()
        self._is_inside = context is None and "KUBERNETES_SERVICE_HOST" in os.environ
        self._forwards: dict[str, tuple[ExitStack, ServerProcess, str]] = {}  # by pod: kubectl, and the address here
        try:
            if self._is_inside:
                kubernetes.config.load_incluster_config()
                client = kubernetes.client.ApiClient()
            else:
                # named here, since the package reads the variable once, when it is imported
                client = kubernetes.config.new_client_from_config(os.environ.get("KUBECONFIG"), context)
        except Exception as error:  # noqa: BLE001  the package lets through whatever a wrong file leads to
            remedy = "correct kubeconfig, or name another one in KUBECONFIG"
            raise DeploymentError(f"There is no cluster to ask: {in_a_line(error)}; {remedy}.") from None
        self._apps = kubernetes.client.AppsV1Api(client)
        self._core = kubernetes.client.CoreV1Api(client)
        self._autoscaling = kubernetes.client.AutoscalingV2Api(client)

    def __exit__(self, *_: object) -> None:
        if os.getpid() == self._maker:  # and not a child that was forked in the block
            self._keep_forwards(())
            self.restore()

    def __repr__(self) -> str:
        return f"KubernetesDeployment({self.name!r}, {self.namespace!r})"

    @property
    def urls(self) -> list[str]:
        """The addresses for requests: in the cluster those of the ready pods, since its name server knows them late.

        From outside, the node port of every reachable node that runs one, or else a local port for each ready pod, which
        is forwarded until the end of the block, or of this process.
        """
        return ([] if self._is_inside else self._node_urls()) or list(self._pod_urls().values())

    @typed
    def scale(self, replicas: int, timeout_s: float = 300.0) -> None:
        """Run `replicas` servers and return when all workers of all are ready; autoscalers are held until `restore`.

        Raises DeploymentError, with the reason that Kubernetes gives, if that takes longer than `timeout_s` seconds.
        """
        if replicas < 1:
            raise DeploymentError(f"replicas={replicas} must be at least 1.")
        autoscalers = self._autoscalers()
        if not self._remembered():  # else an earlier block has not ended, and its annotation counts
            self._annotate(json.dumps({"replicas": self._deployment().spec.replicas, "autoscalers": autoscalers}))
        self._set(replicas, dict.fromkeys(autoscalers, (replicas, replicas)))
        deadline = time.monotonic() + timeout_s
        while True:
            pods = self._pods()
            are_ready = len(pods) == replicas and all(map(_is_ready, pods))
            loading = self._loading() if are_ready else []
            if are_ready and not loading:
                return
            if not time.monotonic() < deadline:  # as with NaN
                ready = f"{sum(map(_is_ready, pods))} of {replicas} servers ready after {timeout_s:g} s"
                raise DeploymentError(f"{self.name} has {ready}. {' '.join(loading) or self._reason(pods)}")
            time.sleep(_LOOK_S)

    def restore(self) -> None:
        """Restore the replicas and the bounds of the autoscalers, if they are still there, from before the first `scale`."""
        if before := self._remembered():
            there = self._autoscalers().keys() & before["autoscalers"].keys()
            self._set(before["replicas"], {name: before["autoscalers"][name] for name in there})
            self._annotate(None)

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(**arguments, namespace=self.namespace, _request_timeout=30)
        except ApiException as error:
            reason = error.reason
            with suppress(TypeError, ValueError, KeyError):
                reason = json.loads(error.body)["message"]
            raise DeploymentError(f"Kubernetes refuses ({error.status}): {reason}") from None
        except (HTTPError, ValueError) as error:  # ValueError: something else answers, with a page of its own
            reason = in_a_line(getattr(error, "reason", error))[:200]
            raise DeploymentError(f"The cluster does not answer ({reason}); try: kubectl cluster-info") from None

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
        selector = self._ask(self._apps.read_namespaced_deployment_scale, name=self.name).status.selector
        pods = self._ask(self._core.list_namespaced_pod, label_selector=selector).items
        return [pod for pod in pods if pod.status.phase not in ("Succeeded", "Failed")]  # as an evicted one stays

    def _loading(self) -> list[str]:
        """The pods of which a worker is still loading, each with a sentence; a pod is ready with its first worker."""
        loading = []
        for name, url in self._pod_urls().items():
            status, body = fetch(f"{url}/v2/health/ready")
            health = {} if status else {"workers": 0, "of": 1}
            with suppress(ValueError):  # of another kind of server, which says no more than that it is ready
                health |= json.loads(body)
            if health.get("workers", 0) < health.get("of", 0):
                loading.append(f"{name} has {health['workers']} of {health['of']} workers ready.")
        return loading

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

    def _node_urls(self) -> list[str]:
        """The reachable nodes of the ready pods, at the node port of a Service of these."""
        labels = (self._deployment().spec.template.metadata.labels or {}).items()
        services = [service.spec for service in self._ask(self._core.list_namespaced_service).items]
        of_these = [spec for spec in services if spec.selector and spec.selector.items() <= labels]
        hosts = dict.fromkeys(url_host(pod.status.host_ip) for pod in self._pods() if _is_ready(pod))
        for port in [port.node_port for spec in of_these for port in spec.ports or [] if port.node_port]:
            urls = [f"http://{host}:{port}" for host in hosts]
            if reachable := [url for url in urls if fetch(f"{url}/v2/health/ready", timeout_s=2)[0] == 200]:
                return reachable
        return []

    def _pod_urls(self) -> dict[str, str]:
        """The address of each ready pod: its own in the cluster, a forwarded local port outside."""
        ready = {pod.metadata.name: pod for pod in self._pods() if _is_ready(pod)}
        ports = {name: _port(pod) for name, pod in ready.items()}
        if self._is_inside:
            return {name: f"http://{url_host(pod.status.pod_ip)}:{ports[name]}" for name, pod in ready.items()}
        self._keep_forwards(ready)
        for name in ready.keys() - self._forwards.keys():
            self._forwards[name] = self._forward_to(name, ports[name])
        return {name: self._forwards[name][-1] for name in ready}

    def _keep_forwards(self, pods: Container[str]) -> None:
        """End the forwards to all other pods, and forget those that have ended."""
        for name, (stack, kubectl, _) in list(self._forwards.items()):
            if name not in pods or kubectl.process.poll() is not None:
                stack.close()
                del self._forwards[name]

    def _forward_to(self, pod: str, port: int) -> tuple[ExitStack, ServerProcess, str]:
        context = ["--context", self._context] if self._context else []
        command = ["kubectl", *context, "-n", self.namespace, "port-forward", f"pod/{pod}", f":{port}"]
        atexit.register(self._keep_forwards, ())  # which also keeps the forwards until then
        with ExitStack() as stack:
            pipe, kept = os.pipe()
            stack.callback(os.close, pipe)
            stack.callback(os.close, kept)
            tied = ["/bin/sh", "-c", _TIED, f"/dev/fd/{pipe}", *command]
            process = server_process(f"kubectl's forward to {pod}", tied, os.environ, grace_s=0, pass_fds=[pipe])
            kubectl = stack.enter_context(process)
            forwarded = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
            match = kubectl.wait_until(lambda: forwarded.search(kubectl.log.read_text()), _FORWARD_S)
            return stack.pop_all(), kubectl, f"http://127.0.0.1:{match[1]}"


def _port(pod: Any) -> int:
    ports = [port.container_port for container in pod.spec.containers for port in container.ports or []]
    if not ports:
        raise DeploymentError(f"{pod.metadata.name} names no port; give its container a containerPort.")
    return int(ports[0])


def _is_ready(pod: Any) -> bool:
    conditions = [(condition.type, condition.status) for condition in pod.status.conditions or []]
    return pod.metadata.deletion_timestamp is None and ("Ready", "True") in conditions

"""Where servers run: on this machine or in a Kubernetes cluster.

This folder knows the address, the health and the number of workers of a server, but not what is sent to it.
"""

from typing import Protocol

from ruo.deploy.kubernetes import KubernetesDeployment
from ruo.deploy.local import LocalServer, local_server

__all__ = ["Deployment", "KubernetesDeployment", "LocalServer", "local_server"]


class Deployment(Protocol):
    """Servers that can be scaled, such as those of `ruo.local_server` and `ruo.KubernetesDeployment`."""

    @property
    def urls(self) -> list[str]:
        """The addresses for requests."""

    def scale(self, replicas: int) -> None:
        """Run `replicas` servers and return when all are ready."""

"""Where servers run: on this machine or in a Kubernetes cluster. It does not know what is sent to them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ruo.deploy.kubernetes import KubernetesDeployment
from ruo.deploy.local import LocalServer, local_server

__all__ = ["Deployment", "KubernetesDeployment", "LocalServer", "ServerAddress", "local_server"]


@runtime_checkable
class Deployment(Protocol):
    """Servers whose number can be changed, such as a `LocalServer` or a `KubernetesDeployment`."""

    @property
    def urls(self) -> list[str]:
        """The addresses for requests, which may change with the number."""

    def scale(self, replicas: int, /) -> None:
        """Run so many, and return when all are ready."""


ServerAddress = str | Sequence[str] | Deployment  # one, or several, or servers that know theirs

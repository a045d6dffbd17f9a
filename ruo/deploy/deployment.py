"""What an experiment asks of the place where servers run."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Deployment"]


class Deployment(Protocol):
    """Servers that can be scaled, such as those of `ruo.local_server` and `ruo.KubernetesDeployment`."""

    @property
    def urls(self) -> list[str]:
        """The addresses to send to."""

    def scale(self, replicas: int) -> None:
        """Run `replicas` servers and return when all are ready."""

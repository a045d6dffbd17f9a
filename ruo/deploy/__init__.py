"""Where servers run: on this machine or in a Kubernetes cluster. It does not know what is sent to them."""

from ruo.deploy.kubernetes import KubernetesDeployment
from ruo.deploy.local import LocalServer, local_server

__all__ = ["Deployment", "KubernetesDeployment", "LocalServer", "local_server"]

Deployment = KubernetesDeployment | LocalServer  # servers whose number can be changed

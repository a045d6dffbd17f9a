"""Where servers run: on this machine or in a Kubernetes cluster.

This folder knows the address, the health and the number of workers of a server, but not what is sent to it.
"""

from ruo.deploy.kubernetes import KubernetesDeployment
from ruo.deploy.local import LocalServer, local_server

__all__ = ["Deployment", "KubernetesDeployment", "LocalServer", "local_server"]

Deployment = KubernetesDeployment | LocalServer  # servers whose number can be changed

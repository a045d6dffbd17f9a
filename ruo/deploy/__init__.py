"""Where servers run: on this machine or in a Kubernetes cluster.

Knows the server's address, its health and its number of workers, and nothing of what is sent to it.
"""

from ruo.deploy.deployment import Deployment
from ruo.deploy.kubernetes import KubernetesDeployment
from ruo.deploy.local import LocalServer, local_server

__all__ = ["Deployment", "KubernetesDeployment", "LocalServer", "local_server"]

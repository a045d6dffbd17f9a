"""ruo scores a whole table with a Keras model that is served over HTTP, and measures whether distributing pays.

from ruo import score_csv
scores = score_csv("testset.csv", "http://localhost:8000")

The names below are imported on first use: a server never imports the client's packages, nor a client TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ruo.errors import ArgumentError, RuoError, ScoringError, TableError

if TYPE_CHECKING:
    from ruo.client.scores import Scores
    from ruo.client.scoring import ascore_csv, iter_scores, score_csv, score_to_file
    from ruo.deploy.kubernetes import KubernetesDeployment
    from ruo.deploy.local import local_server
    from ruo.tables import table
    from ruo.timing import time_runs

__all__ = [
    "ArgumentError",
    "KubernetesDeployment",
    "RuoError",
    "Scores",
    "ScoringError",
    "TableError",
    "ascore_csv",
    "iter_scores",
    "local_server",
    "score_csv",
    "score_to_file",
    "table",
    "time_runs",
]

__version__ = "0.1.0"

_MODULES = {
    "KubernetesDeployment": "ruo.deploy.kubernetes",
    "Scores": "ruo.client.scores",
    "ascore_csv": "ruo.client.scoring",
    "iter_scores": "ruo.client.scoring",
    "local_server": "ruo.deploy.local",
    "score_csv": "ruo.client.scoring",
    "score_to_file": "ruo.client.scoring",
    "table": "ruo.tables",
    "time_runs": "ruo.timing",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Other people's programs for the tests; what cannot be had is skipped aloud, and fails where every change is tested."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import servers
from ruo.errors import MissingPackageError

__all__ = ["cannot", "had", "make_environment"]


def make_environment(name: str, *packages: str, **options: Any) -> Path:
    """As `benchmarks.peers.servers.make_environment`."""
    return had(partial(servers.make_environment, name, *packages, **options))


def had(make: Callable[[], Path]) -> Path:
    """What an environment's maker gives."""
    try:
        return make()
    except MissingPackageError as missing:
        return cannot(str(missing))


def cannot(reason: str) -> Path:
    """Skip, aloud; on a machine that tests every change, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)

"""Where numbers come from: the machine, the versions, the commit, and fingerprints of data and models.

No host, user or folder is named, so all of it can be published with the results.
"""

import contextlib
import hashlib
import html
import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from ruo.errors import ArgumentError
from ruo.machine import cpu_limit

_PACKAGES = ("ruo", "numpy", "polars", "aiohttp", "keras", "tensorflow", "gunicorn", "flask")
# They set the number of threads that a process starts, or the code that it runs.
_THREADS = [f"{name}_NUM_THREADS" for name in ("MKL", "NUMEXPR", "OMP", "OPENBLAS")] + ["POLARS_MAX_THREADS"]
_TENSORFLOW = ["TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"]
_VARIABLES = ["KERAS_BACKEND", *_THREADS, *_TENSORFLOW, "WEB_CONCURRENCY"]


@dataclass(frozen=True, repr=False)
class Provenance:
    """Facts about results, by name, in the types of JSON; a fact may be a dict of further facts."""

    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify these facts; any change of a fact changes them."""
        text = json.dumps(self.facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, other: Self) -> list[tuple[str, Any, Any]]:
        """The facts that differ, each with its full name, its value and the value in `other`."""
        old, new = self.flat(), other.flat()
        return [(name, old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)]

    def flat(self) -> dict[str, Any]:
        """The facts by their full names, such as "machine.cpus"."""
        flat: dict[str, Any] = {}
        for name, value in self.facts.items():
            if isinstance(value, dict):
                flat |= {f"{name}.{inner}": fact for inner, fact in Provenance(value).flat().items()}
            else:
                flat[name] = value
        return flat

    def __repr__(self) -> str:
        machine_facts = self.facts.get("machine", {})
        words = [str(machine_facts[name]) for name in ("cpu", "os") if machine_facts.get(name)]
        return f"Provenance({', '.join([self.digest, *words])})"

    def _repr_html_(self) -> str:
        facts = {html.escape(name): html.escape(_words(value)) for name, value in self.flat().items()}
        cells = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in facts.items())
        return f"<details><summary>{html.escape(repr(self))}</summary><table>{cells}</table></details>"


def machine() -> dict[str, Any]:
    """What this machine is and what runs on it, in the types of JSON; None is no limit, or what cannot be known."""
    commit, clean = _checkout()
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "cpu_limit": cpu_limit(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "memory_limit_gb": _memory_limit_gb(),
        "os": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": commit,
        "clean": clean,
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def fingerprint(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, or of the lines that `sha256sum` prints for the files of a folder, sorted by name."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.is_dir():
        raise ArgumentError(f"{path} does not exist; pass the path of a file or a folder.")
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    lines = "".join(f"{fingerprint(path / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def _version(name: str) -> str | None:
    """The installed version of a package, which is not imported for it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _version("tensorflow-cpu") if name == "tensorflow" else None


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        if match := re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine()


def _memory_limit_gb() -> float | None:
    """A container's memory limit (Linux, "Control Group v2", memory.max; in version 1 memory.limit_in_bytes)."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(file).read_text())
            return round(limit / 1e9, 1) if limit < 2**60 else None  # version 1 writes a huge number for "no limit"
    return None


def _checkout() -> tuple[str | None, bool | None]:
    """The commit of the checkout that ruo runs from, and whether its files are as committed."""
    package = Path(__file__).parent
    # an installed ruo may be in an environment inside another project's checkout
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    # untracked files do not count, since a sweep writes its results while it runs
    changes = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ":/")
    return _git(package, "rev-parse", "HEAD"), None if changes is None else not changes


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "--no-optional-locks", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_words, value)) if isinstance(value, (list, tuple)) else str(value)

"""Other projects' programs, each in its own environment, since their pins clash with ours and one another's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruo.errors import MissingPackageError

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ruo"


def make_environment(
    name: str, *packages: str, works: tuple[str, ...] = ("python", "-V"), pythons: tuple[str, ...] = (sys.executable,)
) -> Path:
    """Make an environment with the packages by the first of `pythons` with which the command `works` runs.

    Returns its folder in the user's cache, where it stays, since making it takes a minute. Raises MissingPackageError.
    """
    folder, wanted, reasons = _CACHE / name, " ".join(packages), []
    done = folder / "packages"
    if done.exists() and done.read_text() == wanted:
        return folder
    for python in filter(None, map(shutil.which, pythons)):
        for command in (
            [python, "-m", "venv", "--clear", str(folder)],
            [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "--prefer-binary", *packages],
            [str(folder / "bin" / works[0]), *works[1:]],
        ):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                reasons.append(f"{' '.join(command)}: {ended.stderr.strip()[-300:]}")
                break
        else:
            done.write_text(wanted)
            return folder
    raise MissingPackageError(f"{name} cannot be installed: {'; '.join(reasons)}")

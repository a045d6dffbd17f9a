"""What is promised about versions, files and commands."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ruo

ROOT = Path(__file__).parent.parent
EXTRAS = ["server", "notebooks", "paper", "test"]


def _pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {_norm(name): version for name, version in (line.split("==") for line in lines)}


def _norm(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed() -> set[str]:
    """Every distribution that ruo with all its extras brings, by walking what is installed."""
    names: set[str] = set()
    todo = [("ruo", extra) for extra in ["", *EXTRAS]]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, requires):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            names.add(_norm(requirement.name))
            for package in [(_norm(requirement.name), more) for more in ["", *requirement.extras]]:
                if package not in seen:
                    seen.add(package)
                    todo.append(package)
    return names - {"ruo"}


def _tracked() -> list[Path]:
    result = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode:  # not a checkout: look at what is there
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [ROOT / line for line in result.stdout.splitlines() if (ROOT / line).is_file()]


def test_every_installed_package_is_pinned() -> None:
    """Whatever ruo and its extras bring in stands in constraints.txt with the version that is installed."""
    pins = _pins()

    for name in _needed():
        assert pins.get(name) == distribution(name).version, name


def test_no_file_names_a_registry() -> None:
    """No file holds the address of a package registry, nor does constraints.txt hold any address."""
    hosts = ("pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "deb." + "debian", "snapshot." + "debian")
    for path in _tracked():
        text = path.read_text(errors="ignore")
        assert not any(host in text for host in hosts), path
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_conda_users_get_the_same_versions() -> None:
    """environment.yml installs the extras with constraints.txt, but nothing that only tests need."""
    text = (ROOT / "environment.yml").read_text()

    assert "-c constraints.txt" in text
    assert re.findall(r"-e (.+)", text) == [".[server,notebooks,paper,cluster]"]


def test_the_server_extra_is_the_servers_list() -> None:
    """The extra `server` holds what server/requirements.txt names, and that is the only place where it is said."""
    lines = (ROOT / "server" / "requirements.txt").read_text().splitlines()
    listed = {_norm(Requirement(line.split("#")[0]).name) for line in lines if line.split("#")[0].strip()}
    requirements = map(Requirement, distribution("ruo").requires or [])
    extra = {_norm(one.name) for one in requirements if one.marker and 'extra == "server"' in str(one.marker)}

    assert listed == extra


def test_the_changelog_is_of_this_version() -> None:
    """The changelog's newest entry, the package's metadata, `ruo.__version__` and pyproject.toml agree."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest is not None
    assert version == newest[1] == distribution("ruo").version == ruo.__version__


def test_every_target_is_explained() -> None:
    """Each target of the Makefile is declared as phony, and `make help` says in a line what it does."""
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## .+", makefile, re.MULTILINE)

    assert phony is not None
    assert sorted(explained) == sorted(phony[1].split())
    assert {"setup", "demo", "benchmark", "test", "check", "serve"} <= set(explained)


def test_setup_happens_once() -> None:
    """`make setup` has nothing to do where everything is installed and nothing has changed."""
    if not (ROOT / ".venv" / "installed").exists():
        pytest.skip("runs where make setup made .venv")
    result = subprocess.run(["make", "setup"], capture_output=True, text=True, cwd=ROOT, check=True)

    assert "Setting up" not in result.stdout

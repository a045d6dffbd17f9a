"""The README and docs/ say what is true: what they show can be typed, what they name exists, and all that exists is named."""

import inspect
import os
import re
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

import click
import pytest

import ruo
from docs import reference
from ruo.__main__ import main
from ruo.learn.demo import Demo
from server.application import create_app
from server.settings import Settings
from tests.environments import cannot

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PAGES = [*ROOT.glob("*.md"), ROOT / "notebooks" / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("k8s/**/README.md")]
# what only ruo itself, Kubernetes or the system sets
INTERNAL = {"RUO_LIFELINE_FD", "TMPDIR", "PYTHONPATH", "KUBERNETES_SERVICE_HOST"}


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _without_numbers(text: str) -> list[str]:
    text = re.sub(r"version [0-9a-f]+|[\d,.]+", "N", text.replace(" requests", " request"))  # of which a demo needs one
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_readme_is_short_and_opens_with_the_two_commands() -> None:
    """At most 150 lines, and the first block is the two commands."""
    assert len(README.splitlines()) <= 150
    first = _blocks(README, "sh")[0]
    assert [line.split("#")[0].strip() for line in first.strip().splitlines()] == ["make benchmark", "make test"]


@pytest.mark.parametrize(
    "block", [block for path in PAGES for block in _blocks(path.read_text(), "python") if path.name != "reference.md"]
)
def test_python_on_the_pages_runs(
    block: str, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block of Python runs as it stands, where the demo is, and prints what its comments show, but for numbers."""
    import keras

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "openvino")  # of processes to come, which start in half the time
    (tmp_path / "data").symlink_to(demo.testset.parent)

    exec(compile(block, "README.md", "exec"), {})
    assert keras.backend.backend() == "tensorflow"

    shown = "".join(re.findall(r"^# (.*\n)", block, re.MULTILINE))
    assert _without_numbers(capsys.readouterr().out) == _without_numbers(shown)
    _are_not_for_git(path.name + "/" * path.is_dir() for path in tmp_path.iterdir())


def test_what_the_commands_of_the_pages_write_is_not_for_git() -> None:
    """Whoever types them in a clone has a clean `git status` afterwards."""
    text = "\n".join(path.read_text() for path in PAGES)
    files = {*re.findall(r"(?:-o|--checkpoint|papermill \S+|gzip >) (\w+\.[\w.]+)(?=[\s`])", text)}
    assert {"out.csv", "run.ruo", "predictions.parquet", "out.ipynb"} < files
    _are_not_for_git(files)


def _are_not_for_git(names: Iterable[str]) -> None:
    for name in names:
        ignored = subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False)
        assert ignored.returncode == 0, name


def test_what_the_pages_point_to_is_there() -> None:
    """Every file and heading that a page links to is there, and every `make` target is in the Makefile."""
    for path in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
            there = path.parent / target if target else path
            assert there.exists(), f"{path.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)", there.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
        targets = re.findall(r"`make ([a-z]+)|^make ([a-z]+)", path.read_text(), re.MULTILINE)
        for name in map("".join, targets):
            assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{path.name}: make {name}"


def test_the_reference_is_up_to_date() -> None:
    """docs/reference.md is what the code says now."""
    assert reference.page() == REFERENCE, "run: make docs"


def _section(title: str) -> str:
    return REFERENCE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_reference_has_every_public_name_and_keyword() -> None:
    """Each public name has a heading and each keyword of a public function its entry, and no heading is of anything else."""
    parts = re.split(r"^### (.*)\n", _section("Python"), flags=re.MULTILINE)
    described = dict(zip(parts[1::2], parts[2::2], strict=True))

    assert set(ruo.__all__) <= set(described)
    for path, text in described.items():
        module, _, name = f"ruo.{path}".rpartition(".") if "." not in path else path.rpartition(".")
        thing = getattr(__import__(module, fromlist=[name]), name)
        if path in ruo.__all__ and inspect.isfunction(thing):
            entries = re.search(r"Parameters:\n\n(.*?)\n\n", text + "\n", re.DOTALL)
            named = re.findall(r"^- (?:As for `\w+`: (.*)|`([\w*, ]+)`)", entries[1] if entries else "", re.MULTILINE)
            assert set(re.findall(r"\w+", str(named))) == set(inspect.signature(thing).parameters), path
        if path in ruo.__all__ and not issubclass(thing if inspect.isclass(thing) else object, Exception):
            assert f"```python\n{path}(" in text
            assert ">>>" in text, f"{path} has no example"


def test_the_reference_has_every_verb_and_option() -> None:
    """Each verb has a heading and each of its options a line, and no line is of anything else."""
    parts = re.split(r"^### ruo (.*)\n", _section("Command line"), flags=re.MULTILINE)
    assert set(parts[1::2]) == set(main.commands)
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        verb = main.commands[name]
        options = [each for each in verb.get_params(click.Context(verb)) if isinstance(each, click.Option)]
        known = {flag for option in options for flag in [*option.opts, *option.secondary_opts]}
        listed = re.findall(r"^  (-.*?)(?:  |$)", text, re.MULTILINE)
        assert {flag for line in listed for flag in re.findall(r"(?<![|\w])--?[a-z][\w-]*", line)} == known | {"--help"}


def test_the_reference_has_every_variable_and_route() -> None:
    """The tables hold the variables that the code reads and the routes that the server answers, and no others."""
    code = [*ROOT.glob("server/*.py"), *(path for path in ROOT.glob("ruo/**/*.py") if "paper" not in path.parts)]
    used = re.findall(r"""os\.environ(?:\.\w+\(|\[)["']([A-Z_]+)""", "".join(path.read_text() for path in code))
    read = {*used, *(name.upper() for name in Settings.__dataclass_fields__), "TF_NUM_INTRAOP_THREADS"}
    assert set(re.findall(r"^\| `(\w+)`", _section("Environment variables"), re.MULTILINE)) == read - INTERNAL

    rules = create_app({"MODEL_PATH": "nothing"}).url_map.iter_rules()
    routes = {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    routes = {route.replace("<model>", "M").replace("<version>", "V") for route in routes}
    assert set(re.findall(r"^\| `([A-Z]+ /.*?)`", _section("Routes"), re.MULTILINE)) == routes


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_readme_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    """In a new shell and clone, each block of commands works in turn and prints what is shown below it."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            cannot("Port 8000, which the README names, is in use.")
    _, install, serve, measure = _blocks(README, "sh")
    scored, measured = _blocks(README, "text")
    measure = measure.replace("make benchmark", "make benchmark RUNS=1")  # which takes a fifth of the time
    typed = f"set -e\ntrap 'kill $(jobs -p)' EXIT\n{install}\n{serve}\necho ----\n{measure}"
    (tmp_path / "typed.sh").write_text(typed)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["RUO"] = str(ROOT)

    done = subprocess.run(["bash", "typed.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, _, second = done.stdout.partition("----")
    assert not set(_without_numbers(scored)) - set(_without_numbers(first)), first
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path / "ruo", capture_output=True, check=True)
    assert status.stdout == b""
    assert "oneDNN" not in done.stderr  # TensorFlow's notes on the CPU
    assert re.search(r"^(IN)?VALID", measured)
    assert re.search(r"^(IN)?VALID", second, re.MULTILINE)
    for shown in (" rows per request ", "results/benchmark/benchmark.html"):
        assert shown in measured
        assert shown in second

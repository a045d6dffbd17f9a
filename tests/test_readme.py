"""The README says what is true: its code runs, and what it names is there."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ruo import score_csv
from ruo.learn.demo import Demo
from server.settings import Settings

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_it_is_short_and_opens_with_the_two_commands() -> None:
    """At most 150 lines, and the first block is the two commands."""
    assert len(TEXT.splitlines()) <= 150
    first = TEXT.split("```")[1]
    assert [line.split("#")[0].strip() for line in first.strip().splitlines()] == ["make benchmark", "make test"]


@pytest.mark.parametrize("block", _blocks("python"))
def test_its_python_runs(
    block: str, demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block of Python runs as it stands, where the demo is, and prints what its comment shows, but for numbers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(demo.testset.parent)

    exec(compile(block, "README.md", "exec"), {})

    shown = "".join(re.findall(r"^# (.*)\n", block, re.MULTILINE))
    assert _without_numbers(capsys.readouterr().out) == _without_numbers(shown)


def _without_numbers(text: str) -> str:
    return re.sub(r"version [0-9a-f]+|[\d,.]+", "N", text).strip()


def test_its_table_has_the_keywords_of_score_csv() -> None:
    """Each keyword of score_csv has a line with its default, and no line is of anything else."""
    section = TEXT[TEXT.index("keyword of `score_csv`") : TEXT.index("`scores.predictions` is")]
    lines = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))
    parameters = inspect.signature(score_csv).parameters
    keywords = {name: each.default for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}

    assert set(lines) == set(keywords)
    for name, default in keywords.items():
        text = lines[name].strip("`").replace(",", "")
        assert text in (str(default), f'"{default}"', f"{default:g}" if isinstance(default, float) else "")


def test_it_names_every_setting_and_route() -> None:
    """Each variable that the server reads, and each of its routes, is named."""
    for field in fields(Settings):
        if field.name != "pod_name":  # set by the cluster, not by people
            assert re.search(rf"`{field.name.upper()}\b", TEXT), field.name
    routes = (
        "/v2 /v2/health/live /v2/health/ready /v2/models/M/infer /v2/models/M/config /v2/repository/index /v1/models"
    )
    for path in f"{routes} /v1/models/M:predict /test /metrics /openapi.json".split():
        assert path in TEXT, path


def test_what_it_points_to_is_there() -> None:
    """Every picture and notebook that it links to is in the repository, every `make` target in the Makefile."""
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

"""The guides beside the manifests name what is there."""

import re

import pytest
import yaml

from ruo.__main__ import main
from tests.k8s.conftest import COMPONENTS, OVERLAYS, ROOT

GUIDES = sorted((ROOT / "k8s").rglob("README.md"))
EVERYTHING = "\n".join(guide.read_text() for guide in GUIDES)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.parent.name)
def test_paths_are_there(guide):
    """Every file and folder of the project that a guide names exists."""
    for path in re.findall(r"\bk8s/[a-z0-9./-]*[a-z0-9]", guide.read_text()):
        assert (ROOT / path).exists(), path


def test_every_folder_is_on_the_map():
    """The first guide names every overlay and component, and no other."""
    text = (ROOT / "k8s" / "README.md").read_text()
    assert {*OVERLAYS, *COMPONENTS} == set(re.findall(r"^((?:overlays|components)/[a-z-]+)", text, re.MULTILINE))


def test_its_commands_are_ruos():
    """Every verb of ruo that a guide uses is there."""
    verbs = set(re.findall(r"python -m ruo ([a-z-]+)", EVERYTHING))
    assert {"publish", "score"} <= verbs <= set(main.commands)


def test_names_are_those_of_the_manifests(render):
    """What kubectl is told to look at, by kind and name, is what the manifests make."""
    folders = ("overlays/faculty", "jobs/score", "jobs/merge", "jobs/measure")
    names = {(each["kind"].lower(), each["metadata"]["name"]) for folder in folders for each in render(folder)}
    used = set(re.findall(r"\b(deployment|service|job)/([a-z-]+)", EVERYTHING))
    assert len(used) >= 4
    assert used <= names


@pytest.mark.parametrize("block", re.findall(r"^ *```yaml\n(.*?)^ *```", EVERYTHING, re.MULTILINE | re.DOTALL))
def test_its_patches_fit(block, render):
    """Each piece of YAML can be read, and what it patches is made by a component."""
    for patch in yaml.safe_load(block)["patches"]:
        made = render("overlays/local", "components/monitoring", "components/measurer")
        made.one(patch["target"]["kind"], patch["target"]["name"])
        for step in yaml.safe_load(patch["patch"]):
            assert {"op", "path", "value"} == set(step)


def test_the_numbers_are_the_manifests(render):
    """The seconds and addresses in the guides are those of the manifests."""
    volume = render("overlays/faculty").one("PersistentVolume")["spec"]
    assert {"actimeo=5"} == {each for each in volume["mountOptions"] if each.startswith("actimeo")}
    assert "actimeo=5" in EVERYTHING
    assert f"{volume['nfs']['server']}:{volume['nfs']['path']}" in EVERYTHING

"""Scoring with several pods: the Job's shards are all of the table, and the merge takes exactly their parts."""

import json
import re

import pytest

from ruo.__main__ import main
from tests.k8s.conftest import ROOT


def job(render, name):
    """A Job's spec, its only container, and what the pod of each index runs, as Kubernetes fills it in."""
    spec = render(f"jobs/{name}").one("Job")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    indexes = range(spec.get("completions", 1))
    filled = [[each.replace("$(JOB_COMPLETION_INDEX)", str(index)) for each in container["args"]] for index in indexes]
    return spec, container, filled


def given(arguments, option):
    """The value of an option."""
    (value,) = (each.partition("=")[2] for each in arguments if each.startswith(f"{option}="))
    return value


@pytest.mark.parametrize("name", ["score", "merge", "measure"])
def test_the_command_is_one_that_ruo_has(render, name):
    """It parses as ruo's own command line, which reads its variables; only Kubernetes' own name is to be filled in."""
    _, container, (filled, *_) = job(render, name)
    *start, verb = container["command"]
    assert ["python3", "-m", "ruo"] == start
    assert main.commands[verb].make_context(verb, filled).params  # click would end with status 2
    read = {parameter.envvar for parameter in main.commands[verb].params} | {"RUO_TOKEN"}
    assert {each["name"] for each in container.get("env", [])} <= read
    named = set(re.findall(r"\$\(([^)]+)\)", " ".join(container["args"])))
    assert named == ({"JOB_COMPLETION_INDEX"} if name == "score" else set())


def test_the_shards_are_the_whole_table(render):
    """There are as many shards as indexes, each scored by one pod at the same time; the merge takes them in order."""
    spec, _, pods = job(render, "score")
    count = spec["completions"]
    assert "Indexed" == spec["completionMode"]
    assert [f"{index}/{count}" for index in range(count)] == [given(arguments, "--shard") for arguments in pods]
    assert count == spec["parallelism"]
    parts = [given(arguments, "--output") for arguments in pods]
    whole, *merged = job(render, "merge")[1]["args"]
    assert parts == merged
    assert whole not in parts


def test_every_pod_has_its_own_files(render):
    """No two pods write the same part or checkpoint, and both outlive the pod."""
    spec, container, pods = job(render, "score")
    files = [given(arguments, option) for arguments in pods for option in ("--output", "--checkpoint")]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["template"]["spec"]["volumes"]}
    assert len(set(files)) == len(files)
    assert all(file.startswith("/data/") for file in files)
    assert "ruo-data" == volumes[mounts["/data"]]["persistentVolumeClaim"]["claimName"]


def test_the_servers_address_is_a_service(render):
    """The pods are sent to the headless Service, at its port."""
    (url,) = (each for each in job(render, "score")[2][0] if "://" in each)
    name, port = re.fullmatch(r"http://([a-z-]+):(\d+)", url).groups()
    service = render("overlays/local").one("Service", name)["spec"]
    assert "None" == service["clusterIP"]
    assert int(port) in {each["port"] for each in service["ports"]}


@pytest.mark.parametrize("name", ["score", "merge", "measure"])
def test_failures_are_tried_again_but_not_for_ever(render, name):
    """Each try is a pod of its own, there are some, a drained node is no failure, and what has ended is cleared away."""
    spec, _, _ = job(render, name)
    assert "Never" == spec["template"]["spec"]["restartPolicy"]
    assert spec.get("completions", 1) <= spec["backoffLimit"] <= 10
    assert spec["ttlSecondsAfterFinished"] >= 3600
    drained = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert [drained] == spec["podFailurePolicy"]["rules"]


def test_the_notebook_takes_what_the_job_gives(render):
    """The measuring Job runs a notebook that is there, with names that are its parameters, and keeps the results."""
    _, _, ((notebook, results, *pairs),) = job(render, "measure")
    cells = json.loads((ROOT / notebook).read_text())["cells"]
    (parameters,) = ("".join(cell["source"]) for cell in cells if cell["metadata"].get("tags") == ["parameters"])
    assert results.startswith("--results=/data/")
    assert {"deployment", "testset"} <= set(pairs[1::3]) <= set(re.findall(r"^(\w+):", parameters, re.MULTILINE))

"""Scoring with several pods: the Job's shards are all of the table, and the merge takes exactly their parts."""

import json
import re
from pathlib import Path

import pytest

from ruo.__main__ import main

ROOT = Path(__file__).parents[2]


def job(render, name):
    """A Job's spec, and its only container."""
    spec = render(f"jobs/{name}").one("Job")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    return spec, container


def arguments(render, index):
    """What the pod of an index runs, as Kubernetes fills it in."""
    _, container = job(render, "score")
    return [each.replace("$(JOB_COMPLETION_INDEX)", str(index)) for each in container["args"]]


def given(arguments, option):
    """The value of an option."""
    (value,) = (each.partition("=")[2] for each in arguments if each.startswith(f"{option}="))
    return value


@pytest.mark.parametrize("name", ["score", "merge", "measure"])
def test_the_command_is_one_that_ruo_has(render, name):
    """It parses as ruo's own command line; click would end with status 2 where it does not."""
    _, container = job(render, name)
    *start, verb = container["command"]
    filled = [each.replace("$(JOB_COMPLETION_INDEX)", "0") for each in container["args"]]

    assert ["python3", "-m", "ruo"] == start
    assert main.commands[verb].make_context(verb, filled).params


def test_the_shards_are_the_whole_table(render):
    """There are as many shards as indexes, each is scored by one pod, and all at the same time."""
    spec, _ = job(render, "score")
    shards = [given(arguments(render, index), "--shard") for index in range(spec["completions"])]

    assert "Indexed" == spec["completionMode"]
    assert [f"{index}/{spec['completions']}" for index in range(spec["completions"])] == shards
    assert spec["completions"] == spec["parallelism"]


def test_every_pod_has_its_own_files(render):
    """No two pods write the same part or checkpoint, and both outlive the pod."""
    spec, container = job(render, "score")
    options = ("--output", "--checkpoint")
    files = [given(arguments(render, index), option) for index in range(spec["completions"]) for option in options]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["template"]["spec"]["volumes"]}

    assert len(set(files)) == len(files)
    assert all(file.startswith("/data/") for file in files)
    assert "ruo-data" == volumes[mounts["/data"]]["persistentVolumeClaim"]["claimName"]


def test_the_merge_takes_the_parts_in_order(render):
    """The merge names every part of the score, in order, after the file that it writes."""
    spec, _ = job(render, "score")
    parts = [given(arguments(render, index), "--output") for index in range(spec["completions"])]
    _, merge = job(render, "merge")
    whole, *merged = merge["args"]

    assert parts == merged
    assert whole not in parts


def test_the_servers_address_is_a_service(render):
    """The pods are sent to the headless Service, at its port."""
    (url,) = (each for each in arguments(render, 0) if "://" in each)
    name, port = re.fullmatch(r"http://([a-z-]+):(\d+)", url).groups()
    service = render("overlays/local").one("Service", name)["spec"]

    assert "None" == service["clusterIP"]
    assert int(port) in {each["port"] for each in service["ports"]}


def test_only_variables_that_are_there_are_filled_in(render):
    """The only name to be filled in is the one that Kubernetes gives the pods of an indexed Job."""
    _, container = job(render, "score")

    assert {"JOB_COMPLETION_INDEX"} == set(re.findall(r"\$\(([^)]+)\)", " ".join(container["args"])))


@pytest.mark.parametrize("name", ["score", "merge", "measure"])
def test_failures_are_tried_again_but_not_for_ever(render, name):
    """Each try is a pod of its own, there are some, and what has ended is cleared away."""
    spec, _ = job(render, name)

    assert "Never" == spec["template"]["spec"]["restartPolicy"]
    assert spec.get("completions", 1) <= spec["backoffLimit"] <= 10
    assert spec["ttlSecondsAfterFinished"] >= 3600


@pytest.mark.parametrize("name", ["score", "measure"])
def test_a_drained_node_is_no_failure(render, name):
    """A pod that a drain ended does not count as a failed one."""
    spec, _ = job(render, name)
    (rule,) = spec["podFailurePolicy"]["rules"]

    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} == rule


def test_the_notebook_takes_what_the_job_gives(render):
    """The measuring Job runs a notebook that is there, with names that are its parameters, and keeps the results."""
    _, container = job(render, "measure")
    notebook, results, *pairs = container["args"]
    cells = json.loads((ROOT / notebook).read_text())["cells"]
    (parameters,) = ("".join(cell["source"]) for cell in cells if cell["metadata"].get("tags") == ["parameters"])

    assert results.startswith("--results=/data/")
    assert {"deployment", "testset"} <= set(pairs[1::3]) <= set(re.findall(r"^(\w+):", parameters, re.MULTILINE))

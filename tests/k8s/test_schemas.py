"""Every object is what the oldest and the newest supported Kubernetes take, with nothing that is on its way out."""

import functools
import json
import re
from importlib.resources import files

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from tests.k8s.conftest import ROOT

OLDEST, NEWEST = "1.27", "1.37"
CLUSTER_WIDE = ["Namespace", "PersistentVolume"]
OF_AN_OPERATOR = ["ServiceMonitor"]  # their schemas come with their operators


@functools.cache
def _fault(text, version):
    """What is wrong with an object, given as JSON; each is looked at once, however many folders have it."""
    try:
        kubernetes_validate.validate(json.loads(text), version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return error.message
    return None


def _name(thing):
    return f"{thing['kind']} {thing['metadata']['name']}"


def test_everything_is_ours(objects):
    """What lives in a namespace lives in ours, and all of it, pods included, is labelled; the tool has no complaint."""
    where = {_name(each): each["metadata"].get("namespace") for each in objects if each["kind"] not in CLUSTER_WIDE}
    labels = [each["metadata"].get("labels", {}) for each in [*objects, *objects.pods().values()]]
    assert set(where.values()) <= {"ruo"}
    assert {"ruo"} == {each.get("app.kubernetes.io/part-of") for each in labels}
    assert "" == objects.warnings  # such as of a deprecated field of the kustomizations


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_objects_fit_their_schemas(objects, version):
    """Each object has only fields that this Kubernetes knows, and all that it requires."""
    assert objects
    ours = [each for each in objects if each["kind"] not in OF_AN_OPERATOR]
    faults = {_name(each): _fault(json.dumps(each, sort_keys=True), version) for each in ours}
    assert {} == {name: fault for name, fault in faults.items() if fault}


def test_the_versions_are_those_of_the_readme():
    """The README promises what is tested here, and there are schemas of exactly these versions."""
    assert f"Kubernetes {OLDEST} to {NEWEST}" in (ROOT / "k8s" / "README.md").read_text()
    known = {".".join(version.split(".")[:2]) for version in all_versions()}
    assert {OLDEST, NEWEST} <= known


def test_a_servicemonitor_has_only_fields_that_the_operator_knows(render):
    """Of the operator's object only fields that it has had since its version 1 are used."""
    monitor = render("components/monitoring").one("ServiceMonitor")
    assert "monitoring.coreos.com/v1" == monitor["apiVersion"]
    assert {"selector", "endpoints"} == set(monitor["spec"])
    known = {"port", "path", "interval", "scrapeTimeout", "authorization"}
    assert all(set(endpoint) <= known for endpoint in monitor["spec"]["endpoints"])


def test_nothing_is_deprecated(objects):
    """No field is used that the newest Kubernetes describes as deprecated, and no externalIPs (CVE-2020-8554)."""
    used = [path for each in objects if each["kind"] not in OF_AN_OPERATOR for path in _deprecated(each)]
    assert [] == used
    assert not any("externalIPs" in each["spec"] for each in objects.all("Service"))


@pytest.mark.parametrize("path", sorted((ROOT / "k8s").rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_kustomizations_have_no_old_fields(path):
    """Fields that newer kustomize warns of are not there, whichever version renders here."""
    old = {"commonLabels", "patchesStrategicMerge", "patchesJson6902", "bases", "vars", "imageTags"}
    assert set() == old & set(yaml.safe_load(path.read_text()))


def _deprecated(thing):
    """The paths of an object's fields whose description says that they are deprecated."""
    group, _, version = thing["apiVersion"].rpartition("/")
    name = "-".join([thing["kind"].lower(), *filter(None, [group.split(".")[0], version])])
    yield from _walk(thing, _schema(f"{name}.json"), _name(thing))


def _walk(value, schema, path):
    if re.search(r"\bDeprecated[:.]|\bis deprecated\b", schema.get("description", "")):
        yield path
    if "$ref" in schema:
        schema = _schema("_definitions.json")["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        for each in value:
            yield from _walk(each, schema.get("items", {}), path)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _walk(each, schema.get("properties", {}).get(key, {}), f"{path} {key}")


@functools.cache
def _schema(name):
    folder = files("kubernetes_validate") / "kubernetes-json-schema"
    return json.loads((folder / f"v{NEWEST}.0-local-strict" / name).read_text())

"""What every pod must have: limits, probes, the restricted context, a clean stop, and settings that the server reads."""

import math
import re
import time
import tomllib
from pathlib import Path

import pytest

from ruo.__main__ import main
from server.application import create_app
from server.settings import Settings

ROOT = Path(__file__).parents[2]
GUNICORN = (ROOT / "server" / "gunicorn.conf.py").read_text()
WORKER_BYTES = 700e6  # TensorFlow, Keras and a small model


def containers(objects):
    """Every container by the names of its pods' maker and itself."""
    for maker, template in objects.pods().items():
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{maker}/{container['name']}", container


def server_of(objects):
    """The server's pod and its one container."""
    spec = objects.one("Deployment", "ruo-server")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def test_requests_and_limits(objects, number):
    """Every container says how much CPU and memory it needs and may take, and the first is not above the second."""
    for name, container in containers(objects):
        resources = container["resources"]
        for what in ("cpu", "memory", "ephemeral-storage"):
            assert 0 < number(resources["requests"][what]) <= number(resources["limits"][what]), (name, what)


def test_the_disk_that_may_be_filled_is_within_the_limit(objects, number):
    """Each container may take more of its node's disk than the volumes hold that end with the pod, for its log."""
    for template in objects.pods().values():
        sizes = [number(each["emptyDir"]["sizeLimit"]) for each in template["spec"]["volumes"] if "emptyDir" in each]
        for container in template["spec"]["containers"]:
            assert sum(sizes) < number(container["resources"]["limits"]["ephemeral-storage"])


def test_jobs_fit_small_nodes(render, number):
    """A pod of a Job asks for no more of a node of two CPUs than what the servers and the system leave."""
    for job in ("score", "merge", "measure"):
        for _, container in containers(render(f"jobs/{job}")):
            assert number(container["resources"]["requests"]["cpu"]) <= 0.25


def test_pods_are_restricted(objects):
    """Every pod passes the restricted pod security standard, and has a root file system that cannot be written."""
    allowed_volumes = {
        "configMap",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for name, template in objects.pods().items():
        spec = template["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert isinstance(context["runAsUser"], int), name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= allowed_volumes, (name, volume)
    for name, container in containers(objects):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile", "procMount"} & set(context), name
        assert not any("hostPort" in port for port in container.get("ports", [])), name


def test_the_namespace_refuses_other_pods(render):
    """The namespace enforces the restricted pod security standard, and warns of it."""
    labels = render("namespace").one("Namespace")["metadata"]["labels"]

    for mode in ("enforce", "audit", "warn"):
        assert "restricted" == labels[f"pod-security.kubernetes.io/{mode}"]


def test_no_pod_can_speak_to_kubernetes(objects):
    """No pod but the measuring one gets a token of its account; and none Services' addresses among its variables."""
    for name, template in objects.pods().items():
        assert template["spec"]["automountServiceAccountToken"] is (name == "ruo-measure"), name
        assert template["spec"]["enableServiceLinks"] is False, name
    for account in objects.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_service_accounts_are_there(server):
    """The account that the server's pods name is applied with them."""
    server.one("ServiceAccount", server_of(server)[0]["serviceAccountName"])


def test_there_is_a_place_to_write(objects):
    """/tmp can be written, since the root file system cannot, and is bounded."""
    for template in objects.pods().values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            (name,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp")
            assert "sizeLimit" in volumes[name]["emptyDir"]


def test_the_server_has_all_three_probes(server):
    """The probes ask the right questions; a model may take minutes to load, and a busy server is not killed at once."""
    _, container = server_of(server)
    startup, liveness, readiness = (container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))

    assert "/v2/health/live" == startup["httpGet"]["path"] == liveness["httpGet"]["path"]
    assert "/v2/health/ready" == readiness["httpGet"]["path"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 120
    assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 60
    assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 30


def test_probes_need_no_token(server):
    """The server answers the paths of its probes without the token that other paths need."""
    app = create_app({"RUO_TOKEN": "secret", "MODEL_PATH": "/nowhere", "MODEL_POLL_SECONDS": "0"}).test_client()
    _, container = server_of(server)
    paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}

    assert {401} == {app.get("/v2").status_code}
    assert {200, 503} == {app.get(path).status_code for path in paths}


def test_the_grace_period_covers_the_stop(server, monkeypatch):
    """The time to stop is longer than preStop's sleep and Gunicorn's own grace together."""
    spec, container = server_of(server)
    python, option, code = container["lifecycle"]["preStop"]["exec"]["command"]
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    exec(code, {})
    graceful = int(re.search(r"^graceful_timeout = (\d+)", GUNICORN, re.MULTILINE)[1])

    assert ("python3", "-c") == (python, option)
    assert 5 <= sum(slept)
    assert sum(slept) + graceful + 10 <= spec["terminationGracePeriodSeconds"]


def test_the_servers_variables_are_read(server):
    """Each variable that a manifest sets is one that the server reads, and has a value that it accepts."""
    sources = "".join(path.read_text() for path in (ROOT / "server").glob("*.py"))
    elsewhere = set(re.findall(r"""environ(?:\.get\(|\[)["']([A-Z_]+)["']""", sources)) - {"TMPDIR", "RUO_LIFELINE_FD"}
    known = {name.upper() for name in Settings.__dataclass_fields__} | elsewhere
    _, container = server_of(server)
    given = {each["name"]: each.get("value", "") for each in container["env"]}

    assert "LOG_FORMAT" in known
    assert set(given) <= known
    Settings.read(given)


def test_the_server_knows_its_pod_and_its_token(server):
    """POD_NAME is the pod's own name; the token comes from a Secret, which must be there where nodes open a port."""
    _, container = server_of(server)
    env = {each["name"]: each.get("valueFrom", {}) for each in container["env"]}

    assert {"fieldRef": {"fieldPath": "metadata.name"}} == {
        source: {"fieldPath": field["fieldPath"]} for source, field in env["POD_NAME"].items()
    }
    is_open = any(each["spec"]["type"] == "NodePort" for each in server.all("Service"))
    assert {"name": "ruo-token", "key": "token", "optional": not is_open} == env["RUO_TOKEN"]["secretKeyRef"]


def test_workers_follow_the_cpu_limit(server):
    """Nothing sets the workers or their threads, so that the server takes them from its CPU limit, of whole CPUs."""
    _, container = server_of(server)
    names = {each["name"] for each in container["env"]}

    assert set() == names & {"WEB_CONCURRENCY", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "GUNICORN_CMD_ARGS"}
    assert re.fullmatch(r"\d+", container["resources"]["limits"]["cpu"])


def test_the_workers_fit_the_memory(server, number):
    """All workers together, each with the largest request and all that may wait, stay under the memory limit."""
    _, container = server_of(server)
    limits = container["resources"]["limits"]
    settings = Settings.read({each["name"]: each.get("value", "") for each in container["env"]})
    workers = math.floor(number(limits["cpu"]))
    each = WORKER_BYTES + 2 * settings.max_request_bytes + settings.max_waiting_mb * 2**20

    assert workers * each <= number(limits["memory"])


def test_the_port_is_the_servers(server):
    """The container's port is the one that Gunicorn binds where PORT is not set."""
    _, container = server_of(server)
    default = re.search(r"environ\.get\('PORT', '(\d+)'\)", GUNICORN)[1]

    assert "PORT" not in {each["name"] for each in container["env"]}
    assert [int(default)] == [port["containerPort"] for port in container["ports"]]


def test_images_have_the_version_of_ruo(objects):
    """Images are named without a registry, tagged with the version in pyproject.toml, and not pulled where they are."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, container in containers(objects):
        image = {"server": "ruo-server", "measure": "ruo-measure"}.get(name.partition("/")[2], "ruo-client")
        assert f"{image}:{version}" == container["image"], name
        assert "IfNotPresent" == container["imagePullPolicy"], name


@pytest.mark.parametrize("job", ["score", "merge", "measure"])
def test_the_clients_variables_are_read(render, job):
    """Each variable that a Job sets is one that its command reads."""
    ((_, container),) = containers(render(f"jobs/{job}"))
    read = {parameter.envvar for parameter in main.commands[container["command"][-1]].params} | {"RUO_TOKEN"}

    assert {each["name"] for each in container.get("env", [])} <= read

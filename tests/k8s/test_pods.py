"""What every pod must have: limits, probes, the restricted context, a clean stop, and settings that the server reads."""

import re
import time
import tomllib

from server.application import create_app
from server.settings import Settings
from tests.k8s.conftest import ROOT, amount

GUNICORN = (ROOT / "server" / "gunicorn.conf.py").read_text()
WORKER_BYTES = 700e6  # TensorFlow, Keras and a small model


def containers(objects):
    """Every container by the names of its pods' maker and itself."""
    for maker, template in objects.pods().items():
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{maker}/{container['name']}", container


def test_requests_and_limits(objects):
    """Every container says how much it needs and may take; of disk more than what the pod's volumes hold, for its log."""
    for name, container in containers(objects):
        resources = container["resources"]
        for what in ("cpu", "memory", "ephemeral-storage"):
            assert 0 < amount(resources["requests"][what]) <= amount(resources["limits"][what]), (name, what)
    for template in objects.pods().values():
        sizes = [amount(each["emptyDir"]["sizeLimit"]) for each in template["spec"]["volumes"] if "emptyDir" in each]
        for container in template["spec"]["containers"]:
            assert sum(sizes) < amount(container["resources"]["limits"]["ephemeral-storage"])


def test_jobs_fit_small_nodes(render):
    """A pod of a Job asks for no more of a node of two CPUs than what the servers and the system leave."""
    for job in ("score", "merge", "measure"):
        for _, container in containers(render(f"jobs/{job}")):
            assert amount(container["resources"]["requests"]["cpu"]) <= 0.25


def test_pods_are_restricted(objects):
    """Every pod passes the restricted pod security standard, and can write to a bounded /tmp alone."""
    allowed = "name configMap downwardAPI emptyDir ephemeral persistentVolumeClaim projected secret"
    for name, template in objects.pods().items():
        spec = template["spec"]
        context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert context.items() <= spec["securityContext"].items(), name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        assert all(set(volume) <= set(allowed.split()) for volume in volumes.values()), (name, volumes)
        for container in spec["containers"]:
            (writable,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp")
            assert "sizeLimit" in volumes[writable]["emptyDir"]
    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    for name, container in containers(objects):
        assert context == container["securityContext"], name  # and nothing that overrides the pod's
        assert not any("hostPort" in port for port in container.get("ports", [])), name


def test_no_pod_can_speak_to_kubernetes(objects):
    """No pod but the measuring one gets a token of its account; and none Services' addresses among its variables."""
    for name, template in objects.pods().items():
        assert template["spec"]["automountServiceAccountToken"] is (name == "ruo-measure"), name
        assert template["spec"]["enableServiceLinks"] is False, name
    for account in objects.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_namespace_and_account_are_there(server, render):
    """The pods' account is applied with them; the namespace enforces the restricted standard, and warns of it."""
    server.one("ServiceAccount", server.server()[1]["serviceAccountName"])
    labels = render("namespace").one("Namespace")["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert "restricted" == labels[f"pod-security.kubernetes.io/{mode}"]


def test_the_server_has_all_three_probes(server):
    """They need no token and ask the right questions; a model may take minutes to load, a busy server is not killed."""
    startup, liveness, readiness = (server.server()[2][f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    assert "/v2/health/live" == startup["httpGet"]["path"] == liveness["httpGet"]["path"]
    assert "/v2/health/ready" == readiness["httpGet"]["path"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 120
    assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 60
    assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 30
    app = create_app({"RUO_TOKEN": "secret", "MODEL_PATH": "/nowhere", "MODEL_POLL_SECONDS": "0"}).test_client()
    paths = ("/v2", liveness["httpGet"]["path"], readiness["httpGet"]["path"])
    assert [401, 200, 503] == [app.get(path).status_code for path in paths]


def test_the_grace_period_covers_the_stop(server, monkeypatch):
    """The time to stop is longer than preStop's sleep and Gunicorn's own grace together."""
    _, pod, container = server.server()
    python, option, code = container["lifecycle"]["preStop"]["exec"]["command"]
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    exec(code, {})
    graceful = int(re.search(r"^graceful_timeout = (\d+)", GUNICORN, re.MULTILINE)[1])
    assert ("python3", "-c") == (python, option)
    assert 5 <= sum(slept)
    assert sum(slept) + graceful + 10 <= pod["terminationGracePeriodSeconds"]


def test_the_servers_variables_are_read(server):
    """It reads and accepts each one that a manifest sets; the pod's name and token are there, and the port is its own."""
    sources = "".join(path.read_text() for path in (ROOT / "server").glob("*.py"))
    elsewhere = set(re.findall(r"""environ(?:\.get\(|\[)["']([A-Z_]+)["']""", sources)) - {"RUO_LIFELINE_FD"}
    known = {name.upper() for name in Settings.__dataclass_fields__} | elsewhere
    container = server.server()[2]
    env = {each["name"]: each for each in container["env"]}
    assert "LOG_FORMAT" in known
    assert set(env) <= known
    Settings.read({name: each.get("value", "") for name, each in env.items()})
    assert "metadata.name" == env["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
    is_open = any(each["spec"]["type"] == "NodePort" for each in server.all("Service"))
    token = {"name": "ruo-token", "key": "token", "optional": not is_open}  # the Secret must be there where it is open
    assert token == env["RUO_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert "PORT" not in env
    assert [Settings().port] == [port["containerPort"] for port in container["ports"]]


def test_the_workers_fit_the_memory(server):
    """Nothing but the limit of whole CPUs sets the workers, which, each with all that may wait, fit the memory limit."""
    _, _, container = server.server()
    limits = container["resources"]["limits"]
    env = {each["name"]: each.get("value", "") for each in container["env"]}
    settings = Settings.read(env)
    each = WORKER_BYTES + 2 * settings.max_request_bytes + settings.max_waiting_mb * 2**20
    assert set() == set(env) & {"WEB_CONCURRENCY", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "GUNICORN_CMD_ARGS"}
    assert re.fullmatch(r"\d+", limits["cpu"])
    assert int(limits["cpu"]) * each <= amount(limits["memory"])


def test_images_have_the_version_of_ruo(objects):
    """Images are named without a registry, tagged with the version in pyproject.toml, and not pulled where they are."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, container in containers(objects):
        image = {"server": "ruo-server", "measure": "ruo-measure"}.get(name.partition("/")[2], "ruo-client")
        assert f"{image}:{version}" == container["image"], name
        assert "IfNotPresent" == container["imagePullPolicy"], name

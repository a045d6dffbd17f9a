"""That the objects find one another: labels, ports and names, the budget, the autoscaler and the network."""

import re
from itertools import product

import pytest
import yaml

from server.metrics import Metrics
from tests.k8s.conftest import COMPONENTS, OVERLAYS, ROOT, amount, lets, matches

SERVER = {"app.kubernetes.io/name": "ruo", "app.kubernetes.io/component": "server"}
COMPONENT = {name: {"app.kubernetes.io/component": name} for name in ("score", "measure")}
SCORE = SERVER | COMPONENT["score"]
DNS = {"namespace": "kube-system", "pod": {"k8s-app": "kube-dns"}}
STRANGERS = [{"ip": "10.10.3.81"}, {"ip": "203.0.113.9"}, {"namespace": "default", "pod": {}}, {"namespace": "ruo", "pod": {}}]  # fmt: skip


def test_services_and_probes_find_pods_and_port(server):
    """The Deployment and each Service choose the server's pods and no Job's, and ports and probes are those of it."""
    deployment, _, container = server.server()
    labels = deployment["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = {service["metadata"]["name"]: service["spec"] for service in server.all("Service")}
    assert {"ruo", "ruo-headless"} == set(services)
    for selector in [deployment["selector"], *({"matchLabels": spec["selector"]} for spec in services.values())]:
        assert matches(selector, labels)
        assert not matches(selector, SCORE)
    for spec in services.values():
        assert [8000] == [port["port"] for port in spec["ports"]]
        assert {"http"} == {port["targetPort"] for port in spec["ports"]} <= set(ports)
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")} <= set(ports)
    assert "None" == services["ruo-headless"]["clusterIP"]  # so that nothing translates the port
    assert not services["ruo-headless"].get("publishNotReadyAddresses")
    assert list(ports.values()) == [port["port"] for port in services["ruo-headless"]["ports"]]


def test_how_many_pods_there_are_and_where_is_left_to_the_cluster(server):
    """An autoscaler that is added later would find replicas fallen to 1; a spread is a wish, by a label of every node."""
    deployment, pod, _ = server.server()
    assert "replicas" not in deployment
    for constraint in pod.get("topologySpreadConstraints", []):
        assert "ScheduleAnyway" == constraint["whenUnsatisfiable"]
        assert "kubernetes.io/hostname" == constraint["topologyKey"]
        assert matches(constraint["labelSelector"], deployment["template"]["metadata"]["labels"])


def test_the_budget_lets_a_drain_and_a_rollout_go_on(server):
    """One pod may always be taken away, ill ones at any time; a rollout can take its first step, and one pod serves."""
    deployment, _, _ = server.server()
    budget, rolling = dict(server.one("PodDisruptionBudget")["spec"]), deployment["strategy"]["rollingUpdate"]
    assert matches(budget.pop("selector"), deployment["template"]["metadata"]["labels"])
    assert {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"} == budget
    assert rolling["maxSurge"] + rolling["maxUnavailable"] >= 1
    replicas = max([1, *(each["spec"]["minReplicas"] for each in server.all("HorizontalPodAutoscaler"))])
    assert replicas - rolling["maxUnavailable"] >= 1


def test_what_is_deleted_takes_nothing_else_with_it(render):
    """The namespace, the servers, the data and each Job are apart: no two folders have an object in common."""
    folders = [["namespace"], ["overlays/local", "overlays/faculty"], ["jobs/data-local", "jobs/data-nfs"]]
    folders += [[f"jobs/{job}"] for job in ("score", "merge", "measure")]
    made = [[each for target in targets for each in render(target)] for targets in folders]
    names = [{(each["kind"], each["metadata"]["name"]) for each in objects} for objects in made]
    assert sum(map(len, names)) == len(set().union(*names))


@pytest.mark.parametrize("folder", [*OVERLAYS, *COMPONENTS])
def test_the_autoscaler_can_act(render, folder):
    """It points at the Deployment, whose containers say what a percentage of CPU is of, and is slow to take away."""
    objects = render(folder)
    scalers = [each["spec"] for each in objects.all("HorizontalPodAutoscaler")]
    assert len(scalers) == (folder == "overlays/faculty" or "autoscaling" in folder)
    for scaler in scalers:
        target, behaviour = scaler["scaleTargetRef"], scaler["behavior"]
        deployment = objects.one(target["kind"], target["name"])
        assert deployment["apiVersion"] == target["apiVersion"]
        assert (2, 10) == (scaler["minReplicas"], scaler["maxReplicas"])
        asked = {metric["resource"]["name"] for metric in scaler["metrics"] if metric["type"] == "Resource"}
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            assert asked <= set(container["resources"]["requests"])
        assert behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 300
        assert [{"type": "Pods", "value": 1, "periodSeconds": 60}] == behaviour["scaleDown"]["policies"]
        assert behaviour["scaleUp"]["stabilizationWindowSeconds"] < 60
        assert max(policy["value"] for policy in behaviour["scaleUp"]["policies"] if policy["type"] == "Pods") > 1


def test_the_metric_of_the_autoscaler_is_one_of_ours(render):
    """The requests under way that it asks for, and that the adapter hands on, are in /metrics under that name."""
    (metric,) = render("components/autoscaling-requests").one("HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    values = yaml.safe_load((ROOT / "k8s/components/autoscaling-requests/adapter-values.yaml").read_text())
    assert re.search(rf"^{name} ", Metrics().text().decode(), re.MULTILINE)
    assert [name] == [rule["seriesQuery"].partition("{")[0] for rule in values["rules"]["custom"]]


def test_components_go_together(render):
    """The two autoscalers exclude each other; all the others can be added to one overlay."""
    others = ("components/autoscaling-requests", "components/monitoring", "components/measurer")
    objects = render("overlays/local", *others)
    assert {"HorizontalPodAutoscaler", "ServiceMonitor", "Role"} <= {each["kind"] for each in objects}
    with pytest.raises(AssertionError, match="ruo-server"):
        render("components/autoscaling", "components/autoscaling-requests")


def test_the_server_is_reached_at_its_port_and_reaches_dns_only(server):
    """At the one port, from anywhere or, where nodes open a port, from whom a policy names; only names are looked up."""
    policies, other = server.all("NetworkPolicy"), {"app": "other"}
    is_open = any(each["spec"]["type"] == "NodePort" for each in server.all("Service"))
    known = [STRANGERS[0], *({"namespace": "ruo", "pod": SERVER | COMPONENT[name]} for name in ("score", "measure"))]
    for protocol in ("UDP", "TCP"):
        assert lets(policies, "Egress", SERVER, DNS, 53, protocol)
        assert lets(policies, "Egress", SERVER, {"ip": "169.254.20.10"}, 53, protocol)
    assert not lets(policies, "Egress", SERVER, DNS, 443)
    assert not lets(policies, "Egress", SERVER, {"ip": "10.10.3.80"}, 2049)  # the NFS server
    for peer in [*known, *STRANGERS]:
        assert lets(policies, "Ingress", SERVER, peer, 8000) == (peer in known or not is_open)
        assert not lets(policies, "Ingress", SERVER, peer, 8001)
        assert not lets(policies, "Ingress", SERVER, peer, 8000, "UDP")
    for port in (53, 443, 8000):
        assert not any(lets(policies, "Egress", SERVER, peer, port) for peer in STRANGERS)
        for direction, peer in product(["Ingress", "Egress"], [*STRANGERS, DNS]):
            assert not lets(policies, direction, other, peer, port)


def test_prometheus_gets_in(render):
    """The monitor chooses one Service, by a port that it has; its scrape passes even where the base lets nobody in."""
    objects = render("components/monitoring")
    monitor = objects.one("ServiceMonitor")["spec"]
    (service,) = (each for each in objects.all("Service") if matches(monitor["selector"], each["metadata"]["labels"]))
    (endpoint,) = monitor["endpoints"]
    narrowed = [each for each in objects.all("NetworkPolicy") if each["metadata"]["name"] != "ruo-server"]
    prometheus = {"namespace": "monitoring", "pod": {"app.kubernetes.io/name": "prometheus"}}
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert "/metrics" == endpoint["path"]
    assert lets(narrowed, "Ingress", SERVER, prometheus, 8000)
    assert not any(lets(narrowed, "Ingress", SERVER, peer, 8000) for peer in STRANGERS)


def test_scoring_pods_reach_the_servers_and_dns_only(render):
    """The Job's pods may ask for names and speak to the servers; the ones that merge may do nothing."""
    pods = render("jobs/score").pods() | render("jobs/merge").pods()
    labels = {name: template["metadata"]["labels"] for name, template in pods.items()}
    policies = [*render("overlays/local").all("NetworkPolicy"), *render("jobs/score").all("NetworkPolicy")]
    servers = {"namespace": "ruo", "pod": SERVER}
    assert lets(policies, "Egress", labels["ruo-score"], servers, 8000)
    assert lets(policies, "Egress", labels["ruo-score"], DNS, 53, "UDP")
    assert not lets(policies, "Egress", labels["ruo-merge"], servers, 8000)
    for name, direction, peer in product(["ruo-score", "ruo-merge"], ["Ingress", "Egress"], STRANGERS):
        assert not lets(policies, direction, labels[name], peer, 8000)


def test_only_the_measuring_pod_reaches_kubernetes(render):
    """It reaches the API, the servers and DNS, and nobody reaches it; no other pod reaches the API."""
    objects = render("jobs/measure")
    labels = objects.pods()["ruo-measure"]["metadata"]["labels"]
    policies = [*render("overlays/local").all("NetworkPolicy"), *objects.all("NetworkPolicy")]
    policies += render("jobs/score").all("NetworkPolicy")
    servers = {"namespace": "ruo", "pod": SERVER}
    for peer, port in ((STRANGERS[0], 6443), (STRANGERS[1], 443), (servers, 8000), (DNS, 53)):
        assert lets(policies, "Egress", labels, peer, port)
        assert not lets(policies, "Ingress", labels, peer, port)
    assert not lets(policies, "Egress", labels, STRANGERS[1], 80)
    others = (SERVER, SCORE, {"app": "other"})
    assert not any(lets(policies, "Egress", other, STRANGERS[0], 6443) for other in others)


def test_who_measures_may_do_what_scaling_takes(render):
    """The account is the pod's own, and may scale one Deployment, hold the autoscalers of one namespace, and look at its pods."""
    objects = render("jobs/measure")
    binding = objects.one("RoleBinding")
    (subject,) = binding["subjects"]
    rights = {}
    for rule in objects.one("Role", binding["roleRef"]["name"])["rules"]:
        rights |= dict.fromkeys(product(rule["resources"], rule["verbs"]), rule.get("resourceNames"))
    assert objects.pods()["ruo-measure"]["spec"]["serviceAccountName"] == subject["name"]
    assert "ruo" == subject["namespace"]
    ours = product(["deployments", "deployments/scale"], ["get", "patch"])
    others = product(["horizontalpodautoscalers", "pods", "services", "endpointslices"], ["get", "list"])
    expected = {right: ["ruo-server"] for right in ours} | dict.fromkeys(others)
    assert rights == {**expected, ("horizontalpodautoscalers", "patch"): None}


def test_the_faculty_is_the_cluster_of_2023(render):
    """Its ports, addresses, replicas and memory, and where the model lies, are those of the paper."""
    objects = render("overlays/faculty")
    service = objects.one("Service", "ruo")["spec"]
    (port,) = service["ports"]
    resources = objects.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["resources"]
    nfs = objects.one("PersistentVolume")["spec"]["nfs"]
    assert (8000, "http", 30001) == (port["port"], port["targetPort"], port["nodePort"])
    assert "Local" == service["externalTrafficPolicy"]  # else the policy would see a node's address, not the client's
    assert ("2Gi", "5Gi") == (resources["requests"]["memory"], resources["limits"]["memory"])
    assert amount(resources["requests"]["cpu"]) < 2  # a node has two, and its own pods need some of them
    assert ("10.10.3.80", "/var/nfs/public") == (nfs["server"], nfs["path"])


def test_local_is_small(render):
    """It fits a laptop's cluster beside other things, on one node."""
    _, pod, container = render("overlays/local").server()
    assert "topologySpreadConstraints" not in pod
    assert amount(container["resources"]["requests"]["cpu"]) <= 0.5
    assert amount(container["resources"]["requests"]["memory"]) <= 2**30

"""That the objects find one another: labels, ports and names, the budget, the autoscaler and the network."""

import re
from pathlib import Path

import pytest
import yaml

from server.metrics import Metrics

ROOT = Path(__file__).parents[2]
SERVER = {"app.kubernetes.io/name": "ruo", "app.kubernetes.io/component": "server"}
COMPONENT = {name: {"app.kubernetes.io/component": name} for name in ("score", "measure")}
SCORE = SERVER | COMPONENT["score"]
DNS = {"namespace": "kube-system", "pod": {"k8s-app": "kube-dns"}}
STRANGERS = [
    {"ip": "10.10.3.81"},
    {"ip": "203.0.113.9"},
    {"namespace": "default", "pod": {}},
    {"namespace": "ruo", "pod": {}},
]
AUTOSCALED = ["overlays/faculty", "components/autoscaling", "components/autoscaling-requests"]


def test_the_deployment_finds_its_pods(server, chooses):
    """The Deployment's selector chooses the pods that its template makes, and no Job's."""
    deployment = server.one("Deployment")["spec"]

    assert chooses(deployment["selector"], deployment["template"]["metadata"]["labels"])
    assert not chooses(deployment["selector"], SCORE)


def test_services_find_pods_and_port(server, chooses):
    """Each Service chooses the server's pods, at a port that the container has by that name."""
    template = server.one("Deployment")["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    services = server.all("Service")

    assert {"ruo", "ruo-headless"} == {service["metadata"]["name"] for service in services}
    for service in services:
        assert chooses({"matchLabels": service["spec"]["selector"]}, template["metadata"]["labels"])
        assert not chooses({"matchLabels": service["spec"]["selector"]}, SCORE)
        assert [8000] == [port["port"] for port in service["spec"]["ports"]]
        assert {"http"} == {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)


def test_the_headless_service_gives_the_pods_own_addresses(server):
    """It has no cluster IP, names ready pods only, and its port is the pods' own, since nothing translates it."""
    spec = server.one("Service", "ruo-headless")["spec"]
    container = server.one("Deployment")["spec"]["template"]["spec"]["containers"][0]

    assert "None" == spec["clusterIP"]
    assert not spec.get("publishNotReadyAddresses")
    assert [port["containerPort"] for port in container["ports"]] == [port["port"] for port in spec["ports"]]


def test_probes_ask_a_port_that_is_there(server):
    """The probes' port is one of the container's."""
    container = server.one("Deployment")["spec"]["template"]["spec"]["containers"][0]
    named = {port["name"] for port in container["ports"]}

    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")} <= named


def test_pods_are_spread_by_what_is_there(server, chooses):
    """Where pods are spread over nodes, it is a wish, by a label that every node has, and it counts the server's pods."""
    template = server.one("Deployment")["spec"]["template"]
    for constraint in template["spec"].get("topologySpreadConstraints", []):
        assert "ScheduleAnyway" == constraint["whenUnsatisfiable"]
        assert "kubernetes.io/hostname" == constraint["topologyKey"]
        assert chooses(constraint["labelSelector"], template["metadata"]["labels"])


def test_the_budget_lets_a_drain_and_a_rollout_go_on(server, chooses):
    """One pod may always be taken away, ill ones at any time; and a rollout can take its first step."""
    deployment = server.one("Deployment")["spec"]
    budget = server.one("PodDisruptionBudget")["spec"]
    rolling = deployment["strategy"]["rollingUpdate"]

    assert chooses(budget["selector"], deployment["template"]["metadata"]["labels"])
    assert 1 == budget["maxUnavailable"]
    assert "minAvailable" not in budget
    assert "AlwaysAllow" == budget["unhealthyPodEvictionPolicy"]
    assert rolling["maxSurge"] + rolling["maxUnavailable"] >= 1


def test_a_rollout_leaves_a_pod_that_serves(server):
    """While pods are replaced at least one is ready all the time."""
    deployment = server.one("Deployment")["spec"]
    replicas = max([1, *(each["spec"]["minReplicas"] for each in server.all("HorizontalPodAutoscaler"))])

    assert replicas - deployment["strategy"]["rollingUpdate"]["maxUnavailable"] >= 1


def test_no_manifest_says_how_many(server):
    """No Deployment has replicas of its own: an autoscaler that is added later would find one that has fallen to 1."""
    assert len(server.all("HorizontalPodAutoscaler")) <= 1
    assert "replicas" not in server.one("Deployment")["spec"]


def test_what_is_deleted_takes_nothing_else_with_it(render):
    """The namespace, the servers, the data and each Job are apart: no two folders have an object in common."""
    folders = [["namespace"], ["overlays/local", "overlays/faculty"], ["jobs/data-local", "jobs/data-nfs"]]
    folders += [[f"jobs/{job}"] for job in ("score", "merge", "measure")]
    names = [
        {(each["kind"], each["metadata"]["name"]) for target in targets for each in render(target)}
        for targets in folders
    ]

    assert sum(map(len, names)) == len(set().union(*names))


def test_every_autoscaled_folder_is_tested(render):
    """The folders of the next tests are those that have an autoscaler."""
    folders = ["overlays/local", "overlays/faculty"] + [
        f"components/{path.parent.name}" for path in ROOT.glob("k8s/components/*/kustomization.yaml")
    ]

    assert sorted(AUTOSCALED) == sorted(each for each in folders if render(each).all("HorizontalPodAutoscaler"))


@pytest.mark.parametrize("folder", AUTOSCALED)
def test_the_autoscaler_can_act(render, folder):
    """It points at the Deployment, between 2 and 10, and every container says what a percentage of CPU is of."""
    objects = render(folder)
    scaler = objects.one("HorizontalPodAutoscaler")["spec"]
    target = scaler["scaleTargetRef"]
    deployment = objects.one(target["kind"], target["name"])

    assert deployment["apiVersion"] == target["apiVersion"]
    assert (2, 10) == (scaler["minReplicas"], scaler["maxReplicas"])
    for metric in scaler["metrics"]:
        if metric["type"] == "Resource":
            for container in deployment["spec"]["template"]["spec"]["containers"]:
                assert metric["resource"]["name"] in container["resources"]["requests"]


@pytest.mark.parametrize("folder", AUTOSCALED)
def test_the_autoscaler_is_slow_to_take_away(render, folder):
    """Pods are taken away one at a time, after five quiet minutes, and added faster than that."""
    behaviour = render(folder).one("HorizontalPodAutoscaler")["spec"]["behavior"]

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


def test_two_autoscalers_cannot_be_combined(render):
    """The two components exclude each other: rendering both fails."""
    with pytest.raises(AssertionError, match="ruo-server"):
        render("components/autoscaling", "components/autoscaling-requests")


def test_components_go_together(render):
    """All the others can be added to one overlay."""
    objects = render(
        "overlays/local", "components/autoscaling-requests", "components/monitoring", "components/measurer"
    )

    assert {"HorizontalPodAutoscaler", "ServiceMonitor", "Role"} <= {each["kind"] for each in objects}


def test_the_server_is_reached_at_its_port_only(server, allowed):
    """At the one port: from anywhere, or, where nodes open a port, from the machines and pods that a policy names."""
    policies = server.all("NetworkPolicy")
    is_open = any(each["spec"]["type"] == "NodePort" for each in server.all("Service"))
    known = [STRANGERS[0], *({"namespace": "ruo", "pod": SERVER | COMPONENT[name]} for name in ("score", "measure"))]
    for peer in [*known, *STRANGERS]:
        assert allowed(policies, "Ingress", SERVER, peer, 8000) == (peer in known or not is_open)
        assert not allowed(policies, "Ingress", SERVER, peer, 8001)
        assert not allowed(policies, "Ingress", SERVER, peer, 8000, "UDP")


def test_the_server_reaches_dns_only(server, allowed):
    """Names may be looked up in the cluster; nothing else goes out, to the NFS server neither."""
    policies = server.all("NetworkPolicy")

    for protocol in ("UDP", "TCP"):
        assert allowed(policies, "Egress", SERVER, DNS, 53, protocol)
        assert allowed(policies, "Egress", SERVER, {"ip": "169.254.20.10"}, 53, protocol)
    assert not allowed(policies, "Egress", SERVER, DNS, 443)
    assert not allowed(policies, "Egress", SERVER, {"ip": "10.10.3.80"}, 2049)
    for peer in STRANGERS:
        for port in (53, 443, 8000):
            assert not allowed(policies, "Egress", SERVER, peer, port)


def test_other_pods_of_the_namespace_reach_nothing(server, allowed):
    """A pod that no policy speaks of is cut off."""
    policies = server.all("NetworkPolicy")
    for peer in [*STRANGERS, DNS]:
        for port in (53, 443, 8000):
            assert not allowed(policies, "Ingress", {"app": "other"}, peer, port)
            assert not allowed(policies, "Egress", {"app": "other"}, peer, port)


def test_prometheus_gets_in(render, chooses, allowed):
    """The monitor chooses one Service, by a port that it has; its scrape passes even where the base lets nobody in."""
    objects = render("components/monitoring")
    monitor = objects.one("ServiceMonitor")["spec"]
    (service,) = (each for each in objects.all("Service") if chooses(monitor["selector"], each["metadata"]["labels"]))
    (endpoint,) = monitor["endpoints"]
    narrowed = [each for each in objects.all("NetworkPolicy") if each["metadata"]["name"] != "ruo-server"]
    prometheus = {"namespace": "monitoring", "pod": {"app.kubernetes.io/name": "prometheus"}}

    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert "/metrics" == endpoint["path"]
    assert allowed(narrowed, "Ingress", SERVER, prometheus, 8000)
    for peer in STRANGERS:
        assert not allowed(narrowed, "Ingress", SERVER, peer, 8000)


def test_scoring_pods_reach_the_servers_and_dns_only(render, allowed):
    """The Job's pods may ask for names and speak to the servers; the ones that merge may do nothing."""
    labels = {
        name: template["metadata"]["labels"]
        for job in ("score", "merge")
        for name, template in render(f"jobs/{job}").pods().items()
    }
    policies = [*render("overlays/local").all("NetworkPolicy"), *render("jobs/score").all("NetworkPolicy")]
    servers = {"namespace": "ruo", "pod": SERVER}

    assert allowed(policies, "Egress", labels["ruo-score"], servers, 8000)
    assert allowed(policies, "Egress", labels["ruo-score"], DNS, 53, "UDP")
    assert not allowed(policies, "Egress", labels["ruo-merge"], servers, 8000)
    for name in ("ruo-score", "ruo-merge"):
        for peer in STRANGERS:
            assert not allowed(policies, "Egress", labels[name], peer, 8000)
            assert not allowed(policies, "Ingress", labels[name], peer, 8000)


def test_only_the_measuring_pod_reaches_kubernetes(render, allowed):
    """It reaches the API, the servers and DNS, and nobody reaches it; no other pod reaches the API."""
    objects = render("jobs/measure")
    labels = objects.pods()["ruo-measure"]["metadata"]["labels"]
    policies = [*render("overlays/local").all("NetworkPolicy"), *objects.all("NetworkPolicy")]
    policies += render("jobs/score").all("NetworkPolicy")

    for peer, port in (
        (STRANGERS[0], 6443),
        (STRANGERS[1], 443),
        ({"namespace": "ruo", "pod": SERVER}, 8000),
        (DNS, 53),
    ):
        assert allowed(policies, "Egress", labels, peer, port)
        assert not allowed(policies, "Ingress", labels, peer, port)
    assert not allowed(policies, "Egress", labels, STRANGERS[1], 80)
    for other in (SERVER, SCORE, {"app": "other"}):
        assert not allowed(policies, "Egress", other, STRANGERS[0], 6443)


def test_who_measures_may_do_what_scaling_takes(render):
    """The account is the pod's own, and may change one Deployment and the autoscalers of one namespace, and look."""
    objects = render("jobs/measure")
    binding = objects.one("RoleBinding")
    (subject,) = binding["subjects"]
    rights = {
        (resource, verb): rule.get("resourceNames")
        for rule in objects.one("Role", binding["roleRef"]["name"])["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    changes = {resource: names for (resource, verb), names in rights.items() if verb not in ("get", "list")}

    assert objects.pods()["ruo-measure"]["spec"]["serviceAccountName"] == subject["name"]
    assert "ruo" == subject["namespace"]
    assert {
        "deployments": ["ruo-server"],
        "deployments/scale": ["ruo-server"],
        "horizontalpodautoscalers": None,
    } == changes
    assert {("deployments", "get"), ("pods", "list"), ("services", "list"), ("endpointslices", "list")} <= set(rights)


def test_the_faculty_is_the_cluster_of_2023(render, number):
    """Its ports, addresses, replicas and memory, and where the model lies, are those of the paper."""
    objects = render("overlays/faculty")
    service = objects.one("Service", "ruo")["spec"]
    (port,) = service["ports"]
    resources = objects.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["resources"]
    nfs = objects.one("PersistentVolume")["spec"]["nfs"]

    assert (8000, "http", 30001) == (port["port"], port["targetPort"], port["nodePort"])
    assert (
        "Local" == service["externalTrafficPolicy"]
    )  # else the policy would see a node's address and not the client's
    assert ("2Gi", "5Gi") == (resources["requests"]["memory"], resources["limits"]["memory"])
    assert number(resources["requests"]["cpu"]) < 2  # a node has two, and its own pods need some of them
    assert ("10.10.3.80", "/var/nfs/public") == (nfs["server"], nfs["path"])


def test_local_is_small(render, number):
    """It fits a laptop's cluster beside other things, on one node."""
    spec = render("overlays/local").one("Deployment")["spec"]
    pod = spec["template"]["spec"]
    requests = pod["containers"][0]["resources"]["requests"]

    assert "topologySpreadConstraints" not in pod
    assert number(requests["cpu"]) <= 0.5
    assert number(requests["memory"]) <= 2**30

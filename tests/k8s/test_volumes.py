"""The model is read only, all the way from the NFS server's exports to the container; claims find their volumes."""

import ipaddress
import re

import pytest

from tests.k8s.conftest import OVERLAYS, ROOT, amount

NODES = ["10.10.3.80", "10.10.3.81", "10.10.3.82"]
WITH_VOLUMES = ["overlays/faculty", "overlays/local", "components/nfs-models", "jobs/data-nfs", "jobs/data-local"]


def exports():
    """The export file as {folder: {client: options}}."""
    text = (ROOT / "k8s" / "nfs" / "exports").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    clients = {folder: [re.fullmatch(r"(\S+)\((\S+)\)", each).groups() for each in rest] for folder, *rest in lines}
    return {folder: {client: options.split(",") for client, options in each} for folder, each in clients.items()}


@pytest.mark.parametrize("folder", WITH_VOLUMES)
def test_claims_find_their_volumes(render, folder):
    """Claim and volume name each other, agree in size and access, and no provisioner comes between them."""
    objects = render(folder)
    for claim in objects.all("PersistentVolumeClaim"):
        volume = objects.one("PersistentVolume", claim["spec"]["volumeName"])["spec"]
        assert {"namespace": "ruo", "name": claim["metadata"]["name"]} == volume["claimRef"]
        assert "" == claim["spec"]["storageClassName"] == volume["storageClassName"]
        assert set(claim["spec"]["accessModes"]) <= set(volume["accessModes"])
        assert amount(claim["spec"]["resources"]["requests"]["storage"]) <= amount(volume["capacity"]["storage"])
        assert "Retain" == volume["persistentVolumeReclaimPolicy"]
    assert objects.all("PersistentVolumeClaim")


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_claim_of_the_model_is_there(render, folder):
    """Each overlay has what stands behind the claim that the server's pods name, and it can be read by many nodes."""
    overlay = render(folder)
    _, pod, _ = overlay.server()
    (name,) = (each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each)
    assert ["ReadOnlyMany"] == overlay.one("PersistentVolumeClaim", name)["spec"]["accessModes"]


def test_the_claim_of_the_data_is_there(render):
    """Both sources of the data have the claim that the Jobs name; their pods' group gets the disk once, not by file."""
    jobs = [render(f"jobs/{job}") for job in ("score", "merge", "measure")]
    pods = [template["spec"] for job in jobs for template in job.pods().values()]
    claims = [volume.get("persistentVolumeClaim") for pod in pods for volume in pod["volumes"]]
    assert {"ruo-data"} == {claim["claimName"] for claim in claims if claim}
    for source in ("data-nfs", "data-local"):
        claim = render(f"jobs/{source}").one("PersistentVolumeClaim", "ruo-data")
        assert ["ReadWriteMany"] == claim["spec"]["accessModes"]
    for pod in pods:
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
        assert "OnRootMismatch" == pod["securityContext"]["fsGroupChangePolicy"]


def test_the_model_is_mounted_read_only(server):
    """The pod takes the claim read-only and the container mounts it so, where MODEL_PATH points, with no new owner."""
    _, pod, container = server.server()
    (volume,) = (each for each in pod["volumes"] if "persistentVolumeClaim" in each)
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == volume["name"])
    (path,) = (each["value"] for each in container["env"] if each["name"] == "MODEL_PATH")
    assert volume["persistentVolumeClaim"]["readOnly"] is True
    assert {"name": volume["name"], "mountPath": path, "readOnly": True} == mount  # and no subPath
    assert "fsGroup" not in pod["securityContext"]  # on a read-only volume the change of owner could only fail


@pytest.mark.parametrize("folder", ["overlays/faculty", "components/nfs-models"])
def test_nfs_models_are_read_only(render, folder):
    """The volume of the model is read-only on the node too, by the one-port protocol, and forgets what it saw soon."""
    volume = render(folder).one("PersistentVolume", "ruo-model")["spec"]
    assert volume["nfs"]["readOnly"] is True
    assert {"ro", "nfsvers=4.1", "hard"} <= set(volume["mountOptions"])
    (remembered,) = (int(each.partition("=")[2]) for each in volume["mountOptions"] if each.startswith("actimeo="))
    assert remembered <= 10


def test_what_is_mounted_is_exported(render):
    """Every NFS volume lies in the export file, for all nodes: the model read-only, the data to be written."""
    for folder in ("overlays/faculty", "jobs/data-nfs"):
        volume = render(folder).one("PersistentVolume")["spec"]
        (modes,) = (
            options[0]
            for client, options in exports()[volume["nfs"]["path"]].items()
            if all(ipaddress.ip_address(node) in ipaddress.ip_network(client) for node in NODES)
        )
        assert "10.10.3.80" == volume["nfs"]["server"]
        assert modes == ("ro" if "ro" in volume.get("mountOptions", []) else "rw")


def test_exports_are_narrow():
    """Nobody is served who is not named; root is nobody; the model can be written by one machine only."""
    for folder, clients in exports().items():
        for client, options in clients.items():
            assert ipaddress.ip_network(client).is_private, client
            assert ipaddress.ip_network(client).prefixlen >= 24, client
            assert {"root_squash", "all_squash"} & set(options), (folder, client)
            assert {"sync", "no_subtree_check"} <= set(options), (folder, client)
            assert not {"insecure", "no_root_squash", "async"} & set(options), (folder, client)
    writers = [client for client, options in exports()["/var/nfs/public"].items() if "rw" in options]
    assert [32] == [ipaddress.ip_network(client).prefixlen for client in writers]
    assert not set(writers) & set(NODES)


def test_the_pods_own_what_they_write(render):
    """Whoever writes data over NFS becomes the user that the Jobs' pods run as."""
    (options,) = exports()["/var/nfs/data"].values()
    context = render("jobs/score").one("Job")["spec"]["template"]["spec"]["securityContext"]
    assert {f"anonuid={context['runAsUser']}", f"anongid={context['runAsGroup']}"} <= set(options)

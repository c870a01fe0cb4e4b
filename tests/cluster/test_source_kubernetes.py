"""The Kubernetes source and a real kube-apiserver: what happens there is known here in less than a second."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias, cast

import pytest
import yaml  # type: ignore[import-untyped]

from cni_plugin.agent.sources.contract import Announcement
from cni_plugin.agent.sources.kube import access
from cni_plugin.agent.sources.kube.follow import Pace
from cni_plugin.agent.sources.kubernetes import Conf, KubernetesSource
from tests.cluster.control_plane import ControlPlane, missing
from tests.conformance.nodes import Json
from tests.pace import cheaper
from tests.unit.agent.sources.kube_objects import Object, big_node, node
from tests.unit.agent.sources.told import Told, wait

REPO = Path(__file__).resolve().parents[2]
MANIFEST = REPO / "conf" / "kubernetes" / "tulle.yaml"
MAC = "0a:54:0a:f4:01:00"
NODE_STATUS = MANIFEST.with_name("node-status.yaml")
CONFIG_MAPS = "/api/v1/namespaces/kube-tulle/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-tulle/leases"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/kube-tulle/serviceaccounts",
    "ConfigMap": CONFIG_MAPS,
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-tulle/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-tulle/rolebindings",
}
"""Where the kinds of the manifest are created; its DaemonSet is not wanted here."""

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"no Kubernetes API server: {missing()}"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server with the objects of our manifest."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        with plane.inside():
            for each in yaml.safe_load_all(MANIFEST.read_text()):
                if each["kind"] in PATHS:
                    plane.request("POST", PATHS[each["kind"]], each)
        yield plane


@pytest.fixture
def plane(running: ControlPlane) -> Iterator[ControlPlane]:
    """It, with this thread in its network, a plain configuration, and the node n1 alone."""
    with running.inside():
        configure(running, {"Network": "10.0.0.0/8"})
        running.request("DELETE", "/api/v1/nodes")
        running.request("DELETE", LEASES)
        create(running, node("n1", "10.244.1.0/24", "192.0.2.1"))
        yield running


Follow: TypeAlias = Callable[..., tuple[KubernetesSource, Told]]
Agent: TypeAlias = tuple[KubernetesSource, Told, str]


@pytest.fixture
def follow(plane: ControlPlane) -> Iterator[Follow]:
    """Starts a source as node n1."""
    started: list[tuple[KubernetesSource, Told]] = []

    def start(conf: Conf | None = None, **pace: object) -> tuple[KubernetesSource, Told]:
        told = Told()
        settings = conf or Conf(kubeconfig=str(plane.kubeconfig))
        source = KubernetesSource(settings, "n1", told.mailbox, Pace(**pace))  # type: ignore[arg-type]
        started.append((source, told))
        return source, told

    yield start
    for source, told in started:
        source.close()
        told.mailbox.close()


@pytest.fixture
def following(follow: Follow) -> tuple[KubernetesSource, Told]:
    """A source that has told its first snapshot."""
    source, told = follow()
    told.wait(lambda: told.names() == ["n1"])
    return source, told


def create(plane: ControlPlane, found: Object) -> None:
    plane.request("POST", "/api/v1/nodes", found)


def status(plane: ControlPlane, body: Json) -> None:
    plane.request("PATCH", "/api/v1/nodes/n1/status", {"status": body})


def configure(plane: ControlPlane, conf: object) -> None:
    text = conf if isinstance(conf, str) else json.dumps(conf)
    plane.request("PATCH", f"{CONFIG_MAPS}/tulle-config", {"data": {"net-conf.json": text}})


def said(address: str = "192.0.2.1") -> Announcement:
    return Announcement((ip_address(address),), "vxlan", lambda _: {"vtepMAC": MAC, "vni": "1"})


def own(plane: ControlPlane) -> Object:
    return cast(Object, plane.request("GET", "/api/v1/nodes/n1"))


def lease(plane: ControlPlane) -> Object:
    """The Lease of n1, {} when it has none."""
    found = cast(list[Object], plane.request("GET", LEASES)["items"])
    return next((each for each in found if each["metadata"]["name"] == "n1"), {})


def told_by(plane: ControlPlane) -> dict[str, str]:
    """What n1 announces."""
    found: dict[str, str] = lease(plane).get("metadata", {}).get("annotations", {})
    return found


def conditions(plane: ControlPlane) -> dict[str, Object]:
    return {each["type"]: each for each in own(plane)["status"].get("conditions", [])}


def test_nodes_that_come_change_and_go_are_known(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    _, told = following
    create(plane, node("n2", "10.244.2.0/24", "192.0.2.2"))
    told.wait(lambda: told.names() == ["n1", "n2"])
    status(plane, {"addresses": [{"type": "InternalIP", "address": "192.0.2.77"}]})
    changed = told.until(lambda found: str(found.nodes[0].addresses[0]) == "192.0.2.77")
    assert changed.me is not None and str(changed.me.addresses[0]) == "192.0.2.77"
    plane.request("DELETE", "/api/v1/nodes/n2")
    told.wait(lambda: told.names() == ["n1"])


def test_the_subnet_that_the_controller_manager_gives_to_a_node_is_its_own(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    _, told = following
    create(plane, node("n2", "", "192.0.2.2"))
    told.read_for(0.3)
    assert told.names() == ["n1"]
    plane.start("kube-controller-manager")
    try:
        told.wait(lambda: told.names() == ["n1", "n2"])
    finally:
        plane.kill("kube-controller-manager")
    found = {each.name: each for each in told.snapshot.nodes} if told.snapshot else {}
    given, mine = found["n2"].pod_cidrs[0], found["n1"].pod_cidrs[0]
    assert given.prefixlen == 24 and not given.overlaps(mine)


def test_an_api_server_that_is_killed_changes_nothing_and_is_followed_on_when_it_is_back(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    source, told = following
    plane.kill("kube-apiserver")
    try:
        told.wait(lambda: "127.0.0.1" in told.trouble and "refused" in told.trouble)
        source.publish(said())
        assert told.names() == ["n1"]
    finally:  # others need it
        plane.start("kube-apiserver")
        plane.wait_ready()
    create(plane, node("n2", "10.244.2.0/24", "192.0.2.2"))
    told.wait(lambda: told.names() == ["n1", "n2"] and told.trouble == "")
    wait(lambda: "tulle.network/address" in told_by(plane))


def test_an_api_server_that_freezes_is_noticed_and_followed_on_when_it_thaws(
    plane: ControlPlane, follow: Follow
) -> None:
    _, told = follow(watch=(2.0, 2.0), grace=0.5, answer=1.0, longest=1.0)
    told.wait(lambda: told.names() == ["n1"])
    plane.pause("kube-apiserver")
    try:
        told.wait(lambda: told.trouble != "")
        assert told.names() == ["n1"]
    finally:
        plane.go_on("kube-apiserver")
    create(plane, node("n2", "10.244.2.0/24", "192.0.2.2"))
    told.wait(lambda: told.names() == ["n1", "n2"] and told.trouble == "")


def test_a_connection_that_dies_without_a_word_is_replaced_and_sooner_when_the_node_moved(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    """The first by TCP's own word, after some 20 s; who has another address need not wait for that."""
    source, told = following
    source.publish(said())
    wait(lambda: "tulle.network/address" in told_by(plane))
    with plane.severed():
        begun = time.monotonic()
        create(plane, node("n2", "10.244.2.0/24", "192.0.2.2"))
        told.wait(lambda: told.names() == ["n1", "n2"])
        by_itself = time.monotonic() - begun
        assert told.trouble == ""
    with plane.severed():
        begun = time.monotonic()
        source.publish(said("192.0.2.9"))
        create(plane, node("n3", "10.244.3.0/24", "192.0.2.3"))
        told.wait(lambda: "n3" in told.names())
        wait(lambda: told_by(plane)["tulle.network/address"] == "192.0.2.9")
        cheaper(time.monotonic() - begun, by_itself)


def test_a_restart_of_the_storage_below_the_api_is_survived(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    _, told = following
    plane.kill("etcd")
    told.read_for(1.0)
    assert told.names() == ["n1"]
    plane.start("etcd")
    plane.wait_ready()
    create(plane, node("n2", "10.244.2.0/24", "192.0.2.2"))
    told.wait(lambda: told.names() == ["n1", "n2"] and told.trouble == "")


def test_what_is_published_is_in_the_nodes_lease_and_read_by_the_others(
    plane: ControlPlane, following: tuple[KubernetesSource, Told], follow: Follow
) -> None:
    source, _ = following
    before = own(plane)["metadata"]["resourceVersion"]
    source.publish(said())
    _, other = follow()
    found = other.until(lambda found: bool(found.nodes) and bool(found.nodes[0].data))
    assert found.nodes[0].data == {"vni": "1"}, "a MAC of ours is derived and never believed"
    assert told_by(plane)["tulle.network/address"] == "192.0.2.1" and told_by(plane)["tulle.network/backend"] == "vxlan"
    version = lease(plane)["metadata"]["resourceVersion"]
    source.publish(said())
    time.sleep(0.5)
    assert lease(plane)["metadata"]["resourceVersion"] == version  # what is there is not written again
    assert own(plane)["metadata"]["resourceVersion"] == before


def test_what_a_node_says_no_more_is_gone_from_its_lease(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    source, _ = following
    both = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    source.publish(Announcement(both, "vxlan", lambda _: {"vni": "1"}))
    wait(lambda: "tulle.network/ipv6-address" in told_by(plane))
    source.publish(Announcement(both[:1], "host-gw", lambda _: {}))
    wait(lambda: told_by(plane) == {"tulle.network/address": "192.0.2.1", "tulle.network/backend": "host-gw"})


def test_the_lease_of_a_node_that_is_deleted_is_collected_and_one_that_comes_back_has_its_own(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    """By the garbage collector of the controller manager, for the Node owns it."""
    source, told = following
    source.publish(said())
    wait(lambda: bool(told_by(plane)))
    first = lease(plane)["metadata"]["uid"]
    plane.start("kube-controller-manager")
    try:
        plane.request("DELETE", "/api/v1/nodes/n1")
        wait(lambda: not lease(plane))
        create(plane, node("n1", "10.244.9.0/24", "192.0.2.1"))
        wait(lambda: bool(lease(plane)))
        owner = lease(plane)["metadata"]["ownerReferences"][0]
        assert owner["uid"] == own(plane)["metadata"]["uid"] and lease(plane)["metadata"]["uid"] != first
        told.until(lambda found: found.me is not None and str(found.me.pod_cidrs[0]) == "10.244.9.0/24")
    finally:
        plane.kill("kube-controller-manager")


def test_ready_makes_the_network_available_and_keeps_it_so(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    source, _ = following
    bad = {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    status(plane, {"conditions": [ready, bad]})
    source.ready()
    wait(lambda: conditions(plane).get("NetworkUnavailable", {}).get("status") == "False")
    assert conditions(plane)["NetworkUnavailable"]["reason"] == "TulleIsUp"
    assert conditions(plane)["Ready"]["status"] == "True"
    status(plane, {"conditions": [ready, bad]})
    wait(lambda: conditions(plane)["NetworkUnavailable"]["status"] == "False")


def test_the_config_map_is_followed_and_a_broken_one_is_not_obeyed(
    plane: ControlPlane, following: tuple[KubernetesSource, Told]
) -> None:
    _, told = following
    configure(plane, {"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}})
    good = told.until(lambda found: found.conf is not None and found.conf.backend == "host-gw")
    configure(plane, '{"Network": "10.244.0.0/16",')
    broken = told.until(lambda found: bool(found.problems))
    assert broken.conf == good.conf and "net-conf.json" in broken.problems[0]
    plane.request("POST", CONFIG_MAPS, {"metadata": {"name": "another"}, "data": {"net-conf.json": "{}"}})
    configure(plane, {"Network": "10.0.0.0/8"})
    try:
        told.until(lambda found: found.problems == () and found.conf != good.conf)
    finally:
        plane.request("DELETE", f"{CONFIG_MAPS}/another")


@pytest.fixture
def as_agent(plane: ControlPlane, follow: Follow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Agent:
    """A source that has what an agent's pod has, and its token."""
    token = plane.token("kube-tulle", "tulle")
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", str(tmp_path))
    for key, value in plane.in_cluster(tmp_path, "kube-tulle", token).items():
        monkeypatch.setenv(key, value)
    source, told = follow(Conf())
    told.wait(lambda: told.names() == ["n1"] and told.trouble == "")
    return source, told, token


def test_the_rules_of_our_manifest_are_enough(plane: ControlPlane, as_agent: Agent) -> None:
    source, told, _ = as_agent
    source.publish(said())
    source.ready()
    wait(lambda: "tulle.network/address" in told_by(plane))
    configure(plane, {"Network": "10.244.0.0/16"})
    told.until(lambda found: found.conf is not None and str(found.conf.networks[0]) == "10.244.0.0/16")
    assert told.snapshot is not None and (told.trouble, told.snapshot.problems) == ("", ())


EVIL_OWNER = {"apiVersion": "v1", "kind": "Namespace", "name": "gone", "uid": "11111111-1111-1111-1111-111111111111"}


@pytest.mark.parametrize(("method", "path", "body"), [
    ("PATCH", "/api/v1/nodes/n1", {"spec": {"unschedulable": True}}),
    ("PATCH", "/api/v1/nodes/n1", {"metadata": {"ownerReferences": [EVIL_OWNER]}}),
    ("PATCH", "/api/v1/nodes/n1/status", {"metadata": {"ownerReferences": [EVIL_OWNER]}}),
    ("PATCH", "/api/v1/nodes/n1/status", {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
    ("PATCH", "/api/v1/nodes/n1/status", {"metadata": {"annotations": {"tulle.network/address": "192.0.2.66"}}}),
    ("PATCH", "/api/v1/nodes/n1/status", {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.66"}]}}),
    ("PATCH", "/api/v1/nodes/n1/status", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
    ("PATCH", "/api/v1/nodes/n1/status", {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}}),
    ("DELETE", "/api/v1/nodes/n1", None),
    ("POST", "/api/v1/nodes", {"metadata": {"name": "n9"}}),
    ("GET", CONFIG_MAPS, None),
    ("PATCH", f"{CONFIG_MAPS}/tulle-config", {"data": {"net-conf.json": "{}"}}),
    ("DELETE", LEASES, None),
    ("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", {"metadata": {"name": "n1"}}),
    ("POST", "/api/v1/namespaces/kube-tulle/serviceaccounts/tulle/token", {"spec": {}}),
    ("GET", "/api/v1/secrets", None),
    ("GET", "/api/v1/namespaces/kube-tulle/secrets", None),
    ("GET", "/api/v1/pods", None),
    ("PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/tulle", {"rules": []}),
])  # fmt: skip
def test_the_agents_token_can_do_nothing_else(
    plane: ControlPlane, as_agent: Agent, method: str, path: str, body: Object | None
) -> None:
    with pytest.raises(AssertionError, match=" 403 "):
        plane.request(method, path, cast(Json | None, body), as_agent[2])


def test_the_right_to_write_nodes_status_is_what_node_status_yaml_gives_and_takes(
    plane: ControlPlane, as_agent: Agent
) -> None:
    source, told, _ = as_agent
    bad = {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}
    status(plane, {"conditions": [bad]})
    source.ready()
    found = told.until(lambda found: bool(found.problems))
    assert "403" in found.problems[0] and found.problems[0].endswith(
        "apply conf/kubernetes/node-status.yaml (chart: nodeStatus=true), which allows it"
    )
    assert conditions(plane)["NetworkUnavailable"]["status"] == "True"
    objects = list(yaml.safe_load_all(NODE_STATUS.read_text()))
    for each in objects:
        plane.request("POST", PATHS[each["kind"]], each)
    try:
        wait(lambda: conditions(plane)["NetworkUnavailable"]["status"] == "False")
    finally:
        for each in objects:
            plane.request("DELETE", f"{PATHS[each['kind']]}/{each['metadata']['name']}")


def test_without_the_right_to_leases_the_cluster_is_what_the_node_objects_say_and_that_is_told(
    plane: ControlPlane, as_agent: Agent
) -> None:
    """As beside the rules of a release before, until those of this one are applied."""
    source, told, _ = as_agent
    role = f"{PATHS['Role']}/tulle"
    rules = cast(list[Object], plane.request("GET", role)["rules"])
    plane.request("PATCH", role, cast(Json, {"rules": [each for each in rules if "leases" not in each["resources"]]}))
    try:
        source.publish(said())
        found = told.until(lambda found: any("peers are not told" in each for each in found.problems))
        assert told.names() == ["n1"] and any("apply the RBAC rules" in each for each in found.problems)
    finally:
        plane.request("PATCH", role, cast(Json, {"rules": rules}))
    told.until(lambda found: found.problems == ())
    assert "tulle.network/address" in told_by(plane)


def test_a_service_account_without_the_rules_is_told_what_is_missing(
    plane: ControlPlane, follow: Follow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    plane.request("POST", PATHS["ServiceAccount"], cast(Json, account))
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", str(tmp_path))
    token = plane.token("kube-tulle", "nobody")
    for key, value in plane.in_cluster(tmp_path, "kube-tulle", token).items():
        monkeypatch.setenv(key, value)
    _, told = follow(Conf())
    told.wait(lambda: "403" in told.trouble and "conf/kubernetes/tulle.yaml" in told.trouble)
    assert token not in told.trouble


MEASURE = """
import json, select, sys
def kilobytes(key):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(key)))
import cni_plugin.agent.service
from cni_plugin.agent.sources.contract import Mailbox, open_source
before = kilobytes("VmRSS")
mailbox = Mailbox()
source = open_source({"type": "kubernetes", "kubeconfig": sys.argv[1]}, "n1", mailbox)
count = 0
while count < int(sys.argv[2]):
    select.select([mailbox], [], [])
    snapshot, trouble = mailbox.take()
    assert not trouble, trouble
    count = len(snapshot.nodes) if snapshot else 0
print(json.dumps({"agent_kB": before, "after_kB": kilobytes("VmRSS"), "peak_kB": kilobytes("VmHWM")}))
source.close()
"""


@pytest.mark.parametrize("count", [1000, pytest.param(5000, marks=pytest.mark.soak)])
def test_a_large_cluster_is_known_within_little_memory(plane: ControlPlane, count: int) -> None:
    for index in range(count):
        create(plane, big_node(index))
    words = [sys.executable, "-c", MEASURE, str(plane.kubeconfig), str(count + 1)]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(f"{count} nodes of 10 kB:", figures)
    assert figures["peak_kB"] < 80_000

"""Tulle on a real Kubernetes: API server, controllers, scheduler, and nodes with a containerd and a kubelet each.

It is delivered as a user delivers it: the image of scripts/image on each node, conf/kubernetes/tulle.yaml applied. One
cluster serves the whole file; each test leaves it with the nodes n1 and n2 and with the pods of `web`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from scripts.lib.lab import kube_parts, kube_tulle, labs, namespaces
from scripts.lib.lab.kube import PORT
from scripts.lib.lab.topology import LABS, REPO, Spec
from tests.cluster.kube import Cluster, Lines, Pod, at
from tests.conformance.nodes import Json
from tests.manual import script, tried_by

PLUGIN = Path(os.environ.get("TULLE_PLUGIN", REPO / "dist" / "tulle" / "tulle"))
LAB = str(REPO / "scripts" / "lab")
NODES = ("n1", "n2")
API = "https://10.96.0.1/version"
"""The API server by its Service."""
BUILT = "" if PLUGIN.with_name("tulled").exists() else "dist/tulle is not built: run scripts/build"
LACKS = kube_parts.lacks() or BUILT

pytestmark = [
    pytest.mark.xdist_group("kubernetes"),
    pytest.mark.skipif(bool(LACKS), reason=f"no Kubernetes: {LACKS}"),
]


@pytest.fixture(scope="module")
def bare() -> Iterator[Cluster]:
    """Two nodes on which nothing has set up a network yet."""
    spec = Spec(name=f"k{os.getpid()}", nodes=2, family="4", source="kubernetes", plugin=str(PLUGIN))
    try:
        cluster = Cluster(labs.up(spec))
        for node in NODES:
            kube_tulle.give_image(cluster.kube, node)
        cluster.kube.wait(lambda: all(cluster.kube.conditions(node) for node in NODES), "both nodes have registered")
        yield cluster
    finally:
        labs.down(spec.name)
        nothing_is_left(spec.prefix, spec.name)


@pytest.fixture(scope="module")
def cluster(bare: Cluster) -> Cluster:
    """With Tulle, and two pods a node behind the Service `web`."""
    kube_tulle.apply(bare.kube)
    bare.kube.ready(*NODES)
    kube_tulle.run_web(bare.kube, 4)
    return bare


def one_on_each(cluster: Cluster) -> tuple[Pod, Pod]:
    """A pod of n1 and a pod of n2, of the four behind `web`."""
    pods = cluster.wait_for_pods("web", 4)
    return tuple(next(each for each in pods if each.node == node) for node in NODES)  # type: ignore[return-value]


def conflists(cluster: Cluster, node: str) -> list[str]:
    """The CNI configurations that containerd finds on a node."""
    return cluster.on(node, "ls /etc/cni/net.d").split()


def subnet(cluster: Cluster, node: str) -> str:
    """What the controller manager gave to a node."""
    return at(cluster.kube.get("node", node), "spec.podCIDR")


def test_a_node_is_not_ready_before_the_agent_has_put_the_configuration_in_place(bare: Cluster) -> None:
    kube = bare.kube
    for node in NODES:
        assert kube.conditions(node)["Ready"] == "False"
        assert conflists(bare, node) == []
    kube_tulle.apply(kube)
    kube.ready(*NODES)
    for node in NODES:
        assert conflists(bare, node) == ["10-tulle.conflist"]
        log = (kube.folder / "log" / f"{node}-containerd").read_text()
        assert not [line for line in log.splitlines() if "failed to reload cni" in line and "10-tulle" in line]


def test_the_manuals_commands_bring_image_and_manifest(cluster: Cluster, tmp_path: Path) -> None:
    """Once more what the cluster has: the image as the manual imports it on a node, the manifest as it is applied."""
    kube = cluster.kube
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "tulle-image.tar").symlink_to(kube_tulle.image_of(PLUGIN.parent, kube.folder))
    on_node = script(tried_by(__file__, "on a node"))
    assert "tulle" in kube.on("n1", "sh", "-euc", f"cd {tmp_path}\n{on_node}")
    admin = {"KUBECONFIG": str(kube.keys.folder / "admin.kubeconfig"), "PATH": kube.path}
    words = [*namespaces.inside(kube.spec.wire), "sh", "-euc", script(tried_by(__file__, "as administrator"))]
    said = subprocess.run(words, cwd=REPO, env=os.environ | admin, capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "daemonset.apps/tulle" in said.stdout, said.stderr
    kube_tulle.apply(kube)
    kube.ready(*NODES)


def test_each_agent_tells_of_its_node_by_a_lease_and_writes_to_no_node(cluster: Cluster) -> None:
    leases = cluster.items("leases", "-n", kube_tulle.NAMESPACE)
    assert sorted((at(each, "metadata.name"), at(each, "spec.holderIdentity")) for each in leases) == [
        (node, node) for node in NODES
    ]
    for node in NODES:
        assert "tulle.network/" not in json.dumps(cluster.kube.get("node", node))
        assert "NetworkUnavailable" not in cluster.kube.conditions(node), "nobody said it, so nobody says the contrary"


def test_what_the_tool_writes_can_be_had_from_the_agents_container(cluster: Cluster) -> None:
    tool = ("-n", kube_tulle.NAMESPACE, "exec", "daemonset/tulle", "-c", "tulled", "--", "tullectl")
    assert "wrote cluster.svg" in cluster.kube.kubectl(*tool, "map")
    assert "wrote tulle-bundle-" in cluster.kube.kubectl(*tool, "bundle")
    assert cluster.kube.kubectl(*tool, "map", "-o", "-").startswith("<svg")


def test_pods_get_addresses_of_their_nodes_subnet_and_the_right_mtu(cluster: Cluster) -> None:
    pods = cluster.pods("web")
    assert sorted(each.node for each in pods) == ["n1", "n1", "n2", "n2"]
    for pod in pods:
        assert pod.address.rpartition(".")[0] == subnet(cluster, pod.node).rpartition(".")[0]
        assert " mtu 1450 " in namespaces.run(cluster.in_pod(pod, "ip", "-o", "link", "show", "eth0"))


def test_pods_of_two_nodes_reach_each_other_by_vxlan(cluster: Cluster) -> None:
    first, second = one_on_each(cluster)
    with cluster.lab.capture("udp port 8472") as seen:
        assert cluster.ping(first, second.address)
        assert cluster.fetch(first, f"http://{second.address}:8080").strip() == second.name
    assert any(f"{first.address} > {second.address}: ICMP echo request" in line for line in seen), seen
    assert cluster.ping(second, first.address, "-M", "do", "-s", str(1450 - 28)), "a packet of the whole MTU"


def test_a_service_reaches_pods_of_both_nodes_from_a_pod(cluster: Cluster) -> None:
    first, second = one_on_each(cluster)
    service = at(cluster.kube.get("service", "web"), "spec.clusterIP")
    for client in (first, second):
        names = {cluster.fetch(client, f"http://{service}").strip() for _ in range(12)}
        assert any(each.name in names and each.node != client.node for each in cluster.pods("web")), names


def test_a_pod_reaches_the_api_server_by_its_service(cluster: Cluster) -> None:
    """From its own address, which the API server has no route to: this is the masquerade."""
    first, _ = one_on_each(cluster)
    words = cluster.in_pod(first, "curl", "-sk", "-m", "5", API)
    assert "gitVersion" in namespaces.run(words)


def test_a_host_port_leads_to_its_pod(cluster: Cluster) -> None:
    container: Json = {
        "command": ["sh", "-c", kube_tulle.WEB], "ports": [{"containerPort": 8080, "hostPort": 8888}],
    }
    with cluster.running("hp", 1, container, nodeName="n1") as (pod,):
        said = namespaces.run(["curl", "-s", "-m", "5", "http://192.0.2.1:8888"], netns=cluster.lab.spec.wire)
        assert said.strip() == pod.name


def test_a_node_joins_under_traffic_and_leaves_again(cluster: Cluster) -> None:
    first, second = one_on_each(cluster)
    kube = cluster.kube
    watch = [*kube.kubectl_words(), "get", "node", "--watch", "--no-headers", "--output-watch-events",
             "-o", "custom-columns=N:.object.metadata.name,T:.type,C:.object.spec.podCIDR"]
    routes = {node: [*namespaces.inside(cluster.lab.node(node).netns), "ip", "monitor", "route"] for node in NODES}
    with Lines(watch, {"PATH": kube.path}) as nodes, Lines(routes["n1"]) as at_n1, Lines(routes["n2"]) as at_n2:
        with cluster.pinging(first, second.address):
            node = cluster.lab.add_node()
            kube_tulle.give_image(kube, node.name)
            kube.ready("n3")
            cidr = subnet(cluster, "n3")
            given = nodes.first(lambda line: line.startswith("n3") and cidr in line)
            joined = [round(each.first(lambda line: line.startswith(cidr)) - given, 2) for each in (at_n1, at_n2)]
            with cluster.running("third", 1, nodeSelector={"kubernetes.io/hostname": "n3"}) as (third,):
                assert cluster.ping(first, third.address) and cluster.ping(third, second.address)
            kube.kubectl("drain", "n3", "--ignore-daemonsets", "--force", timeout=90)
            kube.kubectl("delete", "node", "n3")
            cluster.lab.remove_node()
            gone = nodes.first(lambda line: line.startswith("n3") and "DELETED" in line)
            deleted = f"Deleted {cidr}"
            left = [round(each.first(lambda line: line.startswith(deleted)) - gone, 2) for each in (at_n1, at_n2)]
    for node_name in NODES:
        tables = cluster.tables(node_name)
        assert cidr.removesuffix("/24") not in tables and "192.0.2.3" not in tables, tables
    print(f"joined after {joined} s, left after {left} s")


def test_an_update_of_the_agent_loses_no_packet_and_pods_start_meanwhile(cluster: Cluster) -> None:
    first, second = one_on_each(cluster)
    before = agents(cluster)
    with cluster.pinging(first, second.address):
        cluster.kube.kubectl("-n", kube_tulle.NAMESPACE, "rollout", "restart", "daemonset/tulle")
        with cluster.running("meanwhile", 6) as pods:
            cluster.kube.kubectl("-n", kube_tulle.NAMESPACE, "rollout", "status", "daemonset/tulle", timeout=120)
            assert not before & agents(cluster), "both agents are new ones"
            assert all(cluster.ping(first, each.address) for each in pods)


def test_a_mistake_in_the_settings_stops_the_update_at_the_first_node(cluster: Cluster) -> None:
    """And pods of that node keep their network, and others start there: the plugin serves itself."""
    kube, here = cluster.kube, ("-n", kube_tulle.NAMESPACE)
    first, second = one_on_each(cluster)
    before = agents(cluster)
    right = cast(dict[str, str], kube.get("configmap", "tulle-config", *here)["data"])["agent.json"]
    with cluster.pinging(first, second.address):
        settings(cluster, right.replace('"mesh"', '"mehs"'))
        kube.kubectl(*here, "rollout", "restart", "daemonset/tulle")
        try:
            (held,) = kept(cluster, lambda: agents(cluster) - before)
            kube.wait(lambda: "mehs" in (kube.try_kubectl(*here, "logs", held, "-c", "check") or ""), "it is said why")
            with cluster.running("meanwhile", 4) as pods:
                assert {each.node for each in pods} == set(NODES)
                assert all(cluster.ping(first, each.address) for each in pods)
            assert len(before & agents(cluster)) == 1, "the other node's agent is the one from before"
        finally:
            settings(cluster, right)
            kube.kubectl(*here, "rollout", "restart", "daemonset/tulle")
            kube.kubectl(*here, "rollout", "status", "daemonset/tulle", timeout=180)


def settings(cluster: Cluster, text: str) -> None:
    """The agents' settings in the ConfigMap."""
    patch = json.dumps({"data": {"agent.json": text}})
    cluster.kube.kubectl("-n", kube_tulle.NAMESPACE, "patch", "configmap", "tulle-config", "--patch", patch)


def kept(cluster: Cluster, look: Callable[[], set[str]]) -> set[str]:
    """What is found once anything is."""
    cluster.kube.wait(lambda: bool(look()), "an agent is new")
    return look()


def agents(cluster: Cluster) -> set[str]:
    """The agents' pods by their names; a pod of a node that was deleted is collected a minute later."""
    pods = cluster.items("pods", "-n", kube_tulle.NAMESPACE)
    return {at(each, "metadata.name") for each in pods if at(each, "spec.nodeName") in NODES}


def test_thirty_pods_come_and_go_and_leave_nothing(cluster: Cluster) -> None:
    cluster.wait_for_pods("web", 4)
    cluster.kube.wait(lambda: not cluster.items("pods", "-l", "app!=web"), "no other pod is left")
    before = {node: settled(cluster, node) for node in NODES}
    with cluster.running("many", 30) as pods:
        assert len({each.address for each in pods}) == 30 and {each.node for each in pods} == set(NODES)
    for node in NODES:
        cluster.kube.wait(lambda node=node: cluster.left(node) == before[node], f"{node} is as before", 60)  # type: ignore[misc]


def settled(cluster: Cluster, node: str) -> dict[str, list[str]]:
    """What there is of pods on a node once every DEL has been called."""
    count = len([each for each in cluster.pods("web") if each.node == node])
    cluster.kube.wait(lambda: len(cluster.left(node)["namespaces"]) == count, f"{node} has {count} pods and no other")
    return cluster.left(node)


def test_while_the_api_server_is_away_nothing_stops_and_pods_can_be_added(cluster: Cluster) -> None:
    """Not even when the agent is killed meanwhile."""
    first, second = one_on_each(cluster)
    with cluster.pinging(first, second.address), without_api(cluster):
        ended = time.monotonic()
        with lone_pod(cluster, "n1") as address:
            assert cluster.ping(second, address)
        cluster.on("n1", "pkill -KILL -x tulled")
        cluster.kube.wait(lambda: "kubernetes" in source_trouble(cluster, "n1").lower(), "there is an agent again")
        with lone_pod(cluster, "n1") as address:
            assert cluster.ping(second, address)
            assert status(cluster, "n1") == 0
            time.sleep(max(0.0, ended + 30 - time.monotonic()))
            assert cluster.ping(second, address)
        cluster.kube.start("kube-apiserver")
        cluster.kube.wait(lambda: not source_trouble(cluster, "n1"), "the agent has found the API again")


def test_a_node_that_reboots_takes_no_pod_before_it_has_learned_the_cluster_again(cluster: Cluster) -> None:
    first, _ = one_on_each(cluster)
    before = {each.name: each.restarts for each in cluster.pods("web") if each.node == "n2"}
    with without_api(cluster):
        cluster.lab.reboot("n2")
        cluster.kube.wait_for_containerd("n2")
        assert conflists(cluster, "n2") == ["10-tulle.conflist"], "it is on the disk: containerd would start pods"
        assert status(cluster, "n2") == 50
        cluster.kube.start("kube-apiserver")
    cluster.kube.wait(lambda: len(restarted(cluster, before)) == 2, "n2's pods run again", 90)
    assert all(cluster.ping(first, each.address) for each in restarted(cluster, before))
    assert status(cluster, "n2") == 0
    # this boot has the boot ID of the one before: here it is kubelet that has old sandboxes taken down, in its own time
    cluster.kube.wait(lambda: len(settled(cluster, "n2")["addresses"]) == 2, "no address is held by a pod from before")


def restarted(cluster: Cluster, before: dict[str, int]) -> list[Pod]:
    """Those of some pods that run, and were started more often than before."""
    return [each for each in cluster.pods("web") if each.restarts > before.get(each.name, each.restarts)]


def source_trouble(cluster: Cluster, node: str) -> str:
    """What a node's agent says is wrong with the API, "" for nothing."""
    said = json.loads(cluster.on(node, "/opt/tulle/current/tullectl status --json"))
    return str(said["agent"]["cluster"]["trouble"]) if said["agent"] else ""


@contextlib.contextmanager
def without_api(cluster: Cluster) -> Iterator[None]:
    """The API server is away until the body starts it; it is there again in the end whatever happens."""
    cluster.kube.stop("kube-apiserver")
    try:
        yield
    except BaseException:
        cluster.kube.start("kube-apiserver")
        raise
    cluster.kube.ready(*NODES)


@contextlib.contextmanager
def runtime(cluster: Cluster, node: str) -> Iterator[str]:
    """The command of a runtime that asks no kubelet and speaks CNI 1.1, for the node's network alone."""
    conf = cast(Json, json.loads(cluster.on(node, "cat /etc/cni/net.d/10-tulle.conflist")))
    alone = {**conf, "cniVersion": "1.1.0", "plugins": cast(list[Json], conf["plugins"])[:1]}
    folder = cluster.on(node, "mktemp -d -p /run").strip()
    cluster.on(node, f"echo {shlex.quote(json.dumps(alone))} >{folder}/10.conflist")
    command = shlex.join([sys.executable, "-I", str(REPO / "scripts/lib/lab/runtime.py")])
    yield f"CNI_PATH=/opt/cni/bin NETCONFPATH={folder} {command}"
    cluster.on(node, f"rm -r {folder}")


def status(cluster: Cluster, node: str) -> int:
    """The code that STATUS answers, 0 when a pod may come."""
    with runtime(cluster, node) as command:
        said = cluster.on(node, f"{command} status tulle 2>&1 || true")
    coded = re.search(r"\(code (\d+)\)", said)
    assert coded or not said, said
    return int(coded[1]) if coded else 0


@contextlib.contextmanager
def lone_pod(cluster: Cluster, node: str) -> Iterator[str]:
    """A pod that no kubelet knows; its address."""
    with runtime(cluster, node) as command:
        try:
            result = json.loads(cluster.on(node, f"ip netns add lone; {command} add tulle lone"))
            yield cast(list[dict[str, str]], result["ips"])[0]["address"].split("/")[0]
        finally:
            cluster.on(node, f"{command} del tulle lone; ip netns del lone")


def test_the_lab_shows_the_cluster_as_a_person_asks_for_it(cluster: Cluster) -> None:
    name = cluster.lab.spec.name
    assert "kube-tulle" in lab("status", "--name", name)
    assert "tulle-config" in lab("kubectl", "--name", name, "-n", "kube-tulle", "get", "configmaps")
    assert "tulle.1" in lab("exec", "--name", name, "n1", "--", "ip", "-br", "link")


def test_without_kube_proxy_nodes_become_ready_by_the_api_servers_own_address_and_pods_reach_each_other(
    cluster: Cluster,
) -> None:
    """Services are nobody's then; what needs none works, and Tulle is no exception once it is told where the API is."""
    kube = cluster.kube
    with without_kube_proxy(cluster):
        assert not any(answers(cluster, node, API) for node in NODES)
        remove_tulle(cluster)
        for node in NODES:
            cluster.on(node, "rm /etc/cni/net.d/10-tulle.conflist")
        kube.wait(lambda: all(kube.conditions(node)["Ready"] == "False" for node in NODES), "no node is Ready")
        kube_tulle.apply(kube, KUBERNETES_SERVICE_HOST=kube.address, KUBERNETES_SERVICE_PORT=str(PORT))
        kube.ready(*NODES)
        container: Json = {"command": ["sh", "-c", kube_tulle.WEB]}
        with cluster.running("unproxied", 4, container) as pods:
            first, second = (next(each for each in pods if each.node == node) for node in NODES)
            assert cluster.ping(first, second.address)
            assert cluster.fetch(second, f"http://{first.address}:8080").strip() == first.name


@contextlib.contextmanager
def without_kube_proxy(cluster: Cluster) -> Iterator[None]:
    """No node has a kube-proxy or a rule of one. It, and Tulle's agents by it, are there again in the end."""
    kube = cluster.kube
    ended = "pkill -x kube-proxy; while pgrep -x kube-proxy >/dev/null; do sleep 0.1; done"
    try:
        for node in NODES:
            cluster.on(node, f"{ended}; iptables-save | grep -v KUBE- | iptables-restore; conntrack -F")
        yield
    finally:
        for node in NODES:
            log = kube.folder / "log" / f"{node}-kube-proxy"
            cluster.on(node, f"kube-proxy --config={kube.node_folder(node)}/conf/kube-proxy.json >>{log} 2>&1 &")
        for node in NODES:
            kube.wait(lambda node=node: answers(cluster, node, API), f"{node} reaches the API by its Service")  # type: ignore[misc]
        remove_tulle(cluster)
        kube_tulle.apply(kube)
        kube.kubectl("-n", kube_tulle.NAMESPACE, "rollout", "status", "daemonset/tulle", timeout=120)
        kube.ready(*NODES)


def answers(cluster: Cluster, node: str, url: str) -> bool:
    """Whether an HTTPS server answers a node within a second."""
    return bool(cluster.kube.on(node, "curl", "-sk", "-m", "1", url, check=False))


def remove_tulle(cluster: Cluster) -> None:
    """No agent runs any more; what agents have made on the nodes stays."""
    cluster.kube.kubectl("-n", kube_tulle.NAMESPACE, "delete", "daemonset", "tulle", "--ignore-not-found")
    cluster.kube.wait(lambda: not agents(cluster), "the agents are gone")


def test_up_makes_a_dual_stack_cluster_and_down_leaves_nothing(cluster: Cluster) -> None:
    del cluster  # one after the other: two clusters at once would be slow
    name = f"d{os.getpid()}"
    try:
        told = lab("up", "--name", name, "--source", "kubernetes", "--nodes", "2", "--pods", "1", "--family", "dual",
                   "--plugin", str(PLUGIN))
        assert "pod/web" in told and "n2" in told
        dual = Cluster(labs.load(name))
        first, second = dual.wait_for_pods("web", 2)
        assert (first.node, second.node) == NODES, "the scheduler spreads them"
        assert [":" in each for each in second.addresses] == [False, True]
        assert all(dual.ping(first, address) for address in second.addresses)
        assert " mtu 1450 " in namespaces.run(dual.in_pod(first, "ip", "-o", "link", "show", "eth0"))
    finally:
        lab("down", "--name", name)
    nothing_is_left(f"tulle-{name}-", name)


def nothing_is_left(prefix: str, name: str) -> None:
    assert namespaces.existing(prefix) == [] and not (LABS / name).exists()
    assert list(Path("/sys/fs/cgroup").glob(f"**/{prefix}*")) == []


def lab(*words: str) -> str:
    """What scripts/lab prints."""
    done = subprocess.run([sys.executable, LAB, *words], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout

"""A cluster that changes, on a real kernel: what a change costs, what it leaves alone, and whose events are news.

The node is a namespace with two interfaces; peers exist in the list only, which is all that programming them needs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from cni_plugin import cluster as clusters
from cni_plugin.cluster import Cluster
from cni_plugin.diff import Op
from cni_plugin.errors import CniError
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.rtnl.netlink import Netlink, Outcome
from cni_plugin.kernel.watch.changed import EVERYTHING, NEIGHBOURS, ROUTES, UPLINKS, WAYS, Changed
from cni_plugin.kernel.watch.monitor import Beyond, Monitor
from cni_plugin.model.layer3 import Way
from cni_plugin.node.cluster.ensure import ensure
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.store import clusters as notes
from cni_plugin.store.records import Records
from scripts.lib.lab import namespaces
from tests.netns.conftest import MakeLab
from tests.netns.kernel_world import MakeNetns, kernel_of, messages, news, run
from tests.netns.test_failures_agent_repair import Reconciling, reconcile
from tests.pace import until
from tests.unit.support import Json, net_conf

__all__ = ["reconcile"]
DEVICE = "tulle.1"
DIED = 9
FOREIGN = "203.0.113.0/24 via 192.0.2.254 dev eth0 proto static"


class World:
    """A node that an agent keeps, and what the kernel tells of it."""

    def __init__(self, kernel: LinuxKernel, folder: Path) -> None:
        self.kernel = kernel
        self.records = Records(str(folder))
        self.path = notes.cluster_file(self.records)
        self.restart()
        self.monitor = Monitor()
        self.passes: list[Changed] = []

    def restart(self) -> None:
        """What was remembered is gone, as with an agent that was killed."""
        self.member = Participant("pods", self.kernel, self.records)

    def learns(self, cluster: Cluster) -> list[Op]:
        ops = self.member.converge(cluster, self.path)
        self.watch()
        return ops

    def watch(self) -> None:
        """As the loop does after each pass."""
        found = self.member.watch
        links = {name: self.kernel.link_index(name) for name in (*found.tunnels, *found.uplinks)}
        beyond = Beyond(found.peers, found.entry, self.kernel.port(), everywhere=True, blocked=found.blocked)
        self.monitor.watch(links, found.tunnels, found.uplinks, beyond)

    def hears(self) -> Changed:
        """What of the kernel's news matters."""
        return news(self.monitor)

    def routes(self) -> dict[str, str]:
        """Our routes: where to and by which device or router."""
        found: dict[str, str] = {}
        for family in ("-4", "-6"):
            for each in json.loads(run(f"ip -j {family} route show proto 84")):
                found[each["dst"]] = each.get("gateway") or each.get("via", {}).get("host") or each["dev"]
        return found

    def is_as_planned(self, cluster: Cluster) -> bool:
        """Whether a fresh look, which dumps everything, finds nothing to do."""
        return Participant("pods", self.kernel, self.records).converge(cluster, self.path) == []


@pytest.fixture
def world(netns: MakeNetns, tmp_path: Path) -> Iterator[World]:
    """eth0 has 192.0.2.1 and fd00:a::1, eth1 198.51.100.1; somebody else's route stands."""
    with kernel_of(netns("node")) as kernel:
        run("ip link set lo up")
        for name, *addresses in (("eth0", "192.0.2.1/24", "fd00:a::1/64"), ("eth1", "198.51.100.1/24")):
            run(f"ip link add {name} type veth peer name {name}wire")
            for each in addresses:
                run(f"ip addr add {each} dev {name}{' nodad' if ':' in each else ''}")
            run(f"ip link set {name}wire up")
            run(f"ip link set {name} up")
        run(f"ip route add {FOREIGN}")
        made = World(kernel, tmp_path)
        yield made
        made.monitor.close()


def node(number: int, address: str = "", **keys: object) -> Json:
    """A node: on the link of eth0 unless an address is given."""
    where = address or f"192.0.{2 + number // 250}.{1 + number % 250}"
    cidrs = [f"10.{64 + number // 250}.{number % 250}.0/24", f"fd10:{number:x}::/64"]
    found: Json = {"name": f"n{number}", "address": where, "podCIDRs": cidrs}
    return found | keys


def of(nodes: Sequence[Json], backend: Json | None = None) -> Cluster:
    """This node and these, by VXLAN unless the backend's keys say otherwise."""
    options: Json = {"type": "vxlan"}
    return clusters.parse({"node": "n0", "backend": options | (backend or {}), "nodes": [node(0), *nodes]})


def some(*numbers: int) -> list[Json]:
    return [node(each) for each in numbers]


# What a change costs


def test_a_thousand_peers_from_nothing_take_a_handful_of_messages_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = of(some(*range(1, 1001)))

    with messages(monkeypatch) as counted:
        world.learns(cluster)

    assert len(world.routes()) == 2000
    assert world.is_as_planned(cluster)
    assert counted[0] <= 7 * 1000, "an entry of each kind and family, and what is asked before"


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_one_change_costs_the_same_messages_among_ten_peers_and_a_thousand(
    world: World, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    run("ip addr add 192.0.0.1/16 dev eth0")
    run("ip -6 addr add fd00:a::1:1/64 dev eth0 nodad")
    counts: dict[int, list[tuple[int, ...]]] = {}
    for size in (10, 1000):
        many = [{**node(each), "ipv6Address": f"fd00:a::{each + 16:x}"} for each in range(1, size + 1)]
        steps = [many, many[:-1], many, [{**many[0], "address": "192.0.77.77"}, *many[1:]], many]
        for step, nodes in enumerate(steps):
            cluster = of(nodes, {"type": backend})
            with messages(monkeypatch) as counted:
                ops = world.learns(cluster)
            if step:
                counts.setdefault(step, []).append((len(ops), *counted))
                assert 0 < len(ops) <= 10
        assert world.is_as_planned(of(many, {"type": backend}))

    assert {step: len(set(each)) for step, each in counts.items()} == dict.fromkeys(counts, 1), counts
    assert all(sent <= 25 and answered <= 40 for each in counts.values() for _, sent, answered in each), counts


# Whose changes are news


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_what_we_change_is_no_news_to_us(world: World, backend: str) -> None:
    far = [node(each, f"192.0.2.{each + 20}", ipv6Address=f"fd00:a::{each + 16:x}") for each in range(1, 6)]
    world.learns(of(far, {"type": backend}))
    world.member.look(world.hears())
    world.watch()
    assert world.hears() == 0
    changed = [far[1:], far, [{**far[0], "address": "192.0.2.99"}, *far[1:]], far[:2], [], far]
    for nodes in changed:
        assert world.learns(of(nodes, {"type": backend}))
        assert world.hears() == 0, nodes
    assert world.is_as_planned(of(far, {"type": backend}))


NEWS = {
    "ip route del 10.64.1.0/24": ROUTES,
    "ip -6 route del fd10:1::/64": ROUTES,
    f"ip neigh del 10.64.1.0 dev {DEVICE}": NEIGHBOURS,
    f"bridge fdb del 0a:54:0a:40:01:00 dev {DEVICE} dst 192.0.2.2": NEIGHBOURS,
    f"bridge fdb replace 0a:54:0a:40:01:00 dev {DEVICE} dst 192.0.2.77": NEIGHBOURS,
    f"bridge fdb add 02:00:00:00:00:77 dev {DEVICE} dst 192.0.2.77": NEIGHBOURS,
    "ip addr add 192.0.2.200/24 dev eth1": UPLINKS | WAYS,
    "ip route add 192.0.2.2/32 via 198.51.100.9": WAYS,
    "ip route add blackhole 192.0.2.0/30": WAYS,
    "ip route add default via 198.51.100.9 dev eth1": WAYS,
    "ip link set eth0 mtu 1400": UPLINKS,
}
NO_NEWS = (
    "ip route add 10.99.0.0/24 via 192.0.2.9", "ip route add 192.0.2.128/25 via 198.51.100.9",
    "ip -6 route add fd00:77::/64 via fd00:a::9", "ip route add local 192.0.2.3 dev lo",
)


@pytest.mark.parametrize("command", NEWS)
def test_what_others_change_is(world: World, command: str) -> None:
    world.learns(of(some(1, 2)))
    world.member.look(world.hears())
    world.watch()
    world.hears()
    before = world.routes()
    run(command)
    told = world.hears()
    assert told & NEWS[command] == NEWS[command]
    world.member.look(told)
    assert world.routes().keys() == before.keys()
    assert world.is_as_planned(of(some(1, 2)))


def test_routes_that_lead_to_no_peer_are_not(world: World) -> None:
    world.learns(of(some(1, 2)))
    world.hears()
    world.watch()
    for each in NO_NEWS:
        run(each)
        assert world.hears() == 0, each


# What is left alone, and what is not


def test_failure_32_what_an_agent_that_was_away_missed_is_gone_after_its_start(world: World) -> None:
    world.learns(of(some(*range(1, 11))))
    run(f"bridge fdb add 02:00:00:00:00:99 dev {DEVICE} dst 192.0.2.99")
    run("ip route add 10.99.0.0/24 via 192.0.2.99 proto 84")
    world.restart()
    left = of(some(*range(1, 8)))
    world.learns(left)
    shown = ("ip route", "ip -6 route", f"ip neigh show dev {DEVICE}", f"bridge fdb show dev {DEVICE}")
    trace = "".join(map(run, shown))
    for gone in ("10.64.8.", "fd10:9:", "10.64.10.", "192.0.2.99", "02:00:00:00:00:99"):
        assert gone not in trace
    assert "203.0.113.0/24 via 192.0.2.254" in trace
    assert world.is_as_planned(left)


def test_a_foreign_route_in_the_way_of_one_peer_keeps_no_other_away(world: World) -> None:
    run("ip route add 10.64.3.0/24 via 192.0.2.200")
    cluster = of(some(1, 2, 3, 4))
    world.learns(cluster)
    four, six = {f"10.64.{each}.0/24" for each in (1, 2, 4)}, {f"fd10:{each}::/64" for each in (1, 2, 3, 4)}
    assert world.routes().keys() == four | six
    (problem,) = world.member.problems
    assert "a route to 10.64.3.0/24 that is not ours is in the way" in problem
    world.hears()
    run("ip route del 10.64.3.0/24 via 192.0.2.200")
    world.member.look(world.hears())
    assert world.member.problems == ()
    assert world.is_as_planned(cluster)


def test_another_device_with_our_vni_is_named(world: World) -> None:
    """flannel.1, while a cluster is moved."""
    run("ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0")
    with pytest.raises(KernelError, match=r"that is flannel\.1: remove it \(ip link delete flannel\.1\)"):
        world.learns(of(some(1)))
    assert world.routes() == {}
    run("ip link delete flannel.1")
    world.member.look(0)
    assert world.is_as_planned(of(some(1)))


def test_switching_backends_and_back_leaves_nothing_of_the_other(world: World) -> None:
    on_link = [node(each, f"192.0.2.{each + 20}", ipv6Address=f"fd00:a::{each + 16:x}") for each in range(1, 4)]
    steps: list[Json] = [
        {}, {"type": "host-gw"}, {"vni": 7}, {"directRouting": True}, {"port": 4789}, {"type": "host-gw"}, {},
    ]
    for backend in steps:
        cluster = of(on_link, backend)
        world.learns(cluster)
        devices = [each["ifname"] for each in json.loads(run("ip -j link show type vxlan"))]
        assert devices == ([] if "type" in backend else [f"tulle.{backend.get('vni', 1)}"])
        assert len(world.routes()) == 6
        assert world.is_as_planned(cluster)


@pytest.mark.parametrize("bad", [{"vni": -1}, {"type": "pigeon"}, {"vni": "x"}])
def test_a_backend_that_cannot_be_configured_changes_nothing(world: World, bad: Json) -> None:
    cluster = of(some(1, 2))
    world.learns(cluster)
    before = world.routes(), Path(world.path).read_bytes(), run(f"bridge fdb show dev {DEVICE}")
    with pytest.raises(CniError) as refused:
        world.learns(of(some(1, 2, 3), bad))
    assert "cluster.backend" in refused.value.msg
    assert (world.routes(), Path(world.path).read_bytes(), run(f"bridge fdb show dev {DEVICE}")) == before
    assert world.member.look(EVERYTHING) == []


# The way to each peer


def test_a_way_is_what_the_kernel_would_do(world: World) -> None:
    run("ip route add default via 192.0.2.254 dev eth0 mtu 1400")
    run("ip route add 198.18.0.0/16 via 198.51.100.9")
    run("ip route add unreachable 10.9.9.9")
    run("ip route add 10.9.8.0/24 via inet6 fd00:a::9 dev eth0")
    run("ip link set eth1 mtu 1300")
    unreachable = ("10.9.9.9", "192.0.2.1", "fd00:b::1", "no address")
    wanted = ("192.0.2.9", "203.0.114.1", "198.18.0.1", "10.9.8.1", "fd00:a::9")
    assert world.kernel.ways([*wanted, *unreachable]) == {
        "192.0.2.9": Way("eth0", 1500, "192.0.2.1"),
        "203.0.114.1": Way("eth0", 1400, "192.0.2.1", "192.0.2.254"),
        "198.18.0.1": Way("eth1", 1300, "198.51.100.1", "198.51.100.9"),
        "10.9.8.1": Way("eth0", 1500, "192.0.2.1", "fd00:a::9"),
        "fd00:a::9": Way("eth0", 1500, "fd00:a::1"),
    }


@pytest.mark.parametrize(
    ("ports", "guests"), [([], True), (["veth"], True), (["veth", "vxlan id 7 dstport 4799"], False)]
)
def test_a_bridge_without_a_wire_has_but_guests(world: World, ports: list[str], guests: bool) -> None:
    run("ip link add docker0 type bridge")
    run("ip addr add 172.17.0.1/16 dev docker0")
    for number, kind in enumerate(ports):
        run(f"ip link add port{number} master docker0 type {kind}")
    run("ip link set docker0 up mtu 1400")
    assert world.kernel.ways(["172.17.0.5"]) == {"172.17.0.5": Way("docker0", 1400, "172.17.0.1", guests=guests)}


def test_what_icmp_said_of_a_path_is_not_the_way(world: World, netns: MakeNetns) -> None:
    """Anybody can send such messages; and what they say is forgotten after ten minutes."""
    router = netns("router")
    for command in ("ip link set eth1wire netns {}", "ip route add 198.18.0.0/15 via 198.51.100.2 mtu 1480"):
        run(command.format(router))
    for command in (
        "ip addr add 198.51.100.2/24 dev eth1wire", "ip link set eth1wire up", "ip link add narrow mtu 1300 type veth",
        "ip link set narrow up", "ip link set veth0 up", "ip route add 198.18.0.0/15 dev narrow",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):
        run(command, router)
    before = world.kernel.ways(["198.18.0.1"])
    assert before == {"198.18.0.1": Way("eth1", 1480, "198.51.100.1", "198.51.100.2")}
    namespaces.attempt(["ping", "-n", "-c1", "-W1", "-M", "do", "-s", "1400", "198.18.0.1"])
    assert "mtu 1300" in run("ip route get 198.18.0.1")
    assert world.kernel.ways(["198.18.0.1"]) == before


def test_interfaces_are_those_with_addresses(world: World) -> None:
    run("ip link add idle type bridge")
    assert world.kernel.interfaces() == {
        "lo": ("127.0.0.1/8", "::1/128"), "eth0": ("192.0.2.1/24", "fd00:a::1/64"), "eth1": ("198.51.100.1/24",),
    }


def test_a_host_gw_route_leaves_by_the_interface_that_leads_to_its_peer(world: World) -> None:
    nodes = [node(1, "192.0.2.20", ipv6Address="fd00:a::20"), node(2, "198.51.100.20", ipv6Address="fd00:a::21")]
    world.learns(of(nodes, {"type": "host-gw"}))
    assert "10.64.2.0/24 via 198.51.100.20 dev eth1" in run("ip route")
    assert "10.64.1.0/24 via 192.0.2.20 dev eth0" in run("ip route")


def test_the_mtu_is_the_smallest_over_the_interfaces_that_lead_to_peers(world: World) -> None:
    def mtu() -> int:
        assert world.member.facts is not None
        return world.member.facts.mtu

    run("ip link set eth1 mtu 1400")
    world.learns(of(some(1)))
    assert mtu() == 1450, "nobody is behind eth1"
    world.learns(of([node(1), node(2, "198.51.100.7")]))
    assert mtu() == 1350
    run("ip link set eth1 mtu 1380")
    world.member.look(world.hears())
    world.watch()
    assert mtu() == 1330
    run("ip route add 192.0.2.2 dev eth0 mtu 1370")
    world.member.look(world.hears())
    assert mtu() == 1320
    (link,) = json.loads(run(f"ip -j link show {DEVICE}"))
    assert link["mtu"] == 1320
    world.learns(of([]))
    assert mtu() == 1450


def test_a_tunnels_packets_leave_by_the_interface_that_leads_to_their_peer(
    world: World, netns: MakeNetns, tmp_path: Path
) -> None:
    """This node is known by its address on eth0; one peer is on that link, the other behind eth1."""
    cluster = of([node(1, "192.0.2.20"), node(2, "198.51.100.20")])
    world.learns(cluster)
    for name, wire, address in (("n1", "eth0wire", "192.0.2.20/24"), ("n2", "eth1wire", "198.51.100.20/24")):
        far = netns(name)
        run(f"ip link set {wire} netns {far}")
        for command in (f"ip addr add {address} dev {wire}", f"ip link set {wire} up", "ip link set lo up"):
            run(command, far)
        run(f"ip route replace 192.0.2.1 via 198.51.100.1 dev {wire}" if name == "n2" else "true", far)
        with kernel_of(far) as kernel:
            theirs = msgspec.structs.replace(cluster, node=name)
            folder = tmp_path / name
            folder.mkdir()
            Participant("pods", kernel, Records(str(folder))).converge(theirs, str(folder / "cluster.json"))
        overlay = f"10.64.{name[1]}.0"
        run(f"ping -n -c1 -W2 {overlay}")
    assert world.routes()["10.64.2.0/24"] == "10.64.2.0"


def test_too_little_for_ipv6_is_refused_with_what_to_do_and_the_old_state_stays(world: World) -> None:
    world.learns(of(some(1)))
    run("ip link set eth0 mtu 1320")
    with pytest.raises(CniError, match=r"MTU of 1320 bytes .* eth0 leaves 1270 .* raise it to at least 1330"):
        world.member.look(world.hears())
    (link,) = json.loads(run(f"ip -j link show {DEVICE}"))
    assert (link["mtu"], len(world.routes())) == (1450, 2)
    run("ip link set eth0 mtu 1330")
    world.member.look(world.hears())
    (link,) = json.loads(run(f"ip -j link show {DEVICE}"))
    assert link["mtu"] == 1280


def test_failure_33_a_node_whose_address_moves_to_another_interface_is_followed(world: World) -> None:
    world.learns(of(some(1, 2)))
    world.hears()
    run("ip addr del 192.0.2.1/24 dev eth0")
    run("ip addr add 192.0.2.1/24 dev eth1")
    told = world.hears()
    assert told & UPLINKS
    with suppress(CniError):
        world.member.look(told)
    assert world.member.facts is not None
    assert world.member.facts.uplinks == ("eth1",)
    assert len(world.routes()) == 4
    assert world.is_as_planned(of(some(1, 2)))


# A kill between any two steps


@pytest.mark.parametrize("then", ["the agent starts", "a pod is added without an agent"])
def test_a_kill_between_any_two_steps_is_put_right_when(netns: MakeNetns, tmp_path: Path, then: str) -> None:
    one, two = of(some(*range(1, 6))), of(some(*range(3, 9)))
    deaths = 0
    for target in range(60):
        with kernel_of(netns(f"n{target}")) as kernel:
            run("ip link add eth0 type veth peer name wire")
            run("ip addr add 192.0.2.1/24 dev eth0")
            run("ip link set wire up")
            run("ip link set eth0 up")
            folder = tmp_path / str(target)
            Participant("pods", kernel, Records(str(folder))).converge(one, f"{folder}/{notes.CLUSTER_FILE}")
            died = dies_at_step(folder, one, two, target)
            deaths += died
            fresh = World(kernel, folder)
            fresh.monitor.close()
            now = clusters.parse(json.loads(Path(fresh.path).read_bytes()))
            if then == "the agent starts":
                now = two
                fresh.learns(two)
            else:
                ensure(net_conf(name="pods", cluster=fresh.path), kernel, fresh.records)
            assert fresh.is_as_planned(now), target
        if not died:
            break
    assert 15 < deaths < 59


def dies_at_step(folder: Path, one: Cluster, two: Cluster, target: int) -> bool:
    """A process that knows the first list goes on to the second, and is killed at this step; whether it was."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DIED
    left = target
    armed = False

    def step() -> None:
        nonlocal left
        left -= armed
        if left < 0:
            os._exit(DIED)

    send = Netlink.send

    def one_by_one(self: Netlink, requests: Sequence[bytearray]) -> list[Outcome]:
        outcomes = []
        for each in requests:
            step()
            outcomes += send(self, [each])
        return outcomes

    Netlink.send = one_by_one  # type: ignore[method-assign]
    sys.addaudithook(lambda name, _: step() if name == "os.rename" else None)
    try:
        with LinuxKernel() as kernel:
            member = Participant("pods", kernel, Records(str(folder)))
            path = f"{folder}/{notes.CLUSTER_FILE}"
            member.converge(one, path)
            armed = True
            member.converge(two, path)
    finally:
        os._exit(0)


# A list that people keep


def test_a_list_in_a_file_is_followed(lab: MakeLab, reconcile: Callable[..., Reconciling]) -> None:
    made = lab(nodes=3)
    made.add("n1", "p1")
    loop = reconcile(made)

    def peers_of_n1() -> set[str]:
        return {each["dst"] for each in json.loads(made.run("n1", "ip", "-j", "route", "show", "proto", "84"))}

    for nodes in (made.nodes[:2], made.nodes, made.nodes[:1], made.nodes):
        made.set_cluster(nodes)
        wanted = {each.pod_cidrs[0] for each in nodes if each.name != "n1"}
        until(lambda wanted=wanted: peers_of_n1() == wanted, "n1 has the list's peers")  # type: ignore[misc]
    loop.end()
    assert [each for each in loop.said if each.get("problem")] == []

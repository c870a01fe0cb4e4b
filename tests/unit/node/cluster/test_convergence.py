"""A cluster followed by the difference: the kernel is what a fresh plan makes, at a price that peers do not set."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin import cluster as clusters
from cni_plugin.cluster import Cluster
from cni_plugin.diff import Op
from cni_plugin.errors import CniError
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.host import files
from cni_plugin.kernel.watch.changed import EVERYTHING, LINKS, ROUTES, RULES, UPLINKS, WAYS
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Neigh, Route, Way
from cni_plugin.model.links import Vxlan
from cni_plugin.node.cluster.ensure import ensure
from cni_plugin.node.cluster.lists import stamp_of
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.node.cluster.planner import planned
from cni_plugin.store import clusters as notes
from cni_plugin.store.clusters import ClusterFacts
from cni_plugin.store.records import Records
from tests.unit.node.cluster.test_peers import FOREIGN, ME, backends, kernel_with, listed, my_cidrs, own
from tests.unit.node.cluster.test_peers import peers as some_peers
from tests.unit.support import UPLINK, Json, Node, net_conf, node_state

NETWORK = "pods"


class World:
    """A node that an agent keeps, with its memory."""

    def __init__(self, folder: str, kernel: FakeKernel | None = None) -> None:
        self.kernel = kernel or kernel_with(FOREIGN)
        self.records = Records(folder)
        self.path = notes.cluster_file(self.records)
        Path(folder).mkdir(exist_ok=True)
        self.restart()

    def restart(self) -> None:
        """The agent is started anew: what it remembered is gone."""
        self.member = Participant(NETWORK, self.kernel, self.records)

    def learns(self, cluster: Cluster) -> list[Op]:
        return self.member.converge(cluster, self.path)

    def adds(self) -> ClusterFacts:
        """What an ADD finds, which does what is left to do."""
        found = ensure(net_conf(cluster=self.path), self.kernel, self.records)
        assert found is not None
        return found

    def as_planned(self, cluster: Cluster) -> bool:
        """Whether the kernel holds what this list asks for, somebody else's route, and nothing else."""
        return own(self.kernel.state) == own({**fresh(cluster, self.kernel), FOREIGN.key: FOREIGN})


def fresh(cluster: Cluster, kernel: FakeKernel) -> State:
    """What a node that never knew another list makes of this one; peers that cannot be reached are left out."""
    plan = planned(cluster, kernel, Records("/nowhere"))
    lost = {each.node.name for each in plan.parts.values() if each.refused is not None}
    me, backend, conf = plan.terms
    return node_state(me, (each for each in cluster.nodes if each.name not in {*lost, me.node.name}), backend, conf)


def of(*nodes: Json, backend: object = None, cidrs: tuple[str, ...] = ("10.244.1.0/24",)) -> Cluster:
    """This node and others."""
    mine = {**ME, "podCIDRs": list(cidrs)}
    return clusters.parse({"node": "me", "backend": backend or {"type": "vxlan"}, "nodes": [mine, *nodes]})


def near(*numbers: int, cidrs: str = "4") -> list[Json]:
    return [listed(each, "near", cidrs) for each in numbers]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


@st.composite
def lists(draw: st.DrawFn) -> Cluster:
    found = draw(some_peers)
    nodes = [listed(number, *found[number]) for number in found]
    if draw(st.integers(0, 3)) == 0:  # a MAC that two announce, as nodes that were cloned do
        nodes = [{**each, "backendData": {"VtepMAC": "02:00:00:00:00:07"}} for each in nodes]
    return of(*draw(st.permutations(nodes)), backend=draw(backends), cidrs=tuple(draw(my_cidrs)))


happenings = st.sampled_from(["nothing", "restart", "another hand", "damage", "refused", "way", "narrow"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(lists(), happenings, st.integers(0, 30)), min_size=2, max_size=7))
def test_after_any_walk_over_lists_the_kernel_is_as_freshly_planned(steps: list[tuple[Cluster, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder)
        for cluster, happening, number in steps:
            happens(world, happening, number)
            with suppress(KernelError):  # of the node's own part; of a peer's it only keeps that one away
                world.learns(cluster)
            world.kernel.fail_at = None
            world.member.look(EVERYTHING if happening in ("damage", "way", "narrow") else 0)
            world.member.look(0)
            assert world.as_planned(cluster)
            assert Path(world.path).read_bytes() == clusters.render(cluster)
            assert world.learns(cluster) == []
            before = list(world.kernel.applied)
            assert msgspec.structs.replace(world.adds(), stamp=()) == peered(world)
            assert world.kernel.applied == before


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(lists(), happenings, st.integers(0, 30)), min_size=2, max_size=7))
def test_after_any_walk_over_lists_that_people_keep_it_is_so_too(steps: list[tuple[Cluster, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        world = World(folder)
        path = Path(folder) / "mine.json"
        for cluster, happening, number in steps:
            happens(world, happening, number)
            path.write_bytes(clusters.render(cluster))
            changed = EVERYTHING if happening in ("damage", "way", "narrow", "another hand") else 0
            before = dict(world.kernel.state)
            with suppress(KernelError, CniError):
                world.member.follow(str(path), changed)
            world.kernel.fail_at = None
            if not any(each.refused for each in planned(cluster, world.kernel, world.records).parts.values()):
                world.member.follow(str(path), 0)
                assert world.as_planned(cluster)
                assert world.member.follow(str(path), EVERYTHING) == []
                assert world.member.differences(str(path)) == []
            else:
                assert world.kernel.state == before, "a list with a peer that cannot be reached changes nothing"


def happens(world: World, what: str, number: int) -> None:
    kernel = world.kernel
    kernel.fail_at = None
    there = [each for each in kernel.state.values() if each != FOREIGN]
    if what == "restart":
        world.restart()
    elif what == "another hand":
        Path(world.path).write_bytes(clusters.render(of(*near(5))))
        world.adds()
    elif what == "damage" and there:
        kernel.apply([Op("delete", there[number % len(there)])])
    elif what == "way":
        kernel.found_ways = {"192.0.2.2": Way("eth1", 1400), "192.0.2.3": Way("eth0", 1500, via="192.0.2.254")}
    elif what == "narrow":
        kernel.uplink_there = UPLINK._replace(mtu=1500 - number)
    elif what == "refused":
        kernel.fail_at = len(kernel.applied) + number


def written(world: World) -> dict[Path, int]:
    """When each file of the run folder was written."""
    return {path: path.stat().st_mtime_ns for path in Path(world.records.run_dir).rglob("*") if path.is_file()}


def peered(world: World) -> ClusterFacts:
    facts = world.member.facts
    assert facts is not None
    return msgspec.structs.replace(facts, stamp=())


# What a change costs


def test_what_a_change_asks_of_the_kernel_does_not_depend_on_how_many_peers_there_are(world: World) -> None:
    costs = set()
    for size in (3, 40):
        many = of(*near(*range(2, size + 2)))
        world.restart()
        world.learns(many)
        before, done = dict(world.kernel.asked), len(world.kernel.applied)
        world.learns(of(*near(*range(2, size + 3))))
        world.learns(many)
        costs.add((*(world.kernel.asked[each] - before.get(each, 0) for each in ("ways", "owned", "read")),
                   len(world.kernel.applied) - done))
    assert costs == {(1, 0, 0, 8)}


def test_the_same_list_again_asks_nothing_and_writes_nothing(world: World) -> None:
    world.learns(of(*near(2, 3)))
    before = dict(world.kernel.asked)
    stamps = written(world)
    assert world.learns(of(*near(2, 3))) == []
    assert world.member.look(0) == []
    assert dict(world.kernel.asked) == before
    assert written(world) == stamps


def test_others_routes_to_peers_are_looked_at_without_a_dump(world: World) -> None:
    world.learns(of(*near(2, 3), backend={"type": "host-gw"}))
    before = dict(world.kernel.asked)
    world.kernel.found_ways = {"192.0.2.2": Way("eth1", 1400)}
    (op,) = [each for each in world.member.look(WAYS) if each.verb == "create"]
    assert (op.object, world.kernel.asked["owned"]) == (Route("10.244.2.0/24", "eth1", "192.0.2.2"), before["owned"])
    assert world.member.facts is not None
    assert world.member.facts.mtu == 1400


def test_a_list_that_people_keep_is_followed_without_a_dump_too(world: World, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(clusters.render(of(*near(2, 3))))
    world.member.follow(str(path))
    asked = dict(world.kernel.asked)
    assert world.member.follow(str(path), RULES) == []
    assert {each: world.kernel.asked[each] - asked[each] for each in asked} == {"ways": 0, "owned": 0, "read": 1}
    path.write_bytes(clusters.render(of(*near(2, 3, 4))))
    assert len(world.member.follow(str(path), 0)) == 4
    assert world.kernel.asked["owned"] == asked["owned"]
    path.write_text("{")
    with pytest.raises(CniError, match="not valid JSON"):
        world.member.follow(str(path), 0)
    assert world.as_planned(of(*near(2, 3, 4)))


def test_what_others_broke_is_looked_for_in_the_whole(world: World) -> None:
    world.learns(of(*near(2, 3)))
    world.kernel.apply([Op("delete", each) for each in list(world.kernel.state.values()) if isinstance(each, Neigh)])
    assert world.member.look(UPLINKS) == []
    assert len(world.member.look(ROUTES)) == 2
    assert world.member.look(LINKS) == []


def test_before_the_first_list_there_is_nothing_to_look_at(world: World) -> None:
    assert world.member.look(EVERYTHING) == []
    assert (world.kernel.applied, world.member.facts, world.member.watch.peers) == ([], None, ())


# Who is left out


def test_a_peer_that_cannot_be_reached_keeps_no_other_away_and_is_told(world: World) -> None:
    cluster = of(*near(2, 3), listed(4, "far", "4"), backend={"type": "host-gw"})
    world.learns(cluster)
    assert world.as_planned(cluster)
    (problem,) = world.member.problems
    assert "n4's address 198.51.100.4 is not on the link" in problem
    world.adds()
    world.learns(of(*near(2, 3), backend={"type": "host-gw"}))
    assert world.member.problems == ()


def test_of_a_list_that_people_keep_such_a_peer_is_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(clusters.render(of(*near(2), listed(4, "far", "4"), backend={"type": "host-gw"})))
    with pytest.raises(CniError, match=r"n4's address 198\.51\.100\.4 is not on the link"):
        ensure(net_conf(cluster=str(path)), world.kernel, world.records)
    assert list(world.kernel.state.values()) == [FOREIGN]


def test_what_the_kernel_refuses_of_a_peer_is_tried_again_at_the_next_look(world: World) -> None:
    blocking = Route("10.244.3.0/24", "eth0", "192.0.2.9", protocol=4)
    world.kernel.apply([Op("create", blocking)])
    world.learns(of(*near(2, 3)))
    assert ("route", "", "254", "10.244.2.0/24", "0", "") in world.kernel.state
    (problem,) = world.member.problems
    assert "10.244.3.0/24" in problem
    del world.kernel.state[blocking.key]
    assert len(world.member.look(0)) == 1
    assert world.member.problems == ()
    assert world.as_planned(of(*near(2, 3)))


def test_when_too_much_is_refused_all_is_taken_back(world: World) -> None:
    for number in range(2, 30):
        world.kernel.apply([Op("create", Route(f"10.244.{number}.0/24", "eth0", "192.0.2.254", protocol=4))])
    before = dict(world.kernel.state)
    with pytest.raises(KernelError):
        world.learns(of(*near(*range(2, 30))))
    assert own(world.kernel.state) == own(before)


def test_a_list_without_this_node_changes_nothing(world: World) -> None:
    cluster = of(*near(2))
    world.learns(cluster)
    before = dict(world.kernel.state), Path(world.path).read_bytes(), msgspec.structs.replace(world.adds(), stamp=())
    for wrong in (
        msgspec.structs.replace(cluster, nodes=cluster.nodes[1:]),
        msgspec.structs.replace(cluster, backend="pigeon"),
        msgspec.structs.replace(cluster, options={"vni": -1}),
        msgspec.structs.replace(cluster, options={"directRouting": "maybe"}),
    ):
        with pytest.raises(CniError):
            world.learns(wrong)
        found = msgspec.structs.replace(world.adds(), stamp=())  # which tells how long ago the file was written
        assert (dict(world.kernel.state), Path(world.path).read_bytes(), found) == before


def test_a_network_that_is_given_up_leaves_nothing(world: World) -> None:
    world.learns(of(*near(2, 3)))
    world.member.forget()
    assert own(world.kernel.state) == {FOREIGN.key: FOREIGN}
    assert (world.member.facts, notes.all_facts(world.records), Path(world.path).exists()) == (None, [], False)
    world.learns(of(*near(2)))
    assert world.as_planned(of(*near(2)))


# The node itself


def test_behind_a_nat_the_tunnel_ends_at_the_nodes_own_address(world: World) -> None:
    """Peers are told 203.0.113.1; no interface here has it."""
    nodes: list[Json] = [{"name": "me", "address": "203.0.113.1", "podCIDRs": ["10.244.1.0/24"]}, *near(2)]
    cluster = clusters.parse({"node": "me", "localAddress": "192.0.2.1", "nodes": nodes})
    world.learns(cluster)
    (device,) = [each for each in world.kernel.state.values() if isinstance(each, Vxlan)]
    assert (device.local, peered(world).uplinks) == ("192.0.2.1", ("eth0",))
    assert world.adds().digest == peered(world).digest


def test_what_is_known_to_be_wanted_is_no_news(world: World) -> None:
    world.learns(of(*near(2)))
    entry = world.member.watch.entry
    assert entry is not None
    assert entry("0a:54:0a:f4:02:00") == "192.0.2.2"
    assert entry("10.244.2.0") == "0a:54:0a:f4:02:00"
    assert (entry("0a:54:0a:f4:03:00"), entry("10.244.3.0")) == ("", "")
    assert world.member.watch.peers == ("192.0.2.2",)
    assert sorted(world.member.watch.tunnels | world.member.watch.uplinks) == ["eth0", "tulle.1"]


def test_another_clusters_objects_stay_also_when_both_had_wanted_them(world: World) -> None:
    shared = of(*near(2, 3), backend={"type": "host-gw"})
    world.learns(shared)
    other = Path(world.records.run_dir) / "programmed" / "other"
    other.write_bytes(msgspec.json.encode((Route("10.244.3.0/24", "eth0", "192.0.2.3"),)))
    world.learns(of(*near(2), backend={"type": "host-gw"}))
    assert ("route", "", "254", "10.244.3.0/24", "0", "") in world.kernel.state


# What an ADD finds


def test_an_add_reads_a_list_once_and_then_only_looks_at_its_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(clusters.render(of(*near(2))))
    os.utime(path, ns=(10**18, 10**18))
    conf = net_conf(cluster=str(path))
    first = ensure(conf, world.kernel, world.records)
    assert first is not None
    read: list[str] = []

    def follow(where: str) -> bytes:
        read.append(where)
        return path.read_bytes()

    monkeypatch.setattr(files, "follow", follow)
    assert ensure(conf, world.kernel, world.records) == first
    assert read == []
    os.utime(path, ns=(10**18, 10**18 + 1))  # written again, as it was
    assert ensure(conf, world.kernel, world.records) != first
    assert len(read) >= 1
    read.clear()
    ensure(conf, world.kernel, world.records)
    assert read == []


def test_a_file_that_was_written_just_now_is_not_told_by_its_time(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("1")
    assert stamp_of(str(path)) == ()
    assert stamp_of(str(path), replaced=True) != ()
    assert stamp_of(str(tmp_path / "none")) == stamp_of({}) == ()


def test_before_the_agent_has_learned_its_cluster_pods_are_to_come_later(node: Node) -> None:
    there = node.configured(cluster=f"{node.home}/run/cluster.json")
    for verb, code in (("ADD", 11), ("STATUS", 50)):
        reply = there.call(verb)
        assert reply.code == code
        assert "the agent has not learned the cluster yet" in reply.said
        assert "invalid" not in reply.said
    assert there.standing() == {}

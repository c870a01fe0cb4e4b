"""A node becomes a member of its cluster: in which order, what it waits for, and what stays when something is away."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cni_plugin import cluster as clusters
from cni_plugin import network
from cni_plugin.agent import conflist
from cni_plugin.agent.cluster import membership
from cni_plugin.agent.cluster.membership import Membership
from cni_plugin.agent.settings import AddressSettings, CniSettings, Settings
from cni_plugin.agent.sources.contract import Announcement, Mailbox, Snapshot
from cni_plugin.cluster import Node
from cni_plugin.kernel.door import Uplink
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.watch.changed import ADDRESSES, EVERYTHING
from cni_plugin.model.layer3 import Route
from cni_plugin.node.contract import Repair, taken
from cni_plugin.node.site import Site
from cni_plugin.store.records import Records

CONF = network.parse({"network": "10.244.0.0/16", "backend": {"type": "vxlan"}})
HOST_GW = network.parse({"network": "10.244.0.0/16", "backend": {"type": "host-gw"}})
NODES = tuple(
    Node(f"n{number}", (ip_address(f"192.0.2.{number}"),), (ip_network(f"10.244.{number}.0/24"),), since=float(number))
    for number in range(1, 6)
)
ME = NODES[0]



class Journal:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, level: str, message: str, **_: object) -> None:
        self.lines.append(f"{level}: {message}")


class Listener:
    """A source that says what the test wants, and remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[Announcement] = []
        self.readied = 0
        self.mailbox: Mailbox | None = None

    def open(self, _options: Mapping[str, object], _node: str, mailbox: Mailbox) -> Listener:
        self.mailbox = mailbox
        return self

    def publish(self, said: Announcement) -> None:
        self.said.append(said)

    def ready(self) -> None:
        self.readied += 1

    def close(self) -> None:
        self.mailbox = None


class World:
    """One node, its source, and the agent's member in between."""

    def __init__(self, folder: Path, **keys: object) -> None:
        self.folder = folder
        self.kernel = FakeKernel(uplink=Uplink("eth0", 1500, ("192.0.2.0/24",)), held={"192.0.2.1"})
        self.records = Records(str(folder / "run"))
        (folder / "run").mkdir()
        self.source, self.journal = Listener(), Journal()
        self.conflist = folder / "net.d" / "10-tulle.conflist"
        known: dict[str, object] = {
            "node": "n1", "source": {"type": "listener"},
            "cni": CniSettings(path=str(self.conflist), template=str(folder / "cni-conf.json")),
        }
        settings = Settings(**{**known, **keys})  # type: ignore[arg-type]
        self.member = Membership(self.kernel, self.records, self.journal, settings, self.source.open)
        self.world = Site(self.kernel, self.records)

    def hear(self, snapshot: Snapshot) -> list[Repair]:
        """The source says something, and the loop makes its pass."""
        assert self.source.mailbox is not None
        self.source.mailbox.put(snapshot)
        self.member.readable(self.member.filenos()[0])
        assert self.member.wanted() == 0, "news are made true at once"
        return self.look()

    def trouble(self, text: str) -> None:
        assert self.source.mailbox is not None
        self.source.mailbox.trouble(text)
        self.member.readable(self.member.filenos()[0])

    def look(self, changed: int = 0) -> list[Repair]:
        found = map(taken, self.member.looks(self.world, changed))
        return [each for each in found if each.ops or each.problem]

    def routes(self) -> set[str]:
        return {each.dst for each in self.kernel.state.values() if isinstance(each, Route)}

    def cluster(self) -> clusters.Cluster:
        return clusters.parse(json.loads((self.folder / "run" / "cluster.json").read_text()))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.member.close()


def snapshot(*nodes: Node, conf: network.NetworkConf | None = CONF, **keys: object) -> Snapshot:
    mine = next((each for each in nodes if each.name == "n1"), None)
    return Snapshot(conf, nodes, **{"me": mine, **keys})  # type: ignore[arg-type]


def test_a_node_that_nobody_has_told_anything_waits_for_its_source(world: World) -> None:
    assert world.look(EVERYTHING) == []
    assert "the source has not answered yet" in world.member.reason
    assert not world.conflist.exists()


def test_a_node_learns_its_peers_and_is_ready(world: World) -> None:
    assert world.hear(snapshot(*NODES[:3])) == []
    assert world.member.wanted() is None
    assert world.member.reason == ""
    assert world.routes() == {"10.244.2.0/24", "10.244.3.0/24"}
    assert [each.name for each in world.cluster().nodes] == ["n1", "n2", "n3"]
    assert world.cluster().node == "n1"
    assert world.source.readied == 1


def test_a_node_is_called_as_its_source_spells_it(tmp_path: Path) -> None:
    world = World(tmp_path, node="N1")
    assert world.hear(snapshot(*NODES[:3])) == []
    assert world.member.reason == ""
    assert world.cluster().node == "n1"
    assert [each.name for each in world.cluster().nodes] == ["n1", "n2", "n3"]
    world.member.close()


def test_the_runtimes_configuration_comes_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], bool, int]] = []

    def put(*_: object) -> bool:
        seen.append((world.routes(), (world.folder / "run" / "cluster.json").exists(), len(world.source.said)))
        return True

    monkeypatch.setattr(conflist, "put", put)
    world.hear(snapshot(*NODES[:2]))
    assert seen == [({"10.244.2.0/24"}, True, 1)]


def test_the_configuration_names_the_file_that_the_agent_keeps(world: World) -> None:
    world.hear(snapshot(*NODES[:2]))
    written = json.loads(world.conflist.read_text())
    assert [each["cluster"] for each in written["plugins"]] == [str(world.folder / "run" / "cluster.json")]


def test_a_configuration_of_the_source_goes_before_the_nodes_own(world: World) -> None:
    (world.folder / "cni-conf.json").write_text('{"name": "mine", "plugins": [{"type": "tulle"}]}')
    world.hear(snapshot(*NODES[:2], cni={"name": "theirs", "plugins": [{"type": "tulle"}]}))
    assert json.loads(world.conflist.read_text())["name"] == "theirs"
    world.hear(snapshot(*NODES[:2]))
    assert json.loads(world.conflist.read_text())["name"] == "mine"


def test_where_it_is_is_told_before_it_has_a_subnet(world: World) -> None:
    """etcd gives a subnet only to who says where it is."""
    world.hear(snapshot(*NODES[1:3], me=Node("n1", (), ())))
    assert "no subnet for the node n1 yet" in world.member.reason
    (said,) = world.source.said
    assert [str(each) for each in said.addresses] == ["192.0.2.1"]
    assert said.data((ip_network("10.244.7.0/24"),))["vtepMAC"] == "0a:54:0a:f4:07:00"
    assert not world.conflist.exists()
    world.hear(snapshot(*NODES[1:3], me=Node("n1", (), (ip_network("10.244.7.0/24"),))))
    assert world.member.reason == ""
    assert len(world.source.said) == 1
    assert world.cluster().me(frozenset(), "").pod_cidrs == (ip_network("10.244.7.0/24"),)


def test_no_network_configuration_is_what_it_waits_for(world: World) -> None:
    world.hear(snapshot(conf=None, problems=("the ConfigMap kube-tulle/tulle-config is missing",)))
    assert "tulle-config is missing" in world.member.reason


def test_what_was_said_twice_is_done_once(world: World) -> None:
    world.hear(snapshot(*NODES[:3]))
    before, stamp = list(world.kernel.applied), (world.folder / "run" / "cluster.json").stat().st_ino
    world.hear(snapshot(*NODES[:3]))
    assert world.kernel.applied == before
    assert (world.folder / "run" / "cluster.json").stat().st_ino == stamp
    assert world.source.readied == 1
    assert len(world.source.said) == 1


def test_one_that_joins_costs_its_own_operations_alone(world: World) -> None:
    world.hear(snapshot(*NODES[:4]))
    before = len(world.kernel.applied)
    world.hear(snapshot(*NODES))
    new = world.kernel.applied[before:]
    assert 0 < len(new) <= 4
    assert all(any(each in str(op) for each in ("10.244.5.0", "0a:54:0a:f4:05:00", "192.0.2.5")) for op in new)


def test_one_that_leaves_is_gone(world: World) -> None:
    world.hear(snapshot(*NODES[:4]))
    world.hear(snapshot(*NODES[:2]))
    assert world.routes() == {"10.244.2.0/24"}


def test_a_source_that_is_away_changes_nothing(world: World) -> None:
    world.hear(snapshot(*NODES[:3]))
    world.trouble("the API server does not answer")
    assert world.look(EVERYTHING) == []
    assert world.member.reason == ""
    assert world.member.status()["trouble"] == "the API server does not answer"
    assert world.routes() == {"10.244.2.0/24", "10.244.3.0/24"}


def test_a_backend_that_cannot_be_used_is_refused_and_the_old_one_stays(world: World) -> None:
    world.hear(snapshot(*NODES[:3]))
    broken = network.parse({"network": "10.244.0.0/16", "backend": {"type": "carrier-pigeon"}})
    (told,) = world.hear(snapshot(*NODES[:3], conf=broken))
    assert "carrier-pigeon" in told.problem
    assert "carrier-pigeon" in world.member.reason
    assert world.routes() == {"10.244.2.0/24", "10.244.3.0/24"}
    assert world.member.wanted() is not None
    assert world.conflist.exists()
    world.hear(snapshot(*NODES[:3], conf=HOST_GW))
    assert world.member.reason == ""
    assert world.member.wanted() is None


def test_a_switch_of_the_backend_leaves_nothing_of_the_old_one(world: World) -> None:
    world.hear(snapshot(*NODES[:3]))
    assert world.kernel.link_index("tulle.1")
    world.hear(snapshot(*NODES[:3], conf=HOST_GW))
    assert not world.kernel.link_index("tulle.1")
    assert world.routes() == {"10.244.2.0/24", "10.244.3.0/24"}


def test_a_subnet_that_somebody_else_has_makes_no_member(world: World) -> None:
    mine = Node("n1", (), (ip_network("10.244.2.0/25"),), since=9.0)
    (told,) = world.hear(snapshot(*NODES[1:3], me=mine))
    assert "n1 is left out: its subnet 10.244.2.0/25 overlaps one of n2" in told.problem
    assert world.routes() == set()
    assert not world.conflist.exists()


def test_a_node_that_moves_tells_its_peers(world: World) -> None:
    world.hear(snapshot(*NODES[:3]))
    world.kernel._held = frozenset({"192.0.2.77"})
    world.look(ADDRESSES)
    assert [str(each) for each in world.source.said[-1].addresses] == ["192.0.2.77"]
    assert [str(each) for each in world.cluster().me(frozenset(), "").addresses] == ["192.0.2.77"]


def test_a_node_whose_place_is_known_lists_no_addresses_for_each_peer_that_joins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Mapping[str, tuple[str, ...]]] = []
    held = world.kernel.interfaces

    def listing() -> Mapping[str, tuple[str, ...]]:
        listed.append(held())
        return listed[-1]

    monkeypatch.setattr(world.kernel, "interfaces", listing)
    world.hear(snapshot(*NODES[:3]))
    world.hear(snapshot(*NODES[:5]))
    assert len(listed) == 1
    world.look(ADDRESSES)
    assert len(listed) == 2


def test_peers_are_told_the_public_address_and_the_tunnel_has_the_nodes_own(tmp_path: Path) -> None:
    world = World(tmp_path, address=AddressSettings(public="203.0.113.1"))
    world.hear(snapshot(*NODES[:2]))
    assert [str(each) for each in world.source.said[-1].addresses] == ["203.0.113.1"]
    assert str(world.cluster().local) == "192.0.2.1"
    assert world.member.reason == ""
    world.member.close()


def test_the_network_has_the_templates_name_and_a_renamed_one_takes_the_place_of_the_old(world: World) -> None:
    world.hear(snapshot(*NODES[:2], cni={"name": "blue", "plugins": [{"type": "tulle"}]}))
    assert list(world.member.networks()) == ["blue"]
    world.hear(snapshot(*NODES[:2], cni={"name": "green", "plugins": [{"type": "tulle"}]}))
    assert list(world.member.networks()) == ["green"]
    assert world.member.reason == ""
    assert world.routes() == {"10.244.2.0/24"}


def test_without_a_path_no_configuration_is_written(tmp_path: Path) -> None:
    world = World(tmp_path, cni=CniSettings(template=str(tmp_path / "none")))
    world.hear(snapshot(*NODES[:2]))
    assert world.member.reason == ""
    assert list(world.member.networks()) == ["tulle"]
    assert not world.conflist.exists()
    world.member.close()


def test_what_people_ask_is_answered(world: World) -> None:
    world.hear(snapshot(*NODES[:3], problems=("n9 has no address",)))
    status = world.member.status()
    assert {key: status[key] for key in ("node", "ready", "nodes", "addresses", "podCIDRs", "backend", "mtu")} == {
        "node": "n1", "ready": True, "nodes": 3, "addresses": ["192.0.2.1"], "podCIDRs": ["10.244.1.0/24"],
        "backend": "vxlan", "mtu": 1450,
    }
    assert status["problems"] == ["n9 has no address"]
    assert "warn: n9 has no address" in world.journal.lines


def test_what_is_refused_is_tried_again_later_and_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(membership, "monotonic", lambda: now)
    world.kernel.fail_at = 0
    delays: list[float] = []
    world.hear(snapshot(*NODES[:2]))
    for _ in range(7):
        due = world.member.wanted()
        assert due is not None
        delays.append(due - now)
        now = due
        world.kernel.fail_at, world.kernel._tried = 0, 0
        world.look()
    assert delays == [1, 2, 4, 8, 16, 30, 30]


def test_neighbours_are_told_once_on_which_interface_an_address_is_now(world: World) -> None:
    world.hear(snapshot(*NODES))
    assert world.kernel.advertised == [{"192.0.2.1": "eth0"}]
    world.look(ADDRESSES)
    world.kernel.uplink_there = Uplink("eth1", 1500, ("192.0.2.0/24",))
    world.look(ADDRESSES)
    world.look(EVERYTHING)
    assert world.kernel.advertised == [{"192.0.2.1": "eth0"}, {"192.0.2.1": "eth1"}]


def test_what_could_not_be_told_to_neighbours_is_told_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPv6 address is nobody's until it is certain that no other station has it."""
    asked: list[Mapping[str, str]] = []

    def advertise(where: Mapping[str, str]) -> tuple[str, ...]:
        asked.append(where)
        return ()

    with monkeypatch.context() as now:
        now.setattr(world.kernel, "advertise", advertise)
        world.hear(snapshot(*NODES))
        world.look(ADDRESSES)
        assert asked == [{"192.0.2.1": "eth0"}] * 2
    world.look(ADDRESSES)
    world.look(ADDRESSES)
    assert world.kernel.advertised == [{"192.0.2.1": "eth0"}]

"""The reconcile loop by a clock that stands still: when it looks, at what, how often, and what it tells."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import pytest
from msgspec import structs

from cni_plugin.agent import collector, loop
from cni_plugin.agent.collector import COLLECTED
from cni_plugin.agent.loop import LONGEST, QUIET, ClusterKeeper, Reconciler
from cni_plugin.agent.patience import FREE, Patience
from cni_plugin.agent.settings import Settings
from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.kernel.watch.changed import ADDRESSES, EVERYTHING, LINKS, ROUTES, RULES, UPLINKS, Changed
from cni_plugin.kernel.watch.monitor import Beyond
from cni_plugin.model.base import Key, Object
from cni_plugin.model.layer3 import Addr, Route, Way
from cni_plugin.model.links import Bridge, PodLink, Veth, Vxlan
from cni_plugin.node import bridges, clusters, mtu
from cni_plugin.node.attached import Attachments
from cni_plugin.node.contract import ALL, LISTS, Inspection, Repair
from cni_plugin.node.watch import Watch
from cni_plugin.store import clusters as notes
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs import gc
from tests.pace import PATIENCE
from tests.unit.support import Json, Node, executable

CLUSTER: Json = {
    "network": "10.22.0.0/16", "node": "me", "backend": {"type": "vxlan"},
    "nodes": [
        {"name": "me", "address": "192.0.2.1", "podCIDRs": ["10.22.0.0/24"]},
        {"name": "n2", "address": "192.0.2.2", "podCIDRs": ["10.22.2.0/24"]},
    ],
}
GATEWAY: Key = ("addr", "", "tulle0", "10.22.0.1/24")
ROUTE: Key = ("route", "", "254", "10.22.2.0/24", "0", "")
CHAIN: Key = ("chain", "", "postrouting")
DEVICE: Key = ("link", "", "tulle.1")


class Clock:
    """`loop.monotonic`, which goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Events:
    """`loop.Events` that a test makes."""

    def __init__(self) -> None:
        self.links: set[str] = set()
        self.tunnels: set[str] = set()
        self.uplinks: set[str] = set()
        self.beyond = Beyond()
        self.next: Changed = 0

    def filenos(self) -> tuple[int, ...]:
        return (7,)

    def drain(self, fd: int) -> Changed:
        assert fd == 7
        return self.next

    def watch(
        self, links: Mapping[str, int], tunnels: Collection[str], uplinks: Collection[str], beyond: Beyond
    ) -> None:
        self.beyond = beyond
        self.links, self.tunnels, self.uplinks = set(links), set(tunnels), set(uplinks)

    def close(self) -> None:
        self.links.clear()


class World:
    """A node with a loop that has made its first pass."""

    def __init__(self, node: Node, clock: Clock, settings: Settings, keeper: ClusterKeeper | None = None) -> None:
        self.node = node
        self.clock = clock
        self.events = Events()
        self.told: list[tuple[str, int, str]] = []
        self.said: list[tuple[object, ...]] = []
        self.loop = Reconciler(node.kernel, node.records, self, settings, self.events, keeper=keeper)
        self.loop.run()

    def repaired(self, what: str, operations: int, seconds: float, problem: str = "") -> None:
        assert seconds >= 0
        self.told.append((what, operations, problem))

    def reconciled(self, seconds: float) -> None:
        assert seconds >= 0

    def say(self, level: str, message: str, **fields: object) -> None:
        assert message
        self.said.append((level, *fields.values()))

    def happens(self, changed: Changed, after: float = 0.0) -> None:
        self.clock.now += after
        self.events.next = changed
        self.loop.readable(7)

    def due(self) -> float:
        """In how many seconds a pass is due."""
        due = self.loop.due()
        assert due is not None
        return round(due - self.clock.now, 6)

    def breaks(self, key: Key, changed: Changed) -> None:
        """Somebody takes something away, and a quiet time later it is looked for if that is due."""
        self.node.kernel.apply([Op("delete", self.node.kernel.state[key])])
        self.happens(changed)
        self.goes_on(QUIET)

    def goes_on(self, seconds: float) -> None:
        """Time passes, with a pass whenever one is due."""
        end = self.clock.now + seconds
        while (due := self.loop.due()) is not None and due <= end + 1e-9:
            self.clock.now = max(self.clock.now, due)
            self.loop.run()
        self.clock.now = end

    def stands(self, key: Key) -> bool:
        return key in self.node.kernel.state


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(loop, "monotonic", made)
    return made


@pytest.fixture
def world(node: Node, clock: Clock) -> World:
    """One pod, in a cluster of two nodes."""
    there = node.configured(cluster=CLUSTER)
    assert there.call("ADD").exit == 0
    return World(there, clock, Settings(interval=60, grace=300))


# When


def test_a_pass_is_due_at_once_and_then_at_every_interval(world: World) -> None:
    assert world.due() == 60
    world.goes_on(600)
    assert world.loop.passes == 11
    assert world.told == []


def test_a_pass_waits_for_a_quiet_time_after_the_last_event(world: World) -> None:
    world.happens(LINKS)
    assert world.due() == QUIET
    world.happens(LINKS, after=0.02)
    assert world.due() == QUIET


def test_but_never_longer_than_a_while_after_the_first(world: World) -> None:
    world.happens(LINKS)
    for _ in range(9):
        world.happens(LINKS, after=0.016)
    assert world.due() == pytest.approx(LONGEST - 0.144)


def test_events_of_no_concern_make_no_pass(world: World) -> None:
    world.happens(0)
    assert world.due() == 60


def test_many_events_make_one_pass(world: World) -> None:
    for _ in range(50):
        world.happens(EVERYTHING, after=0.001)
    before = world.loop.passes
    world.goes_on(1)
    assert world.loop.passes == before + 1


# What


@pytest.mark.parametrize(
    ("key", "changed", "what"),
    [
        (GATEWAY, ADDRESSES, "bridge tulle0"), (ROUTE, ROUTES, "cluster of pods"), (CHAIN, RULES, "masquerade"),
        (DEVICE, LINKS, "cluster of pods"), (("sysctl", "", "net/ipv4/ip_forward"), EVERYTHING, "bridge tulle0"),
    ],
)
def test_what_somebody_takes_away_is_put_back_and_told(world: World, key: Key, changed: Changed, what: str) -> None:
    before = dict(world.node.kernel.state)
    world.breaks(key, changed)
    assert world.node.kernel.state == before
    assert [(each, problem) for each, _, problem in world.told] == [(what, "")]
    assert world.told[0][1] >= 1


def test_what_nobody_spoke_of_is_found_at_the_interval(world: World) -> None:
    world.breaks(ROUTE, RULES)
    assert not world.stands(ROUTE)
    world.goes_on(60)
    assert world.stands(ROUTE)


def test_pods_are_put_on_a_bridge_that_was_made_anew(world: World) -> None:
    port = Attachment("pods", "a", "eth0").host_dev
    world.breaks(("link", "", "tulle0"), LINKS)
    found = world.node.kernel.state["link", "", port]
    assert isinstance(found, Veth) and found.master == "tulle0"
    assert [each for each, *_ in world.told] == ["bridge tulle0", "ports of pods"]


def test_a_bridge_whose_pods_all_came_without_a_pass_gets_back_its_mac(world: World) -> None:
    """It outlives its last pod, and the next one learns its MAC; a look at it may not come before it breaks."""
    key: Key = ("link", "", "tulle0")
    before = world.node.kernel.state[key]
    assert isinstance(before, Bridge)
    world.node.kernel.state[key] = before = structs.replace(before, mac="02:00:00:00:00:77")
    world.happens(LINKS)
    world.goes_on(QUIET)
    assert world.node.call("DEL").exit == 0
    world.happens(LINKS)
    world.goes_on(QUIET)
    assert world.node.call("ADD").exit == 0
    world.breaks(key, LINKS)
    after = world.node.kernel.state[key]
    assert isinstance(after, Bridge) and after.mac == before.mac


def test_the_links_of_bridges_and_clusters_are_watched(world: World) -> None:
    assert world.events.links == {"tulle0", "tulle.1", "eth0"}
    assert (world.events.tunnels, world.events.uplinks) == ({"tulle.1"}, {"eth0"})


def test_a_pass_sees_pods_that_the_fallback_engine_started_and_stopped(world: World) -> None:
    assert world.node.configured(name="others", bridge="br9", cluster=None).call("ADD", "b eth1").exit == 0
    world.breaks(("addr", "", "br9", "10.22.0.1/24"), LINKS)
    assert [each for each, *_ in world.told] == ["bridge br9"]
    assert world.node.call("DEL").exit == 0
    world.breaks(GATEWAY, LINKS)
    assert not world.stands(GATEWAY), "nobody wants it any more"


def test_a_node_that_is_right_is_left_alone(world: World) -> None:
    done = len(world.node.kernel.applied)
    world.happens(EVERYTHING)
    world.goes_on(120)
    assert (len(world.node.kernel.applied), world.told, world.loop.problem) == (done, [], "")


# How often


def test_who_breaks_the_same_thing_again_and_again_is_met_less_and_less_often(world: World) -> None:
    for _ in range(FREE):
        world.breaks(ROUTE, ROUTES)
        assert world.stands(ROUTE)
    assert all(not problem for *_, problem in world.told)
    for pause in (1, 2, 4, 8, 16, 30, 30):
        world.breaks(ROUTE, ROUTES)
        assert world.stands(ROUTE)
        assert f"next look in {pause} s" in world.told[-1][2]
        world.breaks(ROUTE, ROUTES)
        assert not world.stands(ROUTE), "left alone"
        world.goes_on(pause - 2 * QUIET)
        assert not world.stands(ROUTE)
        world.clock.now += QUIET
        world.node.kernel.apply([Op("create", Route("10.22.2.0/24", "tulle.1", via="10.22.2.0", onlink=True))])
        world.goes_on(0.001)


def test_another_thing_that_breaks_is_not_kept_waiting(world: World) -> None:
    for _ in range(FREE + 1):
        world.breaks(ROUTE, ROUTES)
    world.breaks(CHAIN, RULES)
    world.breaks(GATEWAY, ADDRESSES)
    assert world.stands(CHAIN) and world.stands(GATEWAY)


def test_what_stayed_right_for_a_minute_is_forgiven(world: World) -> None:
    for _ in range(FREE + 3):
        world.breaks(ROUTE, ROUTES)
        world.goes_on(61)
    assert all(not problem for *_, problem in world.told)


def test_what_cannot_be_put_right_is_told_and_tried_less_and_less_often(world: World) -> None:
    world.node.kernel.apply([Op("delete", world.node.kernel.state[ROUTE])])
    foreign = Route("10.22.2.0/24", "eth0", via="192.0.2.9", protocol=4)
    world.node.kernel.state[foreign.key] = foreign
    world.happens(ROUTES)
    world.goes_on(QUIET)
    assert "10.22.2.0/24" in world.loop.problem
    world.goes_on(29.9)
    assert len(world.told) == 5, "after 0, 1, 3, 7 and 15 s"
    del world.node.kernel.state[foreign.key]
    world.happens(ROUTES)
    world.goes_on(1)
    assert not world.stands(ROUTE), "its time has not come"
    world.happens(LINKS | UPLINKS)
    world.goes_on(QUIET)
    assert world.stands(ROUTE), "a change of the uplink makes everything worth a try"
    assert world.loop.problem == ""


def test_records_that_cannot_be_read_do_not_end_the_agent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Attachments) -> bool:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Attachments, "refresh", fails)
        world.happens(EVERYTHING)
        world.goes_on(1)
    assert "Permission denied" in world.loop.problem
    world.goes_on(60)
    assert world.loop.problem == ""


def test_patience_waits_half_a_minute_at_most() -> None:
    patience = Patience()
    delays = [patience.struck("x", ["x"], 0.0, failed=True) for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


# Attachments whose sandbox is gone


def dies(world: World, pod: str = "a eth0") -> None:
    world.node.kernel._namespaces = frozenset()
    world.node.unplug(pod)


def test_an_attachment_is_collected_a_time_of_grace_after_its_sandbox_was_seen_gone(world: World) -> None:
    dies(world)
    world.goes_on(60 + 299)
    assert [each.container for each in world.node.records.all()] == ["a"]
    world.goes_on(60)
    assert world.node.left() == ["run/clusters/pods", "run/programmed/pods"]
    assert world.told == [(COLLECTED, 1, "")]
    assert world.said == [("info", "pods", "a", "eth0")]
    assert not world.stands(CHAIN)


@pytest.mark.parametrize("sign", ["wire", "namespace"])
def test_one_sign_of_death_alone_proves_nothing(world: World, sign: str) -> None:
    if sign == "wire":
        world.node.kernel._namespaces = frozenset()
    else:
        world.node.unplug("a eth0")
    world.goes_on(3600)
    assert [each.container for each in world.node.records.all()] == ["a"]


def test_a_namespace_in_which_another_container_lives_is_as_good_as_gone(world: World) -> None:
    """Its path is a process number that is used again, so it never seems to go."""
    world.node.unplug("a eth0")
    assert world.node.call("ADD", "b eth0", CNI_NETNS="/run/netns/a").exit == 0
    world.happens(EVERYTHING)
    world.goes_on(60 + 299 + 60)
    assert [each.container for each in world.node.records.all()] == ["b"]


def test_who_comes_back_to_life_has_all_the_time_again(world: World) -> None:
    dies(world)
    world.goes_on(299)
    world.node.kernel._namespaces = None
    world.goes_on(60)
    world.node.kernel._namespaces = frozenset()
    world.goes_on(300)
    assert [each.container for each in world.node.records.all()] == ["a"]
    world.goes_on(120)
    assert list(world.node.records.all()) == []


def test_a_pod_made_anew_is_not_the_one_that_died(world: World) -> None:
    dies(world)
    world.goes_on(120)
    world.node.kernel._namespaces = None
    assert world.node.call("DEL").exit == world.node.call("ADD").exit == 0
    world.goes_on(600)
    assert [each.container for each in world.node.records.all()] == ["a"]


def test_another_plugins_ipam_is_told_of_it_without_holding_the_loop(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = node.home / "log"
    executable(node.home / "bin" / "foreign", f"""#!/bin/sh
echo $CNI_COMMAND $CNI_CONTAINERID >> {log}
if [ $CNI_COMMAND = ADD ]; then echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.5.0.2/24"}}]}}'; fi
""")
    monkeypatch.setattr(gc, "PLUGIN_PATH", (f"{node.home}/bin",))
    monkeypatch.setattr(collector, "open_kernel", lambda: nullcontext(node.kernel))
    there = node.configured(ipam={"type": "foreign"})
    assert there.call("ADD").exit == 0
    world = World(there, clock, Settings(interval=60, grace=0))
    dies(world)
    before = set(threading.enumerate())
    world.goes_on(60)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    assert log.read_text().split("\n") == ["ADD a", "DEL a", ""]
    assert list(there.records.all()) == []
    world.goes_on(60)
    assert world.told == [(COLLECTED, 1, "")]


# What the bridges must be, from many records


def objects(world: World, bridge: str) -> Mapping[Key, Object]:
    found = Attachments(world.node.records)
    found.refresh()
    return found.bridges[bridge]


def test_records_are_read_once_until_they_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Attachments(world.node.records)
    assert found.refresh()
    reads: list[str] = []
    load = Records.load

    def counted(records: Records, network: str, entry: str) -> Record | None:
        reads.append(entry)
        return load(records, network, entry)

    monkeypatch.setattr(Records, "load", counted)
    found.refresh()
    assert reads == []
    assert world.node.call("ADD", "b eth1").exit == 0
    assert found.refresh()
    assert reads == ["b:eth1"]
    assert len(list(found)) == 2
    assert world.node.call("DEL", "b eth1").exit == 0
    found.refresh()
    assert (reads, len(list(found))) == (["b:eth1"], 1)


def test_networks_on_one_bridge_want_it_together(world: World) -> None:
    other = world.node.configured(
        name="others", cluster=None, promiscMode=True,
        ipam={"type": "host-local", "subnet": "10.33.0.0/24", "dataDir": f"{world.node.home}/data"},
    )
    assert other.call("ADD", "b eth1").exit == 0
    want = objects(world, "tulle0")
    assert {each.address for each in want.values() if isinstance(each, Addr)} == {"10.22.0.1/24", "10.33.0.1/24"}
    assert [each.promisc for each in want.values() if isinstance(each, Bridge)] == [True]


@pytest.mark.parametrize("network", ["pods", "others"])
def test_an_address_that_force_address_put_out_is_not_put_back(world: World, network: str) -> None:
    """It puts out what its own network had; other networks' pods keep their gateway, with an agent as without."""
    forced = world.node.configured(
        name=network, cluster=None, forceAddress=True,
        ipam={"type": "host-local", "subnet": "10.33.0.0/24", "dataDir": f"{world.node.home}/data"},
    )
    assert forced.call("ADD", "b eth1").exit == 0
    stands = network == "others"
    assert world.stands(GATEWAY) == stands
    world.happens(EVERYTHING)
    world.goes_on(60)
    assert world.stands(GATEWAY) == stands
    assert world.told == []


def test_where_nothing_is_on_record_nothing_is_wanted(node: Node, clock: Clock) -> None:
    world = World(node, clock, Settings())
    world.happens(EVERYTHING)
    world.goes_on(1)
    assert (world.told, node.kernel.applied, world.events.links) == ([], [], set())


def test_a_cluster_that_is_right_is_not_written_again(world: World) -> None:
    path = world.node.home / "run" / "clusters" / "pods"
    before = path.stat().st_mtime_ns
    world.goes_on(180)
    assert path.stat().st_mtime_ns == before
    world.breaks(ROUTE, ROUTES)
    assert path.stat().st_mtime_ns != before


# Clusters that a source tells of


class Kept:
    """`loop.ClusterKeeper`: what it was asked, and what it says then."""

    NAME = "source"
    ORDER = 15
    ON: Changed = ALL
    CAUSES: Changed = 0

    def __init__(self, *networks: str) -> None:
        self.kept = networks
        self.asked: list[Changed] = []
        self.says: list[Repair] = []
        self.wants: float | None = None

    def networks(self) -> Collection[str]:
        return self.kept

    def wanted(self) -> float | None:
        return self.wants

    def looks(self, world: object, changed: Changed) -> Iterator[Inspection]:
        del world
        self.wants = None
        self.asked.append(changed & (EVERYTHING | LISTS))
        for each in self.says:
            yield Inspection(each.what, partial(said, each), own_pace=True)

    def watch(self, world: object) -> Watch:
        del world
        return Watch(frozenset({"tulle.9"}), frozenset({"eth9"}), ("192.0.2.9",), {"02:00": "192.0.2.9"}.__getitem__)

    def words(self) -> Mapping[str, str]:
        return {}


def said(found: Repair) -> Sequence[Op]:
    if found.problem:
        raise OSError(found.problem)
    return found.ops


@pytest.fixture
def kept(node: Node, clock: Clock) -> tuple[World, Kept]:
    """The same pod and cluster, which somebody else keeps."""
    there = node.configured(cluster=CLUSTER)
    assert there.call("ADD").exit == 0
    clusters = Kept("pods")
    return World(there, clock, Settings(interval=60, grace=300), clusters), clusters


def test_who_keeps_clusters_is_asked_in_each_pass_and_nobody_else_looks_at_its_networks(
    kept: tuple[World, Kept]
) -> None:
    world, clusters = kept
    assert clusters.asked == [EVERYTHING | LISTS]
    world.breaks(ROUTE, ROUTES)
    assert clusters.asked[1:] == [ROUTES]
    assert not world.stands(ROUTE)
    clusters.kept = ()
    world.happens(ROUTES)
    world.goes_on(QUIET)
    assert world.stands(ROUTE)


def test_what_it_put_right_and_what_it_could_not_is_told(kept: tuple[World, Kept]) -> None:
    world, clusters = kept
    done = Op("create", Route("10.22.2.0/24", "eth0"))
    clusters.says = [Repair("cluster of pods", (done,)), Repair("x", problem="no")]
    world.happens(UPLINKS)
    world.goes_on(QUIET)
    assert world.told == [("cluster of pods", 1, ""), ("x", 0, "no")]
    assert world.loop.problem == "x: no"


def test_what_a_source_had_wrong_and_tells_no_more_is_wrong_no_more(kept: tuple[World, Kept]) -> None:
    """Else the node is told not to be ready for ever: what is right again has nothing to tell."""
    world, clusters = kept
    clusters.says = [Repair("cluster of pods", problem="its subnet lies outside"), Repair("x", problem="no")]
    clusters.wants = 0.0
    world.loop.run()
    assert world.loop.problem == "cluster of pods: its subnet lies outside; x: no"
    clusters.says = [Repair("x", problem="no")]
    clusters.wants = 0.0
    world.loop.run()
    assert world.loop.problem == "x: no"
    clusters.says = []
    clusters.wants = 0.0
    world.loop.run()
    assert world.loop.problem == ""


def test_what_was_wrong_with_something_that_is_gone_is_wrong_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bridges, clusters and pods come and go; none of them stays behind as the reason why a node is not ready."""
    def broken(*_: object) -> Sequence[Op]:
        raise OSError("not now")

    for part in (bridges, clusters, mtu):
        monkeypatch.setattr(part, "_put_right", broken)
    world.node.kernel.found_ways["192.0.2.2"] = Way("eth0", 1400)
    world.happens(EVERYTHING)
    world.goes_on(QUIET)
    assert "bridge tulle0" in world.loop.problem and "cluster of pods" in world.loop.problem
    assert world.node.call("DEL").exit == 0
    notes.forget(world.node.records, "pods")
    world.happens(EVERYTHING)
    world.goes_on(QUIET)
    assert world.loop.problem == ""


def test_a_source_that_spoke_makes_a_pass_at_once(kept: tuple[World, Kept]) -> None:
    world, clusters = kept
    clusters.wants = 0.0
    assert world.due() <= 0
    world.loop.run()
    assert clusters.asked[1:] == [0]
    assert world.due() == 60


def test_the_monitor_is_told_what_matters_to_it(kept: tuple[World, Kept]) -> None:
    world, _ = kept
    beyond = world.events.beyond
    assert (world.events.tunnels, world.events.uplinks) == ({"tulle.1", "tulle.9"}, {"eth0", "eth9"})
    assert (beyond.peers, beyond.everywhere) == (("192.0.2.9",), True)
    assert beyond.entry is not None
    assert beyond.entry("02:00") == "192.0.2.9"


def test_without_it_only_what_hangs_on_known_links_matters(world: World) -> None:
    assert world.events.beyond == Beyond((), None, 0, everywhere=False)


# Lists in files, and the MTU that they leave


def test_a_list_that_changes_in_its_file_is_followed_at_once(node: Node, clock: Clock) -> None:
    path = node.home / "cluster.json"
    path.write_text(json.dumps({**CLUSTER, "nodes": CLUSTER["nodes"][:1]}))  # type: ignore[index]
    there = node.configured(cluster=str(path))
    assert there.call("ADD").exit == 0
    world = World(there, clock, Settings())
    assert not world.stands(ROUTE)
    path.write_text(json.dumps(CLUSTER))
    (inotify,) = set(world.loop.filenos()) - {7}
    world.loop.readable(inotify)
    assert world.due() == QUIET
    world.goes_on(QUIET)
    assert world.stands(ROUTE)
    path.write_text("{")
    world.loop.readable(inotify)
    world.goes_on(QUIET)
    assert world.stands(ROUTE), "of a broken list the last good one stays"
    assert "not valid JSON" in world.loop.problem
    world.loop.close()


def test_the_gateway_of_a_subnet_that_a_list_takes_away_goes_with_it(node: Node, clock: Clock) -> None:
    """Not at the next look at everything: it hides the pods of who has that subnet now."""
    path = node.home / "cluster.json"
    path.write_text(json.dumps(CLUSTER))
    there = node.configured(cluster=str(path))
    assert there.call("ADD").exit == there.call("DEL").exit == 0
    world = World(there, clock, Settings())
    assert world.stands(GATEWAY)
    nodes = [{"name": "me", "address": "192.0.2.1", "podCIDRs": ["10.22.9.0/24"]}]
    path.write_text(json.dumps({**CLUSTER, "nodes": nodes}))
    (inotify,) = set(world.loop.filenos()) - {7}
    world.loop.readable(inotify)
    before = world.loop.passes
    world.goes_on(QUIET)
    assert world.loop.passes == before + 1
    assert not world.stands(GATEWAY)
    world.loop.close()


def test_pods_follow_the_mtu_that_their_cluster_leaves(world: World) -> None:
    def mtus() -> set[int]:
        links = (Bridge, Veth, PodLink, Vxlan)
        return {each.mtu for each in world.node.kernel.state.values() if isinstance(each, links)}

    assert mtus() == {1450}
    world.node.kernel.found_ways["192.0.2.2"] = Way("eth0", 1400)
    world.happens(LINKS | UPLINKS)
    world.goes_on(QUIET)
    assert mtus() == {1350}
    assert [(what, problem) for what, _, problem in world.told] == [
        ("cluster of pods", ""), ("MTU of pods in pods", ""), ("bridge tulle0", ""),
    ]
    world.goes_on(600)
    assert len(world.told) == 3

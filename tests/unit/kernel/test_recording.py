"""A kernel that only takes notes: who asks it sees what he did, and the one below hears nothing of it."""

from __future__ import annotations

from cni_plugin.diff import Op
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.recording import Recorder
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, PodLink, Up, Veth
from tests.unit.support import UPLINK

BRIDGE, ADDRESS = Bridge("tulle0", mtu=1400, alias="tulle:bridge"), Addr("tulle0", "10.22.0.1/24")
VETH = Veth("tl1", master="tulle0", alias="tulle:pods/a/eth0", peer="eth0", peer_mac="02:00:00:00:00:05")


def recorder(*objects: Bridge | Addr | Up | Veth | Route) -> tuple[Recorder, FakeKernel, list[Op]]:
    below, told = FakeKernel(objects, uplink=UPLINK, held=("192.0.2.1",)), list[Op]()
    return Recorder(below, told.extend), below, told


def test_what_stands_below_is_seen_until_it_is_changed_here() -> None:
    kernel, below, told = recorder(BRIDGE, ADDRESS)
    other = Addr("tulle0", "10.33.0.1/24")
    assert (kernel.read([BRIDGE]), kernel.addresses("tulle0")) == ({BRIDGE.key: BRIDGE}, ("10.22.0.1/24",))
    assert kernel.link_index("tulle0") == below.link_index("tulle0")
    kernel.apply([Op("delete", ADDRESS), Op("create", other)])
    assert (kernel.read([ADDRESS, other]), kernel.addresses("tulle0")) == ({other.key: other}, ("10.33.0.1/24",))
    assert (below.applied, [op.object for op in told]) == ([], [ADDRESS, other])


def test_a_link_that_is_made_anew_has_nothing_of_the_one_below() -> None:
    kernel, below, _ = recorder(BRIDGE, ADDRESS, Up("tulle0"), VETH)
    kernel.apply([Op("delete", BRIDGE), Op("create", BRIDGE)])
    assert kernel.read([ADDRESS, Up("tulle0"), BRIDGE]) == {BRIDGE.key: BRIDGE}
    assert (kernel.addresses("tulle0"), kernel.ports("tulle0")) == ((), 0)
    assert kernel.link_index("tulle0")
    assert (below.ports("tulle0"), below.addresses("tulle0")) == (1, ("10.22.0.1/24",))


def test_the_pods_namespace_is_a_new_one_whatever_the_kernel_below_is_in() -> None:
    kernel, below, _ = recorder(BRIDGE)
    below.apply([Op("create", VETH)])
    kernel.enter("")
    assert (below.pod_link_exists("eth0"), kernel.pod_link_exists("eth0")) == (True, False)
    kernel.apply([Op("create", Veth("tl2", peer="eth0"))])
    assert kernel.pod_link_exists("eth0")
    assert list(kernel.read([PodLink("eth0")])) == [PodLink("eth0").key]


def test_what_is_ours_is_listed_with_what_was_made_and_without_what_was_removed_here() -> None:
    route = Route("10.244.2.0/24", "eth0", "192.0.2.2")
    kernel, below, _ = recorder(BRIDGE, route)
    kernel.apply([Op("create", VETH), Op("delete", route), Op("create", Neigh("tulle0", "10.22.0.9"))])
    assert {each.name for each in kernel.own_links()} == {"tulle0", "tl1"}
    assert (kernel.owned(""), kernel.ports("tulle0")) == ({}, 1)
    assert list(below.owned("")) == [route.key]
    assert kernel.locally_held() == below.locally_held()


def test_nothing_is_refused_for_what_a_kernel_refuses_it_alone_knows() -> None:
    kernel, _, told = recorder()
    kernel.apply([Op("create", Addr("nowhere", "10.22.0.1/24")), Op("delete", BRIDGE)])
    assert len(told) == 2
    assert kernel.link_index("tulle0") == 0

"""The kernel in memory refuses what a kernel refuses, and takes along what a kernel takes along."""

from __future__ import annotations

import errno

import pytest

from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import Kernel, OwnLink, Uplink
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.base import POD, Object, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Neigh, Route, Way
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vxlan

BRIDGE = Bridge("tulle0", alias="tulle:net")
WIRE = Veth("tl0", master="tulle0", mtu=1400, peer="eth0", peer_mac="0a:58:0a:16:00:02", alias="tulle:net/c1/eth0")
PEER = PodLink("eth0", mac="0a:58:0a:16:00:02", mtu=1400)
ADDRESS = Addr("eth0", "10.22.0.2/16", POD)
POD_STATE = state([BRIDGE, WIRE, PEER, Port("tl0", hairpin=True), Up("eth0", POD), ADDRESS])


def refused(kernel: FakeKernel, *ops: Op) -> KernelError:
    with pytest.raises(KernelError) as caught:
        kernel.apply(ops)
    return caught.value


def test_it_keeps_the_whole_protocol_of_the_door() -> None:
    kernel: Kernel = FakeKernel()

    assert kernel.read([BRIDGE]) == {}


def test_a_pod_made_from_nothing_stands_as_it_was_wanted() -> None:
    kernel = FakeKernel()

    kernel.apply(diff(POD_STATE, {}))

    assert kernel.read(POD_STATE.values()) == POD_STATE


def test_the_pods_end_of_a_veth_comes_and_goes_with_it() -> None:
    kernel = FakeKernel([BRIDGE])

    kernel.apply([Op("create", WIRE)])
    assert kernel.pod_link_exists("eth0")
    kernel.apply([Op("create", ADDRESS), Op("delete", WIRE)])

    assert kernel.state == state([BRIDGE])


def test_deleting_the_pods_end_takes_the_host_side_along() -> None:
    kernel = FakeKernel(POD_STATE.values())

    kernel.delete_pod_link("eth0")

    assert kernel.state == state([BRIDGE])


def test_a_bridge_that_goes_leaves_its_ports_behind_without_their_flags() -> None:
    kernel = FakeKernel(POD_STATE.values())

    kernel.apply([Op("delete", BRIDGE)])

    assert kernel.link_index("tl0")
    assert kernel.read([WIRE, Port("tl0")]) == state(
        [Veth("tl0", mtu=1400, peer="eth0", peer_mac=WIRE.peer_mac, alias=WIRE.alias)]
    )


@pytest.mark.parametrize("thing", [BRIDGE, WIRE, ADDRESS, Route("0.0.0.0/0", "eth0", "10.22.0.1", POD)])
def test_what_exists_is_not_created_again(thing: Object) -> None:
    kernel = FakeKernel([*POD_STATE.values(), Route("0.0.0.0/0", "eth0", "10.22.0.1", POD)])

    assert refused(kernel, Op("create", thing)).errno == errno.EEXIST


@pytest.mark.parametrize(
    "thing", [Up("nowhere"), Addr("nowhere", "10.0.0.1/8"), WIRE, PEER, Fdb("nowhere", "02:00:00:00:00:01")]
)
def test_nothing_is_put_on_a_link_that_does_not_exist(thing: Object) -> None:
    assert refused(FakeKernel(), Op("create", thing)).errno == errno.ENODEV


def test_entries_of_a_peer_and_routes_of_the_node_are_put_in_the_place_of_older_ones() -> None:
    vxlan = Vxlan("tulle.1", 1, 8472, "192.0.2.1", "lo")
    kernel = FakeKernel([vxlan, Neigh("tulle.1", "10.244.2.0", "02:00:00:00:00:01"), Route("10.244.2.0/24", "tulle.1")])
    newer: list[Object] = [
        Neigh("tulle.1", "10.244.2.0", "02:00:00:00:00:02"),
        Route("10.244.2.0/24", "tulle.1", "10.244.2.0"),
    ]

    kernel.apply([Op("create", each) for each in newer])

    assert kernel.owned("tulle.1") == state(newer)


def test_a_route_that_another_program_made_is_not_seen_replaced_or_removed() -> None:
    foreign = Route("10.244.2.0/24", "lo", protocol=4)
    ours = Route("10.244.2.0/24", "lo")
    kernel = FakeKernel([foreign])

    assert kernel.owned("tulle.1") == kernel.read([ours]) == {}
    assert refused(kernel, Op("create", ours)).errno == errno.EEXIST
    kernel.apply([Op("delete", ours)])

    assert kernel.state == state([foreign])


def test_deleting_what_is_gone_is_success() -> None:
    kernel = FakeKernel()

    kernel.apply([Op("delete", each) for each in POD_STATE.values()])

    assert kernel.state == {}


def test_it_fails_at_the_chosen_operation_and_tells_what_took_effect() -> None:
    ops = diff(POD_STATE, {})
    kernel = FakeKernel(fail_at=2)

    error = refused(kernel, *ops)

    assert (error.op, error.errno, error.done) == (ops[2], errno.EIO, tuple(ops[:2]))
    kernel.apply(ops[2:])
    assert kernel.state == POD_STATE


def test_not_being_member_of_a_vlan_is_the_state_of_a_port_without_it() -> None:
    absent = PortVlan("tl0", 1, member=False)
    kernel = FakeKernel([*POD_STATE.values(), PortVlan("tl0", 1, untagged=True)])

    ops = diff(state([absent]), kernel.read([absent]))
    kernel.apply(ops)

    assert len(ops) == 1
    assert kernel.read([absent]) == state([absent])


def test_it_answers_about_addresses_and_marks_as_a_node_does() -> None:
    uplink = Uplink("ens3", 1450, ("192.0.2.0/24",))
    objects: list[Object] = [BRIDGE, Addr("tulle0", "10.22.0.1/16"), Sysctl("net/ipv4/ip_forward", "1")]
    kernel = FakeKernel(objects, uplink=uplink, held=["192.0.2.1"])

    assert kernel.addresses("tulle0") == ("10.22.0.1/16",)
    assert kernel.locally_held() == {"192.0.2.1", "10.22.0.1"}
    assert kernel.uplink("192.0.2.1") == uplink
    assert kernel.uplink("192.0.2.9") is None
    assert kernel.default_mtu() == 1450
    assert kernel.interfaces() == {"ens3": ("192.0.2.1/24",), "tulle0": ("10.22.0.1/16",)}
    assert kernel.ways(["192.0.2.9", "203.0.113.1", "192.0.2.1"]) == {
        "192.0.2.9": Way("ens3", 1450), "203.0.113.1": Way("ens3", 1450, via="192.0.2.254"),
    }
    assert kernel.own_links() == (OwnLink("tulle0", "tulle:net"),)
    assert kernel.link_mac("nowhere") == ""


def test_a_namespace_that_is_gone_or_our_own_is_not_entered() -> None:
    kernel = FakeKernel(namespaces=["/run/netns/pod", "self"])

    kernel.enter("/run/netns/pod")
    with pytest.raises(NetnsError) as gone:
        kernel.enter("/run/netns/other")
    with pytest.raises(NetnsError) as own:
        kernel.enter("self")
    kernel.enter("self", allow_own=True)

    assert (gone.value.kind, own.value.kind) == ("gone", "own")

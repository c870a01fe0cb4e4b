"""A pod's wire in a real kernel: what is wanted stands, works, is seen to be broken when it is, and goes away whole."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op, diff, invert
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.model.base import POD, Object, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan
from cni_plugin.wirings.bridge import wiring
from cni_plugin.wirings.contract import Want
from tests.netns.kernel_world import BRIDGE, MakeNetns, bridge, enter_new, kernel_of, put, run, wire, wrong
from tests.unit.support import net_conf


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    with kernel_of(netns("node")) as kernel:
        put(kernel, bridge())
        yield kernel


def links() -> list[str]:
    """The links of the node, with the other end of each."""
    return [line.split()[0] for line in run("ip -br link").splitlines()]


def refused(kernel: LinuxKernel, *ops: Op) -> KernelError:
    with pytest.raises(KernelError) as caught:
        kernel.apply(ops)
    return caught.value


def test_a_pod_made_against_nothing_stands_as_wanted_and_answers_in_both_families(
    kernel: LinuxKernel, netns: MakeNetns
) -> None:
    pod = enter_new(kernel, netns)

    put(kernel, wire())
    kernel.announce("eth0", "tl2")

    assert wrong(kernel, [*bridge(), *wire()]) == []
    run("ping -c1 -W1 10.22.0.2")
    run("ping -c1 -W1 fd22::2")
    assert "tentative" not in run("ip -6 addr show dev eth0 scope global", pod)


def test_two_pods_reach_each_other_over_the_bridge(kernel: LinuxKernel, netns: MakeNetns) -> None:
    first = enter_new(kernel, netns, "a")
    put(kernel, wire(2))
    enter_new(kernel, netns, "b")
    put(kernel, wire(3))

    run("ping -c1 -W1 10.22.0.3", first)
    run("ping -c1 -W1 fd22::3", first)


def test_removing_a_pod_twice_leaves_what_was_before_and_is_no_error(kernel: LinuxKernel, netns: MakeNetns) -> None:
    before = links()
    enter_new(kernel, netns)
    put(kernel, wire())

    kernel.apply(diff({}, state(wire())))
    assert links() == before

    kernel.apply([Op("delete", each) for each in reversed(wire())])
    assert links() == before


def test_deleting_is_no_error_when_the_pods_namespace_is_gone(kernel: LinuxKernel) -> None:
    kernel.apply([Op("delete", each) for each in reversed(wire())])


@pytest.mark.parametrize(
    ("damage", "in_pod", "told"),
    [
        ("ip link set eth0 down", True, "ip -n POD link set eth0 up"),
        ("ip addr del 10.22.0.2/16 dev eth0", True, "ip -n POD addr add 10.22.0.2/16 dev eth0"),
        ("ip link set eth0 mtu 1300", True, "ip -n POD link set eth0 address 0a:58:0a:16:00:02 mtu 1400"),
        ("ip -6 route del default", True, "ip -n POD route add ::/0 via fd22::1 dev eth0"),
        ("bridge link set dev tl2 hairpin off", False, "bridge link set dev tl2 hairpin on"),
        ("ip link set tl2 nomaster", False, "ip link set tl2 master tulle0"),
        ("ip link set tl2 mtu 1300", False, "mtu 1400"),
        ("ip addr del fd22::1/64 dev tulle0", False, "ip addr add fd22::1/64 dev tulle0 nodad"),
        ("ip link set tulle0 promisc on", False, "ip link set tulle0"),
        ("ip link del tl2", False, "ip link add tl2 up master tulle0"),
    ],
)
def test_damage_is_seen_told_and_put_right(
    kernel: LinuxKernel, netns: MakeNetns, damage: str, in_pod: bool, told: str
) -> None:
    pod = enter_new(kernel, netns)
    put(kernel, wire())

    run(damage, pod if in_pod else None)

    assert any(told in line for line in wrong(kernel, [*bridge(), *wire()]))
    want = state([*bridge(), *wire()])
    kernel.apply(diff(want, kernel.read(want.values())))
    assert wrong(kernel, [*bridge(), *wire()]) == []


def test_a_link_that_exists_is_not_taken_over(kernel: LinuxKernel, netns: MakeNetns) -> None:
    run("ip link add tl2 type veth peer name other")
    before = run("ip link show tl2")
    enter_new(kernel, netns)

    error = refused(kernel, *diff(state([*wire(), Up("tl2")]), {}))

    assert (error.errno, error.done) == (errno.EEXIST, ())
    assert run("ip link show tl2") == before


def test_a_link_of_another_kind_under_our_name_is_refused_not_replaced(kernel: LinuxKernel) -> None:
    with pytest.raises(KernelError, match="is no bridge") as caught:
        kernel.read([Bridge("lo")])

    assert caught.value.errno == errno.EEXIST


def test_a_refusal_tells_everything_that_took_effect_even_after_it(kernel: LinuxKernel, netns: MakeNetns) -> None:
    pod = enter_new(kernel, netns)
    put(kernel, wire())
    good: list[Object] = [Addr("eth0", "10.22.1.1/16", POD), Addr("eth0", "10.22.1.2/16", POD)]
    taken = Addr("eth0", "10.22.0.2/16", POD)

    error = refused(kernel, *(Op("create", each) for each in (good[0], taken, good[1])))

    assert error.op == Op("create", taken)
    assert error.done == tuple(Op("create", each) for each in good)
    kernel.apply(invert(error.done))
    assert "10.22.1." not in run("ip addr", pod)


def test_undoing_a_refused_pod_leaves_the_node_as_it_was(kernel: LinuxKernel, netns: MakeNetns) -> None:
    before = links()
    enter_new(kernel, netns)
    unreachable = Route("10.99.0.0/16", "eth0", "172.31.0.1", POD)

    error = refused(kernel, *diff(state([*wire(), unreachable]), {}))

    assert error.op == Op("create", unreachable)
    assert "Nexthop has invalid gateway" in error.reason
    kernel.apply(invert(error.done))
    assert links() == before


def test_what_needs_a_link_that_is_not_there_says_which(kernel: LinuxKernel) -> None:
    error = refused(kernel, Op("create", Veth("tl9", master="nowhere", peer="eth0")))

    assert (error.errno, error.reason) == (errno.ENODEV, "there is no link nowhere")


def test_the_bridge_keeps_its_mac_as_ports_come_and_go(kernel: LinuxKernel) -> None:
    kernel.apply([Op("create", Veth("tl9", master=BRIDGE, mac="02:00:00:00:00:00", peer="p9"))])
    assert kernel.link_mac(BRIDGE) == "02:00:00:00:00:01"
    kernel.apply([Op("delete", Veth("tl9"))])
    assert kernel.link_mac(BRIDGE) == "02:00:00:00:00:01"


@pytest.mark.parametrize("others", [[], [9000], [1400, 9000]])
@pytest.mark.parametrize("asked", [1300, 1500, 9000])
def test_a_bridge_of_somebody_else_keeps_the_mtu_that_follows_its_ports_whatever_a_pod_asks_for(
    kernel: LinuxKernel, netns: MakeNetns, others: list[int], asked: int
) -> None:
    run("ip link add cni0 type bridge")
    for mtu in others:
        run(f"ip link add o{mtu} mtu {mtu} master cni0 type veth peer name p{mtu}")
    before = min(others, default=1500)
    enter_new(kernel, netns)

    width = wiring.carried("cni0", asked, kernel)
    conf = net_conf(bridge="cni0", hairpinMode=False)
    put(kernel, wiring.pod(Want(Attachment("net", "c1", "eth0"), conf, "cni0", width, "0a:58:0a:16:00:02")).values())

    stands = kernel.read([Bridge("cni0"), PodLink("eth0")])
    mtus = [each.mtu for each in stands.values() if isinstance(each, Bridge | PodLink)]
    assert mtus == [before, min(asked, before)]


def test_a_foreign_bridge_is_pinned_to_the_mac_it_has(kernel: LinuxKernel) -> None:
    run("ip link add cni0 type bridge")
    run("ip link add p0 address 0e:00:00:00:00:01 type veth peer name p1")
    run("ip link set p0 master cni0")
    want = Bridge("cni0", alias="tulle:net")

    (op,) = diff(state([want]), kernel.read([want]))
    kernel.apply([op])
    mac = kernel.link_mac("cni0")
    run("ip link add p2 address 02:00:00:00:00:00 master cni0 type veth peer name p3")

    assert kernel.link_mac("cni0") == mac
    assert wrong(kernel, [want]) == []


@pytest.mark.parametrize("flag", ["hairpin", "isolated", "locked"])
def test_each_flag_of_a_port_is_set_and_read_by_itself(kernel: LinuxKernel, flag: str) -> None:
    kernel.apply([Op("create", Veth("tl9", master=BRIDGE, peer="p9"))])
    port = Port("tl9", hairpin=flag == "hairpin", isolated=flag == "isolated", locked=flag == "locked")

    kernel.apply([Op("create", port)])

    assert kernel.read([port]) == state([port])
    assert f"{flag} on" in run("bridge -d link show dev tl9")
    kernel.apply([Op("delete", port)])
    assert kernel.read([port]) == state([Port("tl9")])


def test_a_mac_is_bound_to_its_port_and_let_go(kernel: LinuxKernel) -> None:
    entry = Fdb("tl9", "0a:00:00:00:00:09")
    kernel.apply([Op("create", Veth("tl9", master=BRIDGE, peer="p9")), Op("create", entry)])
    assert kernel.read([entry]) == state([entry])
    assert "0a:00:00:00:00:09 master tulle0 static" in run("bridge fdb show dev tl9")

    kernel.apply([Op("delete", entry)])

    assert kernel.read([entry]) == {}


def test_a_learned_neighbour_is_forgotten(kernel: LinuxKernel) -> None:
    run(f"ip neigh add 10.22.0.9 lladdr 02:00:00:00:00:09 nud stale dev {BRIDGE}")
    entry = Neigh(BRIDGE, "10.22.0.9", learned=True)
    assert kernel.read([entry]) == state([Neigh(BRIDGE, "10.22.0.9", "02:00:00:00:00:09", learned=True)])

    kernel.apply([Op("delete", entry)])
    kernel.apply([Op("delete", entry)])

    assert kernel.read([entry]) == {}


def test_a_sysctl_of_a_link_with_a_dot_in_its_name_is_that_links(kernel: LinuxKernel, netns: MakeNetns) -> None:
    pod = enter_new(kernel, netns)

    put(kernel, wire(dev="eth0.5"))

    assert wrong(kernel, wire(dev="eth0.5")) == []
    assert run("cat /proc/sys/net/ipv4/conf/eth0.5/arp_notify", pod) == "1\n"


def test_sysctls_of_the_pod_leave_the_node_as_it_is(kernel: LinuxKernel, netns: MakeNetns) -> None:
    pod = enter_new(kernel, netns)
    before = run("cat /proc/sys/net/ipv4/conf/all/rp_filter")

    kernel.apply([Op("create", Sysctl("net/ipv4/conf/all/rp_filter", "2", POD))])

    assert run("cat /proc/sys/net/ipv4/conf/all/rp_filter", pod) == "2\n"
    assert run("cat /proc/sys/net/ipv4/conf/all/rp_filter") == before


def test_an_ipv6_key_that_a_kernel_does_not_have_is_no_error_and_an_ipv4_key_is(kernel: LinuxKernel) -> None:
    kernel.apply([Op("create", Sysctl("net/ipv6/conf/nowhere/accept_ra", "0"))])

    error = refused(kernel, Op("create", Sysctl("net/ipv4/conf/nowhere/arp_notify", "1")))

    assert error.errno == errno.ENOENT


def test_routes_of_every_shape_are_read_as_they_were_written(kernel: LinuxKernel, netns: MakeNetns) -> None:
    enter_new(kernel, netns)
    routes: list[Object] = [
        Route("10.50.0.0/16", "eth0", "10.22.0.1", POD, mtu=1300, advmss=1200),
        Route("10.51.0.0/16", "eth0", "fd22::1", POD),
        Route("10.52.0.0/16", "eth0", "10.22.0.1", POD, priority=7, table=1000),
        Route("10.53.0.1/32", "eth0", ns=POD, scope=253),
        Route("10.54.0.0/16", "eth0", "172.31.0.1", POD, onlink=True),
        Route("fd50:0::/64", "eth0", "fd22:0::1", POD, src="fd22::2"),
        Route("fd51::/64", "eth0", "fd22::1", POD, mtu=1300, priority=5),
    ]

    put(kernel, [*wire(), *routes])

    assert wrong(kernel, routes) == []
    assert kernel.read(routes).keys() == state(routes).keys()
    kernel.apply([Op("delete", each) for each in routes])
    assert kernel.read(routes) == {}


@pytest.mark.parametrize(
    ("dst", "first", "second"), [("0.0.0.0/0", "10.22.0.1", "10.22.0.7"), ("::/0", "fd22::1", "fd22::7")]
)
def test_two_gateways_of_one_destination_stand_side_by_side(
    kernel: LinuxKernel, netns: MakeNetns, dst: str, first: str, second: str
) -> None:
    enter_new(kernel, netns)
    put(kernel, wire())
    another = Route(dst, "eth0", second, POD)

    kernel.apply([Op("create", another)])

    assert wrong(kernel, [*wire(), another]) == []
    kernel.apply([Op("delete", another)])
    assert kernel.read([another, Route(dst, "eth0", first, POD)]).keys() == {Route(dst, "eth0", first, POD).key}


def test_a_route_that_was_moved_to_another_table_is_found_where_any_will_do(
    kernel: LinuxKernel, netns: MakeNetns
) -> None:
    pod = enter_new(kernel, netns)
    put(kernel, wire())
    run("ip route del default", pod)
    run("ip route add default via 10.22.0.1 dev eth0 proto 84 table 100", pod)

    assert wrong(kernel, [Route("0.0.0.0/0", "eth0", "10.22.0.1", POD, table=0)]) == []
    assert len(wrong(kernel, [Route("0.0.0.0/0", "eth0", "10.22.0.1", POD)])) == 1


def test_a_pods_wire_has_one_queue_each_way_so_that_the_kernel_need_not_wait_to_idle_the_others(
    kernel: LinuxKernel, netns: MakeNetns
) -> None:
    """More are made for each processor and laid idle within an RCU grace period, rtnl held (veth_init_queues)."""
    pod = enter_new(kernel, netns)
    put(kernel, wire())

    for found in (run("ip -d link show tl2"), run("ip -d link show eth0", pod)):
        assert " numtxqueues 1 numrxqueues 1 " in found


def test_only_a_veth_is_deleted_from_a_pod(kernel: LinuxKernel, netns: MakeNetns) -> None:
    enter_new(kernel, netns)
    put(kernel, wire())

    kernel.delete_pod_link("lo")
    kernel.delete_pod_link("nowhere")
    assert kernel.pod_link_exists("eth0") and kernel.pod_link_exists("lo")
    kernel.delete_pod_link("eth0")

    assert not kernel.pod_link_exists("eth0")
    assert kernel.link_index("tl2") == 0


def test_membership_of_a_vlan_is_set_read_and_taken_away(kernel: LinuxKernel) -> None:
    filtering = Bridge("br1", alias="tulle:net", vlan_filtering=True)
    try:
        kernel.apply([Op("create", filtering)])
    except KernelError as error:
        assert error.errno == errno.EOPNOTSUPP
        pytest.skip("this kernel was built without CONFIG_BRIDGE_VLAN_FILTERING")
    kernel.apply([Op("create", Veth("tl9", master="br1", peer="p9"))])
    wanted: list[Object] = [
        PortVlan("tl9", 1, member=False),
        PortVlan("tl9", 5, pvid=True, untagged=True),
        PortVlan("tl9", 10, 20),
        PortVlan("br1", 5, self_=True),
        filtering,
    ]

    kernel.apply(diff(state(wanted), kernel.read(wanted)))

    assert wrong(kernel, wanted) == []
    kernel.apply([Op("delete", each) for each in wanted[:3]])
    assert kernel.read(wanted[1:3]) == {}


def test_a_vlan_device_on_the_bridge_holds_a_gateways_address(kernel: LinuxKernel) -> None:
    name = f"{BRIDGE}.5"
    wanted: list[Object] = [Vlan(name, BRIDGE, 5, alias="tulle:net"), Up(name), Addr(name, "10.5.0.1/24")]
    try:
        put(kernel, wanted)
    except KernelError as error:
        assert "Unknown device type" in error.reason
        pytest.skip("this kernel was built without CONFIG_VLAN_8021Q")

    assert wrong(kernel, wanted) == []
    kernel.apply(diff({}, state(wanted)))
    assert kernel.read(wanted) == {}


def test_not_being_in_a_vlan_is_true_of_a_port_that_has_none(kernel: LinuxKernel) -> None:
    kernel.apply([Op("create", Veth("tl9", master=BRIDGE, peer="p9")), Op("create", PortVlan("tl9", 77, member=False))])

    assert wrong(kernel, [PortVlan("tl9", 77, member=False)]) == []


def test_marks_and_addresses_of_the_node_are_found(kernel: LinuxKernel, netns: MakeNetns) -> None:
    enter_new(kernel, netns)
    put(kernel, wire())

    assert {each.name: each.alias for each in kernel.own_links()} == {"tulle0": "tulle:net", "tl2": "tulle:net/c2/eth0"}
    assert kernel.addresses(BRIDGE) == ("10.22.0.1/16", "fd22::1/64")
    assert kernel.addresses("nowhere") == ()
    assert {"10.22.0.1", "fd22::1"} <= kernel.locally_held()
    assert kernel.read([PodLink("nowhere"), Up("nowhere"), Veth("nowhere")]) == {}

"""A node's part of a cluster in a real kernel: the VXLAN device, what is known of each peer, nobody else's routes."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import Uplink
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.host import Feature
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Fdb, Up, Vxlan
from tests.netns.kernel_world import MakeNetns, kernel_of, messages, put, run, wrong

DEVICE = "tulle.1"


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    """A node with one interface, 192.0.2.1 and fd00:a::1, MTU 1500."""
    with kernel_of(netns("node")) as kernel:
        run("ip link add up0 type veth peer name wire")
        run("ip addr add 192.0.2.1/24 dev up0")
        run("ip addr add fd00:a::1/64 dev up0 nodad")
        run("ip link set wire up")
        run("ip link set up0 up")
        yield kernel


def device(local: str = "192.0.2.1", name: str = DEVICE) -> list[Object]:
    vni = int(name.split(".")[1])
    return [
        Vxlan(name, vni, port=8472, local=local, underlay="up0", mac="02:11:00:00:ff:ff", mtu=1430, alias="tulle:node"),
        Feature(name, tx_checksum=False),
        Up(name),
        Addr(name, "10.244.0.0/32"),
    ]


def peer(number: int) -> list[Object]:
    """A node with pods of both families: its VTEP, and the ways to its pods."""
    mac = f"02:11:00:00:{number >> 8:02x}:{number & 255:02x}"
    four, six = f"10.{100 + (number >> 8)}.{number & 255}.0", f"fd10:{number:x}::"
    return [
        Neigh(DEVICE, four, mac),
        Neigh(DEVICE, six, mac),
        Fdb(DEVICE, mac, f"192.0.2.{number % 200 + 2}"),
        Route(f"{four}/24", DEVICE, four, onlink=True),
        Route(f"{six}/64", DEVICE, six, onlink=True),
    ]


def entries(*numbers: int) -> State:
    return state(each for number in numbers for each in peer(number))


@pytest.mark.parametrize("local", ["192.0.2.1", "fd00:a::1"])
def test_the_device_stands_as_wanted_over_either_family(kernel: LinuxKernel, local: str) -> None:
    put(kernel, device(local))

    assert wrong(kernel, device(local)) == []
    shown = run(f"ip -d link show {DEVICE}")
    assert f"local {local} " in shown
    assert "nolearning" in shown


def test_failure_11_the_mac_of_the_device_counts_as_set(kernel: LinuxKernel) -> None:
    put(kernel, device())

    node = run("ip netns identify").strip()
    assert run(f"ip netns exec {node} cat /sys/class/net/{DEVICE}/addr_assign_type") == "3\n"


def test_failure_12_checksums_are_not_left_to_the_device(kernel: LinuxKernel) -> None:
    put(kernel, device())
    assert "tx-checksum-ip-generic: off" in run(f"ethtool -k {DEVICE}")

    run(f"ethtool -K {DEVICE} tx on")

    assert wrong(kernel, device()) == [f"ethtool -K {DEVICE} tx off"]


def test_all_that_is_known_of_peers_is_listed_and_equals_what_was_wanted(kernel: LinuxKernel) -> None:
    put(kernel, [*device(), *entries(1, 2).values()])

    owned = kernel.owned(DEVICE)

    assert owned.keys() == entries(1, 2).keys()
    assert diff(entries(1, 2), owned) == []
    assert wrong(kernel, entries(1, 2).values()) == []


def test_failure_32_a_peer_that_left_leaves_nothing_and_the_others_stay(kernel: LinuxKernel) -> None:
    put(kernel, [*device(), *entries(1, 2, 3).values()])

    kernel.apply(diff(entries(1, 3), kernel.owned(DEVICE)))

    assert kernel.owned(DEVICE).keys() == entries(1, 3).keys()


def test_a_peer_that_moved_is_put_in_the_place_of_the_old(kernel: LinuxKernel) -> None:
    put(kernel, [*device(), *entries(1).values()])
    moved = Fdb(DEVICE, "02:11:00:00:00:01", "192.0.2.99")

    kernel.apply(diff(entries(1) | state([moved]), kernel.owned(DEVICE)))

    assert kernel.read([moved]) == state([moved])
    assert run(f"bridge fdb show dev {DEVICE}").count("02:11:00:00:00:01") == 1


def test_failure_34_a_device_that_was_deleted_comes_back_with_all_its_peers(kernel: LinuxKernel) -> None:
    want = state(device()) | entries(1, 2)
    put(kernel, want.values())
    run(f"ip link del {DEVICE}")

    kernel.apply(diff(want, kernel.read(want.values())))

    assert wrong(kernel, want.values()) == []


def test_nobody_elses_routes_are_listed_changed_or_deleted(kernel: LinuxKernel) -> None:
    run("ip route add 10.101.1.0/24 via 192.0.2.7 dev up0")
    foreign = run("ip route show 10.101.1.0/24")
    ours = Route("10.101.1.0/24", "up0", "192.0.2.8")

    with pytest.raises(KernelError, match="that is not ours is in the way") as caught:
        kernel.apply([Op("create", ours)])
    kernel.apply([Op("delete", ours)])

    assert caught.value.errno == errno.EEXIST
    assert kernel.owned(DEVICE) == {}
    assert run("ip route show 10.101.1.0/24") == foreign


def test_a_route_of_ours_made_by_another_hand_meanwhile_is_put_right(kernel: LinuxKernel) -> None:
    run("ip route add 10.101.1.0/24 via 192.0.2.7 dev up0 proto 84")
    wanted = Route("10.101.1.0/24", "up0", "192.0.2.8")

    kernel.apply([Op("create", wanted)])

    assert wrong(kernel, [wanted]) == []


def test_routes_in_any_table_bear_our_mark(kernel: LinuxKernel) -> None:
    routes: list[Object] = [
        Route("10.101.0.0/24", "up0", "192.0.2.8", table=1000, priority=5),
        Route("10.102.0.0/24", "up0", "fd00:a::8"),
        Route("fd10::/64", "up0", "fd00:a::8"),
    ]
    put(kernel, routes)

    assert diff(state(routes), kernel.owned("")) == []

    kernel.apply(diff({}, kernel.owned("")))
    assert kernel.owned("") == {}


def test_a_thousand_peers_are_programmed_from_nothing_by_one_message_for_each_entry(
    kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = state(device()) | entries(*range(1, 1001))

    with messages(monkeypatch) as counted:
        kernel.apply(diff(want, {}))

    assert kernel.owned(DEVICE).keys() == entries(*range(1, 1001)).keys()
    assert counted[0] <= len(want) + 10


def test_the_uplink_is_the_interface_with_the_nodes_address(kernel: LinuxKernel) -> None:
    uplink = Uplink("up0", 1500, ("192.0.2.0/24", "fd00:a::/64"))

    assert kernel.uplink("192.0.2.1") == kernel.uplink("fd00:a:0::1") == uplink
    assert kernel.uplink("192.0.2.9") is None


def test_the_way_out_gives_the_mtu_by_either_family_and_none_without_one(kernel: LinuxKernel) -> None:
    assert kernel.default_mtu() == 0
    run("ip -6 route add default via fd00:a::fe dev up0")
    assert kernel.default_mtu() == 1500
    run("ip link add out type veth peer name outside")
    run("ip link set out up mtu 1400")
    run("ip route add default dev out")
    assert kernel.default_mtu() == 1400



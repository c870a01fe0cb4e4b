"""Who may speak through a tunnel: what the rules say, what a change of peers costs, a node that cannot have them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from cni_plugin.backends import contract as backend
from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.watch.changed import EVERYTHING, RULES
from cni_plugin.model.base import State
from cni_plugin.model.nft import Chain, Element, NftObject, Set
from cni_plugin.node.cluster.guard import split
from tests.unit.node.cluster.test_convergence import World, near, of
from tests.unit.node.cluster.test_peers import listed
from tests.unit.support import UPLINK, cluster_node, me, node_state

VXLAN = backend.find("vxlan")


def guarded(address: str = "192.0.2.1", *peers: str, **options: object) -> State:
    others = [cluster_node(f"n{number}", each, f"10.244.{number}.0/24") for number, each in enumerate(peers, 2)]
    state = node_state(me(address, "10.244.1.0/24"), others, VXLAN, VXLAN.configure(options))
    return split(state).guard


def chain(state: State, hook: str) -> Chain:
    (found,) = [each for each in state.values() if isinstance(each, Chain) and f"hook {hook} " in each.hook]
    return found


def members(state: State) -> set[str]:
    return {each.value for each in state.values() if isinstance(each, Element)}


def test_only_peers_addresses_are_admitted_and_that_is_a_set() -> None:
    state = guarded("192.0.2.1", "192.0.2.2", "192.0.2.3 2001:db8::3")
    assert members(state) == {"192.0.2.2", "192.0.2.3"}
    assert [each for each in state.values() if isinstance(each, Set)] == [Set("peers4_1", "ipv4_addr")]
    assert "ip saddr != @peers4_1 counter drop" in chain(state, "input").rules[-1]


@pytest.mark.parametrize("hook", ["input", "forward"])
@pytest.mark.parametrize(("address", "family"), [("192.0.2.1", 4), ("2001:db8::1", 6)])
def test_other_peoples_packets_are_let_be(hook: str, address: str, family: int) -> None:
    """Another protocol, another port; at the same port another VNI, and the same one of the other family."""
    rules = chain(guarded(address, vni=7, port=4789), hook).rules
    assert rules[0].startswith("meta l4proto != udp accept")
    assert rules[1].startswith("udp dport != 4789 accept")
    assert all(each.startswith(f"meta nfproto ipv{family} @th,96,24 7 ") for each in rules[2:])


def test_what_passes_through_is_held_up_only_on_its_way_to_a_peer() -> None:
    rules = chain(guarded(), "forward").rules
    assert all(" ip daddr @peers4_1 " in each for each in rules[2:])
    assert not any("daddr" in each for each in chain(guarded(), "input").rules)


def test_a_bridge_that_leads_to_peers_is_no_pods() -> None:
    there = me("192.0.2.1", "10.244.1.0/24")._replace(uplink="br0", uplinks=("br1",))
    rules = chain(node_state(there, [], VXLAN, VXLAN.configure({})), "input").rules
    assert 'meta iifkind { "bridge", "vlan" } iifname != { "br0", "br1" } counter drop' in rules[3]


@pytest.mark.parametrize(("name", "options"), [("host-gw", {}), ("vxlan", {"peersonly": False})])
def test_there_is_nothing_to_guard_without_a_tunnel_nor_where_an_operator_says_so(
    name: str, options: dict[str, object]
) -> None:
    found = backend.find(name)
    state = node_state(me("192.0.2.1", "10.244.1.0/24"), [], found, found.configure(options))
    assert not [each for each in split(state).guard.values() if isinstance(each, Set) or "hook input" in str(each)]


def test_what_the_node_itself_sends_through_its_tunnel_has_the_tunnels_own_address() -> None:
    """flannel#318: a Service's backend is on another node, and the source was chosen before that was known."""
    there = me("192.0.2.1 2001:db8::1", "10.244.1.0/24 fd00:1::/64")
    own = chain(node_state(there, [], VXLAN, VXLAN.configure({})), "postrouting")
    assert [each.partition(" comment")[0] for each in own.rules] == [
        'oifname "tulle.1" ip saddr != 10.244.1.0 fib saddr type local masquerade fully-random',
        'oifname "tulle.1" ip6 saddr != fd00:1:: fib saddr type local masquerade fully-random',
    ]
    found = backend.find("host-gw")
    assert split(node_state(there, [], found, found.configure({}))).guard == {}, "there the answer comes by itself"


def test_a_peer_that_comes_or_goes_is_one_element(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    world.learns(of(*near(*range(2, 40))))
    for cluster in (of(*near(*range(2, 41))), of(*near(*range(2, 40)))):
        ops = [each for each in world.learns(cluster) if isinstance(each.object, NftObject)]
        assert [each.object for each in ops] == [Element("peers4_1", "192.0.2.40")]


def test_an_address_that_two_have_stays_until_the_last_has_left(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    first, second = of(*near(2)), of({**listed(3, "near", "4"), "address": "192.0.2.2"})
    world.learns(msgspec.structs.replace(first, nodes=(*first.nodes, *second.nodes[1:])))
    assert members(world.kernel.state) == {"192.0.2.2"}
    world.learns(first)
    assert members(world.kernel.state) == {"192.0.2.2"}
    world.learns(of())
    assert members(world.kernel.state) == set()


def test_what_others_do_to_rules_costs_a_look_at_the_chains_alone(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    world.learns(of(*near(2, 3)))
    world.kernel.asked.clear()
    assert world.member.look(RULES) == []
    assert world.kernel.asked == {"read": 1}


def test_who_flushes_all_rules_has_the_guard_back_at_once(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    cluster = of(*near(2, 3))
    world.learns(cluster)
    for each in [each for each in world.kernel.state.values() if isinstance(each, NftObject)]:
        del world.kernel.state[each.key]
    assert len(world.member.look(RULES)) == 6
    assert world.as_planned(cluster)


def test_another_port_vni_or_family_leaves_nothing_of_the_former(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    for options in ({}, {"vni": 7}, {"vni": 7, "port": 4789}, {"peersOnly": False}):
        cluster = of(*near(2), backend={"type": "vxlan", **options})
        world.learns(cluster)
        assert world.as_planned(cluster)


class WithoutNft(FakeKernel):
    """A kernel that knows nothing of nftables."""

    def apply(self, ops: Sequence[Op]) -> None:
        """Raises KernelError for anything of nft's."""
        for op in ops:
            if isinstance(op.object, NftObject):
                raise KernelError(op, errno.EOPNOTSUPP)
        super().apply(ops)


def test_a_node_without_nftables_has_its_network_and_is_told(tmp_path: Path) -> None:
    kernel = WithoutNft(uplink=UPLINK, held=("192.0.2.1", "2001:db8::1"))
    world = World(str(tmp_path), kernel)
    world.learns(of(*near(2)))
    assert ("route", "", "254", "10.244.2.0/24", "0", "") in kernel.state
    (problem,) = world.member.problems
    assert "whoever reaches this node can speak to its pods as a peer could" in problem
    assert world.adds().unguarded == problem
    kernel.apply = FakeKernel.apply.__get__(kernel)  # type: ignore[method-assign]
    world.member.look(EVERYTHING)
    assert (world.member.problems, world.adds().unguarded) == ((), "")

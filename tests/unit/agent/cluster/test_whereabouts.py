"""Which address is mine: the rules, the order in which they hold, and machines with several interfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

import pytest

from cni_plugin.agent.cluster.whereabouts import ANYWHERE, Machine, Whereabouts, held_by, whereabouts
from cni_plugin.agent.settings import AddressSettings
from cni_plugin.errors import CniError
from cni_plugin.model.layer3 import Way

TWO_CARDS = {"eth0": ["10.0.2.15/24"], "eth1": ["192.0.2.1/24", "2001:db8::1/64"], "lo": ["127.0.0.1/8"]}
PEERS = ("192.0.2.2", "192.0.2.3")
IPVS = {**TWO_CARDS, "kube-ipvs0": ["10.96.0.1/32", "192.0.2.1/32", "192.0.2.2/32", "2001:db8:96::1/128"]}
"""kube-proxy's dummy device in IPVS mode: Services' addresses, and those of nodes that are a Service's externalIPs."""
LINKS = {**dict.fromkeys(PEERS, "eth1"), **dict.fromkeys(ANYWHERE, "eth0"), "198.51.100.1": "eth1"}
WAYS = {address: Way(dev, 1500) for address, dev in LINKS.items()}


def found(
    settings: AddressSettings | None = None,
    *,
    held: Mapping[str, Sequence[str]] = TWO_CARDS,
    known: Sequence[str] = (),
    peers: Sequence[str] = (),
    ways: Mapping[str, Way] = WAYS,
) -> Whereabouts | None:
    machine = Machine(held_by(held), lambda targets: {each: ways[each] for each in targets if each in ways})
    listed = [[ip_address(each) for each in addresses] for addresses in (known, peers)]
    return whereabouts(settings or AddressSettings(), machine, *listed)


def told(
    settings: AddressSettings | None = None,
    *,
    held: Mapping[str, Sequence[str]] = TWO_CARDS,
    known: Sequence[str] = (),
    peers: Sequence[str] = (),
    ways: Mapping[str, Way] = WAYS,
) -> list[str]:
    where = found(settings, held=held, known=known, peers=peers, ways=ways)
    return [str(each) for each in where.told] if where else []


def test_alone_a_node_is_where_its_default_route_leads() -> None:
    assert told() == ["10.0.2.15"]


def test_a_node_with_two_interfaces_picks_the_one_that_its_peers_are_reached_by() -> None:
    assert told(peers=PEERS) == ["192.0.2.1", "2001:db8::1"]


def test_what_the_source_knows_goes_before_what_the_ways_say() -> None:
    assert told(known=["10.0.2.15"], peers=PEERS) == ["10.0.2.15"]


def test_a_family_that_the_source_does_not_speak_of_comes_from_the_same_interface() -> None:
    assert told(known=["192.0.2.1"]) == ["192.0.2.1", "2001:db8::1"]
    assert told(known=["2001:db8::1"]) == ["192.0.2.1", "2001:db8::1"]


def test_an_address_of_the_source_that_this_machine_has_no_more_is_passed_over() -> None:
    assert told(known=["192.0.2.99"], peers=PEERS) == ["192.0.2.1", "2001:db8::1"]


def test_the_operators_interface_goes_before_all() -> None:
    assert told(AddressSettings(interface=("eth9", "eth1")), known=["10.0.2.15"]) == ["192.0.2.1", "2001:db8::1"]
    assert told(AddressSettings(pattern="eth[1-9]"), known=["10.0.2.15"]) == ["192.0.2.1", "2001:db8::1"]
    assert told(AddressSettings(can_reach="198.51.100.1"), known=["10.0.2.15"]) == ["192.0.2.1", "2001:db8::1"]


def test_a_pattern_matches_the_whole_name() -> None:
    assert told(AddressSettings(pattern="eth")) == []


def test_who_asked_for_an_interface_is_not_served_by_another() -> None:
    assert told(AddressSettings(interface=("eth9",)), known=["10.0.2.15"], peers=PEERS) == []


def test_peers_are_told_the_public_address_and_the_node_keeps_its_own() -> None:
    where = found(AddressSettings(public="203.0.113.7"), known=["10.0.2.15"])
    assert where is not None
    assert [str(each) for each in where.local] == ["10.0.2.15"]
    assert [str(each) for each in where.told] == ["203.0.113.7"]


def test_a_public_ipv4_address_leaves_the_ipv6_one_alone() -> None:
    assert told(AddressSettings(public="203.0.113.7"), peers=PEERS) == ["203.0.113.7", "2001:db8::1"]


def test_an_ipv6_machine_is_found_too() -> None:
    assert told(held={"eth0": ["2001:db8::5/64"]}) == ["2001:db8::5"]


def test_loopback_is_no_place_but_an_address_on_it_is() -> None:
    assert told(AddressSettings(interface=("lo",)), held={"lo": ["127.0.0.1/8", "203.0.113.1/32"]}) == ["203.0.113.1"]


ROUTING = {"lo": ["127.0.0.1/8", "203.0.113.1/32", "2001:db8:f::1/128"]}
"""A machine that routes: its address is on loopback, and the links that lead away have none."""


def sourced(four: str, six: str, dev: str = "eth0") -> dict[str, Way]:
    return {address: Way(dev, 1500, six if ":" in address else four, "fe80::1") for address in (*PEERS, *ANYWHERE)}


@pytest.mark.parametrize("peers", [(), PEERS], ids=["the default route", "the peers"])
def test_an_address_on_loopback_alone_is_found_by_the_source_of_the_ways(peers: Sequence[str]) -> None:
    ways = sourced("203.0.113.1", "2001:db8:f::1")
    expected = ["203.0.113.1"] if peers else ["203.0.113.1", "2001:db8:f::1"]
    assert told(held=ROUTING, peers=peers, ways=ways) == expected
    assert told(AddressSettings(can_reach=PEERS[0]), held=ROUTING, ways=ways) == ["203.0.113.1"]


def test_a_ways_own_source_goes_before_the_addresses_of_its_link() -> None:
    held = {**ROUTING, "eth0": ["10.1.1.1/31"]}
    assert told(held=held, ways=sourced("203.0.113.1", ""), peers=PEERS) == ["203.0.113.1"]


def test_a_temporary_ipv6_address_is_no_place_to_be_found_at() -> None:
    held = {"eth0": ["192.0.2.1/24", "2001:db8::1/64", "2001:db8::abcd/64"]}
    assert told(held=held, ways=sourced("192.0.2.1", "2001:db8::abcd")) == ["192.0.2.1", "2001:db8::1"]


def test_a_source_that_is_a_services_is_nobodys() -> None:
    held = {**TWO_CARDS, "kube-ipvs0": ["10.96.0.1/32"]}
    assert told(held=held, ways=sourced("10.96.0.1", "", "eth1"), peers=PEERS) == ["192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize("held", [IPVS, dict(reversed(IPVS.items()))], ids=["last", "first"])
@pytest.mark.parametrize(
    "settings",
    [
        AddressSettings(), AddressSettings(pattern="eth1|kube.*"), AddressSettings(interface=("kube-ipvs0", "eth1")),
        AddressSettings(can_reach="198.51.100.1"),
    ],
    ids=["by itself", "pattern", "interface", "canReach"],
)
def test_an_address_on_kube_proxys_dummy_device_is_a_services_and_never_this_nodes(
    settings: AddressSettings, held: Mapping[str, Sequence[str]]
) -> None:
    found = told(settings, held=held, known=["10.96.0.1", "192.0.2.1"], peers=PEERS)
    assert found == ["192.0.2.1", "2001:db8::1"]


def test_a_machine_without_an_address_is_nowhere() -> None:
    assert found(held={}) is None


def test_only_a_choice_by_ways_may_change_with_the_peers() -> None:
    cases = ((found(), False), (found(peers=PEERS), False), (found(known=["10.0.2.15"]), True))
    assert [(where.firm if where else None) for where, _ in cases] == [firm for _, firm in cases]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (AddressSettings(pattern="eth["), "invalid address.pattern 'eth['"),
        (AddressSettings(can_reach="example.org"), "invalid address.canReach 'example.org'"),
        (AddressSettings(public="2001:db8::1"), "write an IPv4 address"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told(settings: AddressSettings, said: str) -> None:
    with pytest.raises(CniError) as caught:
        found(settings)
    assert caught.value.code == 7
    assert said in caught.value.msg

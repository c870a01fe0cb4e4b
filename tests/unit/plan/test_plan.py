"""Plans as values: names and marks, what a configuration adds to a lease, and what of a plan others may change."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.attachment import Attachment, owner
from cni_plugin.diff import diff
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.base import POD, State, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, PodLink, Veth
from cni_plugin.plan.node import forwarding
from cni_plugin.plan.pod import derived_mac, host_mac, lasting, learned_neighbours, link_local
from cni_plugin.spec import Dns, IPConfig, Result, RouteConfig
from cni_plugin.wirings.bridge import Conf, wiring
from cni_plugin.wirings.contract import Base, Want, Width
from tests.unit.support import net_conf

FOUR = IPConfig("10.22.0.5/24", "10.22.0.1")
SIX = IPConfig("fd00:22::5/64", "fd00:22::1")
A = Attachment("pods", "c1", "eth0")
names = st.text("abcXYZ019_.-", min_size=1, max_size=64)


def pod_state(conf: Conf, ips: tuple[IPConfig, ...], routes: tuple[RouteConfig, ...] = ()) -> State:
    return wiring.pod(Want(A, conf, "tulle0", Width(1450), "0a:58:0a:16:00:05", ips, routes))


# Names and marks


@given(names, names, st.text("abc019", min_size=1, max_size=15))
def test_the_owner_of_a_wire_can_be_read_from_its_alias(network: str, container: str, ifname: str) -> None:
    attachment = Attachment(network, container, ifname)
    assert len(attachment.alias) <= 255
    assert owner(attachment.alias) == attachment


@pytest.mark.parametrize("alias", ["", "tulle:bridge", "tulle:vxlan", "pods/c1/eth0", "other:p/c/e", "tulle:a/b/c/d"])
def test_what_bears_no_mark_of_an_attachment_is_nobodys(alias: str) -> None:
    assert owner(alias) is None


def test_names_on_the_host_tell_attachments_apart_and_are_names_of_links() -> None:
    several = [Attachment(n, c, i) for n in ("a", "b") for c in ("c", "d") for i in ("eth0", "eth1")]
    several += [Attachment("ab", "c", "eth0"), Attachment("a", "bc", "eth0")]
    assert len({each.host_dev for each in several}) == len({host_mac(each) for each in several}) == len(several)
    assert all(each.host_dev.startswith("tl") and len(each.host_dev) == 13 for each in several)


def test_names_do_not_change_from_release_to_release() -> None:
    """DEL must find what an older release made."""
    assert A.host_dev == "tl39a7199053c"


@pytest.mark.parametrize("mac", [host_mac(A), derived_mac(A, []), derived_mac(A, ["10.22.0.5/24"])])
def test_macs_are_unicast_and_locally_administered(mac: str) -> None:
    assert int(mac[:2], 16) & 3 == 2
    assert len(mac.split(":")) == 6


def test_failure_18_whoever_holds_an_address_has_the_mac_that_neighbours_know() -> None:
    other = Attachment("pods", "c2", "eth0")
    assert derived_mac(A, ["fd00::5/64", "10.22.0.5/24"]) == derived_mac(other, ["10.22.0.5/16"]) == "0a:58:0a:16:00:05"
    assert derived_mac(A, ["fd00::5/64"]) != derived_mac(other, ["fd00::5/64"])


def test_failure_18_the_host_forgets_who_had_an_address_before() -> None:
    gone = learned_neighbours("tulle0", ["10.22.0.5/24", "fd00:22::5/64"], "0a:58:0a:16:00:05")
    assert list(gone.values()) == [
        Neigh("tulle0", each, learned=True) for each in ("10.22.0.5", "fd00:22::5", "fe80::858:aff:fe16:5")
    ]


def test_a_link_local_address_is_that_of_rfc_4291() -> None:
    """The example of its appendix A: 34-56-78-9A-BC-DE."""
    assert link_local("34:56:78:9a:bc:de") == "fe80::3656:78ff:fe9a:bcde"


def test_gateways_of_a_vlan_stand_on_its_device() -> None:
    assert wiring.gateway_dev(net_conf(vlan=5), "tulle0") == "tulle0.5"
    assert wiring.gateway_dev(net_conf(), "tulle0") == "tulle0"


# What a configuration adds to a lease


def completed(conf: Conf, *ips: IPConfig, routes: tuple[RouteConfig, ...] = (), dns: Dns = Dns()) -> Result:  # noqa: B008
    return wiring.completed(conf, Result(ips=ips, routes=routes, dns=dns))


def test_a_default_gateway_gives_one_default_route_a_family() -> None:
    second = IPConfig("10.23.0.5/24", "10.23.0.1")
    found = completed(net_conf(isDefaultGateway=True), FOUR, second, SIX)
    assert found.routes == (RouteConfig("0.0.0.0/0", "10.22.0.1"), RouteConfig("::/0", "fd00:22::1"))


def test_a_default_route_of_the_ipam_is_not_doubled() -> None:
    given_route = RouteConfig("0.0.0.0/0", "10.22.0.254")
    assert completed(net_conf(isDefaultGateway=True), FOUR, routes=(given_route,)).routes == (given_route,)


def test_a_bridge_that_is_gateway_has_the_first_address_where_the_ipam_named_none() -> None:
    bare = IPConfig("10.22.0.5/24")
    assert completed(net_conf(isGateway=True), bare).ips[0].gateway == "10.22.0.1"
    assert completed(net_conf(), bare).ips[0].gateway == ""


def test_gateway_addresses_have_the_prefix_length_of_their_subnet_and_come_once() -> None:
    twice = IPConfig("10.22.0.6/24", "10.22.0.1")
    assert wiring.gateways(net_conf(isGateway=True), (FOUR, twice, SIX)) == ("10.22.0.1/24", "fd00:22::1/64")
    assert wiring.gateways(net_conf(), (FOUR,)) == ()


def test_addresses_point_to_the_pods_end_in_the_result() -> None:
    assert {each.interface for each in completed(net_conf(), FOUR, SIX).ips} == {2}


def test_dns_of_the_runtime_goes_before_the_networks_before_the_ipams() -> None:
    leased, own = Dns(("10.0.0.1",), "ipam.test"), {"nameservers": ["10.0.0.2"], "search": ["net.test"]}
    asked = {"runtimeConfig": {"dns": {"servers": ["10.0.0.3"]}}}
    assert completed(net_conf(), FOUR, dns=leased).dns == leased
    assert completed(net_conf(dns=own), FOUR, dns=leased).dns == Dns(("10.0.0.2",), "", ("net.test",))
    assert completed(net_conf(dns=own, **asked), FOUR, dns=leased).dns == Dns(("10.0.0.3",), "", ("net.test",))


# The pod


def routes_of(*routes: RouteConfig, ips: tuple[IPConfig, ...] = (FOUR, SIX)) -> list[tuple[str, str]]:
    found = pod_state(net_conf(), ips, routes)
    return [(each.dst, each.via) for each in found.values() if isinstance(each, Route)]


def test_a_route_without_a_gateway_goes_by_that_of_its_family_unless_it_is_on_the_link() -> None:
    assert routes_of(RouteConfig("10.9.8.7/16")) == [("10.9.0.0/16", "10.22.0.1")]
    assert routes_of(RouteConfig("fd09::/16")) == [("fd09::/16", "fd00:22::1")]
    assert routes_of(RouteConfig("10.9.0.0/16", scope=253)) == [("10.9.0.0/16", "")]
    assert routes_of(RouteConfig("10.9.0.0/16"), ips=(SIX,)) == [("10.9.0.0/16", "")]


def test_two_routes_to_one_destination_by_two_gateways_are_two() -> None:
    assert len(routes_of(RouteConfig("10.9.0.0/16", "10.22.0.8"), RouteConfig("10.9.0.0/16", "10.22.0.9"))) == 2


def test_failure_37_nothing_waits_for_duplicate_address_detection_unless_asked_to() -> None:
    quiet = pod_state(net_conf(), (SIX,))
    assert Sysctl("net/ipv6/conf/eth0/accept_dad", "0", POD, "eth0") in quiet.values()
    assert Addr("eth0", "fd00:22::5/64", POD, dad=False) in quiet.values()
    asked = pod_state(net_conf(enabledad=True), (SIX,))
    assert not [each for each in asked.values() if isinstance(each, Sysctl) and "accept_dad" in each.name]
    assert Addr("eth0", "fd00:22::5/64", POD, dad=True) in asked.values()


def test_a_pod_with_ipv6_gets_it_whatever_its_sandbox_has_off_and_one_without_pays_nothing() -> None:
    keys = {each.name for each in pod_state(net_conf(), (FOUR, SIX)).values() if isinstance(each, Sysctl)}
    assert {f"net/ipv6/conf/{dev}/disable_ipv6" for dev in ("lo", "eth0")} <= keys
    assert "net/ipv6/conf/eth0/keep_addr_on_down" in keys
    four = {each.name for each in pod_state(net_conf(), (FOUR,)).values() if isinstance(each, Sysctl)}
    assert {each.rpartition("/")[2] for each in four} == {"addr_gen_mode", "arp_notify"}


def test_failure_14_both_ends_have_the_mtu() -> None:
    found = pod_state(net_conf(), (FOUR,))
    assert {each.mtu for each in found.values() if isinstance(each, Veth | PodLink)} == {1450}


def test_failure_28_macs_mtus_sysctls_and_the_table_of_a_route_are_others_to_change() -> None:
    made = pod_state(net_conf(macspoofchk=True), (FOUR,), (RouteConfig("0.0.0.0/0", "10.22.0.1", mtu=1400),))
    moved = state(
        Veth(each.name, "tulle0", 1300, "0e:00:00:00:00:01", each.alias, each.peer) if isinstance(each, Veth)
        else PodLink("eth0", "02:00:00:00:00:01", 1300) if isinstance(each, PodLink)
        else each
        for each in made.values()
        if not isinstance(each, Sysctl | Route)
    )
    wanted = state(each for each in lasting(made.values()) if not isinstance(each, Route))
    assert [each for each in diff(wanted, moved) if each.verb != "delete"] == []
    (route,) = (each for each in lasting(made.values()) if isinstance(each, Route))
    assert (route.table, route.protocol, route.mtu) == (0, 0, 0)


@settings(max_examples=30, deadline=None)
@given(st.permutations(["hairpinMode", "portIsolation", "macspoofchk", "enabledad", "isGateway"]))
def test_the_same_facts_give_the_same_plan(flags: list[str]) -> None:
    one = pod_state(net_conf(**dict.fromkeys(flags[:3], True)), (FOUR, SIX))
    other = pod_state(net_conf(**dict.fromkeys(reversed(flags[:3]), True)), (FOUR, SIX))
    assert list(one.items()) == list(other.items())


# The bridge


def bridge(**keys: object) -> Bridge:
    found = wiring.host(Base(net_conf(**keys), "br0", (), 1450))["link", "", "br0"]
    assert isinstance(found, Bridge)
    return found


def test_failure_15_a_bridge_keeps_the_mac_that_it_was_given() -> None:
    assert bridge().pinned


def test_failure_17_a_bridge_is_promiscuous_only_when_asked_to_be() -> None:
    assert not bridge(hairpinMode=True).promisc
    assert bridge(promiscMode=True).promisc


def test_failure_19_reverse_path_filters_are_loose_on_our_own_links_alone() -> None:
    found = wiring.host(Base(net_conf(isGateway=True, vlan=5), "br0", ("10.22.0.1/24",), 1450))
    filters = {each.name for each in found.values() if isinstance(each, Sysctl) and each.name.endswith("rp_filter")}
    assert filters == {"net/ipv4/conf/br0/rp_filter", "net/ipv4/conf/br0.5/rp_filter"}


def test_forwarding_is_switched_on_for_the_families_that_are_routed() -> None:
    assert list(forwarding([4])) == [("sysctl", "", "net/ipv4/ip_forward")]
    assert list(forwarding([6, 6])) == [("sysctl", "", "net/ipv6/conf/all/forwarding")]
    assert not [key for key in wiring.host(Base(net_conf(), "br0", (), 0)) if "forward" in key[2]]


def adopted(want: Bridge, have: Bridge) -> Bridge:
    found = wiring.adopt({want.key: want}, {have.key: have})[want.key]
    assert isinstance(found, Bridge)
    return found


def test_nothing_is_turned_off_that_another_network_on_the_bridge_turned_on() -> None:
    stands = Bridge("br0", mtu=1450, alias=BRIDGE_ALIAS, vlan_filtering=True, promisc=True)
    assert diff({stands.key: adopted(bridge(), stands)}, {stands.key: stands}) == []


def test_a_bridge_that_we_did_not_make_keeps_its_mtu_and_bears_no_mark() -> None:
    found = adopted(bridge(vlan=5), Bridge("br0", mtu=9000, alias="mine"))
    assert (found.mtu, found.alias, found.vlan_filtering) == (0, "", True)


@pytest.mark.parametrize(
    ("present", "gateways", "goes"),
    [
        (["10.9.0.1/24"], ("10.22.0.1/24",), {"10.9.0.1/24"}),
        (["10.22.0.1/24"], ("10.22.0.1/24",), set()),
        (["fd00:9::1/64"], ("fd00:22::1/64",), set()),
        (["fd00:22::9/48"], ("fd00:22::1/64",), {"fd00:22::9/48"}),
        (["10.9.0.1/24", "fd00:22::9/64"], ("fd00:22::1/64",), {"fd00:22::9/64"}),
    ],
)
def test_failure_10_an_earlier_gateway_address_goes_only_when_forced_to(
    present: list[str], gateways: tuple[str, ...], goes: set[str]
) -> None:
    forced = wiring.displaced(Base(net_conf(forceAddress=True), "br0", gateways), present)
    assert {each.address for each in forced.values() if isinstance(each, Addr)} == goes
    assert wiring.displaced(Base(net_conf(), "br0", gateways), present) == {}

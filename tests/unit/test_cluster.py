"""The node list: who this node is, and the mistakes people make in one."""

from __future__ import annotations

import itertools
import random
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import cluster
from cni_plugin.cluster import Cluster
from cni_plugin.errors import CniError

Json = dict[str, object]
N1: Json = {"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}
N2: Json = {"name": "n2", "address": "192.0.2.2", "podCIDRs": ["10.244.2.0/24"]}
SIX: Json = {"name": "n6", "address": "2001:db8::6", "podCIDRs": ["fd00:6::/64"]}


def made(*nodes: Json, **keys: object) -> Cluster:
    return cluster.parse({"nodes": list(nodes or (N1, N2)), **keys})


def refusal(*nodes: Json, **keys: object) -> str:
    with pytest.raises(CniError) as caught:
        made(*nodes, **keys)
    assert caught.value.code == 7
    return caught.value.msg


def name_of(found: Cluster, held: set[str], hostname: str) -> str:
    return found.me(frozenset(held), hostname).name


# Who am I


def test_the_configuration_says_which_node_this_is() -> None:
    assert name_of(made(node="n2"), {"192.0.2.1"}, "n1") == "n2"


def test_else_the_host_name_says_it() -> None:
    assert name_of(made(), {"192.0.2.1"}, "n2") == "n2"


def test_names_compare_without_case_and_one_that_is_spelt_so_goes_first() -> None:
    assert name_of(made(node="N2"), {"192.0.2.1"}, "n1") == "n2"
    assert name_of(made(), {"192.0.2.1"}, "N2") == "n2"
    assert name_of(made({**N1, "name": "Node-A"}, {**N2, "name": "node-a"}), set(), "node-a") == "node-a"


def test_else_an_address_that_this_machine_holds_says_it() -> None:
    assert name_of(made(), {"127.0.0.1", "192.0.2.2"}, "debian") == "n2"
    both = {**N1, "ipv6Address": "2001:db8::1"}
    assert name_of(made(both, N2), {"2001:db8::1"}, "debian") == "n1"


@pytest.mark.parametrize(
    ("keys", "held", "wanted"),
    [
        ({"node": "n9"}, {"192.0.2.1"}, "n9"),
        ({}, {"192.0.2.9"}, "debian"),
        ({}, {"192.0.2.1", "192.0.2.2"}, "debian"),
    ],
)
def test_a_node_that_is_none_or_two_of_the_list_is_told_the_names_there_are(
    keys: Json, held: set[str], wanted: str
) -> None:
    with pytest.raises(CniError, match=rf"invalid cluster\.node '{wanted}'.*\(n1, n2\)") as caught:
        name_of(made(**keys), held, "debian")
    assert caught.value.code == 7


def test_of_a_thousand_nodes_only_some_are_named() -> None:
    many: list[Json] = [
        {"name": f"n{i}", "address": str(ip_address("192.0.2.0") + i), "podCIDRs": []} for i in range(200)
    ]
    with pytest.raises(CniError, match=r"n6, n7, \.\.\."):
        name_of(made(*many, node="x"), set(), "")


# Reading


def test_a_node_has_its_addresses_and_subnets_by_family() -> None:
    both = {**N1, "ipv6Address": "2001:db8::1", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]}
    (node,) = made(both).nodes
    assert node.address(4) == ip_address("192.0.2.1")
    assert node.address(6) == ip_address("2001:db8::1")
    assert node.pod_cidrs == (ip_network("10.244.1.0/24"), ip_network("fd00:1::/64"))


def test_flannels_net_conf_is_understood() -> None:
    found = made(
        Network="10.244.0.0/16", EnableIPv6=True, IPv6Network="fd00::/16", SubnetLen=24,
        Backend={"Type": "host-gw", "VNI": 4096, "Port": 8472, "DirectRouting": True},
    )
    assert found.networks == (ip_network("10.244.0.0/16"), ip_network("fd00::/16"))
    assert found.backend == "host-gw"
    assert found.options == {"vni": 4096, "port": 8472, "directrouting": True}


def test_the_backend_is_vxlan_unless_named() -> None:
    assert made().backend == "vxlan"


def test_pods_of_the_cluster_live_in_its_networks_or_in_its_nodes_subnets() -> None:
    stated, silent = made(network="10.244.0.0/16"), made()
    assert cluster.pod_networks(stated, stated.nodes) == ("10.244.0.0/16",)
    assert cluster.pod_networks(silent, silent.nodes) == ("10.244.1.0/24", "10.244.2.0/24")


def test_a_node_may_be_named_by_its_address() -> None:
    (node,) = made({**N1, "name": "192.0.2.1"}).nodes
    assert node.name == "192.0.2.1"


def test_two_families_have_a_network_each() -> None:
    assert len(made(N1, SIX, network="10.244.0.0/16", ipv6Network="fd00::/16").nodes) == 2


# Mistakes


def test_inside_the_cluster_is_its_network_and_of_a_family_without_one_the_nodes_subnets() -> None:
    def inside(**keys: object) -> tuple[str, ...]:
        found = made({**N1, "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]}, **keys)
        return cluster.pod_networks(found, found.nodes)

    assert inside(network="10.244.0.0/16") == ("10.244.0.0/16", "fd00:1::/64")
    assert inside(network="10.244.0.0/16", ipv6Network="fd00::/16") == ("10.244.0.0/16", "fd00::/16")
    assert inside() == ("10.244.1.0/24", "fd00:1::/64")


def test_no_nodes_are_a_mistake() -> None:
    with pytest.raises(CniError, match=r"invalid cluster\.nodes \[\]: list every node"):
        cluster.parse({"network": "10.244.0.0/16"})


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({**N2, "podCIDRs": ["10.244.1.128/25"]}, "it is n2's and overlaps 10.244.1.0/24, which is n1's"),
        ({**N2, "podCIDRs": ["10.244.0.0/16"]}, "overlaps"),
        ({**N2, "podCIDRs": ["10.244.1.0/24"]}, "overlaps 10.244.1.0/24"),
        ({**N2, "podCIDRs": ["10.244.2.0/24", "10.244.2.0/25"]}, "overlaps"),
        ({**N2, "address": "192.0.2.1"}, "n2 has the same address as n1"),
        ({**N2, "name": "n1"}, "n1 has the same name as n1"),
        ({**N2, "podCIDRs": ["10.245.0.0/24"]}, "n2's subnet lies outside the cluster's network 10.244.0.0/16"),
        ({**N2, "podCIDRs": ["10.0.0.0/8"]}, "overlaps"),
        ({**N2, "podCIDRs": ["10.244.2.5/24"]}, "has host bits set"),
        ({**N2, "podCIDRs": ["ten"]}, "invalid cluster.nodes[1].podCIDRs[0] 'ten'"),
        ({**N2, "address": "192.0.2.2/24"}, "invalid cluster.nodes[1].address '192.0.2.2/24'"),
        ({**N2, "ipv6Address": "192.0.2.3"}, "invalid cluster.nodes[1].ipv6Address '192.0.2.3'"),
        ({**N2, "address": "240.0.0.1"}, "it must be where the other nodes can send to, and it is reserved"),
        ({**N2, "ipv6Address": "2001:db8::2%eth0"}, "write it without a zone"),
        ({**N2, "ipv6Address": "x"}, "invalid cluster.nodes[1].ipv6Address 'x'"),
        ({"name": "n2", "address": "192.0.2.2"}, "invalid cluster.nodes[1]"),
        ({"name": "n2", "podCIDRs": []}, "address"),
        ({**N2, "address": 5}, "invalid cluster.nodes[1].address 5"),
    ],
)
def test_a_mistake_in_a_node_is_told_with_its_key_and_value(second: Json, says: str) -> None:
    assert says in refusal(N1, second, network="10.244.0.0/16")


def test_subnets_that_overlap_are_found_wherever_they_stand_in_the_list() -> None:
    nodes: list[Json] = [
        {"name": f"n{i}", "address": f"192.0.2.{i}", "podCIDRs": [f"10.244.{i}.0/24"]} for i in range(1, 30)
    ]
    wide: Json = {"name": "wide", "address": "192.0.2.99", "podCIDRs": ["10.244.16.0/22"]}
    assert "10.244.16.0/22" in refusal(*nodes[:15], wide, *nodes[15:])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"network": "10.244.0.0"}, "write a network as address/prefix, such as 10.244.0.0/32"),
        ({"network": "fd00::/16"}, "it must be an IPv4 network"),
        ({"ipv6Network": "10.244.0.0/16"}, "it must be an IPv6 network"),
        ({"network": "10.244.0.1/16"}, "invalid cluster.network '10.244.0.1/16'"),
        ({"backend": {"type": 5}}, "invalid cluster.backend.type 5"),
        ({"backend": "vxlan"}, "invalid cluster.backend 'vxlan'"),
        ({"node": 5}, "invalid cluster.node 5"),
        ({"nodes": {}}, "invalid cluster.nodes {}"),
    ],
)
def test_a_mistake_in_the_cluster_is_told_with_its_key_and_value(keys: Json, says: str) -> None:
    assert says in refusal(N1, N2, **keys)


def test_a_cluster_that_is_no_object_is_a_mistake() -> None:
    with pytest.raises(CniError, match="invalid cluster") as caught:
        cluster.parse(["n1"])
    assert caught.value.code == 7


# What machines keep


def node(name: str, address: str, *cidrs: str, since: float = 0.0, data: dict[str, str] | None = None) -> cluster.Node:
    return cluster.Node(name, (ip_address(address),), tuple(map(ip_network, cidrs)), data or {}, since)


def test_what_is_rendered_is_read_again_as_it_was() -> None:
    here = Cluster(
        networks=(ip_network("10.244.0.0/16"), ip_network("fd00::/48")),
        backend="vxlan",
        options={"vni": 7},
        node="n1",
        nodes=(
            node("n1", "192.0.2.1", "10.244.1.0/24", since=1700000000.5),
            cluster.Node(
                "n2", (ip_address("192.0.2.2"), ip_address("2001:db8::2")), (ip_network("fd00:0:0:2::/64"),),
                {"vtepmac": "0a:00:00:00:00:01"},
            ),
        ),
        local=ip_address("10.0.0.1"),
    )
    assert cluster.parse(msgspec.json.decode(cluster.render(here))) == here


def test_of_two_nodes_with_one_address_both_stay_and_it_is_told() -> None:
    """Who has it nobody can tell from a list: an elder that claims a younger one's address must not have it dropped."""
    elder, younger = node("b", "192.0.2.1", "10.244.1.0/24", since=1), node("a", "192.0.2.1", "10.244.2.0/24", since=2)
    kept, complaints = cluster.settled([younger, elder], ())
    assert kept == (younger, elder)
    (complaint,) = complaints
    assert "a has the same address 192.0.2.1 as b: what is sent to the pods of both goes to the one host" in complaint
    settled = Cluster((), "vxlan", {}, "a", kept)
    assert cluster.parse(msgspec.json.decode(cluster.render(settled))) == settled, "an agent's own list may have them"


@pytest.mark.parametrize("address", ["255.255.255.255", "240.0.0.1", "224.0.0.1", "127.0.0.1", "0.0.0.0", "fe80::1"])
def test_an_address_that_no_node_can_have_leaves_its_node_out(address: str) -> None:
    kept, complaints = cluster.settled([node("a", address, "10.244.1.0/24")], ())
    assert kept == ()
    assert complaints[0].startswith(f"a is left out: its address {address} is ")


def test_of_two_nodes_with_one_subnet_the_elder_stays() -> None:
    elder, younger = node("a", "192.0.2.1", "10.244.0.0/23", since=1), node("b", "192.0.2.2", "10.244.1.0/24", since=2)
    kept, complaints = cluster.settled([younger, elder], ())
    assert kept == (elder,)
    assert complaints == ("b is left out: its subnet 10.244.1.0/24 overlaps one of a",)


def test_a_subnet_outside_the_network_leaves_its_node_out() -> None:
    stray = node("a", "192.0.2.1", "10.245.1.0/24")
    kept, complaints = cluster.settled([stray], [ip_network("10.244.0.0/16")])
    assert kept == ()
    assert complaints == ("a is left out: its subnet 10.245.1.0/24 lies outside the cluster's network 10.244.0.0/16",)


@given(
    st.lists(
        st.builds(
            lambda name, address, block, length, since: node(
                f"n{name}", f"192.0.2.{address}", str(ip_network((block << 8, length), strict=False)), since=since
            ),
            st.integers(0, 9), st.integers(1, 9), st.integers(0, 15), st.integers(20, 26), st.integers(0, 3),
        ),
        max_size=8,
        unique_by=lambda each: each.name,
    ),
    st.randoms(),
)
def test_every_node_comes_to_the_same_list_whatever_the_order(nodes: list[cluster.Node], order: random.Random) -> None:
    kept, complaints = cluster.settled(nodes, ())
    shuffled = list(nodes)
    order.shuffle(shuffled)
    assert len(kept) + sum("is left out" in each for each in complaints) == len(nodes)
    assert {each.name for each in cluster.settled(shuffled, ())[0]} == {each.name for each in kept}
    for one, other in itertools.combinations(kept, 2):
        assert one.name != other.name
        assert not one.pod_cidrs[0].overlaps(other.pod_cidrs[0])

"""The network configuration: flannel's file as it is, its defaults, and the mistakes people make in one."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import network
from cni_plugin.errors import CniError


def carving(**keys: object) -> network.Carving:
    (only,) = network.parse(keys).carvings
    return only


def refusal(**keys: object) -> str:
    with pytest.raises(CniError) as caught:
        network.parse(keys)
    assert caught.value.code == 7
    return caught.value.msg


def test_flannels_file_is_accepted_as_it_is() -> None:
    found = network.parse({
        "Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
        "EnableNFTables": False, "Backend": {"Type": "vxlan", "VNI": 7, "DirectRouting": True},
    })
    (four,) = found.carvings
    assert (str(four.network), four.length, str(four.first), str(four.last)) == (
        "10.0.0.0/8", 20, "10.10.0.0", "10.99.0.0"
    )
    assert found.backend == "vxlan"
    assert found.options == {"vni": 7, "directrouting": True}


def test_by_default_a_node_gets_a_24_and_the_first_is_left_out() -> None:
    found = carving(network="10.244.0.0/16")
    assert (found.length, str(found.first), str(found.last)) == (24, "10.244.1.0", "10.244.255.0")


def test_a_network_too_small_for_four_of_those_is_cut_in_four() -> None:
    assert carving(network="10.5.0.0/23").length == 25
    assert carving(network="10.5.0.0/22").length == 24
    assert carving(ipv6Network="fd00::/63").length == 65
    assert carving(ipv6Network="fd00::/48").length == 64


def test_each_family_has_its_own_cut() -> None:
    found = network.parse({"network": "10.244.0.0/16", "ipv6Network": "fd00:10:244::/48", "ipv6SubnetLen": 80})
    assert [(str(each.network), each.length) for each in found.carvings] == [
        ("10.244.0.0/16", 24), ("fd00:10:244::/48", 80)
    ]
    assert [str(each) for each in found.networks] == ["10.244.0.0/16", "fd00:10:244::/48"]


def test_a_family_can_be_switched_off() -> None:
    found = network.parse({"network": "10.244.0.0/16", "ipv6Network": "fd00::/48", "enableIPv6": False})
    assert [each.network.version for each in found.carvings] == [4]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"network": "10.244.0.1/16"}, "invalid cluster.network '10.244.0.1/16'"),
        ({"network": "fd00::/48"}, "it must be an IPv4 network"),
        ({"network": "10.244.0.0/16", "subnetLen": 8}, "invalid cluster.subnetLen 8"),
        ({"network": "10.244.0.0/16", "subnetLen": 31}, "a length of 16 to 30"),
        ({"network": "10.244.0.0/16", "subnetMin": "10.245.0.0"}, "invalid cluster.subnetMin '10.245.0.0'"),
        ({"network": "10.244.0.0/16", "subnetMin": "10.244.1.1"}, "where a /24 of 10.244.0.0/16 begins"),
        ({"network": "10.244.0.0/16", "subnetMin": "10.244.9.0", "subnetMax": "10.244.8.0"}, "must not lie behind"),
        ({"network": "10.244.0.0/16", "backend": {"type": 4}}, "invalid cluster.backend.type 4"),
        ({"network": 10}, "invalid the network configuration.network 10"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_value(keys: dict[str, object], said: str) -> None:
    assert said in refusal(**keys)


@given(prefix=st.integers(8, 30), length=st.integers(0, 30))
def test_the_first_and_the_last_subnet_lie_in_the_network(prefix: int, length: int) -> None:
    text = f"10.0.0.0/{prefix}"
    if length and length < prefix:
        assert "subnetLen" in refusal(network=text, subnetLen=length)
        return
    found = carving(network=text, subnetLen=length)
    for each in (found.first, found.last):
        assert int(ip_network(text).network_address) <= int(each) <= int(ip_network(text).broadcast_address)
        assert int(each) % (1 << (32 - found.length)) == 0
    assert int(found.first) <= int(found.last)
    assert ip_address(int(ip_network(text).broadcast_address)) in ip_network((found.last, found.length))

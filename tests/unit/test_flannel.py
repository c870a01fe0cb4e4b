"""net-conf.json: every key of flannel's with every odd value, taken or refused as its own sources do it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import flannel
from cni_plugin.backends import contract as backend
from cni_plugin.backends import vxlan
from cni_plugin.errors import CniError
from cni_plugin.network import Carving, NetworkConf

Json = dict[str, object]
NETWORK: Json = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
SIX: Json = {"EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}


def read(**keys: object) -> NetworkConf:
    return flannel.parse({**NETWORK, **keys})


def carving(**keys: object) -> Carving:
    return flannel.parse({**NETWORK, **keys}, carved=True).carvings[-1]


def refusal(keys: Json, *, carved: bool) -> str:
    with pytest.raises(CniError) as caught:
        flannel.parse({**NETWORK, **keys}, carved=carved)
    assert caught.value.code == 7
    assert "cluster." not in caught.value.msg, "nobody wrote that"
    return caught.value.msg


def tunnel(**keys: object) -> vxlan.Config:
    found = read(Backend={"Type": "vxlan", **keys})
    conf = backend.find(found.backend).configure(found.options)
    assert isinstance(conf, vxlan.Config)
    return conf


# What it takes: pkg/subnet/config.go, pkg/ip/ipnet.go


@pytest.mark.parametrize(
    ("keys", "networks"),
    [
        ({"Network": "10.10.10.0/16"}, "10.10.0.0/16"),  # net.ParseCIDR masks
        ({"Network": "192.168.5.7/16"}, "192.168.0.0/16"),
        ({"network": "10.99.0.0/16"}, "10.99.0.0/16"),  # keys in any case
        ({"Network": "10.98.0.0/16", "NETWORK": "10.99.0.0/16"}, "10.99.0.0/16"),  # the later one
        ({"EnableIPv4": None}, "10.244.0.0/16"),
        ({"EnableIPv6": None, "SubnetLen": None, "Backend": None}, "10.244.0.0/16"),
        ({"IPv6SubnetMin": None, "IPv6SubnetMax": None}, "10.244.0.0/16"),  # pointers
        ({"IPv6Network": "fd00::/48"}, "10.244.0.0/16"),  # EnableIPv6 is false by default
        ({"IPv6Network": "fd00::/48", "EnableIPv6": False}, "10.244.0.0/16"),
        ({"IPv6Network": "::/0", "EnableIPv6": False}, "10.244.0.0/16"),  # as k3s writes it where IPv6 is off
        ({**SIX, "Network": "0.0.0.0/0", "EnableIPv4": False}, "fd00:10:244::/48"),
        ({"IPv6Network": "fd00::1/48", "EnableIPv6": True}, "10.244.0.0/16 fd00::/48"),
        ({**SIX, "EnableIPv4": False}, "fd00:10:244::/48"),
        ({"EnableNFTables": True, "Networks": [], "IPv6Networks": []}, "10.244.0.0/16"),
        ({"SubnetLen": 7, "SubnetMin": "192.0.2.1", "SubnetMax": "10.0.0.0"}, "10.244.0.0/16"),  # left over: no check
        ({"IPv6SubnetLen": 200, "IPv6SubnetMin": "fd99::1"}, "10.244.0.0/16"),
    ],
)
def test_where_subnets_are_handed_out_a_file_is_understood_as_flannel_does(keys: Json, networks: str) -> None:
    assert " ".join(map(str, read(**keys).networks)) == networks


@pytest.mark.parametrize(
    ("keys", "off"),
    [
        ({}, ()), ({"EnableIPv6": False}, (6,)), ({"IPv6Network": "fd00::/48"}, (6,)), (SIX, ()),
        ({**SIX, "EnableIPv4": False}, (4,)),
    ],
)
def test_a_family_that_the_file_speaks_of_and_that_is_not_on_is_off(keys: Json, off: tuple[int, ...]) -> None:
    assert read(**keys).off == off


def test_an_ipv6_network_that_is_not_switched_on_is_said() -> None:
    (doubt,) = read(IPv6Network="fd00::/48").doubts
    assert "fd00::/48" in doubt and "EnableIPv6" in doubt
    assert read(IPv6Network="fd00::/48", EnableIPv6=False).doubts == read(**SIX).doubts == ()


@pytest.mark.parametrize(
    ("keys", "length", "first", "last"),
    [
        ({}, 24, "10.244.1.0", "10.244.255.0"),
        ({"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0"},
         20, "10.10.0.0", "10.99.0.0"),
        ({"Network": "10.10.10.0/16"}, 24, "10.10.1.0", "10.10.255.0"),
        ({"Network": "10.5.0.0/22"}, 24, "10.5.1.0", "10.5.3.0"),
        ({"Network": "10.5.0.0/23"}, 25, "10.5.0.128", "10.5.1.128"),
        ({"Network": "10.5.0.0/28"}, 30, "10.5.0.4", "10.5.0.12"),
        ({"SubnetLen": 0, "SubnetMin": "0.0.0.0", "SubnetMax": "0.0.0.0"}, 24, "10.244.1.0", "10.244.255.0"),
        ({"SubnetLen": 18}, 18, "10.244.64.0", "10.244.192.0"),
        ({"SubnetMin": "10.244.0.0"}, 24, "10.244.0.0", "10.244.255.0"),
        (SIX, 64, "fd00:10:244:1::", "fd00:10:244:ffff::"),
        ({**SIX, "IPv6Network": "fd00::/63"}, 65, "fd00::8000:0:0:0", "fd00:0:0:1:8000::"),
        ({**SIX, "IPv6SubnetLen": 80, "IPv6SubnetMin": "::"}, 80, "fd00:10:244:0:1::", "fd00:10:244:ffff:ffff::"),
        ({**SIX, "IPv6SubnetMin": None}, 64, "fd00:10:244:1::", "fd00:10:244:ffff::"),
    ],
)
def test_where_nodes_take_their_subnets_the_network_is_cut_as_flannel_cuts_it(
    keys: Json, length: int, first: str, last: str
) -> None:
    found = carving(**keys)
    assert (found.length, found.first, found.last) == (length, ip_address(first), ip_address(last))


# What it refuses: there by an error, in places by a panic


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"Network": ""}, "invalid Network ''"),
        ({"Network": None}, "invalid Network None: write an address, or leave the key out"),
        ({"SubnetMin": None}, "invalid SubnetMin None"),
        ({"IPv6Network": ""}, "invalid IPv6Network ''"),
        ({"IPv6SubnetMax": ""}, "invalid IPv6SubnetMax ''"),
        ({"Network": "10.244.0.0"}, "address/prefix, such as 10.244.0.0/32"),
        ({"Network": "10.244.0.0/255.255.0.0"}, "address/prefix, such as 10.244.0.0/16"),
        ({"Network": "10.244.0.0/33"}, "invalid Network '10.244.0.0/33'"),
        ({"Network": "fd00::/48"}, "it must be an IPv4 network"),
        ({"IPv6Network": "10.0.0.0/8"}, "it must be an IPv6 network"),
        ({"Network": "0.0.0.0/0"}, "every address there is"),
        ({"Network": 10}, "invalid Network 10"),
        ({"Network": ["10.244.0.0/16"]}, "invalid Network"),
        ({"SubnetLen": "24"}, "invalid SubnetLen '24'"),
        ({"SubnetLen": 24.5}, "invalid SubnetLen 24.5"),
        ({"SubnetLen": -1}, "invalid SubnetLen -1"),
        ({"SubnetMin": "10.244.0"}, "invalid SubnetMin '10.244.0'"),
        ({"SubnetMin": "fd00::"}, "it must be an IPv4 address"),
        ({"EnableIPv6": "true"}, "invalid EnableIPv6 'true'"),
        ({"EnableIPv4": 0}, "invalid EnableIPv4 0"),
        ({"EnableIPv4": False}, "no family is left"),
        ({"Backend": "vxlan"}, "invalid Backend 'vxlan'"),
        ({"Backend": {"Type": 4}}, "invalid Backend.type 4"),
        ({"Backend": {"Type": "ipip"}}, "use one of host-gw, vxlan"),
        ({"Backend": {"Type": "vxlan", "VNI": "1"}}, "invalid Backend.VNI '1'"),
        ({"Backend": {"Type": "vxlan", "VNI": 1 << 24}}, "invalid Backend.vni 16777216"),
        ({"Backend": {"Type": "vxlan", "Port": "8472"}}, "invalid Backend.Port '8472'"),
        ({"Backend": {"Type": "vxlan", "Port": 65536}}, "invalid Backend.port 65536"),
        ({"Backend": {"Type": "vxlan", "DirectRouting": "yes"}}, "invalid Backend.DirectRouting 'yes'"),
        ({"Backend": {"Type": "vxlan", "MTU": "1420"}}, "invalid Backend.MTU '1420'"),
    ],
)
@pytest.mark.parametrize("carved", [False, True])
def test_what_flannel_cannot_read_is_refused_by_key_and_value(keys: Json, said: str, carved: bool) -> None:
    assert said in refusal(keys, carved=carved)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"SubnetLen": 17}, "invalid SubnetLen 17: 10.244.0.0/16 must have room for four subnets"),
        ({"SubnetLen": 31}, "18 to 30"),
        ({"Network": "10.0.0.0/29"}, "invalid Network '10.0.0.0/29': it has no room for four subnets of /30"),
        ({**SIX, "IPv6Network": "fd00::/125"}, "invalid IPv6Network 'fd00::/125'"),
        ({**SIX, "IPv6SubnetLen": 127}, "50 to 126"),
        ({"SubnetMin": "10.245.0.0"}, "invalid SubnetMin '10.245.0.0'"),
        ({"SubnetMax": "10.244.1.1"}, "where a /24 of 10.244.0.0/16 begins"),
        ({"SubnetMin": "10.244.9.0", "SubnetMax": "10.244.8.0"}, "must not lie behind SubnetMax 10.244.8.0"),
        ({"EnableIPv6": True}, "invalid IPv6Network ''"),
    ],
)
def test_what_leaves_no_subnets_is_refused_where_nodes_take_them_and_nowhere_else(keys: Json, said: str) -> None:
    assert said in refusal(keys, carved=True)
    read(**keys)


def test_a_network_must_be_named_where_nodes_take_their_subnets() -> None:
    for keys in ({}, {"IPv6Network": "fd00::/48", "EnableIPv6": True}):
        with pytest.raises(CniError, match=r"invalid Network ''.*EnableIPv4"):
            flannel.parse({"Backend": {"Type": "vxlan"}, **keys}, carved=True)
    assert flannel.parse({"Backend": {"Type": "vxlan"}}).networks == ()


# The backends: pkg/backend/manager.go, vxlan/vxlan.go, vxlan/device.go, hostgw/hostgw.go


@pytest.mark.parametrize(
    ("name", "found"), [("vxlan", "vxlan"), ("VXLAN", "vxlan"), ("Host-GW", "host-gw"), ("HOST-GW", "host-gw")]
)
def test_a_backends_name_is_known_in_any_case(name: str, found: str) -> None:
    assert read(Backend={"Type": name}).backend == found


@pytest.mark.parametrize(
    ("keys", "attribute", "value"),
    [
        ({}, "vni", 1), ({"VNI": 4096}, "vni", 4096), ({"VNI": 0}, "vni", 0), ({"VNI": None}, "vni", 1),
        ({}, "port", 8472), ({"Port": 0}, "port", 8472), ({"Port": 4789}, "port", 4789), ({"Port": None}, "port", 8472),
        ({"DirectRouting": True}, "direct_routing", True), ({"DirectRouting": None}, "direct_routing", False),
        ({"GBP": True}, "gbp", True), ({"GBP": False}, "gbp", False),
        ({"MTU": 1420}, "wire_mtu", 1420), ({"MTU": 1420}, "mtu", 0), ({"MTU": 0}, "wire_mtu", 0),
        ({"Learning": True, "MacPrefix": "0E-2A", "Name": "flannel4096"}, "vni", 1),
    ],
)
def test_vxlans_keys_mean_what_they_mean_to_flannel(keys: Json, attribute: str, value: object) -> None:
    assert getattr(tunnel(**keys), attribute) == value


def test_host_gw_has_no_keys_and_minds_none() -> None:
    assert read(Backend={"Type": "host-gw", "VNI": 1, "MTU": 1420, "Port": 0}).backend == "host-gw"


@given(prefix=st.integers(8, 28), length=st.integers(0, 30))
def test_the_first_and_the_last_subnet_lie_in_the_network(prefix: int, length: int) -> None:
    text = f"10.0.0.0/{prefix}"
    if length and length < prefix + 2:
        assert "SubnetLen" in refusal({"Network": text, "SubnetLen": length}, carved=True)
        return
    found = carving(Network=text, SubnetLen=length)
    for each in (found.first, found.last):
        assert each in ip_network(text) and int(each) % (1 << (32 - found.length)) == 0
    assert int(found.first) < int(found.last)
    assert ip_network(text).broadcast_address in ip_network((found.last, found.length))

"""The configuration on stdin: read as Go programs read it, and refused with the key, the value and the remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest

from cni_plugin import plugins
from cni_plugin.conf import plugin, reading
from cni_plugin.errors import CniError
from cni_plugin.features import masquerade
from cni_plugin.ipams import delegated, none
from cni_plugin.ipams import host_local as host_local_ipam
from cni_plugin.spec import RouteConfig
from cni_plugin.wirings import bridge
from tests.unit.support import bridged

Json = dict[str, object]
BASE: Json = {"cniVersion": "1.0.0", "name": "pods", "type": "tulle"}


def conf(**keys: object) -> bridge.Conf:
    return bridged({**BASE, **keys})


def masquerades(raw: Mapping[str, object]) -> bool:
    (found,) = plugins.parse(raw).features.values()
    assert isinstance(found, masquerade.Conf)
    return found.ip_masq


def refusal(raw: Json) -> CniError:
    with pytest.raises(CniError) as caught:
        plugins.parse(raw)
    return caught.value


def leased(**keys: object) -> host_local_ipam.Conf:
    found = conf(**keys).ipam
    assert isinstance(found, host_local_ipam.Conf)
    return found


def host_local(**keys: object) -> Json:
    return {"ipam": {"type": "host-local", **keys}}


# Reading


def test_the_defaults_are_those_of_the_reference_bridge_plugin() -> None:
    found = conf()
    assert (found.bridge, found.mtu, found.vlan, found.trunk) == ("tulle0", 0, 0, ())
    flags = (
        found.gateway, found.default_gateway, found.force_address, masquerades(BASE), found.hairpin_mode,
        found.promisc_mode, found.macspoofchk, found.enabledad, found.disable_container_interface, found.port_isolation,
    )
    assert not any(flags)
    assert found.preserve_default_vlan


@pytest.mark.parametrize("key", ["hairpinMode", "hairpinmode", "HAIRPINMODE", "HairpinMode"])
def test_a_key_is_known_in_any_case(key: str) -> None:
    assert conf(**{key: True}).hairpin_mode


def test_keys_inside_ipam_ranges_and_runtime_config_are_known_in_any_case() -> None:
    ranges = [[{"Subnet": "10.22.0.0/24", "RANGESTART": "10.22.0.9"}]]
    found = conf(
        IPAM={"Type": "host-local", "DataDir": "/d", "Ranges": ranges},
        RuntimeConfig={
            "IPS": ["10.22.0.9"], "Dns": {"Servers": ["10.0.0.53"]}, "IPRanges": [[{"Subnet": "10.9.0.0/24"}]],
        },
    )
    ipam = found.ipam
    assert isinstance(ipam, host_local_ipam.Conf)
    assert ipam.data_dir == "/d"
    assert (ipam.ranges[0][0].subnet, ipam.ranges[0][0].range_start) == ("10.22.0.0/24", "10.22.0.9")
    assert found.runtime_config.ips == ("10.22.0.9",)
    assert found.runtime_config.dns.servers == ("10.0.0.53",)
    assert found.runtime_config.ip_ranges[0][0].subnet == "10.9.0.0/24"


def test_of_two_equal_keys_the_later_holds() -> None:
    raw = reading.decode(b'{"name": "pods", "mtu": 1400, "MTU": 1500, "mtu": 1400, "Mtu": 1300}')
    assert plugins.parse(raw).conf.mtu == 1300
    assert plugins.parse(reading.decode(b'{"name": "a", "name": "b"}')).conf.name == "b"


def test_null_is_absent() -> None:
    names = ("bridge", "mtu", "vlan", "vlanTrunk", "isGateway", "ipam", "args", "runtimeConfig", "dns", "cluster",
             "prevResult", "preserveDefaultVlan")
    assert conf(**dict.fromkeys(names)) == conf()
    assert conf(**host_local(routes=None, ranges=None)) == conf(**host_local())


def test_unknown_keys_are_somebody_elses() -> None:
    assert conf(capabilities={"portMappings": True}, somethingElse=[1]) == conf()


def test_what_is_in_unknown_keys_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[object] = []
    fold = reading.fold

    def noted(value: object) -> object:
        folded.append(value)
        return fold(value)

    monkeypatch.setattr(reading, "fold", noted)
    conf(others={"odd": [[], []]}, prevResult={"odd": 1})
    assert "odd" not in str(folded)


def test_an_absent_version_is_0_1_0() -> None:
    assert reading.version_of({}) == "0.1.0"
    assert reading.version_of({"CNIVersion": "0.4.0"}) == "0.4.0"


@pytest.mark.parametrize(
    ("stdin", "says"),
    [
        (b"", "no network configuration on stdin"),
        (b" \n", "no network configuration on stdin"),
        (b'{"name": ', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
    ],
)
def test_what_is_not_a_json_object_does_not_decode(stdin: bytes, says: str) -> None:
    with pytest.raises(CniError, match=says) as caught:
        reading.decode(stdin)
    assert caught.value.code == 6


# A key of the wrong type: named as it was written, with its value


@pytest.mark.parametrize(
    ("keys", "named", "value"),
    [
        ({"mtu": "1500"}, "mtu", "'1500'"),
        ({"MTU": "1500"}, "MTU", "'1500'"),
        ({"Vlan": 5.5}, "Vlan", "5.5"),
        ({"isGateway": "yes"}, "isGateway", "'yes'"),
        ({"bridge": 7}, "bridge", "7"),
        ({"vlanTrunk": [{"id": 5}, {"minID": "6"}]}, "vlanTrunk[1].minID", "'6'"),
        ({"runtimeConfig": {"IPs": "10.0.0.1"}}, "runtimeConfig.IPs", "'10.0.0.1'"),
        ({"args": {"cni": {"mac": 5}}}, "args.cni.mac", "5"),
        ({"ipMasqBackend": "ebpf"}, "ipMasqBackend", "'ebpf'"),
        ({"agent": "maybe"}, "agent", "'maybe'"),
        ({"ipam": "host-local"}, "ipam", "'host-local'"),
        ({"ipam": {"type": 5}}, "ipam.type", "5"),
        (host_local(ranges=[[{"Subnet": 5}]]), "ipam.ranges[0][0].Subnet", "5"),
        (host_local(routes=[{"gw": "10.0.0.1"}]), "ipam.routes[0]", "10.0.0.1"),
        (host_local(routes=[{"dst": "::/0", "mtu": 1 << 32}]), "ipam.routes[0].mtu", "4294967296"),
        (host_local(routes=[{"dst": "::/0", "priority": -1}]), "ipam.routes[0].priority", "-1"),
        (host_local(routes=[{"dst": "::/0", "table": 10**20}]), "ipam.routes[0].table", "100000000000000000000"),
        (host_local(routes=[{"dst": "::/0", "scope": 256}]), "ipam.routes[0].scope", "256"),
        ({"cluster": 5}, "cluster", "5"),
        ({"prevResult": "x"}, "prevResult", "'x'"),
        ({"name": 5}, "name", "5"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_key_and_value(keys: Json, named: str, value: str) -> None:
    error = refusal({**BASE, **keys})
    assert error.code == 7
    assert re.match(rf"invalid {re.escape(named)} .*{re.escape(value)}", error.msg), error.msg


# Values that cannot be


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"name": ""}, "invalid name ''"),
        ({"name": "../pods"}, "invalid name '../pods'"),
        ({"name": "-pods"}, "letter or digit"),
        ({"name": "pods/a"}, "letters, digits"),
        ({"bridge": "abcdefghijklmnop"}, "invalid bridge 'abcdefghijklmnop': the interface name is too long"),
        ({"bridge": "a b"}, "invalid bridge 'a b'"),
        ({"bridge": "a/b"}, "invalid bridge 'a/b'"),
        ({"bridge": ".."}, "invalid bridge '..'"),
        ({"bridge": "br%d"}, "invalid bridge 'br%d': the interface name contains %, which stands for a number"),
        ({"bridge": "br0\0"}, "holds what is no text"),
        ({"bridge": "abcdefghijkl", "vlan": 100, "isGateway": True}, "abcdefghijkl.100, and that name is too long"),
        ({"mtu": 67}, "invalid mtu 67: it must be between 68 and 65535"),
        ({"mtu": 65536}, "invalid mtu 65536"),
        ({"mtu": -1}, "invalid mtu -1"),
        ({"hairpinMode": True, "promiscMode": True}, "Set hairpinMode or promiscMode to false"),
        ({"disableContainerInterface": True, **host_local()}, "disableContainerInterface or ipam.type 'host-local'"),
        ({"vlan": -1}, "invalid VLAN ID -1 (must be between 0 and 4094)"),
        ({"vlan": 4095}, "invalid VLAN ID 4095"),
        ({"vlanTrunk": [{}]}, "give each entry an id, or minID and maxID"),
        ({"vlanTrunk": [{"minID": 5}]}, "minID and maxID should be configured simultaneously"),
        ({"vlanTrunk": [{"maxID": 5}]}, "minID and maxID should be configured simultaneously"),
        ({"vlanTrunk": [{"id": 0}]}, "between 1 and 4094"),
        ({"vlanTrunk": [{"id": 4095}]}, "between 1 and 4094"),
        ({"vlanTrunk": [{"minID": 0, "maxID": 5}]}, "between 1 and 4094"),
        ({"vlanTrunk": [{"minID": 9, "maxID": 5}]}, "minID must not be greater than maxID"),
        ({"preserveDefaultVlan": False}, "invalid preserveDefaultVlan False"),
        (host_local(routes=[{"dst": "10.0.0.0/33"}]), "invalid ipam.routes.dst '10.0.0.0/33'"),
        (host_local(routes=[{"dst": "10.0.0.0/8", "gw": "here"}]), "invalid ipam.routes.gw 'here'"),
        (host_local(routes=[{"dst": ""}]), "invalid ipam.routes.dst ''"),
        (host_local(routes=[{"dst": "10.0.0.1"}]), "invalid ipam.routes.dst '10.0.0.1'"),
        (host_local(routes=[{"dst": "10.0.0.0/255.0.0.0"}]), "invalid ipam.routes.dst '10.0.0.0/255.0.0.0'"),
        (host_local(routes=[{"dst": "fd00::/8", "gw": "fe80::1%eth0"}]), "invalid ipam.routes.gw 'fe80::1%eth0'"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_key_value_and_remedy(keys: Json, says: str) -> None:
    error = refusal({**BASE, **keys})
    assert error.code == 7
    assert says in error.msg


@pytest.mark.parametrize(
    ("key", "value", "shown", "plugin"),
    [
        ("portMappings", [{"HostPort": 80, "ContainerPort": 8080}], "8080", "portmap"),
        ("bandwidth", {"ingressRate": 1000, "ingressBurst": 1500}, "1500", "bandwidth"),
    ],
)
def test_a_capability_that_is_not_served_is_refused_and_never_silently_dropped(
    key: str, value: object, shown: str, plugin: str
) -> None:
    error = refusal({**BASE, "runtimeConfig": {key: value}})
    assert error.code == 2
    assert f"runtimeConfig.{key} " in error.msg
    assert shown in error.msg
    assert f"chain the {plugin} plugin" in error.msg


@pytest.mark.parametrize(
    "asked", [{"portMappings": []}, {"portMappings": None}, {"bandwidth": {}}, {"bandwidth": None}]
)
def test_an_empty_capability_asks_for_nothing(asked: Json) -> None:
    assert conf(runtimeConfig=asked) == conf()


def test_trunk_entries_are_single_vlans_and_spans_in_order() -> None:
    found = conf(vlanTrunk=[{"minID": 200, "maxID": 210}, {"id": 101}, {"id": 101}, {"ID": 5, "minID": 7, "maxID": 9}])
    assert found.trunk == ((5, 5), (7, 9), (101, 101), (200, 210))


# Gateways


@pytest.mark.parametrize(
    ("keys", "gateway", "default"),
    [
        ({}, False, False),
        ({"isGateway": True}, True, False),
        ({"isDefaultGateway": True}, True, True),
        ({"isGateway": False, "isDefaultGateway": True}, True, True),
        ({"cluster": {}}, True, True),
        ({"cluster": {}, "isDefaultGateway": False}, True, False),
        ({"cluster": {}, "isGateway": False}, False, False),
    ],
)
def test_in_a_cluster_the_bridge_is_the_default_gateway_unless_told_otherwise(
    keys: Json, gateway: bool, default: bool
) -> None:
    found = conf(**keys)
    assert (found.gateway, found.default_gateway) == (gateway, default)


# What other readers look at


def test_a_foreign_ipam_keeps_its_own_keys_to_itself() -> None:
    assert conf(ipam={"type": "dhcp", "ranges": "all", "subnet": 5}).ipam == delegated.Conf(type="dhcp")


def test_as_ipam_the_main_plugins_keys_are_not_looked_at() -> None:
    raw = {"name": "pods", "type": "macvlan", "mtu": "auto", "vlan": "trunk", **host_local(subnet="10.22.0.0/24")}
    assert plugins.parse(raw, "host-local").conf.ipam.subnets == ("10.22.0.0/24",)


def test_as_ipam_routes_are_checked_and_the_name_too() -> None:
    with pytest.raises(CniError, match=r"invalid ipam\.routes\.dst 'x'"):
        plugins.parse({"name": "pods", **host_local(routes=[{"dst": "x"}])}, "host-local")
    with pytest.raises(CniError, match=r"invalid name '\.\.'"):
        plugins.parse({"name": "..", **host_local()}, "host-local")


def test_a_network_and_its_ipam_are_found_in_a_configuration_that_is_broken_otherwise() -> None:
    raw = {"Name": "pods", "mtu": "x", "vlan": -1, "ipam": {"type": "host-local", "dataDir": "/d", "ranges": 7}}
    found = plugins.parse_name(raw).conf
    assert (found.name, found.ipam.type, found.ipam.folder) == ("pods", "host-local", "/d")


def test_a_broken_configuration_is_searched_for_its_ipam_in_any_case() -> None:
    found = plugins.parse_name({"name": "pods", "mtu": "x", "IPAM": {"Type": "host-local", "DataDir": "/d"}}).conf
    assert (found.ipam.type, found.ipam.folder) == ("host-local", "/d")


@pytest.mark.parametrize("ipam", [7, {"type": 7, "dataDir": []}, None])
def test_a_broken_ipam_is_none(ipam: object) -> None:
    assert plugins.parse_name({"name": "pods", "ipam": ipam}).conf.ipam == none.Conf()


def test_without_a_name_nothing_can_be_found() -> None:
    with pytest.raises(CniError, match="invalid name"):
        plugins.parse_name({"mtu": "x"})


# GC's list


def listed(key: str) -> Json:
    return {key: [{"containerID": "c1", "ifname": "eth0"}]}


def test_an_ipam_that_is_called_itself_gives_back_by_whatever_is_left_of_a_configuration() -> None:
    assert plugins.parse_name({"name": "pods", "ipam": "x"}, "host-local").conf.ipam == host_local_ipam.Conf()
    assert plugins.parse_name({"name": "pods", "ipam": {"type": "bridge"}}, "host-local").conf.ipam.type == "bridge"


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_the_list_of_valid_attachments_is_read_under_both_names_that_libcni_sends(key: str) -> None:
    assert conf(**listed(key)).valid == (plugin.Listed(container_id="c1", ifname="eth0"),)


def test_the_specifications_name_goes_before_the_other() -> None:
    both = {"cni.dev/valid-attachments": [], "cni.dev/attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    assert conf(**both).valid == ()


def test_no_list_is_not_an_empty_list() -> None:
    assert conf().valid is None


def test_routes_are_read_with_all_that_1_1_0_knows() -> None:
    route = {"dst": "::/0", "gw": "fd00::1", "mtu": 1400, "advmss": 1340, "priority": 5, "table": 9, "scope": 253}
    assert leased(**host_local(routes=[route])).routes == (RouteConfig("::/0", "fd00::1", 1400, 1340, 5, 9, 253),)


def test_a_configuration_as_a_runtime_sends_it_is_read() -> None:
    stdin = json.dumps({
        "cniVersion": "1.0.0", "name": "pods", "type": "tulle", "isGateway": True, "ipMasq": True,
        "capabilities": {"portMappings": True, "dns": True}, "runtimeConfig": {"dns": {"Servers": ["10.0.0.53"]}},
        "prevResult": {"cniVersion": "1.0.0", "ips": []},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }).encode()
    raw = reading.decode(stdin)
    found = bridged(raw)
    assert found.prev_result == {"cniVersion": "1.0.0", "ips": []}
    assert masquerades(raw)
    assert found.gateway

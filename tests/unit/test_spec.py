"""The wire: what a result looks like in each version of the specification, and which requests are refused how."""

from __future__ import annotations

import json
from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin import spec
from cni_plugin.errors import CniError
from cni_plugin.spec import Dns, Interface, IPConfig, Result, RouteConfig

FOUR = IPConfig("10.22.0.5/24", "10.22.0.1", 2)
SIX = IPConfig("fd00:22::5/64", "fd00:22::1", 2)
LINKS = (
    Interface("tulle0", "0a:00:00:00:00:01"),
    Interface("tl0123456789a", "0e:00:00:00:00:02", mtu=1450),
    Interface("eth0", "0a:58:0a:16:00:05", mtu=1450, sandbox="/run/netns/p"),
)
ROUTES = (RouteConfig("0.0.0.0/0", "10.22.0.1", mtu=1400, advmss=1360, priority=7, table=100, scope=0),)
SIX_ROUTES = (RouteConfig("::/0", "fd00:22::1"),)
RESOLVER = Dns(("10.22.0.53",), "pods.test", ("pods.test",), ("ndots:2",))
DUAL = Result(LINKS, (FOUR, SIX), (*ROUTES, *SIX_ROUTES), RESOLVER)
DNS = {"nameservers": ["10.22.0.53"], "domain": "pods.test", "search": ["pods.test"], "options": ["ndots:2"]}

OLDEST = ("0.1.0", "0.2.0")
LISTED = ("0.3.0", "0.3.1", "0.4.0")


def rendered(result: Result, version: str) -> dict[str, object]:
    return cast(dict[str, object], json.loads(spec.render(result, version)))


def refusal(env: dict[str, str]) -> CniError:
    with pytest.raises(CniError) as caught:
        spec.parse_request(env)
    return caught.value


@pytest.mark.parametrize("version", OLDEST)
def test_the_oldest_versions_have_one_address_a_family_with_the_routes_of_that_family(version: str) -> None:
    assert rendered(DUAL, version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.22.0.5/24",
            "gateway": "10.22.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.22.0.1"}],
        },
        "ip6": {"ip": "fd00:22::5/64", "gateway": "fd00:22::1", "routes": [{"dst": "::/0", "gw": "fd00:22::1"}]},
        "dns": DNS,
    }


@pytest.mark.parametrize("version", OLDEST)
@pytest.mark.parametrize(("ip", "key", "absent"), [(FOUR, "ip4", "ip6"), (SIX, "ip6", "ip4")])
def test_the_oldest_versions_leave_out_the_family_that_a_pod_does_not_have(
    version: str, ip: IPConfig, key: str, absent: str
) -> None:
    shape = rendered(Result(LINKS, (ip,)), version)
    assert shape[key] == {"ip": ip.address, "gateway": ip.gateway}
    assert absent not in shape


@pytest.mark.parametrize("version", OLDEST)
def test_the_oldest_versions_have_no_room_for_a_second_address_of_a_family(version: str) -> None:
    second = IPConfig("10.23.0.5/24", "10.23.0.1", 2)
    with pytest.raises(CniError, match=f"CNI version {version} does not support more than 1 address per") as caught:
        spec.render(Result(LINKS, (FOUR, second)), version)
    assert (caught.value.code, caught.value.details) == (1, "10.22.0.5/24, 10.23.0.5/24")


@pytest.mark.parametrize("version", OLDEST)
def test_a_network_without_addresses_has_no_shape_in_the_oldest_versions(version: str) -> None:
    with pytest.raises(CniError, match=r"no valid IP addresses.*0\.3\.0 or newer") as caught:
        spec.render(Result(LINKS), version)
    assert caught.value.code == 1


@pytest.mark.parametrize("version", LISTED)
def test_versions_0_3_and_0_4_name_the_family_of_each_address_and_know_no_mtu(version: str) -> None:
    assert rendered(DUAL, version) == {
        "cniVersion": version,
        "interfaces": [
            {"name": "tulle0", "mac": "0a:00:00:00:00:01"},
            {"name": "tl0123456789a", "mac": "0e:00:00:00:00:02"},
            {"name": "eth0", "mac": "0a:58:0a:16:00:05", "sandbox": "/run/netns/p"},
        ],
        "ips": [
            {"version": "4", "address": "10.22.0.5/24", "gateway": "10.22.0.1", "interface": 2},
            {"version": "6", "address": "fd00:22::5/64", "gateway": "fd00:22::1", "interface": 2},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.22.0.1"}, {"dst": "::/0", "gw": "fd00:22::1"}],
        "dns": DNS,
    }


@pytest.mark.parametrize("version", LISTED)
def test_a_pod_without_routes_has_no_such_key_as_under_the_reference(version: str) -> None:
    assert "routes" not in rendered(Result(LINKS, (FOUR,)), version)


def test_version_1_0_0_no_longer_names_the_family_and_still_knows_no_mtu() -> None:
    shape = rendered(DUAL, "1.0.0")
    assert shape["ips"] == [
        {"address": "10.22.0.5/24", "gateway": "10.22.0.1", "interface": 2},
        {"address": "fd00:22::5/64", "gateway": "fd00:22::1", "interface": 2},
    ]
    assert shape["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.22.0.1"}, {"dst": "::/0", "gw": "fd00:22::1"}]
    assert not any("mtu" in each for each in cast(list[dict[str, object]], shape["interfaces"]))


def test_version_1_1_0_tells_all_that_is_known() -> None:
    assert rendered(DUAL, "1.1.0") == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "tulle0", "mac": "0a:00:00:00:00:01"},
            {"name": "tl0123456789a", "mac": "0e:00:00:00:00:02", "mtu": 1450},
            {"name": "eth0", "mac": "0a:58:0a:16:00:05", "mtu": 1450, "sandbox": "/run/netns/p"},
        ],
        "ips": [
            {"address": "10.22.0.5/24", "gateway": "10.22.0.1", "interface": 2},
            {"address": "fd00:22::5/64", "gateway": "fd00:22::1", "interface": 2},
        ],
        "routes": [
            {
                "dst": "0.0.0.0/0", "gw": "10.22.0.1", "mtu": 1400, "advmss": 1360,
                "priority": 7, "table": 100, "scope": 0,
            },
            {"dst": "::/0", "gw": "fd00:22::1"},
        ],
        "dns": DNS,
    }


@pytest.mark.parametrize("version", [*LISTED, "1.0.0", "1.1.0"])
def test_a_layer_2_network_has_interfaces_and_no_addresses(version: str) -> None:
    shape = rendered(Result(LINKS), version)
    assert len(cast(list[object], shape["interfaces"])) == 3
    assert "ips" not in shape


@pytest.mark.parametrize("version", [*LISTED, "1.0.0", "1.1.0"])
def test_an_ipam_result_has_no_interfaces_and_its_addresses_no_index(version: str) -> None:
    shape = rendered(Result(ips=(IPConfig("10.22.0.5/24", "10.22.0.1"),)), version)
    assert "interfaces" not in shape
    assert "interface" not in cast(list[dict[str, object]], shape["ips"])[0]


addresses = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"{ip}/24"), st.ip_addresses(v=6).map(lambda ip: f"{ip}/64")
)
names = st.text("abcdefgh01", min_size=1, max_size=15)
numbers = st.integers(0, 2**31 - 1)
interfaces = st.builds(
    Interface, names, mac=st.sampled_from(["", "0a:00:00:00:00:01"]), mtu=numbers,
    sandbox=st.sampled_from(["", "/n/p"]),
    socket_path=st.sampled_from(["", "/run/s"]), pci_id=st.sampled_from(["", "0000:00:1f.6"]),
)
ips = st.builds(
    IPConfig, addresses, gateway=st.just("") | st.ip_addresses().map(str), interface=st.none() | st.integers(0, 2)
)
routes = st.builds(
    RouteConfig, addresses, gw=st.just("") | st.ip_addresses().map(str), mtu=numbers, advmss=numbers,
    priority=numbers, table=st.none() | numbers, scope=st.none() | st.integers(0, 255),
)
words = st.lists(names, max_size=2).map(tuple)
results = st.builds(
    Result, st.lists(interfaces, max_size=3).map(tuple), st.lists(ips, max_size=3).map(tuple),
    st.lists(routes, max_size=3).map(tuple), st.builds(Dns, words, names | st.just(""), words, words),
)


@settings(max_examples=50, deadline=None)
@given(results)
def test_a_1_1_0_result_is_read_back_as_it_was(result: Result) -> None:
    assert spec.parse_result(json.loads(spec.render(result, "1.1.0")), "prevResult") == result


@settings(max_examples=50, deadline=None)
@given(results, st.sampled_from([*LISTED, "1.0.0"]))
def test_an_older_result_is_read_back_less_what_its_version_cannot_say(result: Result, version: str) -> None:
    expected = Result(
        tuple(Interface(each.name, each.mac, sandbox=each.sandbox) for each in result.interfaces),
        result.ips,
        tuple(RouteConfig(each.dst, each.gw) for each in result.routes),
        result.dns,
    )
    assert spec.parse_result(json.loads(spec.render(result, version)), "prevResult") == expected


@pytest.mark.parametrize("version", OLDEST)
def test_the_oldest_result_is_read_back_with_its_addresses_and_routes(version: str) -> None:
    read = spec.parse_result(json.loads(spec.render(DUAL, version)), "prevResult")
    assert [(each.address, each.gateway) for each in read.ips] == [
        ("10.22.0.5/24", "10.22.0.1"), ("fd00:22::5/64", "fd00:22::1"),
    ]
    assert read.routes == (RouteConfig("0.0.0.0/0", "10.22.0.1"), RouteConfig("::/0", "fd00:22::1"))


def test_nulls_in_a_result_are_absent_values() -> None:
    shape = {
        "cniVersion": "1.0.0", "interfaces": None, "routes": [{"dst": "::/0", "gw": None}],
        "ips": [{"address": "10.22.0.5/24", "gateway": None, "interface": None}], "dns": {"nameservers": None},
    }
    read = spec.parse_result(shape, "prevResult")
    assert read == Result(ips=(IPConfig("10.22.0.5/24"),), routes=(RouteConfig("::/0"),))


@pytest.mark.parametrize("shape", [[], "x", {"ips": [{"gateway": "10.22.0.1"}]}, {"ips": {}}, {"interfaces": [7]}])
def test_what_is_not_a_result_is_refused_by_the_name_of_where_it_stood(shape: object) -> None:
    with pytest.raises(CniError, match=r"the result of ipam\.type 'dhcp' is not a CNI result") as caught:
        spec.parse_result(shape, "the result of ipam.type 'dhcp'")
    assert caught.value.code == 6


@pytest.mark.parametrize(
    "part",
    [
        {"ips": [{"address": "10.22.0.5/255.255.255.0"}]},
        {"ips": [{"address": "fe80::5%eth0/64"}]},
        {"ips": [{"address": "fd00::5/64", "gateway": "fe80::1%eth0"}]},
        {"routes": [{"dst": "10.0.0.0/255.0.0.0"}]},
        {"routes": [{"dst": "::/0", "gw": "fe80::1%2"}]},
        *({"routes": [{"dst": "::/0", key: value}]} for key in ("mtu", "advmss", "priority", "table", "scope")
          for value in (-1, 1 << 32, 10**30)),
    ],
)
def test_a_result_that_no_kernel_could_be_told_is_none(part: object) -> None:
    with pytest.raises(CniError, match=r"prevResult is not a CNI result") as caught:
        spec.parse_result(part, "prevResult")
    assert caught.value.code == 6


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME"),
    ],
)
def test_all_variables_that_are_missing_are_named_at_once(verb: str, missing: str) -> None:
    error = refusal({"CNI_COMMAND": verb, "CNI_CONTAINERID": ""})
    assert error.code == 4
    assert f"required env variables [{missing}] missing" in error.msg


@pytest.mark.parametrize("verb", ["GC", "STATUS", "VERSION"])
def test_verbs_that_are_about_no_pod_need_no_variables(verb: str) -> None:
    assert spec.parse_request({"CNI_COMMAND": verb}).verb == verb


@pytest.mark.parametrize("verb", ["", "add", "FROBNICATE"])
def test_an_unknown_verb_is_refused_with_those_there_are(verb: str) -> None:
    error = refusal({"CNI_COMMAND": verb})
    assert error.code == 4
    assert repr(verb) in error.msg
    assert "ADD, DEL, CHECK, GC, STATUS, VERSION" in error.msg


def env(**changes: str) -> dict[str, str]:
    return {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/n", "CNI_IFNAME": "eth0", **changes}


@pytest.mark.parametrize("container", ["../etc", "-c", ".c", "c/1", "c 1", "c\n", "ü", "c:1"])
def test_a_container_id_that_could_lead_out_of_a_folder_is_refused(container: str) -> None:
    error = refusal(env(CNI_CONTAINERID=container))
    assert error.code == 4
    assert repr(container) in error.msg


@pytest.mark.parametrize("ifname", ["abcdefghijklmnop", ".", "..", "eth/0", "eth:0", "eth 0", "eth\t0", "üüüüüüüü"])
def test_a_name_that_no_interface_can_have_is_refused(ifname: str) -> None:
    error = refusal(env(CNI_IFNAME=ifname))
    assert error.code == 4
    assert repr(ifname) in error.msg


@pytest.mark.parametrize("ifname", ["e", "abcdefghijklmno", "eth0.5", "a-b_c"])
def test_a_name_of_at_most_15_bytes_is_an_interface_name(ifname: str) -> None:
    assert spec.parse_request(env(CNI_IFNAME=ifname)).ifname == ifname


def test_a_request_holds_args_path_and_override() -> None:
    said = env(CNI_ARGS="IP=10.22.0.9;IgnoreUnknown=1;", CNI_PATH="/a::/b", CNI_NETNS_OVERRIDE="True")
    request = spec.parse_request(said)
    assert request.args == {"IP": "10.22.0.9", "IgnoreUnknown": "1"}
    assert request.path == ("/a", "/b")
    assert request.netns_override


def test_args_without_a_value_are_refused() -> None:
    error = refusal(env(CNI_ARGS="IP=10.22.0.9;MAC"))
    assert error.code == 4
    assert "invalid pair 'MAC'" in error.msg


@pytest.mark.parametrize("verb", ["DEL", "GC", "STATUS"])
def test_no_args_stop_what_does_not_need_them(verb: str) -> None:
    assert spec.parse_request(env(CNI_COMMAND=verb, CNI_ARGS="IP=10.22.0.9;MAC;=;;\udcff")).verb == verb


@pytest.mark.parametrize("path", ["", "/run/netns/a", "ns", "./ns", "../ns"])
def test_paths_are_meant_from_where_the_caller_stands(path: str) -> None:
    request = spec.parse_request(env(CNI_NETNS=path or "/x", CNI_PATH=f"/opt:{path}"), "/home/me")
    whole = path if path[:1] in ("", "/") else f"/home/me/{path}"
    assert (request.netns, request.path) == (whole or "/x", tuple(each for each in ("/opt", whole) if each))


@pytest.mark.parametrize("version", ["1.0", "0.3", "2.0.0", "", "1.1.0 "])
def test_a_version_is_supported_only_by_its_exact_string(version: str) -> None:
    with pytest.raises(CniError, match="incompatible CNI versions") as caught:
        spec.check_version(version)
    assert caught.value.code == 1
    assert caught.value.details == f"config is {version!r}, plugin supports {list(spec.VERSIONS)}"


@pytest.mark.parametrize(
    ("verb", "first"), [("ADD", "0.1.0"), ("DEL", "0.1.0"), ("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")]
)
def test_a_verb_is_served_from_the_version_on_that_has_it(verb: str, first: str) -> None:
    since = spec.VERBS[verb].since
    for version in spec.VERSIONS:
        if spec.VERSIONS.index(version) >= spec.VERSIONS.index(first):
            spec.check_version(version, since, verb)
        else:
            with pytest.raises(CniError, match=rf"config version does not allow {verb}: .* to '{first}'") as caught:
                spec.check_version(version, since, verb)
            assert caught.value.code == 1


def test_version_lists_all_seven() -> None:
    assert json.loads(spec.render_version("0.4.0")) == {
        "cniVersion": "0.4.0",
        "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


def test_an_error_is_an_object_with_code_and_sentence_and_details_only_where_there_are_any() -> None:
    bare = spec.render_error(CniError(7, "invalid mtu 5: raise it"), "0.4.0")
    assert json.loads(bare) == {"cniVersion": "0.4.0", "code": 7, "msg": "invalid mtu 5: raise it"}
    full = spec.render_error(CniError(101, "changed", "ip link set eth0 up"), "1.1.0")
    assert msgspec.json.decode(full, type=dict[str, object])["details"] == "ip link set eth0 up"


def test_an_error_that_quotes_bytes_which_are_no_text_can_be_told() -> None:
    bad = b"a\xff".decode("utf-8", "surrogateescape")
    assert json.loads(spec.render_error(CniError(8, f"no {bad}", bad), "1.1.0")) == {
        "cniVersion": "1.1.0", "code": 8, "msg": "no a\ufffd", "details": "a\ufffd",
    }

"""The codec says to the kernel what pyroute2 would say, to the byte, and hears from it what pyroute2 would hear.

pyroute2's own encoder and decoder are the oracle: once the tables may answer and pyroute2 may not, once the other way
round. The messages of a kernel are recorded in kernel_messages.txt; those about VLANs, which wanted another kernel, are
made by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.backends import contract as backend
from cni_plugin.diff import Op, diff
from cni_plugin.errors import CniError
from cni_plugin.kernel.kinds import requests
from cni_plugin.kernel.rtnl import codec, encode, schema
from cni_plugin.kernel.rtnl.codec import Attr, Message, Part, nest
from cni_plugin.kernel.rtnl.encode import Place, group_deletion, grouping
from cni_plugin.kernel.rtnl.forms import Inexpressible
from cni_plugin.model.base import HOST, POD, Object, State
from cni_plugin.model.every import AnyObject
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan, Vxlan
from tests.golden import cases

Way = tuple[str, ...]
PLACE = Place(number=lambda name: len(name) + 1, pod=5)
MAC = "02:00:00:00:00:01"
INFO, DATA, SLAVE = "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_INFO_SLAVE_DATA"


# --- two ways to do the same ---


def refuse(*_: object) -> Any:
    raise Inexpressible("only pyroute2 may answer")


def forbid(*_: object) -> Any:
    raise AssertionError("pyroute2 was asked")


@contextmanager
def tables_alone() -> Iterator[None]:
    """Whoever falls back on pyroute2 fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_encoded_by_pyroute2", forbid)
        patch.setattr(Message, "_decoded", property(forbid))
        yield


@contextmanager
def pyroute2_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "layout_of", refuse)
        yield


def written(op: Op) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "random_mac", lambda: MAC)
        return [bytes(each) for each in requests(op, PLACE)]


def assert_written_alike(op: Op) -> int:
    """How many requests there were."""
    with tables_alone():
        ours = written(op)
    with pyroute2_alone():
        assert ours == written(op)
    return len(ours)


def assert_encoded_alike(kind: int, fields: dict[str, int], *attrs: Attr) -> None:
    with tables_alone():
        ours = codec.encode(kind, 0x400, fields, attrs)
    with pyroute2_alone():
        assert ours == codec.encode(kind, 0x400, fields, attrs)


# --- to the kernel ---


def plans() -> Iterator[tuple[str, State]]:
    """Every plan that a golden text shows."""
    for name in cases.PODS:
        yield from ((f"pod {name}: {step}", each) for step, each in cases.pod(name))
    for each in backend.names():
        for shape, addresses in cases.BACKENDS.items():
            try:
                yield f"{each} {shape}", cases.node(each, addresses)
            except CniError:
                continue
    yield "direct routing", cases.direct_routing()


PLANS = dict(plans())


def spoken(ops: Iterable[Op]) -> list[Op]:
    """Those that are said with rtnetlink."""
    return [op for op in ops if op.object.by_netlink]


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_carried_out_and_undone_in_pyroute2s_words(name: str) -> None:
    there = spoken((*diff(PLANS[name], {}), *diff({}, PLANS[name])))
    again = [Op("change", op.object, op.object) for op in there]

    assert sum(map(assert_written_alike, (*there, *again))) >= len(there) > 0


names = st.text("abcdef0189.-", min_size=1, max_size=15)
macs = st.lists(st.integers(0, 255), min_size=6, max_size=6).map(lambda octets: ":".join(f"{o:02x}" for o in octets))
v4, v6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
addresses = v4 | v6
prefixes = st.tuples(v4, st.integers(0, 32)) | st.tuples(v6, st.integers(0, 128))
cidrs = prefixes.map(lambda pair: f"{pair[0]}/{pair[1]}")
flags = st.booleans()
vids = st.integers(1, 4094)
sizes = st.integers(0, 65535)
u32 = st.integers(0, 2**32 - 1)
u8 = st.integers(0, 255)
maybe_mac = st.just("") | macs
aliases = st.text(max_size=60).filter(lambda text: "\0" not in text)
spaces = st.sampled_from((HOST, POD))

OBJECTS: dict[type[Object], st.SearchStrategy[Object]] = {
    Bridge: st.builds(Bridge, names, sizes, maybe_mac, aliases, flags, promisc=flags),
    Veth: st.builds(Veth, names, st.just("") | names, sizes, maybe_mac, aliases, names, maybe_mac),
    Vxlan: st.builds(
        Vxlan, names, st.integers(1, 2**24 - 1), sizes, addresses, names, maybe_mac, mtu=sizes, alias=aliases
    ),
    Vlan: st.builds(Vlan, names, names, vids, aliases),
    PodLink: st.builds(PodLink, names, maybe_mac, sizes),
    Up: st.builds(Up, names, spaces),
    Port: st.builds(Port, names, flags, flags, flags),
    PortVlan: st.builds(PortVlan, names, vids, vids, flags, flags, flags, flags),
    Addr: st.builds(Addr, names, cidrs, spaces, flags),
    Route: st.builds(
        Route, cidrs, names, st.just("") | addresses, spaces, st.just(""), sizes, sizes, u32, u32, st.integers(-1, 255),
        u8, flags,
    ),
    Neigh: st.builds(Neigh, names, addresses, macs),
    Fdb: st.builds(Fdb, names, macs, st.just("") | addresses, vids | st.just(0)),
}


def test_no_kind_is_left_to_chance() -> None:
    assert set(OBJECTS) == {each for each in get_args(AnyObject) if each.SPOKEN == "rtnl"}


@given(st.one_of(*OBJECTS.values()), st.sampled_from(("create", "change", "delete")))
def test_whatever_the_values_are_the_bytes_are_pyroute2s(each: Object, verb: Any) -> None:
    assert_written_alike(Op(verb, each, each if verb == "change" else None))


@given(v4, v6)
def test_a_source_and_a_gateway_of_either_family(four: str, six: str) -> None:
    for dst, src in (("10.0.0.0/8", four), ("fd00::/8", six)):
        for via in (four, six):
            assert_written_alike(Op("create", Route(dst, "eth0", via, src=src)))


@pytest.mark.parametrize(
    ("kind", "fields", "attrs"),
    [
        (codec.RTM_GETLINK, {"family": 0}, [("IFLA_EXT_MASK", 8)]),
        (codec.RTM_GETLINK, {"family": 0, "index": 7}, [("IFLA_IFNAME", "tulle0"), ("IFLA_EXT_MASK", 8)]),
        (codec.RTM_SETLINK, {"family": 0, "index": 7}, [("IFLA_ADDRESS", MAC)]),
        (codec.RTM_DELLINK, {"family": 0, "index": -1}, []),
        (codec.RTM_GETADDR, {"family": 0, "index": 7}, []),
        (codec.RTM_GETROUTE, {"family": 2, "proto": 84, "type": 1}, []),
        (codec.RTM_GETROUTE, {"family": 10, "dst_len": 128}, [("RTA_DST", "100::1")]),
        (codec.RTM_GETROUTE, {}, []),
        (codec.RTM_GETNEIGH, {"family": 7, "ifindex": 7, "flags": 2}, [("NDA_LLADDR", MAC), ("NDA_VLAN", 5)]),
        (codec.RTM_GETNEIGH, {"family": 10, "ifindex": 7}, [("NDA_DST", "fd00::1")]),
        (codec.RTM_GETNEIGH, {"family": 7}, [("NDA_IFINDEX", 7)]),
        (codec.RTM_GETVLAN, {"family": 7, "ifindex": 7}, []),
        (codec.RTM_NEWVLAN, {"family": 7}, [("BRIDGE_VLANDB_ENTRY", nest(("BRIDGE_VLANDB_ENTRY_RANGE", 9)))]),
        (codec.RTM_NEWLINK, {"family": 0}, [("IFLA_PROP_LIST", nest(("IFLA_ALT_IFNAME", "other")))]),
    ],
)
def test_what_no_plan_says_is_in_pyroute2s_words_too(kind: int, fields: dict[str, int], attrs: list[Attr]) -> None:
    assert_encoded_alike(kind, fields, *attrs)


def test_a_group_of_links_is_spoken_of_in_pyroute2s_words() -> None:
    with tables_alone():
        ours = grouping("tl0", 77), group_deletion(77)
    with pyroute2_alone():
        assert ours == (grouping("tl0", 77), group_deletion(77))


@pytest.mark.parametrize(
    "attr",
    [
        ("IFLA_OPERSTATE", "DOWN"),
        ("IFLA_UNHEARD_OF", 1),
        (INFO, nest(("IFLA_INFO_KIND", "gre"), (DATA, nest(("IFLA_GRE_IFLAGS", 0x2000))))),
        (INFO, nest(("IFLA_INFO_KIND", "macvlan"), (DATA, nest(("IFLA_MACVLAN_MODE", "bridge"))))),
    ],
)
def test_what_the_tables_have_no_word_for_pyroute2_says_itself(attr: Attr) -> None:
    attrs: list[Attr] = [("IFLA_IFNAME", "x0"), attr]
    ours = codec.encode(codec.RTM_NEWLINK, 0, {"family": 0}, attrs)

    with pyroute2_alone():
        assert ours == codec.encode(codec.RTM_NEWLINK, 0, {"family": 0}, attrs)
    with tables_alone(), pytest.raises(AssertionError):
        codec.encode(codec.RTM_NEWLINK, 0, {"family": 0}, attrs)


def test_a_route_with_labels_is_left_to_pyroute2() -> None:
    ours = codec.encode(codec.RTM_NEWROUTE, 0, {"family": 28}, [("RTA_OIF", 5)])

    assert ours[16:20] == b"\x1c\x14\0\0", "a label has 20 bits, which pyroute2 knows"


def test_a_value_that_nobody_can_encode_is_refused_and_not_bent() -> None:
    with pytest.raises(struct.error):
        codec.encode(codec.RTM_GETLINK, 0, {"family": 0}, [("IFLA_MTU", -1)])
    with pytest.raises(OSError):
        codec.encode(codec.RTM_GETADDR, 0, {"family": 2}, [("IFA_LOCAL", "nowhere")])


# --- from the kernel ---


def recorded() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for line in (Path(__file__).parent / "kernel_messages.txt").read_text().splitlines():
        if not line.startswith(("#", " ")):
            title = line
        elif line.startswith(" "):
            found[title] = found.get(title, b"") + bytes.fromhex(line)
    return found


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def message(kind: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def vlan_entry(vid: int, bits: int, last: int = 0) -> bytes:
    """struct bridge_vlan_info and the end of a range, as net/bridge/br_vlan.c (br_vlan_fill_vids) puts them."""
    end = attribute(2, struct.pack("=H", last)) if last else b""
    return attribute(1 | 0x8000, attribute(1, struct.pack("=HH", bits, vid)) + end)


BY_HAND = {
    "the VLANs of a port": message(112, struct.pack("=B3xi", 7, 5), vlan_entry(1, 6), vlan_entry(100, 0, 199)),
    "a VLAN device": message(
        16, struct.pack("=BxHiII", 0, 1, 9, 0x1003, 0), attribute(3, b"v100\0"), attribute(5, struct.pack("=I", 5)),
        attribute(18, attribute(1, b"vlan\0") + attribute(2, attribute(1, b"\x64\0") + attribute(5, b"\x81\0"))),
    ),
    "a bridge that filters": message(
        16, struct.pack("=BxHiII", 0, 1, 9, 0x1003, 0), attribute(3, b"br1\0"),
        attribute(18, attribute(1, b"bridge\0") + attribute(2, attribute(7, b"\1"))),
    ),
    "a tunnel whose address is no MAC": message(
        16, struct.pack("=BxHiII", 0, 768, 9, 0x80, 0), attribute(3, b"x0\0"), attribute(1, b"\x0a\0\0\1"),
        attribute(4, b"\5"), attribute(3, b"x1\0"), attribute(13, b"\7\0\0\0"),
    ),
    "a route with labels": message(
        24, struct.pack("=8BI", 28, 20, 0, 0, 254, 4, 0, 1, 0), attribute(1, b"\0\x06\x41\0")
    ),
    "a message that ends within an attribute": message(
        16, struct.pack("=BxHiII", 0, 1, 9, 0, 0), attribute(5, b"\5\0\0\0"), struct.pack("=HH", 40, 3) + b"x0\0\0"
    ),
}
MESSAGES = {**recorded(), **BY_HAND}
ENDS_EARLY = ("a tunnel whose address is no MAC", "a message that ends within an attribute")
NO_SINGLE_VALUE = ("a route with labels", "the VLANs of a port")


def heard(title: str) -> Message:
    """The message, in the middle of a buffer as it comes in a dump."""
    data = MESSAGES[title]
    return Message(struct.unpack_from("=H", data, 4)[0], b"\xee" * 16 + data + b"\xee" * 16, 16)


def oracle(each: Message) -> Any:
    kind = schema.classes()[{16: "link", 20: "address", 24: "route", 28: "neighbour", 112: "vlan"}[each.kind]]
    decoded = kind(each._data, each._offset)
    decoded.decode()
    return decoded


def leaves(holder: Any, path: Way = ()) -> Iterator[tuple[Way, object]]:
    """Everything that pyroute2 decodes, with the way to it; of several of one name the first, which it gives."""
    for name in dict.fromkeys(slot[0] for slot in holder.get("attrs", ())):
        value = holder.get_attr(name)
        yield (*path, name), value
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
    if path:
        yield from ((((*path, name)), value) for name, value in holder.items() if name not in ("attrs", "header"))


def assert_the_same(ours: Part, theirs: Any) -> int:
    """How many values were compared."""
    compared = 0
    for name, _ in type(theirs).fields:
        if not name.startswith("__"):
            assert ours.field(name) == theirs[name], name
    for path, value in leaves(theirs):
        if "UNKNOWN" in path:
            continue
        assert ours.text(*path) == (value if isinstance(value, str) else ""), path
        assert ours.number(*path, default=-7) == (value if isinstance(value, int) else -7), path
        compared += isinstance(value, int | str)
    return compared


@pytest.mark.parametrize("title", sorted(MESSAGES.keys() - set(ENDS_EARLY)))
def test_of_every_message_each_value_is_what_pyroute2_decodes(title: str) -> None:
    each = heard(title)

    assert assert_the_same(each, oracle(each)) or title in NO_SINGLE_VALUE


@pytest.mark.parametrize(
    ("title", "name", "count"),
    [
        ("the VLANs of a port", "BRIDGE_VLANDB_ENTRY", 2),
        ("route 10.3.0.0", "RTA_MULTIPATH", 2),
        ("route fd00:3::", "RTA_MULTIPATH", 2),
        ("route 10.2.0.0", "RTA_MULTIPATH", 0),
        ("a bridge", "IFLA_LINKINFO", 1),
        ("a bridge", "IFLA_UNHEARD_OF", 0),
    ],
)
def test_what_there_are_several_of_is_what_pyroute2_decodes(title: str, name: str, count: int) -> None:
    each = heard(title)
    whole = oracle(each)  # its parts only know it by a weak reference
    theirs = whole.get_attrs(name)
    theirs = theirs[0] if theirs and isinstance(theirs[0], list) else theirs

    ours = each.parts(name)

    assert len(ours) == len(theirs) == count
    assert all(assert_the_same(one, other) for one, other in zip(ours, theirs, strict=True))


ASKED: dict[str, dict[Way, object]] = {
    "a bridge": {("IFLA_IFNAME",): "br0", ("IFLA_ADDRESS",): MAC, (INFO, "IFLA_INFO_KIND"): "bridge"},
    "a bridge that filters": {(INFO, DATA, "IFLA_BR_VLAN_FILTERING"): 1},
    "a port of it": {
        ("IFLA_IFALIAS",): "tulle:pods",
        ("IFLA_MTU",): 1450,
        (INFO, "IFLA_INFO_SLAVE_KIND"): "bridge",
        (INFO, SLAVE, "IFLA_BRPORT_MODE"): 1,
        (INFO, SLAVE, "IFLA_BRPORT_ISOLATED"): 1,
        (INFO, SLAVE, "IFLA_BRPORT_LOCKED"): 0,
        (INFO, SLAVE, "IFLA_BRPORT_STATE"): 3,
    },
    "a vxlan over v4": {
        (INFO, DATA, "IFLA_VXLAN_ID"): 7,
        (INFO, DATA, "IFLA_VXLAN_PORT"): 8472,
        (INFO, DATA, "IFLA_VXLAN_LOCAL"): "10.1.0.1",
        (INFO, DATA, "IFLA_VXLAN_LOCAL6"): "",
    },
    "a vxlan over v6": {(INFO, DATA, "IFLA_VXLAN_LOCAL6"): "fd00:1::1", (INFO, DATA, "IFLA_VXLAN_LOCAL"): ""},
    "a VLAN device": {(INFO, DATA, "IFLA_VLAN_ID"): 100, ("IFLA_LINK",): 5},
    "address 10.1.0.1": {("IFA_LOCAL",): "10.1.0.1", ("IFA_BROADCAST",): "10.1.0.255"},
    "address 192.0.2.1": {("IFA_LOCAL",): "192.0.2.1", ("IFA_ADDRESS",): "192.0.2.2"},
    "address fd00:1::1": {("IFA_LOCAL",): "", ("IFA_ADDRESS",): "fd00:1::1", ("IFA_FLAGS",): 0x82},
    "route 10.2.0.0": {
        ("RTA_DST",): "10.2.0.0", ("RTA_GATEWAY",): "10.1.0.9", ("RTA_PREFSRC",): "10.1.0.1", ("RTA_PRIORITY",): 50,
    },
    "route 10.3.0.0": {
        ("RTA_TABLE",): 1000, ("RTA_METRICS", "RTAX_MTU"): 1400, ("RTA_METRICS", "RTAX_ADVMSS"): 1360,
    },
    "route 10.4.0.0": {("RTA_VIA", "addr"): "fd00:1::9", ("RTA_GATEWAY",): "", ("RTA_METRICS", "RTAX_MTU"): 1300},
    "route fd00:2::": {("RTA_DST",): "fd00:2::", ("RTA_GATEWAY",): "fd00:1::9"},
    "neighbour 10.1.0.9": {("NDA_DST",): "10.1.0.9", ("NDA_LLADDR",): "02:00:00:00:00:09"},
    "neighbour fd00:1::9": {("NDA_DST",): "fd00:1::9"},
    "entry 02:00:00:00:00:0b on vx4": {("NDA_LLADDR",): "02:00:00:00:00:0b", ("NDA_DST",): "10.1.0.9"},
    "entry 02:00:00:00:00:0c on vx6": {("NDA_LLADDR",): "02:00:00:00:00:0c", ("NDA_DST",): "fd00:1::9"},
    "entry 02:00:00:00:00:0d on p0": {("NDA_LLADDR",): "02:00:00:00:00:0d", ("NDA_DST",): ""},
}


@pytest.mark.parametrize("title", ASKED)
def test_what_the_reader_asks_for_is_read_without_pyroute2(title: str) -> None:
    with tables_alone():
        each = heard(title)
        ask = {path: each.number if isinstance(value, int) else each.text for path, value in ASKED[title].items()}

        assert {path: ask[path](*path) for path in ask} == ASKED[title]


def test_next_hops_and_vlans_are_read_without_pyroute2() -> None:
    with tables_alone():
        hops = heard("route 10.3.0.0").parts("RTA_MULTIPATH")
        assert [each.text("RTA_GATEWAY") or each.text("RTA_VIA", "addr") for each in hops] == ["10.1.0.7", "fd00:1::7"]
        assert [each.field("flags") for each in hops] == [0, 4]
        vlans = heard("the VLANs of a port").parts("BRIDGE_VLANDB_ENTRY")
        assert [each.number("BRIDGE_VLANDB_ENTRY_INFO", "vid") for each in vlans] == [1, 100]
        assert [each.number("BRIDGE_VLANDB_ENTRY_RANGE", default=-1) for each in vlans] == [-1, 199]


def test_a_value_ends_where_its_attribute_and_its_message_end() -> None:
    """pyroute2 goes on with whatever comes next in the buffer."""
    short, cut = map(heard, ENDS_EARLY)

    assert (short.text("IFLA_ADDRESS"), short.number("IFLA_MTU"), short.number("IFLA_TXQLEN")) == ("", 0, 7)
    assert short.text("IFLA_IFNAME") == "x0", "of two, the first"
    assert (cut.number("IFLA_LINK"), cut.text("IFLA_IFNAME")) == (5, "x0")


@pytest.mark.parametrize("title", ["a port of it", "route 10.3.0.0", "the VLANs of a port"])
def test_without_any_table_everything_is_still_read(title: str) -> None:
    with pyroute2_alone():
        each = heard(title)
        assert_the_same(each, oracle(each))
        vlans, hops = each.parts("BRIDGE_VLANDB_ENTRY"), each.parts("RTA_MULTIPATH")
        assert [part.number("BRIDGE_VLANDB_ENTRY_INFO", "vid") for part in vlans] in ([], [1, 100])
        assert [part.text("RTA_GATEWAY") for part in hops] in ([], ["10.1.0.7", ""])


@given(st.sampled_from(sorted(ASKED)), st.data())
def test_bytes_that_make_no_sense_are_read_to_an_end(title: str, data: st.DataObject) -> None:
    broken = bytearray(MESSAGES[title])
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(36, len(broken) - 1))] = data.draw(st.integers(0, 255))
    each = Message(struct.unpack_from("=H", broken, 4)[0], bytes(broken))

    assert all(isinstance(each.text(*path), str) and isinstance(each.number(*path), int) for path in ASKED[title])

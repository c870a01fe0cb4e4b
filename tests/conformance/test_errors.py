"""Wrong requests, side by side: where the reference refuses, Tulle refuses, with the same code or a better one.

The reference answers 999 ("internal") to most wrong configurations because a plain Go error becomes that. The
specification has codes of its own for them, and Tulle uses those: `code` is what Tulle must answer, and where
the reference gives a specific code it must be the same one. Whatever was refused, nothing may be left behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from tests.conformance.cases import BASE, DEFAULT4, FOUR, SIX, sets
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import Call, Json, Node, Plugins, Reply
from tests.conformance.observe import snapshot

INTERNAL = 999
SPECIFIC = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51})

Changes = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """One wrong request and the code Tulle answers. `says`: words the message must have, whatever their case."""

    name: str
    code: int
    conf: Changes | None = field(default_factory=dict)
    ipam: Changes = field(default_factory=dict)
    text: str | None = None
    """Standard input as it is, instead of a configuration."""
    call: Changes = field(default_factory=dict)
    netns: str = "pod1"
    says: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    reference_accepts: str = ""
    """Why Tulle refuses what the reference lets through."""


def one_range(**keys: object) -> Json:
    return {"ranges": [[{**FOUR, **keys}]]}


WRONG: tuple[Wrong, ...] = (
    Wrong(name="no JSON", code=6, text="{not json"),
    Wrong(name="empty standard input", code=6, text=""),
    Wrong(name="a list instead of an object", code=6, text="[1, 2]"),
    Wrong(name="unknown version", code=1, conf={"cniVersion": "9.9.9"}, says=("9.9.9",)),
    Wrong(name="half a version", code=1, conf={"cniVersion": "1.0"}, says=("1.0",)),
    Wrong(name="version of the wrong type", code=6, conf={"cniVersion": 1}, says=("cniVersion",)),
    Wrong(name="unknown command", code=4, call={"command": "FROBNICATE"}, says=("FROBNICATE",)),
    Wrong(name="no container id", code=4, call={"container": None}, says=("CNI_CONTAINERID",)),
    Wrong(name="no netns", code=4, netns="", says=("CNI_NETNS",)),
    Wrong(name="no interface name", code=4, call={"ifname": None}, says=("CNI_IFNAME",)),
    Wrong(
        name="all variables missing are named at once", code=4, netns="",
        call={"container": None, "ifname": None}, says=("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    ),
    Wrong(name="container id with a slash", code=4, call={"container": "../etc"}, says=("../etc",)),
    Wrong(name="container id with a blank", code=4, call={"container": "a b"}, says=("a b",)),
    Wrong(name="container id begins with a dash", code=4, call={"container": "-a"}),
    Wrong(name="interface name too long", code=4, call={"ifname": "sixteen-letters-"}, says=("sixteen-letters-",)),
    Wrong(name="interface name is a dot", code=4, call={"ifname": "."}),
    Wrong(name="interface name is two dots", code=4, call={"ifname": ".."}),
    Wrong(name="interface name with a slash", code=4, call={"ifname": "a/b"}),
    Wrong(name="interface name with a colon", code=4, call={"ifname": "eth0:1"}),
    Wrong(name="interface name with a blank", code=4, call={"ifname": "eth 0"}),
    Wrong(name="no network name", code=7, conf={"name": ""}, says=("name",)),
    Wrong(name="network name with a slash", code=7, conf={"name": "../up"}, says=("../up",)),
    Wrong(name="unknown CNI_ARGS", code=4, call={"args": "COLOUR=green"}, says=("COLOUR",)),
    Wrong(name="CNI_ARGS without equals sign", code=4, call={"args": "nonsense"}, says=("nonsense",)),
    Wrong(name="CNI_ARGS with an address that is none", code=7, call={"args": "IgnoreUnknown=1;IP=10.60.0"},
          says=("10.60.0",)),
    Wrong(name="netns does not exist", code=8, netns="/run/netns/no-such-namespace", says=("no-such-namespace",)),
    Wrong(name="netns is a plain file", code=8, netns="/etc/passwd", says=("/etc/passwd",)),
    Wrong(name="hairpin and promiscuous", code=7, conf={"hairpinMode": True, "promiscMode": True}, says=("hairpin",)),
    Wrong(name="vlan below zero", code=7, conf={"vlan": -1}, says=("vlan", "-1")),
    Wrong(name="vlan too large", code=7, conf={"vlan": 4095}, says=("vlan", "4095")),
    Wrong(name="key of the wrong type", code=7, conf={"isGateway": "yes"}, says=("isGateway",)),
    Wrong(name="mtu of the wrong type", code=7, conf={"mtu": "big"}, says=("mtu",)),
    Wrong(name="mac that is none", code=7, conf={"runtimeConfig": {"mac": "not-a-mac"}}, says=("not-a-mac",)),
    Wrong(name="subnet that does not parse", code=7, ipam={"ranges": sets({"subnet": "10.60.0.0.0/24"})},
          says=("10.60.0.0.0/24",)),
    Wrong(name="subnet missing", code=7, ipam={"ranges": [[{}]]}, says=("subnet",)),
    Wrong(name="no range at all", code=7, ipam={"ranges": []}),
    Wrong(name="subnet with host bits", code=7, ipam={"ranges": sets({"subnet": "10.60.0.7/24"})},
          says=("10.60.0.7/24",)),
    Wrong(name="subnet too small", code=7, ipam={"ranges": sets({"subnet": "10.60.0.0/31"})}, says=("10.60.0.0/31",)),
    Wrong(name="start outside the subnet", code=7, ipam=one_range(rangeStart="10.61.0.1"), says=("10.61.0.1",)),
    Wrong(name="end outside the subnet", code=7, ipam=one_range(rangeEnd="10.61.0.1"), says=("10.61.0.1",)),
    Wrong(name="end before start", code=7, ipam=one_range(rangeStart="10.60.0.9", rangeEnd="10.60.0.3"),
          says=("10.60.0.9",)),
    Wrong(name="gateway that does not parse", code=7, ipam=one_range(gateway="10.60"), says=("10.60",)),
    Wrong(name="overlapping ranges in a set", code=7, ipam={"ranges": [[FOUR, {"subnet": "10.60.0.0/25"}]]},
          says=("overlap",)),
    Wrong(name="overlapping range sets", code=7, ipam={"ranges": sets(FOUR, {"subnet": "10.60.0.0/25"})},
          says=("overlap",)),
    Wrong(name="families mixed in a set", code=7, ipam={"ranges": [[FOUR, SIX]]}),
    Wrong(name="route that does not parse", code=7, ipam={"ranges": sets(FOUR), "routes": [{"dst": "nowhere"}]},
          says=("nowhere",)),
    Wrong(name="requested address outside", code=102, conf={"runtimeConfig": {"ips": ["10.99.0.1"]}},
          ipam=one_range(), says=("10.99.0.1",)),
    Wrong(name="requested address is the gateway", code=102, conf={"runtimeConfig": {"ips": ["10.60.0.1"]}},
          ipam=one_range(), says=("10.60.0.1",)),
    Wrong(name="unknown ipam plugin", code=7, ipam={"type": "no-such-ipam"}, says=("no-such-ipam",)),
    Wrong(name="interface exists already", code=4, ipam=one_range(), prepare=("ip -n {pod} link add eth0 type ifb",),
          says=("eth0",)),
    Wrong(name="bridge is no bridge", code=100, ipam=one_range(), prepare=("ip link add br0 type ifb",), says=("br0",)),
    Wrong(name="route through an unreachable gateway", code=100, says=("192.168.7.7",),
          ipam={**one_range(), "routes": [{"dst": "10.70.0.0/16", "gw": "192.168.7.7"}]}),
    Wrong(name="static ipam without addresses", code=104, ipam={"type": "static", "ranges": None}),
    Wrong(name="static ipam with a wrong address", code=INTERNAL,
          ipam={"type": "static", "ranges": None, "addresses": [{"address": "10.60.0.300/24"}]}),
)


def _call(node: Node, wrong: Wrong, command: str) -> Reply:
    conf: Json = {**BASE, **(wrong.conf or {})}
    given = wrong.ipam or one_range()
    ipam: Json = {"type": "host-local", "dataDir": str(node.data_dir), "routes": [DEFAULT4], **given}
    conf["ipam"] = {key: value for key, value in ipam.items() if value is not None}
    netns = node.pod(wrong.netns).path if wrong.netns == "pod1" else wrong.netns or None
    call = Call(command=command, netns=netns)
    return node.invoke(wrong.text if wrong.text is not None else conf, replace(call, **wrong.call))  # type: ignore[arg-type]


def _prepared(node: Node, wrong: Wrong) -> Node:
    pod = node.pod("pod1")
    for line in wrong.prepare:
        node.run(*line.format(pod=pod.name).split())
    return node


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name.replace(" ", "_"))
def test_wrong_request_is_refused_like_the_reference_refuses_it_and_leaves_nothing(
    wrong: Wrong, nodes: Nodes, reference: Plugins, tulle: Plugins
) -> None:
    theirs = _call(_prepared(nodes(reference), wrong), wrong, "ADD")
    node = _prepared(nodes(tulle), wrong)
    before = snapshot(node)
    ours = _call(node, wrong, "ADD")
    assert (theirs.exit != 0) is (not wrong.reference_accepts), f"the reference said {theirs}"
    assert ours.exit != 0
    assert ours.code == wrong.code, f"{ours.message} (the reference said {theirs.code} {theirs.message})"
    if theirs.code in SPECIFIC:
        assert ours.code == theirs.code, theirs.message
    assert [word for word in wrong.says if word.lower() not in ours.message.lower()] == [], ours.message
    assert set(ours.result) <= {"cniVersion", "code", "msg", "details"}
    _nothing_left(node, before)


def _nothing_left(node: Node, before: Json) -> None:
    """After a refused ADD only the bridge may be new; nothing that belongs to the pod."""
    after = snapshot(node)
    old, new = before["links"], after["links"]
    assert isinstance(old, list) and isinstance(new, list)
    assert set(new) - {"br0"} <= set(old)
    assert {**after, "links": None, "routes": None} == {**before, "links": None, "routes": None}
    links = {each["ifname"]: each for each in node.pod("pod1").json("ip", "-d", "-j", "link")}
    assert "veth" not in str(links.get("eth0", {}).get("linkinfo"))

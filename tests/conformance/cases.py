"""The configurations on which Tulle and the reference `bridge` must do the same: one row each.

A row is the configuration's difference from `BASE`, and what the runtime says beside it. `ipam` is given whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.nodes import Json

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0")
"""1.1.0 is newer than the reference that Debian 12 has; `test_beyond_reference` holds its results down."""

FOUR: Json = {"subnet": "10.60.0.0/24"}
SIX: Json = {"subnet": "2001:db8:60::/64"}
DEFAULT4: Json = {"dst": "0.0.0.0/0"}
DEFAULT6: Json = {"dst": "::/0"}

RESOLV_CONF = "<the node's resolv.conf>"

BASE: Json = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": True}


@dataclass(frozen=True)
class Case:
    """One configuration, run with `pods` pods on a fresh node after `prepare` (commands run in the node)."""

    name: str
    conf: Mapping[str, object] = field(default_factory=dict)
    ipam: Mapping[str, object] | None = field(default_factory=dict)
    args: str | None = None
    pods: int = 2
    mac: bool = False
    """A MAC is asked for, so the one in the result is compared too."""
    prepare: tuple[str, ...] = ()

    def configuration(self, data_dir: str) -> Json:
        conf: Json = {**BASE, **self.conf}
        if self.ipam is not None:
            ipam = {"type": "host-local", "dataDir": data_dir, **self.ipam}
            conf["ipam"] = {key: _in_place(value, data_dir) for key, value in ipam.items() if value is not None}
        return conf


def _in_place(value: object, data_dir: str) -> object:
    return str(Path(data_dir).with_name("resolv.conf")) if value == RESOLV_CONF else value


def sets(*ranges: Mapping[str, object]) -> list[list[Mapping[str, object]]]:
    """One range set a range: an address of each for every pod."""
    return [[each] for each in ranges]


V4: Json = {"ranges": sets(FOUR), "routes": [DEFAULT4]}
V6: Json = {"ranges": sets(SIX), "routes": [DEFAULT6]}
DUAL: Json = {"ranges": sets(FOUR, SIX), "routes": [DEFAULT4, DEFAULT6]}
OLD: Json = {"subnet": "10.60.0.0/24", "routes": [DEFAULT4]}

CASES: tuple[Case, ...] = (
    *(Case(f"v4 in {version}", {"cniVersion": version}, V4) for version in VERSIONS),
    *(Case(f"v6 in {version}", {"cniVersion": version}, V6) for version in VERSIONS),
    *(Case(f"dual stack in {version}", {"cniVersion": version}, DUAL) for version in VERSIONS),
    Case("no gateway", {"isGateway": False}, {"ranges": sets(FOUR)}),
    Case("no gateway, a route", {"isGateway": False}, V4),
    Case("gateway without any route", {}, {"ranges": sets(FOUR)}),
    Case("default gateway v4", {"isDefaultGateway": True}, {"ranges": sets(FOUR)}),
    Case("default gateway v6", {"isDefaultGateway": True}, {"ranges": sets(SIX)}),
    Case("default gateway dual", {"isDefaultGateway": True}, {"ranges": sets(FOUR, SIX)}),
    Case("default gateway implies gateway", {"isGateway": False, "isDefaultGateway": True}, {"ranges": sets(FOUR)}),
    Case(
        "default gateway and a default route",
        {"isDefaultGateway": True},
        {"ranges": sets(FOUR), "routes": [{"dst": "0.0.0.0/0", "gw": "10.60.0.1"}]},
    ),
    Case("default bridge name", {"bridge": None}, V4),
    Case("another bridge name", {"bridge": "podbr"}, V4),
    Case("bridge exists already", {}, V4, prepare=("ip link add br0 type bridge",)),
    Case("bridge has its address already", {}, V4, prepare=(
        "ip link add br0 type bridge", "ip link set br0 up", "ip addr add 10.60.0.1/24 dev br0",
    )),
    Case("another address, forced", {"forceAddress": True}, V4, prepare=(
        "ip link add br0 type bridge", "ip link set br0 up", "ip addr add 10.61.0.1/24 dev br0",
    )),
    Case("masquerade v4", {"ipMasq": True}, V4),
    Case("masquerade v6", {"ipMasq": True}, V6),
    Case("masquerade dual", {"ipMasq": True}, DUAL),
    Case("masquerade for a default gateway", {"ipMasq": True, "isDefaultGateway": True}, {"ranges": sets(FOUR)}),
    Case("mtu 1400", {"mtu": 1400}, V4),
    Case("mtu 9000", {"mtu": 9000}, V4),
    Case("mtu 1400 dual", {"mtu": 1400}, DUAL),
    Case("hairpin", {"hairpinMode": True}, V4),
    Case("hairpin v6", {"hairpinMode": True}, V6),
    Case("promiscuous", {"promiscMode": True}, V4),
    Case("promiscuous v6", {"promiscMode": True}, V6),
    Case("vlan", {"vlan": 100}, V4),
    Case("vlan without gateway", {"vlan": 100, "isGateway": False}, {"ranges": sets(FOUR)}),
    Case("vlan dual", {"vlan": 4094}, DUAL),
    Case("mac spoof check", {"macspoofchk": True}, V4),
    Case("mac spoof check dual", {"macspoofchk": True}, DUAL),
    Case("duplicate address detection asked for", {"enabledad": True}, V6),
    Case("layer 2 only", {"isGateway": False}, None),
    Case("layer 2 with an empty ipam", {"isGateway": False, "ipam": {}}, None),
    Case("layer 2 in a vlan", {"isGateway": False, "vlan": 7}, None),
    Case("layer 2 in 0.3.1", {"cniVersion": "0.3.1", "isGateway": False}, None),
    Case("mac in CNI_ARGS", {}, V4, args="IgnoreUnknown=1;MAC=c2:11:22:33:44:55", pods=1, mac=True),
    Case("mac in args.cni", {"args": {"cni": {"mac": "c2:11:22:33:44:66"}}}, V4, pods=1, mac=True),
    Case("mac in runtimeConfig", {"runtimeConfig": {"mac": "c2:11:22:33:44:77"}}, V4, pods=1, mac=True),
    Case(
        "mac everywhere: runtimeConfig wins",
        {"args": {"cni": {"mac": "c2:00:00:00:00:02"}}, "runtimeConfig": {"mac": "c2:00:00:00:00:03"}},
        V4, args="IgnoreUnknown=1;MAC=c2:00:00:00:00:01", pods=1, mac=True,
    ),
    Case("address in CNI_ARGS", {}, V4, args="IgnoreUnknown=true;IP=10.60.0.77", pods=1),
    Case("address in args.cni", {"args": {"cni": {"ips": ["10.60.0.88"]}}}, V4, pods=1),
    Case("address in runtimeConfig", {"runtimeConfig": {"ips": ["10.60.0.99/24"]}}, V4, pods=1),
    Case("both addresses asked for", {"runtimeConfig": {"ips": ["10.60.0.50", "2001:db8:60::50"]}}, DUAL, pods=1),
    Case("ranges from the runtime", {"runtimeConfig": {"ipRanges": sets({"subnet": "10.62.0.0/24"})}}, {}),
    Case("ranges from the runtime beside our own", {"runtimeConfig": {"ipRanges": sets(SIX)}}, V4),
    Case("old style subnet", {}, OLD),
    Case(
        "old style with everything", {},
        {**OLD, "rangeStart": "10.60.0.10", "rangeEnd": "10.60.0.20", "gateway": "10.60.0.254"},
    ),
    Case("old style beside ranges", {}, {**OLD, "ranges": sets(SIX)}),
    Case("range with start, end and gateway", {}, {
        "ranges": sets({**FOUR, "rangeStart": "10.60.0.100", "rangeEnd": "10.60.0.101", "gateway": "10.60.0.9"}),
        "routes": [DEFAULT4],
    }),
    Case("a set of two ranges", {}, {"ranges": [[
        {"subnet": "10.60.0.0/24", "rangeStart": "10.60.0.5", "rangeEnd": "10.60.0.5"}, {"subnet": "10.63.0.0/24"},
    ]]}, pods=1),
    Case("two v4 addresses a pod", {"isGateway": False}, {"ranges": sets(FOUR, {"subnet": "10.64.0.0/24"})}),
    Case("two v6 addresses a pod", {}, {"ranges": sets(SIX, {"subnet": "2001:db8:61::/64"})}),
    Case("a small subnet", {}, {"ranges": sets({"subnet": "10.60.0.0/29"}), "routes": [DEFAULT4]}),
    Case("routes with and without gateway", {}, {"ranges": sets(FOUR), "routes": [
        DEFAULT4, {"dst": "192.168.0.0/16", "gw": "10.60.0.200"}, {"dst": "172.16.0.0/12"},
    ]}),
    Case("a v6 route only", {}, {"ranges": sets(FOUR, SIX), "routes": [{"dst": "2001:db8:9::/48"}]}),
    Case("dns in the configuration", {"dns": {
        "nameservers": ["10.60.0.1"], "domain": "example.org", "search": ["example.org"], "options": ["ndots:5"],
    }}, V4),
    Case("dns from resolvConf", {}, {**V4, "resolvConf": RESOLV_CONF}),
    Case("dns from the runtime", {"runtimeConfig": {"dns": {"servers": ["10.9.9.9"], "searches": ["x.org"]}}}, V4),
    Case("keys in other letters", {"ISGATEWAY": True, "HairpinMode": True, "isGateway": None}, V4),
    Case("nulls are absent", {"runtimeConfig": None, "mtu": None, "args": None, "vlan": None, "dns": None}, V4),
    Case("unknown keys are ignored", {"colour": "green", "capabilities": {"mac": True, "ips": True}}, V4),
    Case("Kubernetes' CNI_ARGS", {}, V4, args=(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=u"
    )),
    Case("static ipam", {}, {"type": "static", "dataDir": None, "addresses": [
        {"address": "10.60.0.33/24", "gateway": "10.60.0.1"},
    ], "routes": [DEFAULT4], "dns": {"nameservers": ["10.60.0.1"]}}, pods=1),
    Case("static ipam, both families", {"isDefaultGateway": True}, {"type": "static", "dataDir": None, "addresses": [
        {"address": "10.60.0.33/24"}, {"address": "2001:db8:60::33/64"},
    ]}, pods=1),
)

"""What a node and its pods look like after a plugin ran, with what legitimately differs taken out.

Names of host veths, MAC addresses that nobody asked for, the origin of a route (`proto`) and the kernel's own
link-local entries say nothing about the network; the rest must be the same whoever did the work.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.conformance.nodes import NODE4, NODE6, UPLINK, WORLD4, WORLD6, Json, Namespace, Node, ping_all
from tests.pace import until

PORT_FLAGS = (
    "hairpin", "guard", "root_block", "fastleave", "learning", "flood", "mcast_flood", "bcast_flood",
    "neigh_suppress", "vlan_tunnel", "isolated", "locked", "state", "mcast_to_unicast",
)

SEEN = """
table inet seen {
    set four { type ipv4_addr; flags dynamic; size 64; }
    set six { type ipv6_addr; flags dynamic; size 64; }
    chain input {
        type filter hook input priority -300;
        icmp type echo-request add @four { ip saddr }
        icmpv6 type echo-request add @six { ip6 saddr }
    }
}
"""


@dataclass
class Observation:
    """Everything one side did with one configuration."""

    adds: list[Json] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    results: list[Json] = field(default_factory=list)
    pods: list[Json] = field(default_factory=list)
    bridge: Json = field(default_factory=dict)
    ports: list[Json] = field(default_factory=list)
    packets: Json = field(default_factory=dict)
    forwarding: Json = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    checks: list[int] = field(default_factory=list)
    check_messages: list[str] = field(default_factory=list)
    deletes: list[int] = field(default_factory=list)
    before: Json = field(default_factory=dict)
    after: Json = field(default_factory=dict)


def normal_result(result: Json, pod: Namespace, *, keep_mac: bool) -> Json:
    """A CNI result in which only what the specification and the configuration determine is left."""
    text = json.loads(json.dumps(result).replace(pod.path, "<netns>"))
    for each in text.get("interfaces", ()):
        inside = bool(each.get("sandbox"))
        if "mac" in each and not (inside and keep_mac):
            each["mac"] = "<mac>"
        if not inside and each["name"].startswith(("veth", "tl")):
            each["name"] = "<host veth>"
    normal: Json = text
    return normal


def _is_ours(address: str) -> bool:
    return not ipaddress.ip_interface(address).ip.is_link_local


def addresses(ns: Namespace, dev: str) -> list[str]:
    """Addresses with prefix length on a link, without the link-local ones that the kernel makes."""
    links = ns.json("ip", "-j", "addr", "show", "dev", dev)
    infos = [info for link in links for info in _list(link, "addr_info")]
    return sorted(text for info in infos if _is_ours(text := f"{info['local']}/{info['prefixlen']}"))


def tentative(ns: Namespace) -> list[str]:
    """The addresses that duplicate address detection still keeps from being used, link-local ones left out."""
    links = ns.json("ip", "-j", "-6", "addr", "show", "tentative", "scope", "global")
    return [str(info["local"]) for link in links for info in _list(link, "addr_info")]


def settle(*namespaces: Namespace) -> None:
    """Wait for duplicate address detection, where somebody left it on, to end."""
    until(lambda: not any(tentative(ns) for ns in namespaces), "no address is tentative any more")


def routes(ns: Namespace) -> list[Json]:
    """Unicast routes of all tables: where to, by whom, over what; without link-local and multicast."""
    wanted = ("dst", "gateway", "via", "dev", "prefsrc", "metric", "table", "scope", "metrics", "flags")
    found: list[Json] = []
    for family in ("-4", "-6"):
        for route in ns.json("ip", "-j", family, "route", "show", "table", "all", "type", "unicast"):
            if str(route["dst"]).startswith(("fe80:", "ff00:")):
                continue
            # The kernel says "linkdown" some milliseconds after the last port of a bridge went.
            route["flags"] = [flag for flag in _list_of_text(route, "flags") if flag != "linkdown"]
            found.append({key: route[key] for key in wanted if route.get(key) not in (None, [])})
    return sorted(found, key=json.dumps)


def pod_view(pod: Namespace, ifname: str, *, keep_mac: bool) -> Json:
    """The interface in the pod, its addresses and the pod's routes; {"missing": true} when it is not there."""
    link = next((each for each in pod.json("ip", "-j", "-d", "link") if each["ifname"] == ifname), None)
    if link is None:
        return {"missing": True}
    flags = _list_of_text(link, "flags")
    return {
        "kind": _dict(link, "linkinfo").get("info_kind"),
        "mtu": link["mtu"],
        "up": "UP" in flags,
        "carrier": "LOWER_UP" in flags,
        "mac": link["address"] if keep_mac else "<mac>",
        "addresses": addresses(pod, ifname),
        "routes": routes(pod),
        "accept_dad": pod.sysctl(f"net/ipv6/conf/{ifname}/accept_dad"),
    }


def bridge_view(node: Node, name: str) -> Json:
    """The bridge itself: up, MTU, VLAN filtering, promiscuity that somebody asked for, and its addresses."""
    link = next((each for each in node.json("ip", "-j", "-d", "link") if each["ifname"] == name), None)
    if link is None:
        return {"missing": True}
    return {
        "up": "UP" in _list_of_text(link, "flags"),
        "promisc": "PROMISC" in _list_of_text(link, "flags"),
        "mtu": link["mtu"],
        "vlan_filtering": _dict(_dict(link, "linkinfo"), "info_data").get("vlan_filtering"),
        "addresses": addresses(node, name),
        "accept_ra": node.sysctl(f"net/ipv6/conf/{name}/accept_ra"),
    }


def host_interface(result: Json, bridge: str) -> str | None:
    """The name of the host's veth: the first interface of a result that is neither the bridge nor in a sandbox."""
    for each in _list(result, "interfaces"):
        if not each.get("sandbox") and each["name"] != bridge:
            return str(each["name"])
    return None


def port_of(node: Node, pod: Namespace, ifname: str) -> str:
    """The host's end of a pod's veth, found by the kernel's own numbers (results before 0.3.0 do not tell)."""
    inside = next(each for each in pod.json("ip", "-j", "link") if each["ifname"] == ifname)
    return next(
        str(each["ifname"])
        for each in node.json("ip", "-j", "link")
        if each["ifindex"] == inside["link_index"]
    )


def port_view(node: Node, port: str) -> Json:
    """The flags and VLANs of a bridge port, and whether the link is up with the MTU it should have."""
    flags = next((p for p in node.json("bridge", "-d", "-j", "link") if p["ifname"] == port), {})
    vlans = [v for v in node.json("bridge", "-j", "vlan") if v["ifname"] == port]
    link = next(each for each in node.json("ip", "-j", "link") if each["ifname"] == port)
    return {
        "flags": {flag: flags.get(flag) for flag in PORT_FLAGS if flag in flags},
        "vlans": [v for each in vlans for v in _list(each, "vlans")],
        "master": link.get("master"),
        "mtu": link["mtu"],
    }


def watch(ns: Namespace) -> None:
    """From now on remember the source of every echo request that reaches the namespace."""
    ns.run("nft", "-f", "-", stdin=SEEN)


def seen(ns: Namespace) -> list[str]:
    """The sources remembered since `watch`, link-local ones left out."""
    sources: list[str] = []
    for name in ("four", "six"):
        listed = json.loads(ns.run("nft", "-j", "list", "set", "inet", "seen", name).stdout)["nftables"]
        for element in next(each["set"] for each in listed if "set" in each).get("elem", ()):
            sources.append(element["elem"]["val"] if isinstance(element, dict) else element)
    return sorted(source for source in sources if _is_ours(source))


def packets(node: Node, pods: list[Namespace], results: list[Json], ifname: str) -> Json:
    """Which echo requests are answered (pod to gateway, to the other pod, to the world), and who they came from."""
    settle(node, *pods)
    for ns in (*pods[1:], node.world):
        watch(ns)
    flights: dict[str, tuple[Namespace, str]] = {}
    for address in own_addresses(pods[0], ifname):
        family = ipaddress.ip_interface(address).version
        flights[f"world{family}"] = (pods[0], WORLD4 if family == 4 else WORLD6)
        flights[f"node{family}"] = (pods[0], NODE4 if family == 4 else NODE6)
        flights[f"node to pod {address}"] = (node, address.partition("/")[0])
    for gateway in gateways(results[0]):
        flights[f"gateway {gateway}"] = (pods[0], gateway)
    for index, pod in enumerate(pods[1:], 2):
        for address in own_addresses(pod, ifname):
            flights[f"pod{index} {address}"] = (pods[0], address.partition("/")[0])
    answered = dict(zip(flights, ping_all(list(flights.values())), strict=True))
    return {
        "answered": answered,
        "seen in the world": seen(node.world),
        "seen in the pods": [seen(pod) for pod in pods[1:]],
    }


def own_addresses(pod: Namespace, ifname: str) -> list[str]:
    present = {each["ifname"] for each in pod.json("ip", "-j", "link")}
    return addresses(pod, ifname) if ifname in present else []


def gateways(result: Json) -> list[str]:
    """The gateways a result names, in either shape."""
    new = [str(ip["gateway"]) for ip in _list(result, "ips") if ip.get("gateway")]
    old = [_dict(result, key).get("gateway") for key in ("ip4", "ip6")]
    return new + [str(each) for each in old if each]


def snapshot(node: Node) -> Json:
    """All of a node that a pod could leave something in, as text that compares."""
    links = node.json("ip", "-j", "link")
    return {
        "links": sorted(str(each["ifname"]) for each in links),
        "routes": [each for each in routes(node) if each["dev"] != UPLINK],
        "neighbours": sorted(
            str(each["dst"])
            for each in node.json("ip", "-j", "neigh", "show", "nud", "all")
            if each["dev"] not in (UPLINK, "lo") and not str(each["dst"]).startswith(("fe80:", "ff02:", "224."))
        ),
        "ruleset": node.run("nft", "-s", "list", "ruleset").stdout,
        "rules": node.run("ip", "rule").stdout,
        "leases": node.leases(),
        "records": sorted(
            str(each.relative_to(node.run_dir))
            for each in node.run_dir.rglob("*")
            if each.is_file() and each.name not in ("lock", "agent.lock")
        ),
    }


def _list(value: Mapping[str, object], key: str) -> list[Json]:
    found = value.get(key) or []
    assert isinstance(found, list)
    return [each for each in found if each]  # `ip -j addr` prints {} for what its filter left out


def _list_of_text(value: Mapping[str, object], key: str) -> Iterable[str]:
    found = value.get(key) or []
    assert isinstance(found, list)
    return [str(each) for each in found]


def _dict(value: Mapping[str, object], key: str) -> Json:
    found = value.get(key) or {}
    assert isinstance(found, dict)
    return found

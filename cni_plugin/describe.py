"""Operations in the operator's own language: what `ip`, `bridge`, `sysctl`, `ethtool` or `nft` line would do the same.

`tullectl plan` prints these before anything is done, CHECK puts them into its error's details, golden tests
compare them. They are for people: the kernel package speaks netlink. `POD` stands for the pod's namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cni_plugin.diff import Op
from cni_plugin.model.base import POD
from cni_plugin.model.host import Feature, Sysctl
from cni_plugin.model.layer3 import MAIN_TABLE, Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan, Vxlan
from cni_plugin.model.nft import Chain, Element, Set

_ADD = {"create": "add", "change": "replace", "delete": "del"}


def describe(op: Op) -> str:
    """One operation as one command line (a chain as several)."""
    return _WORDS[type(op.object).__name__](op.verb, op.object)


def script(ops: Iterable[Op]) -> str:
    """Operations as lines, in order."""
    return "\n".join(describe(op) for op in ops)


def _ip(ns: str) -> str:
    return "ip -n POD" if ns == POD else "ip"


def _words(*pairs: tuple[str, object]) -> str:
    return "".join(f" {word} {value}" for word, value in pairs if value not in ("", 0, -1))


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _bridge(verb: str, each: Bridge) -> str:
    if verb == "delete":
        return f"ip link del {each.name}"
    common = _words(("address", each.mac), ("mtu", each.mtu))
    promisc = " promisc on" if each.promisc else ""
    if verb == "change":
        alias = _words(("alias", each.alias))
        return f"ip link set {each.name}{common}{promisc}{alias} type bridge vlan_filtering {int(each.vlan_filtering)}"
    vlans = " vlan_filtering 1" if each.vlan_filtering else ""
    return f"ip link add {each.name}{common} type bridge{vlans}" + (
        f" && ip link set {each.name}{promisc}" if promisc else ""
    )


def _veth(verb: str, each: Veth) -> str:
    if verb == "delete":
        return f"ip link del {each.name}"
    common = _words(("master", each.master), ("address", each.mac), ("mtu", each.mtu))
    if verb == "change":
        return f"ip link set {each.name}{common}" + (f" alias '{each.alias}'" if each.alias else "")
    peer = _words(("address", each.peer_mac), ("mtu", each.peer_mtu or each.mtu))
    alias = f" && ip link set {each.name} alias '{each.alias}'" if each.alias else ""
    return f"ip link add {each.name} up{common} type veth peer {each.peer} netns POD{peer}{alias}"


def _vxlan(verb: str, each: Vxlan) -> str:
    if verb == "delete":
        return f"ip link del {each.name}"
    common = _words(("address", each.mac), ("mtu", each.mtu))
    if verb == "change":
        return f"ip link set {each.name}{common}"
    bound = _words(("dev", each.underlay))
    return (
        f"ip link add {each.name}{common} type vxlan id {each.vni} local {each.local}{bound} dstport {each.port} "
        f"nolearning{' gbp' if each.gbp else ''}"
    )


def _vlan(verb: str, each: Vlan) -> str:
    if verb == "delete":
        return f"ip link del {each.name}"
    return f"ip link add link {each.parent} name {each.name} type vlan id {each.vid}"


def _podlink(verb: str, each: PodLink) -> str:
    if verb == "create":
        return f"# {each.name} in POD comes with its veth"
    return f"ip -n POD link set {each.name}" + _words(("address", each.mac), ("mtu", each.mtu))


def _up(verb: str, each: Up) -> str:
    return f"{_ip(each.ns)} link set {each.name} {'down' if verb == 'delete' else 'up'}"


def _port(verb: str, each: Port) -> str:
    flags = Port(each.name) if verb == "delete" else each
    return (
        f"bridge link set dev {each.name} hairpin {_on(flags.hairpin)} "
        f"isolated {_on(flags.isolated)} locked {_on(flags.locked)}"
    )


def _portvlan(verb: str, each: PortVlan) -> str:
    vids = f"{each.vid}-{each.last}" if each.last else f"{each.vid}"
    flags = (" pvid" if each.pvid else "") + (" untagged" if each.untagged else "")
    word = "del" if (verb == "delete") == each.member else "add"
    return f"bridge vlan {word} dev {each.name} vid {vids}{flags}{' self' if each.self_ else ''}"


def _sysctl(verb: str, each: Sysctl) -> str:
    where = "ip netns exec POD " if each.ns == POD else ""
    return f"# {each.name} is left as it is" if verb == "delete" else f"{where}sysctl -w {each.name}={each.value}"


def _feature(verb: str, each: Feature) -> str:
    return f"ethtool -K {each.dev} tx {_on(each.tx_checksum or verb == 'delete')}"


def _addr(verb: str, each: Addr) -> str:
    nodad = " nodad" if ":" in each.address and not each.dad and verb != "delete" else ""
    return f"{_ip(each.ns)} addr {_ADD[verb]} {each.address} dev {each.dev}{nodad}"


def _route(verb: str, each: Route) -> str:
    family = "inet6 " if ":" in each.via and ":" not in each.dst else ""
    via = f" via {family}{each.via}" if each.via else ""
    table = each.table if each.table != MAIN_TABLE else 0
    rest = _words(
        ("proto", each.protocol if each.ns != POD else 0),
        ("src", each.src),
        ("table", table),
        ("metric", each.priority),
        ("scope", each.scope),
        ("mtu", each.mtu),
        ("advmss", each.advmss),
    )
    onlink = " onlink" if each.onlink else ""
    return f"{_ip(each.ns)} route {_ADD[verb]} {each.dst}{via} dev {each.dev}{rest}{onlink}"


def _neigh(verb: str, each: Neigh) -> str:
    if verb == "delete":
        return f"ip neigh del {each.address} dev {each.dev}"
    return f"ip neigh replace {each.address} lladdr {each.mac} dev {each.dev} nud permanent"


def _fdb(verb: str, each: Fdb) -> str:
    vid = _words(("vlan", each.vid))
    if each.dst:
        word = "del" if verb == "delete" else "replace"
        return f"bridge fdb {word} {each.mac} dev {each.dev} dst {each.dst} self permanent{vid}"
    word = "del" if verb == "delete" else "replace"
    return f"bridge fdb {word} {each.mac} dev {each.dev} master static{vid}"


def _chain(verb: str, each: Chain) -> str:
    if verb == "delete":
        return f"nft delete chain inet tulle {each.name}"
    head = [
        "nft add table inet tulle",
        f"nft 'add chain inet tulle {each.name} {{ {each.hook} }}'",
        f"nft flush chain inet tulle {each.name}",
    ]
    return "\n".join(head + [f"nft 'add rule inet tulle {each.name} {rule}'" for rule in each.rules])


def _set(verb: str, each: Set) -> str:
    if verb == "delete":
        return f"nft delete set inet tulle {each.name}"
    return f"nft add table inet tulle\nnft 'add set inet tulle {each.name} {{ type {each.type}; }}'"


def _element(verb: str, each: Element) -> str:
    return f"nft '{'delete' if verb == 'delete' else 'add'} element inet tulle {each.set} {{ {each.value} }}'"


_WORDS: dict[str, Callable[[str, Any], str]] = {
    "Bridge": _bridge,
    "Veth": _veth,
    "Vxlan": _vxlan,
    "Vlan": _vlan,
    "PodLink": _podlink,
    "Up": _up,
    "Port": _port,
    "PortVlan": _portvlan,
    "Sysctl": _sysctl,
    "Feature": _feature,
    "Addr": _addr,
    "Route": _route,
    "Neigh": _neigh,
    "Fdb": _fdb,
    "Chain": _chain,
    "Set": _set,
    "Element": _element,
}

"""What an operator wants to see of a namespace beyond what any plan names: its links, ways and entries as they are.

The verbs ask about objects that they know; `tullectl doctor` and `trace` look for what nobody asked about. Everything
here is a question, nothing changes the kernel, and the lists are dumps: only a person waits for them.

    ip -s -d link; ip route; ip route get 192.0.2.9 from 10.244.1.2 iif tulle0; ip neigh; bridge fdb
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import msgspec

from cni_plugin.kernel.host.knobs import read_line
from cni_plugin.kernel.host.netns import open_namespace
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.addresses import family_of, packed
from cni_plugin.kernel.rtnl.assigned import prefix_of
from cni_plugin.kernel.rtnl.codec import Attr, Message, encode
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.kernel.rtnl.numbers import AF_BRIDGE, IFF_UP
from cni_plugin.kernel.rtnl.routes import Routes
from cni_plugin.model.base import POD
from cni_plugin.model.layer3 import Route

_Seen = TypeVar("_Seen")
_COUNTERS = ("rx_packets", "rx_bytes", "rx_dropped", "rx_errors", "tx_packets", "tx_bytes", "tx_dropped", "tx_errors")
_STATES = {0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe", 0x20: "failed",
           0x40: "noarp", 0x80: "permanent"}
"""NUD_*, include/uapi/linux/neighbour.h."""
_KINDS = {1: "unicast", 2: "local", 3: "broadcast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
"""RTN_*, include/uapi/linux/rtnetlink.h."""
_BRIDGE_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
"""BR_STATE_*, include/uapi/linux/if_bridge.h."""


class Link(msgspec.Struct, frozen=True):
    """A link. `port` is its state on its bridge, `assigned` how it came by its MAC (3: set; -1: not known).

    `vni` and `udp_port` are those of a tunnel's device that has such.
    """

    name: str
    index: int = 0
    kind: str = ""
    mtu: int = 0
    mac: str = ""
    alias: str = ""
    master: str = ""
    up: bool = True
    state: str = ""
    port: str = ""
    peer: int = 0
    assigned: int = -1
    vlan_filtering: bool | None = None
    vni: int = 0
    udp_port: int = 0
    counters: dict[str, int] = {}


class Way(msgspec.Struct, frozen=True):
    """How the kernel would send a packet: `kind` is "unicast", "local", ... or says why it would not."""

    kind: str
    dev: str = ""
    via: str = ""
    src: str = ""


class Entry(msgspec.Struct, frozen=True):
    """A neighbour (with an address) or a forwarding entry (with a remote address, where there is one)."""

    dev: str
    mac: str
    address: str = ""
    state: str = ""
    vlan: int = 0


def named(links: Iterable[Link], name: str) -> Link | None:
    """The link of this name."""
    return next((each for each in links if each.name == name), None)


class Sight:
    """One namespace, looked at: that of a path, or the calling thread's own. Raises NetnsError for a bad path."""

    def __init__(self, netns: str = "") -> None:
        self._space = Namespace(open_namespace(netns, allow_own=True) if netns else None)

    def __enter__(self) -> Sight:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._space.close()

    def links(self) -> tuple[Link, ...]:
        """All links, with counters."""
        messages = self._space.netlink.dump(encode(codec.RTM_GETLINK, 0, {"family": 0}))
        names = {each.link: each.text("IFLA_IFNAME") for each in messages}
        return tuple(_link(each, names) for each in messages)

    def addresses(self, dev: str) -> tuple[str, ...]:
        """All addresses of a link, link-local ones too, with prefix lengths."""
        index = self._space.index(dev)
        return tuple(map(prefix_of, self._dump(codec.RTM_GETADDR, {"family": 0, "index": index}))) if index else ()

    def routes(self) -> tuple[Route, ...]:
        """All unicast routes of every table, whoever made them."""
        return tuple(Routes(self._space, POD).ours())

    def way(self, to: str, *, source: str = "", arriving: str = "") -> Way:
        """What would become of a packet to this address, from that one, coming in by that link."""
        bits = len(packed(to)) * 8
        fields = {"family": family_of(to), "dst_len": bits, "src_len": bits if source else 0}
        attrs: list[Attr] = [("RTA_DST", to)]
        if source:
            attrs.append(("RTA_SRC", source))
        if arriving:
            attrs.append(("RTA_IIF", self._space.index(arriving)))
        try:
            answer = self._space.netlink.ask(encode(codec.RTM_GETROUTE, 0, fields, attrs))
        except Refused as error:
            return Way(error.strerror or str(error))
        if answer is None:
            return Way("no route")
        via = answer.text("RTA_GATEWAY") or answer.text("RTA_VIA", "addr")
        dev = self._space.name(answer.number("RTA_OIF"))
        return Way(_KINDS.get(answer.field("type"), "unknown"), dev, via, answer.text("RTA_PREFSRC"))

    def neighbours(self) -> tuple[Entry, ...]:
        """What the namespace knows of its neighbours' MACs, by ARP and neighbour discovery or because it was told."""
        return tuple(
            Entry(self._name(each), each.text("NDA_LLADDR"), each.text("NDA_DST"), _state(each.field("state")))
            for each in self._dump(codec.RTM_GETNEIGH, {"family": 0})
        )

    def entries(self) -> tuple[Entry, ...]:
        """The forwarding entries of all bridges and tunnels."""
        return tuple(
            Entry(self._name(each), each.text("NDA_LLADDR"), each.text("NDA_DST"), _state(each.field("state")),
                  each.number("NDA_VLAN"))
            for each in self._dump(codec.RTM_GETNEIGH, {"family": AF_BRIDGE})
        )

    def inside(self, step: Callable[[], _Seen]) -> _Seen:
        """What this finds while the thread is in the namespace: files of /proc/sys/net, nft."""
        with self._space.inside():
            return step()

    def _name(self, message: Message) -> str:
        return self._space.name(message.field("ifindex"))

    def _dump(self, kind: int, fields: dict[str, int]) -> list[Message]:
        return self._space.netlink.dump(encode(kind, 0, fields))


def _link(each: Message, names: dict[int, str]) -> Link:
    info, data, slave = "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_INFO_SLAVE_DATA"
    name = each.text("IFLA_IFNAME")
    kind = each.text(info, "IFLA_INFO_KIND")
    udp_port = each.number(info, data, f"IFLA_{kind.upper()}_PORT")
    filtering = each.number(info, data, "IFLA_BR_VLAN_FILTERING", default=-1)
    port = each.number(info, slave, "IFLA_BRPORT_STATE", default=-1)
    return Link(
        name,
        index=each.link,
        kind=kind,
        mtu=each.number("IFLA_MTU"),
        mac=each.text("IFLA_ADDRESS"),
        alias=each.text("IFLA_IFALIAS"),
        master=names.get(each.number("IFLA_MASTER"), ""),
        up=bool(each.field("flags") & IFF_UP),
        state=each.text("IFLA_OPERSTATE").lower(),
        port=_BRIDGE_STATES[port] if 0 <= port < len(_BRIDGE_STATES) else "",
        peer=each.number("IFLA_LINK"),
        assigned=_assigned(name, each.link),
        vlan_filtering=None if filtering < 0 else bool(filtering),
        vni=each.number(info, data, f"IFLA_{kind.upper()}_ID") if udp_port else 0,
        udp_port=udp_port,
        counters={key: each.number("IFLA_STATS64", key) for key in _COUNTERS},
    )


def _assigned(name: str, index: int) -> int:
    """NET_ADDR_* (include/uapi/linux/netdevice.h), -1 when sysfs does not tell: it may show another namespace's."""
    with suppress(OSError, ValueError):
        if read_line(f"/sys/class/net/{name}/ifindex") == str(index):
            return int(read_line(f"/sys/class/net/{name}/addr_assign_type"))
    return -1


def _state(bits: int) -> str:
    return "|".join(word for bit, word in _STATES.items() if bits & bit)

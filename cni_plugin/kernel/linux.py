"""The real kernel behind the door.

One instance serves one thread and one pod at a time. It keeps a netlink socket of the node's namespace and one of the
pod's, and opens each when it is first needed, so that asking for little costs little. Nothing is remembered from one
call to the next but the sockets: links come and go between two of them. It may live for one request or for years:
`leave` lets go of a pod, and a pod's namespace may be lent as a descriptor instead of being found by its path.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

from cni_plugin.describe import describe
from cni_plugin.diff import Op
from cni_plugin.kernel.apply import Applier, How
from cni_plugin.kernel.door import OwnLink, PodWire, Uplink
from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.host.knobs import out_of_reach
from cni_plugin.kernel.host.netns import open_namespace
from cni_plugin.kernel.kinds import kind_of
from cni_plugin.kernel.nft.nft import Nft
from cni_plugin.kernel.read import Reader, elements_of
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.addresses import family_of, network_of, packed
from cni_plugin.kernel.rtnl.announce import announce, await_port
from cni_plugin.kernel.rtnl.assigned import addresses_on, local_address, prefix_of
from cni_plugin.kernel.rtnl.codec import Attr, Message, encode
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import RTEXT_FILTER_SKIP_STATS, Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.kernel.rtnl.numbers import AF_BRIDGE, IFF_UP, NTF_SELF, NUD_PERMANENT
from cni_plugin.kernel.rtnl.routes import Routes
from cni_plugin.marks import ALIAS
from cni_plugin.meter import Meter
from cni_plugin.model.base import HOST, Object, State, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Neigh, Way
from cni_plugin.model.links import Fdb

if TYPE_CHECKING:
    from cni_plugin.kernel.rtnl.remover import Remover

_SCOPE_LINK = 253
_MAC_TEXT = 17
_RTN_UNICAST = 1
_ANYWHERE = ("192.0.0.8", "100::1")
"""The dummy address of RFC 7600 and one to be discarded (RFC 6666), which no network has: the way to them is the way
out. Nothing is sent there."""


class LinuxKernel:
    """`door.Kernel` on the kernel of the network namespace that the first call is made in. A context manager.

    `prompt`: a call returns when all is done. Otherwise, for who lives on, it returns when the effect is there: links
    are gone but not yet freed, and pods' announcements are put off until `announce_late`.
    """

    def __init__(self, meter: Meter | None = None, *, prompt: bool = True) -> None:
        self._meter = meter or Meter()
        self._prompt = prompt
        self._remover = None if prompt else _new_remover()
        self._pod: Namespace | None = None
        self._untold = ""
        self._unannounced: deque[tuple[Namespace, str]] = deque()
        self._lent: Mapping[str, int] = {}
        self._nft = Nft(self._meter)

    def __enter__(self) -> LinuxKernel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; the next call opens it anew."""
        self.leave()
        self.announce_late()
        if (host := self.__dict__.pop("_host", None)) is not None:
            host.close()
        self._nft.close()

    def leave(self) -> None:
        """Let go of the pod's namespace, if one was entered; its announcement may still be due."""
        if self._pod is not None and self._untold:
            self._unannounced.append((self._pod, self._untold))
        elif self._pod is not None:
            self._pod.close()
        self._pod, self._untold = None, ""

    @contextmanager
    def lent(self, namespaces: Mapping[str, int]) -> Iterator[None]:
        """While the block runs, `enter` finds these paths' namespaces behind descriptors, which stay their owner's."""
        self._lent = namespaces
        try:
            yield
        finally:
            self._lent = {}

    @cached_property
    def _host(self) -> Namespace:
        return Namespace()

    def enter(self, netns: str, *, allow_own: bool = False) -> None:
        """Open the pod's network namespace at this path; an earlier one is closed. Raises NetnsError."""
        self.leave()
        with self._meter.step("netlink"):
            self._pod = Namespace(open_namespace(netns, allow_own=allow_own, lent=self._lent.get(netns, -1)))

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry the operations out in order; `KernelError.done` may hold later ones than the refused one."""
        self._forget()
        with self._meter.step("netlink"):
            Applier(self._host, self._pod, self._nft, How(self._is_ours, self._remover)).run(ops)

    def read(self, wanted: Iterable[Object]) -> State:
        """What stands at the keys of these objects. Raises KernelError (EEXIST) for a link of another kind."""
        self._forget()
        with self._meter.step("netlink"):
            return Reader(Lookup(self._host, self._pod), self._nft).read(wanted)

    def addresses(self, dev: str) -> tuple[str, ...]:
        """The addresses on a link of the node, with prefix lengths, link-local ones left out."""
        self._forget()
        return tuple(prefix_of(each) for each in addresses_on(self._host, dev) if each.field("scope") != _SCOPE_LINK)

    def link_index(self, name: str) -> int:
        """The ifindex of a link of the node, 0 when there is none."""
        link = self._host.link(name)
        return link.link if link else 0

    def link_mac(self, name: str) -> str:
        """The MAC of a link of the node, "" when there is none."""
        link = self._host.link(name)
        return link.text("IFLA_ADDRESS") if link else ""

    def pod_link_exists(self, name: str) -> bool:
        """Whether the pod's namespace has a link of this name; without a pod it has not."""
        return self._pod is not None and self._pod.link(name) is not None

    def pod_wire(self, name: str) -> PodWire | None:
        """The veth of this name in the pod's namespace, and its other end."""
        link = self._pod_veth(name)
        if self._pod is None or link is None:
            return None
        there = self._host.link_at(link.number("IFLA_LINK"))
        if there is not None and not self._pod.is_peer(link, there):
            there = None
        return PodWire(
            link.text("IFLA_ADDRESS"),
            tuple(map(local_address, addresses_on(self._pod, name))),
            there.text("IFLA_IFNAME") if there else "",
            there.text("IFLA_IFALIAS") if there else "",
        )

    def delete_pod_link(self, name: str) -> None:
        """Remove a veth of this name from the pod's namespace; its other end goes with it. Raises Refused."""
        link = self._pod_veth(name)
        if self._pod is None or link is None:
            return
        (outcome,) = self._pod.netlink.send([encode(codec.RTM_DELLINK, 0, {"family": 0, "index": link.link})])
        if outcome.errno and self._pod.link_at(link.link) is not None:
            raise Refused(outcome)

    def announce(self, dev: str, host_dev: str) -> None:
        """Wait until the bridge forwards for `host_dev`, then let the pod tell its addresses."""
        if self._pod is None:
            return
        with self._meter.step("netlink"):
            await_port(self._host, host_dev)
            if self._prompt:
                announce(self._pod, dev)
            else:
                self._untold = dev

    def announce_late(self) -> None:
        """Make the announcements that were put off: a bridge floods them to all its pods, which takes its time."""
        while self._unannounced:
            pod, dev = self._unannounced.popleft()
            try:
                announce(pod, dev)
            finally:
                pod.close()

    def await_dad(self, dev: str) -> tuple[str, ...]:
        """Wait until no address of the pod's link is tentative; those that somebody else has."""
        from cni_plugin.kernel.rtnl.dad import await_dad  # few configurations ask for it

        return await_dad(self._pod, dev) if self._pod is not None else ()

    def uplink(self, address: str) -> Uplink | None:
        """The interface of the node that bears this address, None when none does."""
        wire = packed(address)
        for each in self._host.netlink.dump(encode(codec.RTM_GETADDR, 0, {"family": family_of(address)})):
            if packed(local_address(each)) == wire:
                return self._uplink_at(each.field("index"))
        return None

    def default_mtu(self) -> int:
        """The MTU of the interface that leads away from this node, by IPv4 if there is such a way; 0 without one."""
        for address in _ANYWHERE:
            family = family_of(address)
            bits = len(packed(address)) * 8
            request = encode(codec.RTM_GETROUTE, 0, {"family": family, "dst_len": bits}, [("RTA_DST", address)])
            try:
                route = self._host.netlink.ask(request)
            except Refused as refused:
                if refused.errno in PASSING:
                    raise
                continue  # ENETUNREACH
            if route is None or route.field("type") != _RTN_UNICAST:
                continue
            if link := self._host.link_at(route.number("RTA_OIF")):
                return link.number("IFLA_MTU")
        return 0

    def interfaces(self) -> Mapping[str, tuple[str, ...]]:
        """The links of the node that bear addresses, and those with prefix lengths, link-local ones left out."""
        self._forget()
        found: dict[int, list[str]] = {}
        for each in self._host.netlink.dump(encode(codec.RTM_GETADDR, 0, {"family": 0})):
            if each.field("scope") != _SCOPE_LINK:
                found.setdefault(each.field("index"), []).append(prefix_of(each))
        return {self._host.name(index): tuple(found[index]) for index in sorted(found)}

    def advertise(self, where: Mapping[str, str]) -> Collection[str]:
        """As the door promises; where links have no Ethernet address nobody need be told; what is tentative is not."""
        from cni_plugin.kernel.host.advertise import advertise  # of all who use this only the agent ever needs it

        told = []
        for address, dev in where.items():
            link = self._host.link(dev)
            if link is None:
                continue
            mac = link.text("IFLA_ADDRESS")
            with suppress(OSError), self._host.inside():
                if len(mac) == _MAC_TEXT:
                    advertise(address, dev, link.link, mac)
                told.append(address)
        return told

    def ways(self, addresses: Iterable[str]) -> dict[str, Way]:
        """The way to each of these addresses; one without a way, or of the node's own, is left out."""
        from cni_plugin.kernel.rtnl.ways import ways  # for who is in no cluster it is nothing

        with self._meter.step("netlink"):
            return ways(self._host, addresses)

    def taught(self) -> tuple[str, ...]:
        """As the door promises."""
        from cni_plugin.kernel.see.routers import taught  # once in a boot

        return taught(self._host)

    def out_of_reach(self, wanted: Iterable[Sysctl]) -> tuple[str, ...]:
        """As the door promises."""
        self._forget()
        others = [each for each in wanted if self._host.sysctl(each) != each.value]
        return tuple(f"{describe(Op('create', each))}: {why}" for each in others if (why := out_of_reach(each)))

    def vni_holder(self, vni: int) -> str:
        """The VXLAN device of the node that has this VNI, whoever made it; "" when none has."""
        path = ("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_VXLAN_ID")
        kind = ("IFLA_LINKINFO", "IFLA_INFO_KIND")
        found = (each for each in self._host.links() if each.text(*kind) == "vxlan" and each.number(*path) == vni)
        return next((each.text("IFLA_IFNAME") for each in found), "")

    def release(self) -> str:
        """The kernel's release."""
        return os.uname().release

    def port(self) -> int:
        """The netlink port from which the node is changed."""
        return self._host.netlink.port

    def owned(self, device: str) -> State:
        """All routes with our protocol number but those to pods, and all permanent entries of this VXLAN device."""
        self._forget()
        objects: list[Object] = [each for each in Routes(self._host, HOST).ours() if each.via or each.dev == device]
        if index := self._host.index(device):
            objects += (_neigh(device, each) for each in self._entries(0, index) if _is_permanent(each))
            objects += (_fdb(device, each) for each in self._entries(AF_BRIDGE, index) if _is_remote(each))
        return state(objects)

    def elements(self, name: str) -> frozenset[str]:
        """What is in a set of table `inet tulle`, nothing without that set. Raises KernelError."""
        return elements_of(self._nft, name)

    def own_links(self) -> tuple[OwnLink, ...]:
        """All links of the node that bear our mark in their ifalias."""
        names: dict[int, str] = {}
        found: list[tuple[OwnLink, int]] = []
        for each in self._host.links():
            name, alias = each.text("IFLA_IFNAME"), each.text("IFLA_IFALIAS")
            names[each.link] = name
            if alias.startswith(ALIAS):
                up = bool(each.field("flags") & IFF_UP)
                found.append((OwnLink(name, alias, up=up), each.number("IFLA_MASTER")))
        return tuple(link._replace(master=names.get(master, "")) for link, master in found)

    def ports(self, bridge: str) -> int:
        """How many ports a bridge has. The kernel picks them out of all links (IFLA_MASTER, Linux 4.20)."""
        index = self.link_index(bridge)
        if not index:
            return 0
        attrs: list[Attr] = [("IFLA_MASTER", index), ("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
        return len(self._host.netlink.dump(encode(codec.RTM_GETLINK, 0, {"family": 0}, attrs)))

    def locally_held(self) -> frozenset[str]:
        """All addresses of the node, without prefix lengths."""
        return frozenset(map(local_address, self._host.netlink.dump(encode(codec.RTM_GETADDR, 0, {"family": 0}))))

    def _pod_veth(self, name: str) -> Message | None:
        link = self._pod.link(name) if self._pod else None
        return link if link and link.text("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth" else None

    def _uplink_at(self, index: int) -> Uplink | None:
        link = self._host.link_at(index)
        if link is None:
            return None
        fields = {"family": 0, "index": index}
        addresses = self._host.netlink.dump(encode(codec.RTM_GETADDR, 0, fields))
        networks = (
            network_of(local_address(each), each.field("prefixlen"))
            for each in addresses
            if each.field("scope") != _SCOPE_LINK
        )
        prefixes = tuple(dict.fromkeys(networks))
        return Uplink(link.text("IFLA_IFNAME"), link.number("IFLA_MTU"), prefixes)

    def _entries(self, family: int, index: int) -> list[Message]:
        attrs: list[Attr] = [("NDA_IFINDEX", index)]
        return self._host.netlink.dump(encode(codec.RTM_GETNEIGH, 0, {"family": family}, attrs))

    def _is_ours(self, each: Object) -> bool:
        return kind_of(type(each)).read(each, Lookup(self._host)) is not None

    def _forget(self) -> None:
        for space in (self._host, self._pod):
            if space is not None:
                space.forget()


def _new_remover() -> Remover:
    from cni_plugin.kernel.rtnl.remover import Remover  # only for who lives on

    return Remover()


def _is_permanent(message: Message) -> bool:
    return bool(message.field("state") & NUD_PERMANENT)


def _is_remote(message: Message) -> bool:
    return bool(message.field("flags") & NTF_SELF and message.text("NDA_DST"))


def _neigh(device: str, message: Message) -> Neigh:
    return Neigh(device, message.text("NDA_DST"), message.text("NDA_LLADDR"))


def _fdb(device: str, message: Message) -> Fdb:
    return Fdb(device, message.text("NDA_LLADDR"), message.text("NDA_DST"))

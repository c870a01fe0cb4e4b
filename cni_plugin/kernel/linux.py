"""The real kernel behind the door.

One instance serves one thread and one pod at a time. It keeps a netlink socket of the node's namespace and one of the
pod's, and opens each when it is first needed, so that asking for little costs little. Nothing is remembered from one
call to the next but the sockets: links come and go between two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from types import TracebackType

from cni_plugin.diff import Op
from cni_plugin.kernel import codec
from cni_plugin.kernel.addresses import family_of, network_of, packed
from cni_plugin.kernel.announce import announce
from cni_plugin.kernel.apply import Applier
from cni_plugin.kernel.codec import Attr, Message, encode
from cni_plugin.kernel.dad import await_dad
from cni_plugin.kernel.door import OwnLink, Uplink
from cni_plugin.kernel.namespace import Namespace
from cni_plugin.kernel.netlink import Refused
from cni_plugin.kernel.netns import open_namespace
from cni_plugin.kernel.nft import Nft
from cni_plugin.kernel.read import AF_BRIDGE, NTF_SELF, NUD_PERMANENT, Reader, addresses_on, local_address, prefix_of
from cni_plugin.kernel.routes import Routes
from cni_plugin.model import HOST, AnyObject, Fdb, Neigh, Route, State, state

ALIAS_MARK = "tulle:"
"""What the ifalias of a link of ours begins with."""
_SCOPE_LINK = 253
_RTN_UNICAST = 1
_ANYWHERE = ("192.0.0.8", "100::1")
"""The dummy address of RFC 7600 and one to be discarded (RFC 6666), which no network has: the way to them is the way
out. Nothing is sent there."""


class LinuxKernel:
    """`door.Kernel` on the kernel of the network namespace that the first call is made in. A context manager."""

    def __init__(self) -> None:
        self._pod: Namespace | None = None
        self._nft = Nft()

    def __enter__(self) -> LinuxKernel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if "_host" in self.__dict__:
            self._host.close()
        self._nft.close()

    @cached_property
    def _host(self) -> Namespace:
        return Namespace()

    def enter(self, netns: str, *, allow_own: bool = False) -> None:
        """Open the pod's network namespace at this path; an earlier one is closed. Raises NetnsError."""
        self._leave()
        self._pod = Namespace(open_namespace(netns, allow_own=allow_own))

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry the operations out in order; `KernelError.done` may hold later ones than the refused one."""
        self._forget()
        Applier(self._host, self._pod, self._nft, self._is_ours).run(ops)

    def read(self, wanted: Iterable[AnyObject]) -> State:
        """What stands at the keys of these objects. Raises KernelError (EEXIST) for a link of another kind."""
        self._forget()
        return Reader(self._host, self._pod, self._nft).read(wanted)

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

    def delete_pod_link(self, name: str) -> None:
        """Remove a veth of this name from the pod's namespace; its other end goes with it. Raises Refused."""
        link = self._pod.link(name) if self._pod else None
        if self._pod is None or link is None or link.text("IFLA_LINKINFO", "IFLA_INFO_KIND") != "veth":
            return
        (outcome,) = self._pod.netlink.send([encode(codec.RTM_DELLINK, 0, {"family": 0, "index": link.link})])
        if outcome.errno and self._pod.link_at(link.link) is not None:
            raise Refused(outcome)

    def announce(self, dev: str, host_dev: str) -> None:
        """Wait until the bridge forwards for `host_dev`, then let the pod tell its addresses."""
        if self._pod is not None:
            announce(self._host, self._pod, dev, host_dev)

    def await_dad(self, dev: str) -> tuple[str, ...]:
        """Wait until no address of the pod's link is tentative; those that somebody else has."""
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
            except Refused:  # ENETUNREACH
                continue
            if route is None or route.field("type") != _RTN_UNICAST:
                continue
            if link := self._host.link_at(route.number("RTA_OIF")):
                return link.number("IFLA_MTU")
        return 0

    def owned(self, device: str) -> State:
        """All routes that bear our protocol number, and all permanent entries of this VXLAN device."""
        self._forget()
        objects: list[AnyObject] = list(Routes(self._host, HOST).ours())
        if index := self._host.index(device):
            objects += (_neigh(device, each) for each in self._entries(0, index) if _is_permanent(each))
            objects += (_fdb(device, each) for each in self._entries(AF_BRIDGE, index) if _is_remote(each))
        return state(objects)

    def own_links(self) -> tuple[OwnLink, ...]:
        """All links of the node that bear our mark in their ifalias."""
        found = ((each.text("IFLA_IFNAME"), each.text("IFLA_IFALIAS")) for each in self._host.links())
        return tuple(OwnLink(name, alias) for name, alias in found if alias.startswith(ALIAS_MARK))

    def locally_held(self) -> frozenset[str]:
        """All addresses of the node, without prefix lengths."""
        return frozenset(map(local_address, self._host.netlink.dump(encode(codec.RTM_GETADDR, 0, {"family": 0}))))

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

    def _is_ours(self, route: Route) -> bool:
        return Routes(self._host, HOST).find(route) is not None

    def _forget(self) -> None:
        for space in (self._host, self._pod):
            if space is not None:
                space.forget()

    def _leave(self) -> None:
        if self._pod is not None:
            self._pod.close()
            self._pod = None


def _is_permanent(message: Message) -> bool:
    return bool(message.field("state") & NUD_PERMANENT)


def _is_remote(message: Message) -> bool:
    return bool(message.field("flags") & NTF_SELF and message.text("NDA_DST"))


def _neigh(device: str, message: Message) -> Neigh:
    return Neigh(device, message.text("NDA_DST"), message.text("NDA_LLADDR"))


def _fdb(device: str, message: Message) -> Fdb:
    return Fdb(device, message.text("NDA_LLADDR"), message.text("NDA_DST"))

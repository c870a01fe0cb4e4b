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
from cni_plugin.kernel.host.knobs import out_of_reach
from cni_plugin.kernel.host.netns import open_namespace
from cni_plugin.kernel.kinds import kind_of
from cni_plugin.kernel.nft.nft import Nft
from cni_plugin.kernel.read import Reader, elements_of
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.announce import announce, await_port
from cni_plugin.kernel.rtnl.assigned import addresses_on, local_address, prefix_of
from cni_plugin.kernel.rtnl.codec import Message, encode
from cni_plugin.kernel.rtnl.lookup import INFO, KIND, Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.kernel.rtnl.numbers import SCOPE_LINK
from cni_plugin.kernel.see import inventory
from cni_plugin.marks import TABLE
from cni_plugin.meter import Meter
from cni_plugin.model.base import Object, State
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Way
from cni_plugin.model.links import Tunnel

if TYPE_CHECKING:
    from cni_plugin.kernel.rtnl.remover import Remover

_MAC_TEXT = 17


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
        return tuple(prefix_of(each) for each in addresses_on(self._host, dev) if each.field("scope") != SCOPE_LINK)

    def link_index(self, name: str) -> int:
        """The ifindex of a link of the node, 0 when there is none."""
        link = self._host.link(name)
        return link.link if link else 0

    def link_mac(self, name: str) -> str:
        """The MAC of a link of the node, "" when there is none."""
        link = self._host.link(name)
        return link.text("IFLA_ADDRESS") if link else ""

    def link_mtu(self, name: str) -> tuple[str, int] | None:
        """The ifalias and the MTU of a link of the node, whatever its kind; None when there is none."""
        link = self._host.link(name)
        return None if link is None else (link.text("IFLA_IFALIAS"), link.number("IFLA_MTU"))

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
        return inventory.uplink(self._host, address)

    def default_mtu(self) -> int:
        """The MTU of the interface that leads away from this node, by IPv4 if there is such a way; 0 without one."""
        return inventory.default_mtu(self._host)

    def interfaces(self) -> Mapping[str, tuple[str, ...]]:
        """The links of the node that bear addresses, and those with prefix lengths, link-local ones left out."""
        self._forget()
        return inventory.interfaces(self._host)

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

    def rival(self, device: Tunnel) -> str:
        """As the door promises."""
        return inventory.rival(self._host, device)

    def lacks(self, features: Collection[str]) -> tuple[str, ...]:
        """As the door promises; what cannot be found out is taken to be there."""
        if not features:
            return ()
        from cni_plugin.kernel.see import probe  # for who is in a cluster that is new here

        with suppress(OSError):
            return tuple(name for name, there in probe.features(features).items() if not there)
        return ()

    def release(self) -> str:
        """The kernel's release."""
        return os.uname().release

    def port(self) -> int:
        """The netlink port from which the node is changed."""
        return self._host.netlink.port

    def owned(self, *devices: str) -> State:
        """All routes with our protocol number but those to pods, and all permanent entries of these devices."""
        self._forget()
        return inventory.owned(self._host, *devices)

    def elements(self, name: str, table: str = TABLE) -> State:
        """As the door promises."""
        return elements_of(self._nft, name, table)

    def own_links(self) -> tuple[OwnLink, ...]:
        """All links of the node that bear our mark in their ifalias."""
        return inventory.own_links(self._host)

    def ports(self, bridge: str) -> int:
        """How many ports a bridge has."""
        index = self.link_index(bridge)
        return inventory.ports(self._host, index) if index else 0

    def locally_held(self) -> frozenset[str]:
        """All addresses of the node, without prefix lengths."""
        return inventory.locally_held(self._host)

    def _pod_veth(self, name: str) -> Message | None:
        link = self._pod.link(name) if self._pod else None
        return link if link and link.text(INFO, KIND) == "veth" else None

    def _is_ours(self, each: Object) -> bool:
        return kind_of(type(each)).read(each, Lookup(self._host)) is not None

    def _forget(self) -> None:
        for space in (self._host, self._pod):
            if space is not None:
                space.forget()


def _new_remover() -> Remover:
    from cni_plugin.kernel.rtnl.remover import Remover  # only for who lives on

    return Remover()

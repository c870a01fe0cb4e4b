"""How a pod gets its interface: what each file of this room promises, and how one is found.

A wiring is pure but where it says so: it is given what an attachment is to be and answers with kernel objects, which
ADD makes, CHECK compares, DEL takes away, and a record keeps. It never learns what the kernel has, so it cannot forget
to remove anything. Most wirings need but a few of these answers: what is left out is nothing.

    find("bridge").pod(Want(Attachment("pods", "c1", "eth0"), conf, ...))   ->   {veth, its port, addresses, routes}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import NetConf
from cni_plugin.kernel.door import Kernel
from cni_plugin.model.base import State
from cni_plugin.rooms import tenant, tenants
from cni_plugin.spec import Interface, IPConfig, Result, RouteConfig

OURS = "tulle"
"""The type that is ours, whose wiring a file serves that has another name."""
_USUAL = "bridge"


class Width(NamedTuple):
    """MTUs in bytes: of a pod's own end, and of the node's where that has another one, else 0."""

    pod: int
    port: int = 0


class Want(msgspec.Struct, frozen=True):
    """An attachment as it is to be. `link` is what it is plugged into, "" for nothing; a width of 0 is the kernel's.

    `sandbox` is the path of the pod's namespace, as the result tells it.
    """

    who: Attachment
    conf: Any
    link: str = ""
    width: Width = Width(0)
    mac: str = ""
    ips: Sequence[IPConfig] = ()
    routes: Sequence[RouteConfig] = ()
    sandbox: str = ""


class Base(msgspec.Struct, frozen=True):
    """What attachments share on the node. `gateways` are what they need there, with prefix lengths; MTU in bytes."""

    conf: Any
    link: str
    gateways: Sequence[str] = ()
    mtu: int = 0


class Wiring:
    """A file of this room has one, called `wiring`.

    `NAMES`: what runtimes call it. `KEYS`: what its configuration has. `FEATURES`: features whose keys stand among its
    own. `CAPABILITIES`: what a runtime may ask for one pod in `runtimeConfig`, in lower case, and the feature that
    serves it. `LINK`: what it is that attachments are plugged into. `KEPT`: there is more than the pod's own namespace
    takes along, so an attachment is leased addresses for and kept on record. `NEEDS`: what it may need of the kernel,
    in the words of `kernel.modules`, and what each is needed for, in a user's.
    """

    NAMES: ClassVar[tuple[str, ...]]
    FEATURES: ClassVar[tuple[str, ...]] = ()
    CAPABILITIES: ClassVar[Mapping[str, str]] = {}
    LINK: ClassVar[str] = "link"
    KEPT: ClassVar[bool] = True
    KEYS: ClassVar[type[NetConf]] = NetConf
    NEEDS: ClassVar[Mapping[str, str]] = {}

    def needed(self, conf: Any) -> Collection[str]:
        """Of its `NEEDS` those of a configuration."""
        del conf
        return self.NEEDS.keys()

    def dad(self, conf: Any) -> bool:
        """Whether others may have the pod's addresses already, and an ADD waits until it is known that none has."""
        del conf
        return False

    def silent(self, conf: Any) -> bool:
        """Whether the pod is not to be heard of by its neighbours."""
        del conf
        return False

    def host_dev(self, who: Attachment) -> str:
        """The end on the node, "" without one."""
        del who
        return ""

    def link(self, conf: Any) -> str:
        """What attachments are plugged into."""
        del conf
        return ""

    def carried(self, link: str, mtu: int, kernel: Kernel) -> Width:
        """As much of an MTU as that carries, 0 for the kernel's choice. May ask the kernel."""
        del link, kernel
        return Width(mtu)

    def full(self, link: str) -> str:
        """What to say where that takes no more attachments, "" where there is no such limit."""
        del link
        return ""

    def completed(self, conf: Any, lease: Result) -> Result:
        """The lease with what the configuration adds: gateways, routes, DNS."""
        del conf
        return lease

    def gateways(self, conf: Any, ips: Sequence[IPConfig]) -> tuple[str, ...]:
        """The gateway addresses, with prefix lengths, that the node is to bear for these."""
        del conf, ips
        return ()

    def gateway_dev(self, conf: Any, link: str) -> str:
        """The link that bears them."""
        del conf
        return link

    def host(self, base: Base) -> State:
        """What attachments share on the node."""
        del base
        return {}

    def shared(self, link: str) -> State:
        """What must be there of what attachments are plugged into, whoever made it."""
        del link
        return {}

    def displaced(self, base: Base, present: Iterable[str]) -> State:
        """Of addresses that are there, those that this puts out."""
        del base, present
        return {}

    def forces(self, conf: Any) -> bool:
        """Whether it may put any out."""
        del conf
        return False

    def adopt(self, want: State, have: State) -> State:
        """What to want of what stands already and may not be ours."""
        del have
        return want

    def pod(self, want: Want) -> State:
        """The whole attachment."""
        raise NotImplementedError

    def offered(self) -> State:
        """The addresses that the kernel gives it by itself; the result tells those that stand."""
        return {}

    def interfaces(self, want: Want, mac_of: Callable[[str], str]) -> tuple[Interface, ...]:
        """What the result tells of; `mac_of` knows the MACs of the node's links."""
        raise NotImplementedError

    def bare(self, who: Attachment) -> State:
        """What takes an attachment of which nothing is on record away with it."""
        raise NotImplementedError

    def alive(self, who: Attachment, kernel: Kernel) -> bool:
        """Whether an attachment stands, as far as the node's own namespace tells."""
        return stands(kernel, who)


def stands(kernel: Kernel, who: Attachment) -> bool:
    """Whether an attachment's wire stands, by the name that it has on the node: both ends of a pair die together."""
    return kernel.link_index(who.host_dev) != 0


def find(name: str) -> Wiring | None:
    """The wiring that bears this name; None for what is none."""
    module = tenant("wirings", _USUAL if name == OURS else name)
    found = cast("Wiring | None", getattr(module, "wiring", None))
    return found if found is not None and name in found.NAMES else None


def every() -> list[Wiring]:
    """All of them, by their files."""
    return [cast(Wiring, each.wiring) for each in tenants("wirings")]


def names() -> list[str]:
    """What wirings are called."""
    return [name for each in every() for name in each.NAMES]

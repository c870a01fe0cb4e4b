"""What the requests that make, change and delete objects have in common; those of each kind are in `objects`.

Promise: a request of ours never changes what another program made: created is with NLM_F_EXCL, except where the device
is ours alone (the neighbours and the forwarding entries of a tunnel's device, static entries of our bridge ports) or
where several may stand side by side.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import msgspec

from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.addresses import random_mac
from cni_plugin.kernel.rtnl.codec import Attr, nest
from cni_plugin.model.base import Object, Verb

NEW = codec.NLM_F_CREATE | codec.NLM_F_EXCL
PUT = codec.NLM_F_CREATE | codec.NLM_F_REPLACE


GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
"""What the kernel says when that which is to be deleted is not there."""
NO_IPV6 = GONE | {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
"""What it says about IPv6 where there is none (ipv6.disable=1): then there is nothing to set and nothing to delete."""
NO_VLANS = GONE | {errno.EOPNOTSUPP, errno.EINVAL}
"""What it says about a VLAN of a link that is no bridge port, or when it was built without VLAN filtering."""


class Absent(Exception):
    """The operation names a link that does not exist."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no link {name}")


class Place(msgspec.Struct, frozen=True):
    """Where an operation takes place: the number of a link by name (0: none), the descriptor of the pod's netns."""

    number: Callable[[str], int]
    pod: int | None

    def must(self, name: str) -> int:
        """The number of a link that has to be there. Raises Absent."""
        index = self.number(name)
        if not index:
            raise Absent(name)
        return index


def adds(verb: Verb, each: Object) -> bool:
    """Whether the operation puts something there; wanting no membership of a VLAN takes one away."""
    return (verb != "delete") == (not each.absent)


def given(*pairs: tuple[str, int | str]) -> list[Attr]:
    """Those that have a value: an empty string and a zero leave it to the kernel."""
    return [(name, value) for name, value in pairs if value]


def mac_for(wanted: str) -> Attr:
    """The MAC of a new link: the one that is wanted, else one of our making."""
    return ("IFLA_ADDRESS", wanted or random_mac())


def kind_of_link(kind: str, *data: Attr) -> Attr:
    """Of which kind a link is to be, with what that kind has to be told."""
    told: list[Attr] = [("IFLA_INFO_DATA", nest(*data))] if data else []
    return ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", kind), *told))


def new_link(name: str, attrs: list[Attr], flags: int = 0) -> bytearray:
    """RTM_NEWLINK for a link that must not be there yet."""
    fields = {"family": 0, "index": 0, "flags": flags, "change": flags}
    return codec.encode(codec.RTM_NEWLINK, NEW, fields, [("IFLA_IFNAME", name), *attrs])


def changed_link(name: str, attrs: list[Attr], flags: int = 0, mask: int = 0) -> bytearray:
    """RTM_NEWLINK without NLM_F_CREATE: unlike RTM_SETLINK it takes the settings of a kind and of a port too."""
    fields = {"family": 0, "index": 0, "flags": flags, "change": mask or flags}
    return codec.encode(codec.RTM_NEWLINK, 0, fields, [("IFLA_IFNAME", name), *attrs])


def deleted_link(name: str) -> bytearray:
    """RTM_DELLINK by the name."""
    return codec.encode(codec.RTM_DELLINK, 0, {"family": 0, "index": 0}, [("IFLA_IFNAME", name)])


def aliased(name: str, alias: str) -> Iterator[bytearray]:
    """The alias wants a request of its own: the kernel does not look at it when it makes a link."""
    if alias:
        yield changed_link(name, [("IFLA_IFALIAS", alias)])


def grouping(name: str, group: int) -> bytearray:
    """The request that puts a link into a group of links."""
    fields = {"family": 0, "index": 0}
    return codec.encode(codec.RTM_SETLINK, 0, fields, [("IFLA_IFNAME", name), ("IFLA_GROUP", group)])


def deletion_at(index: int) -> bytearray:
    """The request that deletes the link of this number."""
    return codec.encode(codec.RTM_DELLINK, 0, {"family": 0, "index": index})


def group_deletion(group: int) -> bytearray:
    """The request that deletes all links of a group."""
    return codec.encode(codec.RTM_DELLINK, 0, {"family": 0, "index": 0}, [("IFLA_GROUP", group)])

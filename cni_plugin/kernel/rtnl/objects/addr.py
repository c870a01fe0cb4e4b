"""An address on a link. The kernel spells it its own way and knows whether it may be used yet."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import codec, encode
from cni_plugin.kernel.rtnl.addresses import broadcast_of, family_of, packed
from cni_plugin.kernel.rtnl.assigned import addresses_on, local_address
from cni_plugin.kernel.rtnl.codec import Attr
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.numbers import IFA_F_DADFAILED, IFA_F_NODAD, IFA_F_TENTATIVE
from cni_plugin.model.layer3 import Addr

GONE = encode.NO_IPV6


def write(op: Op, each: Addr, place: Place) -> Iterator[bytearray]:
    """Its request."""
    address, length = each.address.split("/")
    family, bits = family_of(address), int(length)
    nodad = IFA_F_NODAD if family == socket.AF_INET6 and not each.dad else 0
    fields = {"family": family, "prefixlen": bits, "flags": nodad, "scope": 0, "index": place.must(each.dev)}
    attrs: list[Attr] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELADDR, 0, fields, attrs)
        return
    if family == socket.AF_INET and bits < 31:
        attrs.append(("IFA_BROADCAST", broadcast_of(address, bits)))
    yield codec.encode(codec.RTM_NEWADDR, encode.NEW if op.verb == "create" else encode.PUT, fields, attrs)


def read(want: Addr, look: Lookup) -> Addr | None:
    """It as it stands, in the words of who wants it."""
    address, length = want.address.split("/")
    for message in look.once(("addresses", want.ns, want.dev), lambda: addresses_on(look.spaces[want.ns], want.dev)):
        if message.field("prefixlen") == int(length) and _same(local_address(message), address):
            # a wanted "no DAD" is not what stands when the address is not usable for it
            waiting = bool(message.number("IFA_FLAGS") & (IFA_F_TENTATIVE | IFA_F_DADFAILED))
            return Addr(want.dev, want.address, want.ns, dad=want.dad or waiting)
    return None


def _same(one: str, other: str) -> bool:
    """Whether two spellings are one address; the kernel's are already in the shortest form."""
    return one == other or packed(one) == packed(other)

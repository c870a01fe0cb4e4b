"""The addresses that links bear, as the kernel lists them: of one link, or of all."""

from __future__ import annotations

import errno

from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.codec import Message, encode
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused


def addresses_on(space: Namespace, dev: str) -> list[Message]:
    """The addresses of a link, of both families; none without the link."""
    index = space.index(dev)
    try:
        return addresses_at(space, index) if index else []
    except Refused as error:
        if error.errno != errno.ENODEV:  # it went since its index was asked for
            raise
        return []


def addresses_at(space: Namespace, index: int = 0, *, family: int = 0) -> list[Message]:
    """The addresses of the link of this number, 0 for every link, and of this family, 0 for both."""
    return space.netlink.dump(encode(codec.RTM_GETADDR, 0, {"family": family, "index": index}))


def local_address(message: Message) -> str:
    """The address itself: on a point-to-point link IFA_ADDRESS is the other end's."""
    return message.text("IFA_LOCAL") or message.text("IFA_ADDRESS")


def prefix_of(message: Message) -> str:
    """The address with its prefix length."""
    return f"{local_address(message)}/{message.field('prefixlen')}"

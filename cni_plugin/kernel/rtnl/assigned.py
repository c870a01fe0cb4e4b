"""The addresses that a link bears, as the kernel lists them, asked for by the number of the link."""

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
        return space.netlink.dump(encode(codec.RTM_GETADDR, 0, {"family": 0, "index": index})) if index else []
    except Refused as error:
        if error.errno != errno.ENODEV:  # it went since its index was asked for
            raise
        return []


def local_address(message: Message) -> str:
    """The address itself: on a point-to-point link IFA_ADDRESS is the other end's."""
    return message.text("IFA_LOCAL") or message.text("IFA_ADDRESS")


def prefix_of(message: Message) -> str:
    """The address with its prefix length."""
    return f"{local_address(message)}/{message.field('prefixlen')}"

"""Waiting for IPv6 duplicate address detection, where somebody asked for it: by the kernel's events, never by sleeping.

Source: RFC 4862, section 5.4; an address is `tentative` until nobody has answered for it, or `dadfailed`
(include/uapi/linux/if_addr.h).
"""

from __future__ import annotations

from cni_plugin.kernel.rtnl.assigned import addresses_on, local_address
from cni_plugin.kernel.rtnl.codec import Message
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Netlink
from cni_plugin.kernel.rtnl.numbers import IFA_F_DADFAILED, IFA_F_TENTATIVE

PATIENCE = 10.0
"""Seconds; the kernel's own default takes one to two (net.ipv6.conf.*.dad_transmits)."""
_RTMGRP_IPV6_IFADDR = 0x100


def await_dad(space: Namespace, dev: str) -> tuple[str, ...]:
    """Return when no address of this link is tentative any more; those that may not be used, somebody having them."""
    with space.inside():
        events = Netlink(_RTMGRP_IPV6_IFADDR)
    try:
        if not _with(space, dev, IFA_F_TENTATIVE, but=IFA_F_DADFAILED):
            return _with(space, dev, IFA_F_DADFAILED)
        for _ in events.events(PATIENCE):
            if not _with(space, dev, IFA_F_TENTATIVE, but=IFA_F_DADFAILED):
                break
    finally:
        events.close()
    return _with(space, dev, IFA_F_DADFAILED | IFA_F_TENTATIVE)


def _with(space: Namespace, dev: str, flags: int, *, but: int = 0) -> tuple[str, ...]:
    found = ((local_address(each), _flags(each)) for each in addresses_on(space, dev))
    return tuple(address for address, has in found if has & flags and not has & but)


def _flags(message: Message) -> int:
    """IFA_FLAGS has all 32 bits; the header's field only the low eight, which hold these two."""
    return message.number("IFA_FLAGS", default=message.field("flags"))

"""Which links have learned from router advertisements what they would lose, once the node forwards IPv6.

A router is no host (RFC 4861, section 6.3.4): when `net.ipv6.conf.all.forwarding` becomes 1 the kernel drops the routes
that it learned, at once, and accepts no more, but for links whose `accept_ra` is 2 (rt6_purge_dflt_routers in
net/ipv6/route.c, ipv6_accept_ra in include/net/ipv6.h). 0 is somebody's will: there userspace learns, or nobody.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.codec import encode
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.model.host import Sysctl

_RTPROT_RA = 9
_IFA_F_MANAGETEMPADDR = 0x100
"""An address made of an advertised prefix (addrconf_prefix_rcv_add_addr in net/ipv6/addrconf.c)."""


def taught(space: Namespace) -> tuple[str, ...]:
    """The links with routes or addresses by router advertisement whose `accept_ra` is 1. Two dumps."""
    found: set[int] = set()
    with suppress(Refused):  # a kernel without IPv6
        fields = {"family": socket.AF_INET6, "proto": _RTPROT_RA}
        routes = space.netlink.dump(encode(codec.RTM_GETROUTE, 0, fields))
        found |= {each.number("RTA_OIF") for each in routes if each.field("proto") == _RTPROT_RA}
        addresses = space.netlink.dump(encode(codec.RTM_GETADDR, 0, {"family": socket.AF_INET6}))
        found |= {each.field("index") for each in addresses if each.number("IFA_FLAGS") & _IFA_F_MANAGETEMPADDR}
    names = (space.name(index) for index in sorted(found))
    return tuple(name for name in names if name and space.sysctl(Sysctl(f"net/ipv6/conf/{name}/accept_ra", "1")) == "1")

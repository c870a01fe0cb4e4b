"""A link's settings, as the kernel tells them together with the link: for these no file is looked for.

To find a file below /proc/sys/net takes longer with every namespace in which somebody did (fs/proc/proc_sysctl.c,
proc_sys_compare), and it may be hidden or show another namespace; an answer about a link has them all anyway
(IFLA_AF_SPEC: inet_fill_link_af in net/ipv4/devinet.c, inet6_fill_ifla6_attrs in net/ipv6/addrconf.c).

    told(link, Sysctl("net/ipv6/conf/eth0/disable_ipv6", "0"))  ->  "0"
"""

from __future__ import annotations

import socket
from functools import lru_cache

from cni_plugin.kernel.rtnl.codec import Message
from cni_plugin.kernel.rtnl.raw import IFLA_AF_SPEC, IFLA_INET6_CONF, IFLA_INET_CONF, nested, number
from cni_plugin.model.host import Sysctl

INET_CONF: dict[str, int] = {"forwarding": 1, "rp_filter": 8, "arp_notify": 22}
"""IPV4_DEVCONF_* in include/uapi/linux/ip.h; what the kernel tells begins with number 1."""
_INET6_CONF: dict[str, int] = {
    "forwarding": 0, "accept_ra": 3, "disable_ipv6": 26, "accept_dad": 27, "ndisc_notify": 29, "keep_addr_on_down": 42,
}
"""DEVCONF_* in include/uapi/linux/ipv6.h."""
_OF_ALL = ("all", "default")


def link_of(each: Sysctl) -> str:
    """The link whose setting this is, "" for one that is not told with a link."""
    place = _place(each.name)
    return place[1] if place else ""


def told(link: Message | None, each: Sysctl) -> str | None:
    """What the setting is; None where nothing was told: no link, no IPv6 on it, or a kernel before the setting."""
    place = _place(each.name)
    if link is None or place is None:
        return None
    family, _, at = place
    kind, values = (socket.AF_INET6, IFLA_INET6_CONF) if family == "ipv6" else (socket.AF_INET, IFLA_INET_CONF)
    conf = nested(nested(link.payload(IFLA_AF_SPEC), kind), values)
    value = conf[4 * at : 4 * at + 4]
    return str(number(value)) if value else None


@lru_cache(maxsize=256)
def _place(name: str) -> tuple[str, str, int] | None:
    """The family, the link and the place among the settings, of net/<family>/conf/<link>/<key>."""
    words = name.split("/")
    if len(words) != 5 or words[2] != "conf" or words[3] in _OF_ALL:
        return None
    _, family, _, dev, key = words
    at = _INET6_CONF.get(key, -1) if family == "ipv6" else INET_CONF.get(key, 0) - 1
    return None if at < 0 else (family, dev, at)

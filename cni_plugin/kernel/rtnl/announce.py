"""The end of an ADD: the pod's first packet must get through, and nobody may hold on to an older owner of its address.

The reference plugin looks at the port every 50 to 1000 ms. Here the kernel is asked once, which
brings its delayed carrier work forward (below), and otherwise its own event is waited for.
"""

from __future__ import annotations

from cni_plugin.kernel.rtnl.codec import NLM_F_REQUEST, RTM_NEWLINK, RTM_SETLINK, Message, encode
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Netlink

PATIENCE = 5.0
"""Seconds to wait for a port; the spanning tree, where somebody switched it on, takes longer by design."""
_BR_STATE_FORWARDING = 3
_RTMGRP_LINK = 1
_IFF_LOWER_UP = 0x10000


def announce(pod: Namespace, dev: str) -> None:
    """Let the pod's link tell its addresses.

    Setting a link's own MAC again is a change of address to the kernel, and with `arp_notify` and `ndisc_notify` on
    that sends a gratuitous ARP for each IPv4 address and an unsolicited neighbour advertisement for each IPv6 one
    (NETDEV_CHANGEADDR in net/ipv4/devinet.c and net/ipv6/ndisc.c). A raw socket of ours would do too, but
    closing one costs a grace period, 10 ms and more.
    """
    link = pod.link(dev)
    if link is not None:
        fields = {"family": 0, "index": link.link}
        pod.netlink.send([encode(RTM_SETLINK, NLM_F_REQUEST, fields, [("IFLA_ADDRESS", link.text("IFLA_ADDRESS"))])])


def await_port(host: Namespace, name: str) -> None:
    """Return once the bridge forwards for this port, or the link is there no more, or patience is at its end."""
    # since Linux 6.8 this question makes the kernel do its pending carrier work for the link first
    # (net/core/rtnetlink.c, rtnl_getlink: linkwatch_sync_dev)
    if _is_ready(host.link(name)):
        return
    events = Netlink(_RTMGRP_LINK, host.inside)
    try:
        link = host.link(name)
        if link is None or _is_ready(link):
            return
        index = link.link
        for event in events.events(PATIENCE):
            if event.kind == RTM_NEWLINK and event.link == index and _is_ready(host.link_at(index)):
                return
    finally:
        events.close()


def _is_ready(link: Message | None) -> bool:
    if link is None:
        return True
    if link.text("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge":
        state = link.number("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA", "IFLA_BRPORT_STATE")
        return state == _BR_STATE_FORWARDING
    return bool(link.field("flags") & _IFF_LOWER_UP)

"""What Tulle's things are called in a kernel: by this they are known again, and what bears none of it is never touched.

    tulle0, cni0          bridges where a configuration names none     ifalias tulle:bridge
    tl4f0c9d2a81b         a pod's wire on the node                     ifalias tulle:NETWORK/CONTAINER/IFNAME
    tulle.1               a tunnel's device                            ifalias tulle:KIND (of link)
    proto 84              routes of the node
    inet tulle            all that is nft's
"""

from __future__ import annotations

ALIAS = "tulle:"
"""What the ifalias of a link of ours begins with."""
BRIDGE_ALIAS = f"{ALIAS}bridge"
"""That of a bridge that we made, and of its VLAN's device; a tunnel's has the kernel's word for its kind instead."""
LONGEST_ALIAS = 254
"""Bytes: IFALIASZ is 256 (include/uapi/linux/if.h), and the policy for the attribute counts the final zero."""

DEVICE = "tulle"
"""How the names of devices begin that pods or peers are behind."""
BRIDGE = f"{DEVICE}0"
"""The bridge of a network that names none."""
REFERENCE_BRIDGE = "cni0"
"""The same where we are called `bridge`, as the reference plugin of that name has it."""
HOST_DEV = "tl"
"""How the name of every host's end begins."""
TUNNEL = f"{DEVICE}."
"""How the name of a tunnel's device begins."""

MIN_MTU, MAX_MTU = 68, 65535
"""Bytes that a link of ours may be told to carry: ETH_MIN_MTU and ETH_MAX_MTU (include/uapi/linux/if_ether.h)."""
LEAST_MTU = {4: 576, 6: 1280}
"""Bytes that a link must carry: what every IPv4 host takes (RFC 1122, 3.3.3), and every IPv6 link (RFC 8200, 5)."""

MOST_PORTS = 1023
"""What a Linux bridge holds: port numbers have ten bits and 0 is none (net/bridge/br_private.h, BR_PORT_BITS)."""
GROUP = 0x74756C6C
"""The group that links are deleted by ("tull"); they are in it for the length of one request."""

ROUTE_PROTOCOL = 84
"""The mark of our routes (`proto 84` in `ip route`): what bears another is never touched."""
BOOT_PROTOCOL = 3
"""RTPROT_BOOT, what `ip route add` marks routes with; a pod's routes bear it, for they go with the pod."""

TABLE = "inet tulle"
"""The one table of nftables that is ours."""

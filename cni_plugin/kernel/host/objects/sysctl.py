"""A setting below /proc/sys. A few of a link's are set by a message, and most of those are told with their link.

Promise: what cannot be had and need not be is as it should be: there is nothing to put right.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.host.knobs import out_of_reach, write_sysctl
from cni_plugin.kernel.rtnl import codec, encode
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.raw import IFLA_AF_SPEC, IFLA_INET_CONF, NESTED, attribute
from cni_plugin.kernel.rtnl.settings import INET_CONF, link_of
from cni_plugin.model.host import Sysctl

GONE = encode.NO_IPV6
_IFLA_INET6_ADDR_GEN_MODE = 8


def write(op: Op, each: Sysctl, _place: Place) -> Iterator[bytearray]:
    """A setting of a link: inet_set_link_af in net/ipv4/devinet.c, inet6_set_link_af in net/ipv6/addrconf.c."""
    if op.verb == "delete":
        return
    if each.name.startswith("net/ipv4/"):
        value = attribute(INET_CONF[each.name.rpartition("/")[2]], struct.pack("=I", int(each.value)))
        spec = _nested(socket.AF_INET, _nested(IFLA_INET_CONF, value))
    else:
        spec = _nested(socket.AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", int(each.value))))
    message = codec.encode(codec.RTM_SETLINK, 0, {"family": 0, "index": 0}, [("IFLA_IFNAME", each.dev)])
    message += _nested(IFLA_AF_SPEC, spec)
    struct.pack_into("=I", message, 0, len(message))
    yield message


def turn(op: Op, each: Sysctl, space: Namespace) -> None:
    """Set it by its file, from inside its namespace. Raises OSError."""
    if op.verb != "delete":
        write_sysctl(each, space.sysctl(each))


def read(want: Sysctl, look: Lookup) -> Sysctl | None:
    """It as it stands."""
    space, dev = look.spaces[want.ns], link_of(want)
    if dev and look.link(want.ns, dev) is None:
        return None
    value = space.sysctl(want)
    if value != want.value and not want.vital:
        with space.inside():
            value = want.value if out_of_reach(want) else value
    return None if value is None else Sysctl(want.name, value, want.ns, want.dev)


def _nested(kind: int, content: bytes) -> bytes:
    return attribute(kind | NESTED, content)

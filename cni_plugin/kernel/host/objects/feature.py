"""The checksum offload of a link, by the ioctl of ethtool(8); there is nothing to undo, for it goes with its link."""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.model.host import Feature

_SIOCETHTOOL = 0x8946
_ETHTOOL_GTXCSUM, _ETHTOOL_STXCSUM = 0x16, 0x17


def turn(op: Op, each: Feature, _space: Namespace) -> None:
    """Switch it, from inside its namespace; one no longer wanted is on, as a link has it by itself. Raises OSError."""
    try:
        _ethtool(each.dev, _ETHTOOL_STXCSUM, int(each.tx_checksum or op.verb == "delete"))
    except OSError as error:
        if op.verb != "delete" or error.errno not in encode.GONE:
            raise


def read(want: Feature, _look: Lookup) -> Feature | None:
    """How it is switched, None without the link."""
    try:
        return Feature(want.dev, bool(_ethtool(want.dev, _ETHTOOL_GTXCSUM, 0)))
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise


def _ethtool(dev: str, command: int, value: int) -> int:
    """SIOCETHTOOL with a struct ethtool_value; the struct ifreq holds its address."""
    data = array.array("I", [command, value])
    request = struct.pack("16sP16x", dev.encode(), data.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        fcntl.ioctl(channel, _SIOCETHTOOL, request)
    return data[1]

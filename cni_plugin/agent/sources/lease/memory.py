"""The subnet that this node had last, on disk: it asks for the same one after its lease ran out.

    /var/lib/tulle/lease.json     {"prefix": "/coreos.com/network/", "podCIDRs": ["10.244.5.0/24"]}
    /run/flannel/subnet.env       FLANNEL_SUBNET=10.244.5.1/24: what a flannel on this node had; while there is no other

Below /var, because pods of before a reboot are gone but their subnet stands in firewalls and logs. The store decides:
what is remembered here is asked for and never taken for granted, so a file that cannot be understood is no file. One
that cannot be read now is waited for: with another subnet the node's pods would have to be made anew.
"""

from __future__ import annotations

import os
from contextlib import suppress
from ipaddress import ip_interface, ip_network

import msgspec

from cni_plugin import decoding
from cni_plugin.kernel.errors import UNTOLD
from cni_plugin.kernel.host import files
from cni_plugin.network import Network
from cni_plugin.store.records import DEFAULT_RUN_DIR

DEFAULT_PATH = "/var/lib/tulle/lease.json"
FLANNEL_ENV = "/run/flannel/subnet.env"
_FLANNEL_KEYS = ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
_MOST_BYTES = 1 << 16


def default_path() -> str:
    """Where it is kept: beside the rest of the state where $TULLE_RUN_DIR moves that, as on nodes of one machine."""
    moved = os.environ.get("TULLE_RUN_DIR", DEFAULT_RUN_DIR).rstrip("/")
    return DEFAULT_PATH if moved in ("", DEFAULT_RUN_DIR) else f"{moved}/lease.json"


class Memory:
    """`path` is the file, "" for none; `prefix` the network that it is about."""

    def __init__(self, path: str, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._written: tuple[Network, ...] = ()

    def read(self) -> tuple[Network, ...]:
        """The subnets of the last time, () when nothing is remembered. Raises OSError where that is not known now."""
        return _of_file(self._path, self._prefix) or _of_flannel(FLANNEL_ENV)

    def write(self, cidrs: tuple[Network, ...]) -> None:
        """Raises OSError."""
        if not self._path or cidrs == self._written:
            return
        files.make_folder(os.path.dirname(self._path))
        said = {"prefix": self._prefix, "podCIDRs": [str(each) for each in cidrs]}
        files.write(self._path, msgspec.json.encode(said))
        self._written = cidrs


def _of_file(path: str, prefix: str) -> tuple[Network, ...]:
    data = _read(path)
    with suppress(ValueError, TypeError, KeyError):
        found = decoding.decode(data) if data else {}
        if found and found["prefix"] == prefix:
            return tuple(ip_network(each) for each in found["podCIDRs"])
    return ()


def _read(path: str) -> bytes:
    try:
        return files.follow(path, _MOST_BYTES) if path else b""
    except OSError as error:
        if error.errno in UNTOLD:
            raise
        return b""


def _of_flannel(path: str) -> tuple[Network, ...]:
    """flannel writes its subnet's first pod address, with the subnet's length (pkg/subnet/subnet.go)."""
    data = _read(path)
    with suppress(ValueError):
        lines = data.decode().splitlines()
        said = dict(each.split("=", 1) for each in lines if "=" in each)
        return tuple(ip_interface(said[key]).network for key in _FLANNEL_KEYS if key in said)
    return ()

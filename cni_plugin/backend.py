"""What carries packets from node to node: the contract that each file in `backends/` keeps, and how one is found.

A backend is pure. It is given this node and a peer and answers with the kernel objects that join them; it never
learns what the kernel has, so it cannot forget to remove anything.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from cni_plugin import backends
from cni_plugin.cluster import Node
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.model import State


class Me(NamedTuple):
    """This node, and the interface that leads to its peers (MTU in bytes, prefixes it is directly connected to)."""

    node: Node
    uplink: str
    mtu: int
    prefixes: tuple[str, ...]


class Backend(Protocol):
    """The functions of a backend's module. `OVERHEAD` in bytes, by the family of the underlay."""

    OVERHEAD: Mapping[int, int]

    def configure(self, options: Mapping[str, object]) -> object:
        """The backend's own keys as a value. Raises CniError 7."""

    def device(self, conf: object) -> str:
        """The name of the device that is this backend's alone, "" when it has none."""

    def announce(self, me: Me, conf: object) -> Mapping[str, str]:
        """What peers must know beyond address and subnets."""

    def local(self, me: Me, conf: object) -> State:
        """What this node needs before any peer is known."""

    def peer(self, me: Me, peer: Node, conf: object) -> State:
        """What leads to one peer. Raises CniError 7 when it cannot be reached this way."""


def names() -> list[str]:
    """The backends there are, as `backend.type` calls them."""
    return sorted(each.name.replace("_", "-") for each in pkgutil.iter_modules(backends.__path__))


def find(name: str) -> Backend:
    """The backend of this name. Raises CniError 7."""
    module = name.replace("-", "_")
    if name not in names():
        raise CniError(INVALID_CONFIG, f"invalid cluster.backend.type {name!r}: use one of {', '.join(names())}")
    found: Backend = importlib.import_module(f"cni_plugin.backends.{module}")
    return found

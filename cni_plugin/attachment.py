"""Which pod's which interface: the identity of an attachment, and the names that it has in a kernel.

Everything follows from the three names that a runtime gives it, so that who forgot all else finds it again:

    Attachment("pods", "c1", "eth0").host_dev   ->   "tl4f0c9d2a81b"
    Attachment("pods", "c1", "eth0").alias      ->   "tulle:pods/c1/eth0"
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from cni_plugin.marks import ALIAS, HOST_DEV, LONGEST_ALIAS

SEALED = "="
"""What begins a digest that stands in the place of a name: no network and no container is called so."""


class Attachment(NamedTuple):
    """Which pod's which interface, in which network."""

    network: str
    container: str
    ifname: str

    @property
    def digest(self) -> str:
        """A name for it of fixed length."""
        return _digest(self)

    @property
    def sealed(self) -> bool:
        """Whether it is known by its digest alone, from an alias that had no room for its names."""
        return self.container.startswith(SEALED)

    @property
    def host_dev(self) -> str:
        """The name of the host's end of its veth pair: the same before, during and after its life."""
        return f"{HOST_DEV}{self.digest[:11]}"

    @property
    def alias(self) -> str:
        """The owner, as the host's end bears it: by its names, or by digests of the network's and of them all."""
        names = f"{ALIAS}{self.network}/{self.container}/{self.ifname}"
        if len(names.encode()) <= LONGEST_ALIAS:
            return names
        return f"{ALIAS}{sealed(self.network)}/{SEALED}{self.digest}/"


def owner(alias: str) -> Attachment | None:
    """The attachment that an ifalias names, by its names or `sealed`; None when it is not ours."""
    parts = alias.removeprefix(ALIAS).split("/")
    if not alias.startswith(ALIAS) or len(parts) != 3:
        return None
    return Attachment(*parts)


@lru_cache(maxsize=256)
def _digest(attachment: Attachment) -> str:
    """Remembered: an ADD asks for it a dozen times."""
    if attachment.sealed:
        return attachment.container.removeprefix(SEALED)
    return sha256("\0".join(attachment).encode("utf-8", "surrogateescape")).hexdigest()


def sealed(network: str) -> str:
    """A network in the alias of an attachment that has no room for its names."""
    return f"{SEALED}{sha256(network.encode()).hexdigest()}"

"""What `tullectl` says of clusters and their nodes, as plain values; `members` finds it all out."""

from __future__ import annotations

import re

import msgspec

from cni_plugin.ctl.reach import family_of

DIRECT = "direct"
"""The way to a peer past the backend's own device."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node. `way`: the backend's name, "direct" past its tunnel, "" where none leads there, and `why` says why.

    `overlay`: where it speaks to pods from, one address a family; `missing`: what the kernel lacks of the way there,
    as the lines that would put it right; `since` in seconds since the epoch, 0: not known.
    """

    name: str
    addresses: tuple[str, ...]
    subnets: tuple[str, ...]
    overlay: tuple[str, ...] = ()
    since: float = 0.0
    me: bool = False
    way: str = ""
    why: str = ""
    missing: tuple[str, ...] = ()

    def at(self, family: int) -> str:
        """Its overlay address of this family, "" without one."""
        return next((each for each in self.overlay if family_of(each) == family), "")


class Roster(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster. `trouble`: why its list cannot be used; `programmed`: whether the kernel was told of it in this boot.

    `mtu`: of its pods, in bytes, 0 when not known; `device`: the backend's own, "" when it has none, and if it has such
    its `vni` and UDP `port`; `unguarded`: why not only peers may speak through it; `slow`:
    why checksums are not left to the NIC, where nobody said that they are not to be.
    """

    network: str
    source: str
    node: str = ""
    backend: str = ""
    device: str = ""
    vni: int = 0
    port: int = 0
    mtu: int = 0
    networks: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    programmed: bool = False
    trouble: str = ""
    unguarded: str = ""
    slow: str = ""

    @property
    def me(self) -> Member | None:
        """This node."""
        return next((each for each in self.members if each.me), None)

    @property
    def peers(self) -> tuple[Member, ...]:
        """The others."""
        return tuple(each for each in self.members if not each.me)

    @property
    def family(self) -> int:
        """The family of this node's first subnet, in which nodes ask each other; 0 without one."""
        return family_of(self.me.overlay[0]) if self.me and self.me.overlay else 0


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key by which n2 comes before n10."""
    return tuple((int(each), "") if each.isdigit() else (-1, each) for each in re.split(r"(\d+)", name) if each)

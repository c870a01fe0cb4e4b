"""What Tulle may make in a kernel, as frozen values.

A desired network is a `State`: a mapping from each object's key to the object. Pure code computes states,
`diff` compares two of them, and the kernel package makes one true. Nothing here has an effect, and nothing
here knows where a value came from; that is what lets the same values be planned, printed, compared, rolled
back and stored.

An object lives in a namespace: `HOST` (the node) or `POD` (the sandbox of the request at hand). In a wanted
object an empty string or a zero means "whatever the kernel has"; a bool always means what it says.

    Veth("tl0123456789a", master="tulle0", peer="eth0")   ip link add tl0123456789a master tulle0 type veth peer eth0
    Addr("eth0", "10.22.0.2/16", ns=POD)                  ip -n POD addr add 10.22.0.2/16 dev eth0
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, TypeAlias

import msgspec

HOST = ""
POD = "pod"

ALIAS_MARK = "tulle:"
"""What the ifalias of a link of ours begins with."""

Key: TypeAlias = tuple[str, ...]


class Object(msgspec.Struct, frozen=True, tag_field="object"):
    """Anything that can be wanted of a kernel. `FIXED` names the fields that only a new object can change."""

    FIXED: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> Key:
        """What makes this object itself: two objects of one key are two states of the same thing."""
        raise NotImplementedError

    @property
    def holder(self) -> Key | None:
        """The key of the link whose removal takes this object along."""
        return None


State: TypeAlias = dict[Key, Object]


def link_key(ns: str, name: str) -> Key:
    """What makes a link of this name itself, whatever its kind."""
    return ("link", ns, name)


def state(objects: Iterable[Object]) -> State:
    """The state that holds just these objects; a later one of the same key wins."""
    return {each.key: each for each in objects}

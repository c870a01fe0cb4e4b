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

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, TypeAlias

import msgspec

HOST = ""
POD = "pod"

Key: TypeAlias = tuple[str, ...]
Verb: TypeAlias = Literal["create", "change", "delete"]


class Object(msgspec.Struct, frozen=True, tag_field="object"):
    """Anything that can be wanted of a kernel: what a kind is to all who handle objects without knowing kinds."""

    RANK: ClassVar[int]
    """Its place in the order of creation, that of no other kind; removal is the other way round."""
    SPOKEN: ClassVar[str] = "rtnl"
    """The room of the kernel package in which it is written and read: `rtnl`, `host` or `nft`."""
    MADE_BY: ClassVar[str] = ""
    """What a kernel must be able to do to make one, as `kernel.modules` calls it; "" for what every kernel can."""
    FIXED: ClassVar[tuple[str, ...]] = ()
    """The fields that only a new object can change."""
    HOLDS: ClassVar[bool] = False
    """Whether others go with it, which name it as their `holder`."""
    OF_PORT: ClassVar[bool] = False
    """Whether a link has it as a port of its bridge, and loses it with that (net/bridge/br_if.c, del_nbp)."""
    COMES_ALONG: ClassVar[bool] = False
    """Whether it is made and removed with another object (`along`), and never by itself."""

    @property
    def key(self) -> Key:
        """What makes this object itself: two objects of one key are two states of the same thing."""
        raise NotImplementedError

    @property
    def holder(self) -> Key | None:
        """The key of the object whose removal takes this one along."""
        return None

    @property
    def where(self) -> str:
        """The namespace that it is in."""
        ns: str = getattr(self, "ns", HOST)
        return ns

    @property
    def by_netlink(self) -> bool:
        """Whether rtnetlink takes it, by messages that go together with those of others."""
        return self.SPOKEN == "rtnl"

    @property
    def needs(self) -> tuple[Key, ...]:
        """The keys of links that must be there beside its holder when it is made."""
        return ()

    @property
    def refers(self) -> tuple[Key, ...]:
        """The keys of objects that it names: it is told anew when one of them is made anew."""
        return ()

    @property
    def along(self) -> tuple[Object, ...]:
        """What the kernel makes and removes with it."""
        return ()

    @property
    def absent(self) -> bool:
        """Whether it is wanted that something is not there: to make this object takes it away."""
        return False

    @property
    def foreign(self) -> bool:
        """Whether it is another program's: never seen, replaced or removed."""
        return False

    @property
    def replaces(self) -> bool:
        """Whether to make it where one stands already is no error, for it takes that one's place."""
        return True

    @property
    def dispensable(self) -> bool:
        """Whether there is nothing to be done where the kernel has not what it belongs to."""
        return False

    @property
    def undone(self) -> bool:
        """Whether a step that is taken back takes it back too."""
        return not self.COMES_ALONG

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        return f"a {type(self).__name__.lower()}"

    def words(self, verb: Verb) -> str:
        """The line of `ip`, `bridge`, `sysctl`, `ethtool` or `nft` that does the same; for some kinds several lines."""
        raise NotImplementedError

    def found_in(self, state: Mapping[Key, Object]) -> Object | None:
        """It as it stands in a state, None where it does not."""
        return state.get(self.key)


State: TypeAlias = dict[Key, Object]


def link_key(ns: str, name: str) -> Key:
    """What makes a link of this name itself, whatever its kind."""
    return ("link", ns, name)


def state(objects: Iterable[Object]) -> State:
    """The state that holds just these objects; a later one of the same key wins."""
    return {each.key: each for each in objects}

"""What is in table `inet tulle`, the language of `nft`: chains, sets and what is in these."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from cni_plugin.model.base import HOST, Key, Object


def _set(name: str) -> Key:
    return ("set", HOST, name)


class Chain(Object, frozen=True, tag="chain"):
    """A base chain of table `inet tulle`, whole: `hook` is its declaration, each rule a line of the nft language.

    The kernel does not give rules back as they were written, so each is followed by a comment with a digest
    of its text (`plan.masquerade`); two chains are equal when hook and rules are.
    """

    name: str
    hook: str
    rules: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return ("chain", HOST, self.name)


class Set(Object, frozen=True, tag="set"):
    """A named set of table `inet tulle`, of a type in nft's words. What is in it are objects of their own."""

    FIXED: ClassVar[tuple[str, ...]] = ("type",)
    name: str
    type: str

    @property
    def key(self) -> Key:
        return _set(self.name)


class Element(Object, frozen=True, tag="element"):
    """One value in a set: it comes and goes alone, however many others there are. Several may want the same."""

    set: str
    value: str

    @property
    def key(self) -> Key:
        return ("element", HOST, self.set, self.value)

    @property
    def holder(self) -> Key | None:
        return _set(self.set)


NftObject: TypeAlias = Chain | Set | Element

"""What is in table `inet tulle`, the language of `nft`: chains, sets and what is in these."""

from __future__ import annotations

from typing import ClassVar

from cni_plugin.marks import TABLE
from cni_plugin.model.base import HOST, Key, Object, Verb


def _set(name: str) -> Key:
    return ("set", HOST, name)


class NftObject(Object, frozen=True):
    """Anything in the table: what changes of these together changes in one transaction."""

    SPOKEN: ClassVar[str] = "nft"


class Chain(NftObject, frozen=True, tag="chain"):
    """A base chain of table `inet tulle`, whole: `hook` is its declaration, each rule a line of the nft language.

    The kernel does not give rules back as they were written, so each is followed by a comment with a digest
    of its text (`plan.masquerade`); two chains are equal when hook and rules are.
    """

    RANK: ClassVar[int] = 420
    MADE_BY: ClassVar[str] = "masquerade"
    name: str
    hook: str
    rules: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return ("chain", HOST, self.name)

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return f"nft delete chain {TABLE} {self.name}"
        head = [
            f"nft add table {TABLE}",
            f"nft 'add chain {TABLE} {self.name} {{ {self.hook} }}'",
            f"nft flush chain {TABLE} {self.name}",
        ]
        return "\n".join(head + [f"nft 'add rule {TABLE} {self.name} {rule}'" for rule in self.rules])


class Set(NftObject, frozen=True, tag="set"):
    """A named set of table `inet tulle`, of a type in nft's words. What is in it are objects of their own."""

    RANK: ClassVar[int] = 400
    FIXED: ClassVar[tuple[str, ...]] = ("type",)
    HOLDS: ClassVar[bool] = True
    name: str
    type: str

    @property
    def key(self) -> Key:
        return _set(self.name)

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return f"nft delete set {TABLE} {self.name}"
        return f"nft add table {TABLE}\nnft 'add set {TABLE} {self.name} {{ type {self.type}; }}'"


class Element(NftObject, frozen=True, tag="element"):
    """One value in a set: it comes and goes alone, however many others there are. Several may want the same."""

    RANK: ClassVar[int] = 410
    set: str
    value: str

    @property
    def key(self) -> Key:
        return ("element", HOST, self.set, self.value)

    @property
    def holder(self) -> Key | None:
        return _set(self.set)

    def words(self, verb: Verb) -> str:
        return f"nft '{'delete' if verb == 'delete' else 'add'} element {TABLE} {self.set} {{ {self.value} }}'"

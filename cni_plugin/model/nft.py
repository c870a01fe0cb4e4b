"""What is in our tables of nftables, the language of `nft`: chains, sets and maps, and what is in these.

A table is named as nft does, family first. That of most things is `inet tulle`; another family's (`bridge tulle`) has
our name too. It is made with the first thing in it, and goes with the last. What changes of all this in one call of
`apply` changes in one transaction, whatever the order and the kinds. A set or map changes by its elements: one of
another type is made anew, with what is in it, and the chains that look into it are told anew with it.

    Map("hostports", "inet_proto . inet_service", data="verdict")     nft 'add map inet tulle hostports { type ... }'
    Element("hostports", "tcp . 8080", "jump pod7")                   nft 'add element inet tulle hostports { ... }'
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import ClassVar

from cni_plugin.marks import TABLE
from cni_plugin.model.base import HOST, Key, Object, Verb

_SETS = r"@(\w+)"
"""What a rule calls sets and maps by. (It may be a part of the packet that is called so, which is no set's name.)"""


def _key(kind: str, table: str, name: str) -> Key:
    return (kind, HOST, name if table == TABLE else f"{table} {name}")


class NftObject(Object, frozen=True):
    """Anything of nft's: what changes of these together changes in one transaction."""

    SPOKEN: ClassVar[str] = "nft"

    @property
    def holder(self) -> Key | None:
        table: str = getattr(self, "table", TABLE)
        return ("table", HOST, table)


class Table(NftObject, frozen=True, tag="table"):
    """A table of ours, whole: who deletes it deletes all that is in it. Nobody need want one to have something there.
    """

    RANK: ClassVar[int] = 390
    HOLDS: ClassVar[bool] = True
    name: str = TABLE

    @property
    def key(self) -> Key:
        return ("table", HOST, self.name)

    @property
    def holder(self) -> Key | None:
        return None

    def words(self, verb: Verb) -> str:
        return f"nft {'delete' if verb == 'delete' else 'add'} table {self.name}"


class Chain(NftObject, frozen=True, tag="chain"):
    """A chain, whole: `hook` is its declaration, "" for one that is jumped to; each rule a line of the nft language.

    The kernel does not give rules back as they were written, so each is followed by a comment with a digest
    of its text (`comment`); two chains are equal when hook and rules are.
    """

    RANK: ClassVar[int] = 420
    MADE_BY: ClassVar[str] = "masquerade"
    name: str
    hook: str
    rules: tuple[str, ...] = ()
    table: str = TABLE

    @property
    def key(self) -> Key:
        return _key("chain", self.table, self.name)

    @property
    def refers(self) -> tuple[Key, ...]:
        return tuple(_key("set", self.table, name) for rule in self.rules for name in re.findall(_SETS, rule))

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return f"nft delete chain {self.table} {self.name}"
        hook = f"'add chain {self.table} {self.name} {{ {self.hook} }}'" if self.hook else (
            f"add chain {self.table} {self.name}"
        )
        head = [f"nft add table {self.table}", f"nft {hook}", f"nft flush chain {self.table} {self.name}"]
        return "\n".join(head + [f"nft 'add rule {self.table} {self.name} {rule}'" for rule in self.rules])


class SetOrMap(NftObject, frozen=True):
    """What has elements, of a type in nft's words: `ipv4_addr . inet_proto . inet_service` is of three values together.

    `interval`: it is of ranges, `10.0.0.0/8` or `80-90`, which is dear to change: 22 ms with 50,000 in it, where one of
    values takes 0.02. What is in it are objects of their own. No two in a table have one name, be they set or map.
    """

    FIXED: ClassVar[tuple[str, ...]] = ("type", "interval")
    HOLDS: ClassVar[bool] = True
    WORD: ClassVar[str]
    """What nft calls one."""
    name: str
    type: str
    interval: bool = False
    table: str = TABLE

    @property
    def key(self) -> Key:
        return _key("set", self.table, self.name)

    @property
    def leads_to(self) -> str:
        """The type of what its values lead to, "" where they lead to nothing."""
        return ""

    @property
    def declaration(self) -> str:
        """What nft is told of it."""
        data = f" : {self.leads_to}" if self.leads_to else ""
        return f"type {self.type}{data};" + (" flags interval;" if self.interval else "")

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return f"nft delete {self.WORD} {self.table} {self.name}"
        return f"nft add table {self.table}\nnft 'add {self.WORD} {self.table} {self.name} {{ {self.declaration} }}'"


class Set(SetOrMap, frozen=True, tag="set"):
    """A named set."""

    RANK: ClassVar[int] = 400
    WORD: ClassVar[str] = "set"


class Map(SetOrMap, frozen=True, kw_only=True, tag="map"):
    """A named map from what a set of this type would hold to `data`: a type, or `verdict`."""

    RANK: ClassVar[int] = 405
    FIXED: ClassVar[tuple[str, ...]] = (*SetOrMap.FIXED, "data")
    WORD: ClassVar[str] = "map"
    data: str

    @property
    def leads_to(self) -> str:
        return self.data


class Element(NftObject, frozen=True, tag="element"):
    """One value in a set, or one in a map with its `data`: it comes and goes alone, however many others there are.

    Several may want the same. Values are in nft's words (`192.0.2.1 . tcp . 80`, `"eth0"`), data too (`jump pod7`). It
    comes after chains: a verdict may name one.
    """

    RANK: ClassVar[int] = 430
    set: str
    value: str
    data: str = ""
    table: str = TABLE

    @property
    def key(self) -> Key:
        return (*_key("element", self.table, self.set), self.value)

    @property
    def holder(self) -> Key | None:
        return _key("set", self.table, self.set)

    @property
    def pair(self) -> str:
        """It as it stands between braces."""
        return f"{self.value} : {self.data}" if self.data else self.value

    def words(self, verb: Verb) -> str:
        gone = f"delete element {self.table} {self.set} {{ {self.value} }}"
        made = f"add element {self.table} {self.set} {{ {self.pair} }}"
        return f"nft '{gone}'" if verb == "delete" else f"nft '{made}'" if verb == "create" else f"nft '{gone}; {made}'"


def by_set(objects: Iterable[Object]) -> dict[tuple[str, str], list[Element]]:
    """The elements among these, by table and set."""
    found: dict[tuple[str, str], list[Element]] = {}
    for each in objects:
        if isinstance(each, Element):
            found.setdefault((each.table, each.set), []).append(each)
    return found


def comment(text: str, words: str) -> str:
    """A rule with a comment that lets it be known again: the kernel does not give back the text it was given.

    The words are cut so that all fits the 128 bytes that a comment may have (nft: NFTNL_UDATA_COMMENT_MAXLEN).
    """
    return f'{text} comment "{words[:100]} {sha256(text.encode()).hexdigest()[:8]}"'

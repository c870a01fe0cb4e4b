"""What is known of the ruleset as long as nobody has changed anything since, and what a chain is known by.

The kernel counts its transactions, so one number tells whether all that is known still holds: to ask for it takes
10 us, to list 50,000 elements 200 ms. Who changes something himself knows more than who finds something changed: where
the count has moved by one over a transaction of his own that did change something, nobody else has been there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cni_plugin.diff import Op
from cni_plugin.model.base import Key
from cni_plugin.model.nft import Chain, Element, SetOrMap, Table

if TYPE_CHECKING:
    from cni_plugin.kernel.nft.nft_held import Held  # for who asks of sets, which hardly any pod does

COMMENT = r' comment "([^"]*)"$'
HOOK = r"type (\w+) hook (\w+)(?: device \S+)? priority ([^;]+);(?: *policy (\w+);)?"
"""Compiled when they are needed: a DEL asks nothing of nftables."""
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_OF_BRIDGES = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}
"""The priorities that have names, and those that have others in family bridge (nft(8))."""

Hook: TypeAlias = "tuple[str, str, int | str, str]"


class Known:
    """Of one generation of the ruleset: chains that are as wanted, listings of others, and what is in sets."""

    def __init__(self) -> None:
        self._generation = 0
        self.right: dict[Key, Chain] = {}
        self.listed: dict[str, str] = {}
        self.contents: dict[Key, Held] = {}

    def __bool__(self) -> bool:
        return bool(self.right or self.contents)

    def at(self, generation: int) -> Known:
        """This, without what was known of another generation; 0 is none."""
        if generation != self._generation or not generation:
            self._generation = generation
            self.right.clear()
            self.listed.clear()
            self.contents.clear()
        return self

    def wrote(self, ops: Sequence[Op], generation: int) -> None:
        """These operations were carried out since, and the ruleset is now of this generation."""
        ours = generation == self._generation + 1 and any(self._is_news(op) for op in ops)
        if generation != self._generation and not ours:
            self.at(generation)
            return
        self._generation = generation
        self.listed.clear()
        for op in ops:
            self._take(op)

    def _is_news(self, op: Op) -> bool:
        """Whether it changed something for sure."""
        each = op.object
        if isinstance(each, Chain):
            return op.verb == "delete" or bool(each.rules)
        if not isinstance(each, Element) or (held := self._held(each)) is None:
            return False
        return held.has(each) == (op.verb != "create")

    def _take(self, op: Op) -> None:
        each = op.object
        if isinstance(each, Table):
            self.right.clear()
            self.contents.clear()
        elif isinstance(each, Chain):
            self.right.pop(each.key, None)
            if op.verb != "delete":
                self.right[each.key] = each
        elif isinstance(each, SetOrMap):
            self.contents.pop(each.key, None)
        elif isinstance(each, Element) and (held := self._held(each)) is not None:
            held.take(op.verb, each)

    def _held(self, each: Element) -> Held | None:
        return self.contents.get(each.holder or ())


def comments(wanted: Chain) -> list[str] | None:
    """What its rules are known by; None when one of them has no comment."""
    found = [re.search(COMMENT, each) for each in wanted.rules]
    return [match[1] for match in found if match] if all(found) else None


def hook_of(declaration: str, table: str) -> Hook:
    """A declaration as type, hook, priority and policy; of a chain without one there are none."""
    if not declaration:
        return "", "", 0, ""
    match = re.match(HOOK, declaration.strip())
    if match is None:
        return (declaration, "", "", "")
    return match[1], match[2], _priority(match[3].split(), table), match[4] or "accept"


def _priority(words: Iterable[str], table: str) -> int | str:
    """`srcnat`, `srcnat + 10` and `110` as numbers."""
    text = "".join(words)
    names = _OF_BRIDGES if table.startswith("bridge ") else _PRIORITIES
    match = re.fullmatch(r"([a-z]*)([+-]?\d+)?", text)
    if match is None or (match[1] and match[1] not in names):
        return text
    return names.get(match[1], 0) + int(match[2] or 0)

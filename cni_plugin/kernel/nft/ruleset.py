"""Everybody's nftables rules, for people to look at: what other programs have in the way of a pod's packets.

The plugin names no table but its own; only the operator's tool reads this. Promise: nothing is changed, and what nft
cannot tell (rules of the old iptables, which are not in nf_tables) is not taken for absent but left to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from cni_plugin.kernel.nft.nft import Nft, NftError

_TABLE = re.compile(r"table (\w+) (\S+) \{")
_CHAIN = re.compile(r"\t(?:chain|set|map) (\S+) \{")
_HOOK = re.compile(r"type (\w+) hook (\w+).*?priority ([^;]+);(?: *policy (\w+);)?")


class Hook(msgspec.Struct, frozen=True):
    """A base chain: where it hooks in, and what becomes of a packet that no rule of it decides about.

    `accepts` are its rules that let something through, where somebody has looked.
    """

    table: str
    chain: str
    kind: str
    hook: str
    priority: str
    policy: str
    accepts: tuple[str, ...] = ()


class Rule(msgspec.Struct, frozen=True):
    """One line of a chain or set, in nft's words."""

    table: str
    chain: str
    text: str


def listing(command: str) -> str:
    """What nft prints for a `list ...` command, in the calling thread's namespace. Raises OSError."""
    if not command.startswith("list "):
        raise ValueError(command)
    nft = Nft()
    try:
        accepted, words = nft.run(command)
    except NftError as error:
        raise OSError(0, str(error)) from error
    finally:
        nft.close()
    if not accepted:
        raise OSError(0, words.strip() or "nft refused without a word")
    return words


def hooks(text: str) -> Iterator[Hook]:
    """The base chains in a listing."""
    for each in rules(text):
        if match := _HOOK.match(each.text):
            kind, hook, priority, policy = match.groups()
            yield Hook(each.table, each.chain, kind, hook, priority.strip(), policy or "accept")


def rules(text: str) -> Iterator[Rule]:
    """The lines of chains and sets in a listing, their declarations too."""
    table = chain = ""
    for line in text.splitlines():
        if match := _TABLE.match(line):
            table, chain = f"{match[1]} {match[2]}", ""
        elif match := _CHAIN.match(line):
            chain = match[1]
        elif line.startswith("\t\t") and chain:
            yield Rule(table, chain, line.strip())

"""Chains and sets of table `inet tulle`, in nft's own language, one transaction at a time.

libnftables carries it out (0.1 ms for a rule; 3 ms by running `nft`, which is what happens where the library is
missing), in a process that is made when the first chain is asked for (`nft_process`). Promise: all chains of a call
change together or none does; no other table is ever named; the table goes with the last thing in it.

The kernel gives rules back in other words than it was given them, so a rule is known by its comment, which ends in a
digest of the rule as it was written. So the kernel itself is asked first, by `nft_raw`, for nothing but hook and
comments: who finds all as it is wanted, as every pod but a network's first does, needs no library, and no process of
its own.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.nft.nft_raw import RawNft, delete_empty_table, netfilter
from cni_plugin.marks import TABLE
from cni_plugin.meter import Meter
from cni_plugin.model.nft import Chain, Element, Set

if TYPE_CHECKING:
    from cni_plugin.kernel.nft.nft_process import NftProcess

_NAME = TABLE.split()[1]
_TOLD = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EPERM, errno.EPROTO, *PASSING)
"""What it makes a difference to know that nft said, by strerror(3)."""
_COMMENT = r' comment "([^"]*)"$'
_TYPE = r"\ttype ([^;\n]+)"
_ELEMENTS = r"elements = \{([^}]*)\}"
_HOOK = r"type (\w+) hook (\w+)(?: device \S+)? priority ([^;]+);(?: *policy (\w+);)?"
"""Compiled when they are needed: a DEL asks nothing of nftables."""
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}


class NftError(Exception):
    """nftables refused a transaction, in its own words, or could not be asked."""

    def __init__(self, words: str, code: int = errno.EINVAL) -> None:
        super().__init__(words)
        self.errno = code


class Nft:
    """Table `inet tulle` of the network namespace that the first call is made in.

    A chain that was read is known until the kernel's ruleset is of another generation, whoever changed it: to ask for
    the generation takes 10 us, whether it is as wanted 50, to list a chain 300.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or Meter()
        self._raw = RawNft(_NAME)
        self._right: dict[str, tuple[int, Chain]] = {}
        self._listed: dict[str, tuple[int, str]] = {}

    def run(self, commands: str) -> tuple[bool, str]:
        """Have commands of the nft language carried out: whether they were accepted, and what was said.

        They must do no harm when they are carried out twice. Raises NftError when nobody could tell.
        """
        try:
            accepted, words = self._process.run(commands)
            if not accepted and _code(words) in (errno.EPROTO, *PASSING):
                self._process.close()  # the library may be out of step with the kernel by now
                accepted, words = self._process.run(commands)
        except OSError as error:
            raise _silence(error) from error
        return accepted, words

    def close(self) -> None:
        """Let go of sockets and process."""
        if "_process" in self.__dict__:
            self._process.close()
        self._raw.close()

    @cached_property
    def _process(self) -> NftProcess:
        from cni_plugin.kernel.nft.nft_process import NftProcess  # for hardly any pod

        return NftProcess()

    def change(self, ops: Sequence[Op]) -> None:
        """Carry out these operations on chains, sets and elements in one transaction. Raises NftError."""
        with self._meter.step("nft"):
            accepted, words = self.run("\n".join(line for op in ops for line in _lines(op)))
            if not accepted:
                raise _refusal(words)
            if any(op.verb == "delete" for op in ops):
                _delete_empty_table()

    def read(self, wanted: Chain) -> Chain | None:
        """The chain of this name, its rules in the words wanted where they are those wanted. Raises NftError."""
        with self._meter.step("nft"):
            if self._is_right(wanted):
                return wanted
            words = self._listing(f"chain {TABLE} {wanted.name}")
            return _parse(words, wanted) if words else None

    def read_set(self, name: str) -> Set | None:
        """The set of this name. Raises NftError."""
        with self._meter.step("nft"):
            kind = re.search(_TYPE, self._listing(f"set {TABLE} {name}"))
            return Set(name, kind[1].strip()) if kind else None

    def elements(self, name: str) -> frozenset[str]:
        """What is in the set of this name, nothing without it. Raises NftError."""
        with self._meter.step("nft"):
            found = re.search(_ELEMENTS, self._listing(f"set {TABLE} {name}"))
            return frozenset(each.strip() for each in found[1].split(",")) if found else frozenset()

    def _is_right(self, wanted: Chain) -> bool:
        generation = self._raw.generation()  # before the look, as before a list
        if generation and self._right.get(wanted.name) == (generation, wanted):
            return True
        found = self._raw.chain(wanted.name, generation) if generation else None
        if found is None or found.declared != _hook_of(wanted.hook) or found.comments != _comments(wanted):
            return False
        self._right[wanted.name] = generation, wanted
        return True

    def _listing(self, what: str) -> str:
        generation = self._raw.generation()  # before the list: a change in between makes the next reader list again
        known, words = self._listed.get(what, (0, ""))
        if known != generation or not generation:
            words = self._list(what)
            self._listed[what] = generation, words
        return words

    def _list(self, what: str) -> str:
        """What nft says of a chain or set, "" when there is none. Raises NftError."""
        accepted, words = self.run(f"list {what}")
        if accepted:
            return words
        if _code(words) == errno.ENOENT:
            return ""
        raise _refusal(words)


def _lines(op: Op) -> Iterator[str]:
    each = op.object
    yield f"add table {TABLE}"
    if isinstance(each, Chain):
        yield from _chain_lines(op, each)
    elif isinstance(each, Set):
        yield f"add set {TABLE} {each.name} {{ type {each.type}; }}"
        if op.verb == "delete":
            yield f"delete set {TABLE} {each.name}"
    elif isinstance(each, Element):
        yield f"add element {TABLE} {each.set} {{ {each.value} }}"
        if op.verb == "delete":
            yield f"delete element {TABLE} {each.set} {{ {each.value} }}"
    else:
        raise TypeError(f"{each!r} is nothing of nft's")


def _chain_lines(op: Op, each: Chain) -> Iterator[str]:
    chain = f"chain {TABLE} {each.name}"
    if op.verb == "delete" or _declared_anew(op):
        # declared without a hook first, so that deleting what is not there is no error
        yield from (f"add {chain}", f"flush {chain}", f"delete {chain}")
    if op.verb != "delete":
        yield from (f"add {chain} {{ {each.hook} }}", f"flush {chain}")
        yield from (f"add rule {TABLE} {each.name} {rule}" for rule in each.rules)


def _declared_anew(op: Op) -> bool:
    """A base chain keeps the hook that it was made with."""
    return isinstance(op.object, Chain) and isinstance(op.was, Chain) and op.was.hook != op.object.hook


def _parse(listing: str, wanted: Chain) -> Chain:
    words = {match[1]: rule for rule in wanted.rules if (match := re.search(_COMMENT, rule))}
    hook, rules = "", []
    for line in _statements(listing):
        if re.match(_HOOK, line):
            hook = wanted.hook if _same_hook(line, wanted.hook) else line
        else:
            comment = re.search(_COMMENT, line)
            rules.append(words.get(comment[1], line) if comment else line)
    return Chain(wanted.name, hook, tuple(rules))


def _comments(wanted: Chain) -> list[str] | None:
    """What its rules are known by; None when one of them has no comment."""
    found = [re.search(_COMMENT, each) for each in wanted.rules]
    return [match[1] for match in found if match] if all(found) else None


def _statements(listing: str) -> Iterator[str]:
    """The lines inside the chain, those that nft broke for their length made whole."""
    statement = ""
    for line in listing.splitlines():
        if line.startswith("\t\t\t") and statement:
            statement += " " + line.strip()
            continue
        if statement:
            yield statement
        statement = line.strip() if line.startswith("\t\t") else ""
    if statement:
        yield statement


def _same_hook(one: str, other: str) -> bool:
    return _hook_of(one) == _hook_of(other)


def _hook_of(declaration: str) -> tuple[str, str, int | str, str]:
    match = re.match(_HOOK, declaration.strip())
    if match is None:
        return (declaration, "", "", "")
    return match[1], match[2], _priority(match[3].split()), match[4] or "accept"


def _priority(words: Iterable[str]) -> int | str:
    """`srcnat`, `srcnat + 10` and `110` as numbers (the names of families ip, ip6 and inet)."""
    text = "".join(words)
    match = re.fullmatch(r"([a-z]*)([+-]?\d+)?", text)
    if match is None or (match[1] and match[1] not in _PRIORITIES):
        return text
    return _PRIORITIES.get(match[1], 0) + int(match[2] or 0)


def _silence(error: OSError) -> NftError:
    """Why nobody answered: the library ends without a word where there are no sockets of netfilter's to be had."""
    try:
        netfilter().close()
    except OSError as cause:
        error = cause
    code = error.errno if error.errno in _TOLD else errno.EAGAIN
    return NftError(f"no answer from nftables: {error.strerror or error}", code or errno.EAGAIN)


def _delete_empty_table() -> None:
    """Raises NftError."""
    code = delete_empty_table(_NAME)
    if code:
        raise NftError(f"delete table {TABLE}: {os.strerror(code)}", code)


def _refusal(words: str) -> NftError:
    """What nft said of a refusal: its first line, and the errno that it spells out."""
    lines = words.strip().splitlines()
    return NftError(lines[0] if lines else "nftables refused without a word", _code(words))


def _code(words: str) -> int:
    return next((code for code in _TOLD if os.strerror(code) in words), errno.EINVAL)

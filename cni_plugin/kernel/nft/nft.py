"""Chains and sets of table `inet tulle`, in nft's own language, one transaction at a time.

libnftables carries it out (0.1 ms for a rule; 3 ms by running `nft`, which is what happens where the library is
missing), in a process that is made when the first chain is asked for (`nft_process`). Promise: all chains of a call
change together or none does; no other table is ever named; the table goes with the last thing in it.

The kernel gives rules back in other words than it was given them, so a rule is known by its comment, which ends in a
digest of the rule as it was written.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.nft.nft_process import NftProcess
from cni_plugin.kernel.rtnl.codec import HEADER, NLM_F_ACK, NLM_F_REQUEST
from cni_plugin.marks import TABLE
from cni_plugin.meter import Meter
from cni_plugin.model.nft import Chain, Element, Set

_TOLD = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EPERM, errno.EPROTO, *PASSING)
"""What it makes a difference to know that nft said, by strerror(3)."""
_COMMENT = re.compile(r' comment "([^"]*)"$')
_TYPE = re.compile(r"\ttype ([^;\n]+)")
_ELEMENTS = re.compile(r"elements = \{([^}]*)\}")
_HOOK = re.compile(r"type (\w+) hook (\w+)(?: device \S+)? priority ([^;]+);(?: *policy (\w+);)?")
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}

_NETLINK_NETFILTER = 12
_NEW_GENERATION, _GET_GENERATION_KIND = 10 << 8 | 15, 10 << 8 | 16
_GET_GENERATION = HEADER.pack(HEADER.size + 4, _GET_GENERATION_KIND, NLM_F_REQUEST, 1, 0) + bytes(4)
_GENERATION_AT = HEADER.size + 4 + 4
"""NFTA_GEN_ID comes first in the answer to NFT_MSG_GETGEN (net/netfilter/nf_tables_api.c, nf_tables_fill_gen_info)."""


class NftError(Exception):
    """nftables refused a transaction, in its own words, or could not be asked."""

    def __init__(self, words: str, code: int = errno.EINVAL) -> None:
        super().__init__(words)
        self.errno = code


class Nft:
    """Table `inet tulle` of the network namespace that the first call is made in.

    A chain that was read is known until the kernel's ruleset is of another generation, whoever changed it: to ask for
    the generation takes 10 us, to list a chain 300.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or Meter()
        self._process = NftProcess()
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
        self._process.close()
        self._hang_up()

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
            words = self._listing(f"chain {TABLE} {wanted.name}")
            return _parse(words, wanted) if words else None

    def read_set(self, name: str) -> Set | None:
        """The set of this name. Raises NftError."""
        with self._meter.step("nft"):
            kind = _TYPE.search(self._listing(f"set {TABLE} {name}"))
            return Set(name, kind[1].strip()) if kind else None

    def elements(self, name: str) -> frozenset[str]:
        """What is in the set of this name, nothing without it. Raises NftError."""
        with self._meter.step("nft"):
            found = _ELEMENTS.search(self._listing(f"set {TABLE} {name}"))
            return frozenset(each.strip() for each in found[1].split(",")) if found else frozenset()

    def generation(self) -> int:
        """The number of the kernel's ruleset, another one after each transaction; 0 where it cannot be had."""
        try:
            self._channel.send(_GET_GENERATION)
            answer = self._channel.recv(8192)
        except OSError:
            self._hang_up()  # the answer may still come, and would be taken for that to the next question
            return 0
        (kind,) = struct.unpack_from("=H", answer, 4)
        return int.from_bytes(answer[_GENERATION_AT : _GENERATION_AT + 4], "big") if kind == _NEW_GENERATION else 0

    @cached_property
    def _channel(self) -> socket.socket:
        return _netfilter()

    def _hang_up(self) -> None:
        if (channel := self.__dict__.pop("_channel", None)) is not None:
            channel.close()

    def _listing(self, what: str) -> str:
        generation = self.generation()  # before the list: a change in between makes the next reader list again
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
    words = {match[1]: rule for rule in wanted.rules if (match := _COMMENT.search(rule))}
    hook, rules = "", []
    for line in _statements(listing):
        if _HOOK.match(line):
            hook = wanted.hook if _same_hook(line, wanted.hook) else line
        else:
            comment = _COMMENT.search(line)
            rules.append(words.get(comment[1], line) if comment else line)
    return Chain(wanted.name, hook, tuple(rules))


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
    match = _HOOK.match(declaration.strip())
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
        _netfilter().close()
    except OSError as cause:
        error = cause
    code = error.errno if error.errno in _TOLD else errno.EAGAIN
    return NftError(f"no answer from nftables: {error.strerror or error}", code or errno.EAGAIN)


def _refusal(words: str) -> NftError:
    """What nft said of a refusal: its first line, and the errno that it spells out."""
    lines = words.strip().splitlines()
    return NftError(lines[0] if lines else "nftables refused without a word", _code(words))


def _code(words: str) -> int:
    return next((code for code in _TOLD if os.strerror(code) in words), errno.EINVAL)


def _delete_empty_table() -> None:
    """Delete the table if nothing is left in it, and leave that to the kernel to judge.

    nft cannot ask for this: its `delete table` takes everything along, also what another process has just
    put there. With NLM_F_NONREC the kernel answers EBUSY instead (net/netfilter/nf_tables_api.c,
    nf_tables_deltable), so there is no instant between looking and deleting. Raises NftError.
    """
    begin, end, delete_table, nonrec, inet = 0x10, 0x11, 10 << 8 | 2, 0x100, 1
    name = TABLE.split()[1].encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(name), 1) + name + b"\0" * (-len(name) % 4)
    batch = b"".join(
        HEADER.pack(HEADER.size + 4 + len(body), kind, NLM_F_REQUEST | flags, sequence, 0)
        + struct.pack("!BBH", family, 0, resource)
        + body
        for kind, flags, sequence, family, resource, body in (
            (begin, 0, 1, 0, 10, b""),
            (delete_table, NLM_F_ACK | nonrec, 2, inet, 0, attribute),
            (end, 0, 3, 0, 10, b""),
        )
    )
    code = _ask_twice(batch)
    if code not in (0, errno.EBUSY, errno.ENOENT):
        raise NftError(f"delete table {TABLE}: {os.strerror(code)}", code)


def _ask_twice(batch: bytes) -> int:
    """The errno with which the kernel answers what may be asked again, and is if something passing is in the way."""
    code = 0
    for _ in range(2):
        try:
            with _netfilter() as channel:
                channel.send(batch)
                code = -struct.unpack_from("=i", channel.recv(8192), HEADER.size)[0]
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in PASSING:
            break
    return code


def _netfilter() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)

"""nfnetlink without a library: what each pod asks of nftables, and what nft has no words for.

    generation          the number of the ruleset                           10 us
    chain               how a chain is declared, its rules' comments        40 us; by the library 300, and it in a child
    delete_empty_table  the table, if nothing is left in it

Numbers and names are those of include/uapi/linux/netfilter/nf_tables.h. Of a rule nothing but its comment is looked at.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.rtnl.codec import HEADER, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
from cni_plugin.kernel.rtnl.raw import attributes, nested

_NETLINK_NETFILTER = 12
_NFPROTO_INET = 1
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_DELETE_TABLE, _GET_CHAIN, _GET_RULE, _GET_GENERATION = (10 << 8 | kind for kind in (2, 4, 7, 16))
_GENERATION_ID = 1
_TABLE = 1
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_CHAIN, _RULE_USERDATA = 2, 7
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
"""enum nf_inet_hooks in include/uapi/linux/netfilter.h."""
_POLICIES = ("drop", "accept")
_COMMENT = 0
"""NFTNL_UDATA_RULE_COMMENT in libnftnl; the kernel keeps what a rule's maker notes, and does not read it."""
_NLM_F_DUMP_INTR, _NLM_F_NONREC = 0x10, 0x100
_ERROR, _DONE = 2, 3
_BUFFER = 1 << 16
_MESSAGE = struct.Struct("!BBH")
"""struct nfgenmsg: the family, a version, and in answers the lower half of the ruleset's number."""
_BODY = HEADER.size + _MESSAGE.size


class Found(NamedTuple):
    """A base chain as it stands: its type, hook, priority and policy, and the comments of its rules, "" for none."""

    declared: tuple[str, str, int, str]
    comments: list[str]


class RawNft:
    """What stands in a table of family inet, in the network namespace that the first call is made in."""

    def __init__(self, table: str) -> None:
        self._table = _text(_TABLE, table)

    def close(self) -> None:
        """Let go of the socket; the next call opens another."""
        if (channel := self.__dict__.pop("_channel", None)) is not None:
            channel.close()

    def generation(self) -> int:
        """The number of the kernel's ruleset, another one after each transaction; 0 where it cannot be had."""
        for _, body in self._ask(_GET_GENERATION) or ():
            return int.from_bytes(nested(body, _GENERATION_ID), "big")
        return 0

    def chain(self, name: str, generation: int) -> Found | None:
        """A base chain, at a protocol's hook, as it was in this ruleset; None where that cannot be had."""
        head = self._ask(_GET_CHAIN, self._table + _text(_CHAIN_NAME, name))
        rules = self._ask(_GET_RULE, self._table + _text(_RULE_CHAIN, name), NLM_F_DUMP) if head else None
        if not head or rules is None or any(number != generation & 0xFFFF for number, _ in (*head, *rules)):
            return None
        declared = _declared(head[0][1])
        return None if declared is None else Found(declared, [_comment(body) for _, body in rules])

    @cached_property
    def _channel(self) -> socket.socket:
        return netfilter()

    def _ask(self, kind: int, what: bytes = b"", flags: int = 0) -> list[tuple[int, bytes]] | None:
        """The answers, each with the lower half of the number of the ruleset that it is about; None where it failed."""
        size = _BODY + len(what)
        request = HEADER.pack(size, kind, NLM_F_REQUEST | flags, 1, 0) + _MESSAGE.pack(_NFPROTO_INET, 0, 0) + what
        try:
            self._channel.send(request)
            return _answers(self._channel, many=bool(flags))
        except OSError:
            self.close()  # the answer may still come, and would be taken for that to the next question
            return None


def delete_empty_table(table: str) -> int:
    """Delete a table if nothing is left in it, and leave that to the kernel to judge; the errno of what went wrong.

    nft cannot ask for this: its `delete table` takes everything along, also what another process has just
    put there. With NLM_F_NONREC the kernel answers EBUSY instead (net/netfilter/nf_tables_api.c,
    nf_tables_deltable), so there is no instant between looking and deleting.
    """
    batch = b"".join(
        HEADER.pack(_BODY + len(what), kind, NLM_F_REQUEST | flags, sequence, 0)
        + _MESSAGE.pack(family, 0, resource)
        + what
        for kind, flags, sequence, family, resource, what in (
            (_BATCH_BEGIN, 0, 1, 0, 10, b""),
            (_DELETE_TABLE, NLM_F_ACK | _NLM_F_NONREC, 2, _NFPROTO_INET, 0, _text(_TABLE, table)),
            (_BATCH_END, 0, 3, 0, 10, b""),
        )
    )
    code = _ask_twice(batch)
    return 0 if code in (errno.EBUSY, errno.ENOENT) else code


def netfilter() -> socket.socket:
    """A socket to ask by. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)


def _ask_twice(batch: bytes) -> int:
    """The errno with which the kernel answers what may be asked again, and is if something passing is in the way."""
    code = 0
    for _ in range(2):
        try:
            with netfilter() as channel:
                channel.send(batch)
                code = -struct.unpack_from("=i", channel.recv(8192), HEADER.size)[0]
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in PASSING:
            break
    return code


def _answers(channel: socket.socket, *, many: bool) -> list[tuple[int, bytes]] | None:
    """One answer, or all of a dump; None for a refusal, and for a dump in whose middle something changed."""
    found: list[tuple[int, bytes]] = []
    whole = True
    while True:
        for kind, flags, message in _messages(channel.recv(_BUFFER)):
            if kind == _ERROR:
                return None
            whole = whole and not flags & _NLM_F_DUMP_INTR
            if kind == _DONE:
                return found if whole else None
            found.append((_MESSAGE.unpack_from(message)[2], message[_MESSAGE.size :]))
        if not many:
            return found


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and what is after the header, one message after the other."""
    at = 0
    while at < len(data):
        size, kind, flags, _, _ = HEADER.unpack_from(data, at)
        yield kind, flags, data[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def _text(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _declared(chain: bytes) -> tuple[str, str, int, str] | None:
    """None for a chain without a hook, and at one of a device."""
    parts = dict(attributes(chain, 0, len(chain)))
    hook = dict(attributes(parts.get(_CHAIN_HOOK, b""), 0, len(parts.get(_CHAIN_HOOK, b""))))
    number = int.from_bytes(hook.get(_HOOK_NUMBER, b"\xff"), "big")
    policy = int.from_bytes(parts.get(_CHAIN_POLICY, b"\xff"), "big")
    if number >= len(_HOOKS) or policy >= len(_POLICIES):
        return None
    priority = int.from_bytes(hook.get(_HOOK_PRIORITY, b""), "big", signed=True)
    return parts.get(_CHAIN_TYPE, b"").rstrip(b"\0").decode(), _HOOKS[number], priority, _POLICIES[policy]


def _comment(rule: bytes) -> str:
    """Of pairs of one byte for the type, one for the length, and the value."""
    data, at = nested(rule, _RULE_USERDATA), 0
    while at + 2 <= len(data):
        kind, size = data[at], data[at + 1]
        if kind == _COMMENT:
            return data[at + 2 : at + 2 + size].rstrip(b"\0").decode(errors="replace")
        at += 2 + size
    return ""

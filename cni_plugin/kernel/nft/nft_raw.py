"""nfnetlink without a library: what each pod asks of nftables, and what nft has no words for.

    generation          the number of the ruleset                           10 us
    chain               how a chain is declared, its rules' comments        40 us; by the library 300, and it in a child
    transact            some changes, all of them or none                   20 us for an element among 50,000
    delete_empty_table  a table, if nothing is left in it

Numbers and names are those of include/uapi/linux/netfilter/nf_tables.h. Of a rule nothing but its comment is looked at.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property

import msgspec

from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.rtnl.codec import HEADER, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
from cni_plugin.kernel.rtnl.raw import attribute, attributes, nested

NEW_TABLE, GET_TABLE, DELETE_TABLE = (10 << 8 | kind for kind in range(3))
GET_CHAIN, GET_RULE, GET_GENERATION = (10 << 8 | kind for kind in (4, 7, 16))
NEW_SET, GET_SET, DELETE_SET, NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = (10 << 8 | kind for kind in range(9, 15))
_NETLINK_NETFILTER = 12
_FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = 10
_SO_SNDBUFFORCE = 32
_USUAL_BUFFER = 100_000
"""Bytes that a socket takes at once whatever net.core.wmem_max is, less what the kernel counts beside them."""
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


class Found(msgspec.Struct, frozen=True):
    """A chain as it stands: type, hook, priority, policy where it has a hook, and its rules' comments, "" for none."""

    declared: tuple[str, str, int, str]
    comments: list[str]


class Change(msgspec.Struct, frozen=True):
    """One message of a transaction: what is done, in which table, the attributes that follow the table's name."""

    kind: int
    table: str
    what: bytes = b""
    flags: int = 0


class RawNft:
    """What stands in tables of ours, in the network namespace that the first call is made in."""

    def open(self) -> None:
        """Be in the namespace that this is called in from now on, where that can be had."""
        with suppress(OSError):
            self._channel  # noqa: B018 (it is made when it is asked for)

    def close(self) -> None:
        """Let go of the socket; the next call opens another."""
        if (channel := self.__dict__.pop("_channel", None)) is not None:
            channel.close()

    def generation(self) -> int:
        """The number of the kernel's ruleset, another one after each transaction; 0 where it cannot be had."""
        for _, body in self._try(Change(GET_GENERATION, "")) or ():
            return int.from_bytes(nested(body, _GENERATION_ID), "big")
        return 0

    def chain(self, table: str, name: str, generation: int) -> Found | None:
        """A chain that has no hook or a protocol's, as it was in this ruleset; None where that cannot be had.

        Raises FileNotFoundError where there is no such chain.
        """
        head = self._try(Change(GET_CHAIN, table, text(_CHAIN_NAME, name)))
        if head == []:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        rules = self._try(Change(GET_RULE, table, text(_RULE_CHAIN, name), NLM_F_DUMP)) if head else None
        if not head or rules is None or any(number != generation & 0xFFFF for number, _ in (*head, *rules)):
            return None
        declared = _declared(head[0][1])
        return None if declared is None else Found(declared, [_comment(body) for _, body in rules])

    def ask(self, question: Change) -> list[tuple[int, bytes]]:
        """The answers, each with the lower half of the number of the ruleset that it is about.

        [] for what is not there. Raises OSError, InterruptedError where something changed in the middle of a dump.
        """
        try:
            self._channel.send(_message(1, question))
            return _answers(self._channel, many=bool(question.flags & NLM_F_DUMP))
        except FileNotFoundError:
            return []
        except OSError:
            self.close()  # the answer may still come, and would be taken for that to the next question
            raise

    def transact(self, changes: Sequence[Change]) -> None:
        """Make these changes, in order, all of them or none. Raises OSError with what is said of the first refused one.

        The kernel has answered when it has taken the whole (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c).
        """
        last = msgspec.structs.replace(changes[-1], flags=changes[-1].flags | NLM_F_ACK)
        messages = [_message(number, each) for number, each in enumerate((*changes[:-1], last), 1)]
        batch = b"".join((_batch(_BATCH_BEGIN, 0), *messages, _batch(_BATCH_END, len(messages) + 1)))
        try:
            if len(batch) > _USUAL_BUFFER:
                self._channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(batch))
            self._channel.send(batch)
            codes = list(_codes(self._channel))
        except OSError:
            self.close()
            raise
        code = next(filter(None, codes), 0 if codes else errno.EIO)
        if code:
            raise OSError(code, os.strerror(code))

    def delete_empty_table(self, table: str) -> int:
        """Delete a table if nothing is left in it, and leave that to the kernel to judge; the errno of what went wrong.

        nft cannot ask for this: its `delete table` takes everything along, also what another process has just
        put there. With NLM_F_NONREC the kernel answers EBUSY instead (net/netfilter/nf_tables_api.c,
        nf_tables_deltable), so there is no instant between looking and deleting.
        """
        code = 0
        for _ in range(2):  # what may be asked again is, if something passing is in the way
            try:
                self.transact([Change(DELETE_TABLE, table, flags=_NLM_F_NONREC)])
            except OSError as error:
                code = error.errno or errno.EIO
            else:
                return 0
            if code not in PASSING:
                break
        return 0 if code in (errno.EBUSY, errno.ENOENT) else code

    @cached_property
    def _channel(self) -> socket.socket:
        return netfilter()

    def _try(self, question: Change) -> list[tuple[int, bytes]] | None:
        """The same; None where that failed."""
        try:
            return self.ask(question)
        except OSError:
            return None


def netfilter() -> socket.socket:
    """A socket to ask by. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)


def text(kind: int, value: str) -> bytes:
    """An attribute that is a name."""
    return attribute(kind, value.encode() + b"\0")


def _codes(channel: socket.socket) -> Iterator[int]:
    """The errno of each message that is answered, 0 for success."""
    with suppress(BlockingIOError):
        while True:
            for kind, _, message in _messages(channel.recv(_BUFFER, socket.MSG_DONTWAIT)):
                if kind == _ERROR:
                    yield -struct.unpack_from("=i", message)[0]


def _message(number: int, each: Change) -> bytes:
    family, _, name = each.table.partition(" ")
    what = (text(_TABLE, name) if name else b"") + each.what
    header = HEADER.pack(_BODY + len(what), each.kind, NLM_F_REQUEST | each.flags, number, 0)
    return header + _MESSAGE.pack(_FAMILIES.get(family, 0), 0, 0) + what


def _batch(kind: int, number: int) -> bytes:
    return HEADER.pack(_BODY, kind, NLM_F_REQUEST, number, 0) + _MESSAGE.pack(0, 0, _NFTABLES)


def _answers(channel: socket.socket, *, many: bool) -> list[tuple[int, bytes]]:
    """One answer, or all of a dump. Raises OSError for a refusal, and for a dump in whose middle something changed."""
    found: list[tuple[int, bytes]] = []
    whole = True
    while True:
        for kind, flags, message in _messages(channel.recv(_BUFFER)):
            if kind == _ERROR:
                code = -struct.unpack_from("=i", message)[0]
                raise OSError(code, os.strerror(code))
            whole = whole and not flags & _NLM_F_DUMP_INTR
            if kind == _DONE:
                if not whole:
                    raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
                return found
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


def _declared(chain: bytes) -> tuple[str, str, int, str] | None:
    """None for a chain at a hook of a device."""
    parts = dict(attributes(chain, 0, len(chain)))
    wire = parts.get(_CHAIN_HOOK)
    if wire is None:
        return "", "", 0, ""
    hook = dict(attributes(wire, 0, len(wire)))
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

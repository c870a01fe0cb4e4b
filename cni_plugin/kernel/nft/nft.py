"""Our tables of nftables: chains, sets, maps and what is in them, one transaction at a time.

Rules are written in nft's own language, which libnftables carries out (0.1 ms for a rule; 3 ms by running `nft`, which
is what happens where the library is missing), in a process that is made when the first chain is asked for
(`nft_process`). A transaction without rules needs neither: sets, maps and elements are written and read by `nft_sets`.
Promise: all objects of a call change together or none does; no other table is ever named; a table goes with the last
thing in it.

The kernel gives rules back in other words than it was given them, so a rule is known by its comment, which ends in a
digest of the rule as it was written. So the kernel itself is asked first, by `nft_raw`, for nothing but hook and
comments: who finds all as it is wanted, as every pod but a network's first does, needs no library, and no process of
its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.nft.known import Known, comments, hook_of
from cni_plugin.kernel.nft.nft_raw import RawNft, netfilter
from cni_plugin.meter import Meter
from cni_plugin.model.base import Object, state
from cni_plugin.model.nft import Chain, Element, NftObject, SetOrMap, Table, by_set

if TYPE_CHECKING:
    from cni_plugin.kernel.nft.nft_look import Sets
    from cni_plugin.kernel.nft.nft_process import NftProcess

_T = TypeVar("_T")
_TOLD = (
    errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EPERM, errno.EPROTO,
    *PASSING,
)
"""What it makes a difference to know that nft said, by strerror(3)."""
_OTHERWISE = (errno.ENOENT, errno.EEXIST, errno.EBUSY)
"""What is said where sets and elements do not stand as who changes them thinks."""
_TRIES = 3


class NftError(Exception):
    """nftables refused a transaction, in its own words, or could not be asked."""

    def __init__(self, words: str, code: int = errno.EINVAL) -> None:
        super().__init__(words)
        self.errno = code


class Nft:
    """Our tables in the network namespace that the first call is made in.

    What was read or written is known until the kernel's ruleset is of another generation, whoever changed it: to ask
    for the generation takes 10 us, whether a chain is as wanted 50, to list a chain 300.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter or Meter()
        self._raw = RawNft()
        self._known = Known()

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

    @cached_property
    def _sets(self) -> Sets:
        from cni_plugin.kernel.nft.nft_look import Sets  # the same

        return Sets(self._raw, self._known)

    def change(self, ops: Sequence[Op]) -> None:
        """Carry out these operations in one transaction; to take away what is gone is success. Raises NftError."""
        with self._meter.step("nft"):
            self._change(ops)
            left = {op.object.table for op in ops if op.verb == "delete" and isinstance(op.object, Chain | SetOrMap)}
            for table in sorted(left):
                self._delete_empty(table)

    def read(self, wanted: Sequence[NftObject]) -> list[NftObject]:
        """Those of the wanted that stand, rules and values in the words wanted where those mean it. Raises NftError."""
        with self._meter.step("nft"):
            alone = (self._one(each) for each in wanted if not isinstance(each, Element))
            found = [each for each in alone if each is not None]
            for place, some in by_set(wanted).items():
                found += _asked(partial(self._sets.among, place, some))
            return found

    def elements(self, table: str, name: str) -> list[Element]:
        """All that is in a set or map, spelt as nft prints it; nothing without it. Raises NftError."""
        with self._meter.step("nft"):
            found = _asked(partial(self._sets.whole, (table, name)))
            return [Element(name, value, data, table) for value, data in found.items()]

    def _change(self, ops: Sequence[Op]) -> None:
        for _ in range(_TRIES):
            try:
                return self._transact(ops)
            except NftError as refused:
                rest = self._left_of(ops) if refused.errno in _OTHERWISE else ops
                if rest == ops:
                    raise
                ops = rest
        return self._transact(ops)

    def _transact(self, ops: Sequence[Op]) -> None:
        if not ops:
            return
        self._raw.open()  # the library's process is of this namespace too
        before = self._raw.generation() if self._known else 0
        if any(isinstance(op.object, Chain) for op in ops):
            from cni_plugin.kernel.nft.nft_text import commands  # for hardly any pod

            accepted, words = self.run(commands(ops))
            if not accepted:
                raise _refusal(words)
        else:
            _asked(partial(self._send, ops))
        if before:
            self._known.at(before).wrote(ops, self._raw.generation())

    def _send(self, ops: Sequence[Op]) -> None:
        """Raises OSError, ValueError."""
        from cni_plugin.kernel.nft.nft_sets import changes

        made = {(each.table, each.name) for each in (op.object for op in ops if op.verb != "delete")
                if isinstance(each, SetOrMap)}
        places = by_set(op.object for op in ops).keys() - made
        kinds = {place: kind for place in places if (kind := self._sets.kind(place)) is not None}
        if len(kinds) < len(places):
            raise FileNotFoundError(errno.ENOENT, "there is no set or map " + " ".join(min(places - kinds.keys())))
        self._raw.transact(changes(ops, kinds))

    def _delete_empty(self, table: str) -> None:
        code = self._raw.delete_empty_table(table)
        if code:
            raise NftError(f"delete table {table}: {os.strerror(code)}", code)

    def _left_of(self, ops: Sequence[Op]) -> list[Op]:
        """What is still to be done, where things do not stand as who asks thinks. Raises NftError."""
        made = {op.object.key for op in ops if op.verb != "delete"}
        without_rules = (op.object for op in ops if isinstance(op.object, Table | SetOrMap | Element))
        asked = [each for each in without_rules if each.holder not in made]
        there = state(self.read(asked))
        keys = {each.key for each in asked}
        left = (_left(op, there.get(op.object.key)) if op.object.key in keys else op for op in ops)
        return [op for op in left if op is not None]

    def _one(self, want: NftObject) -> NftObject | None:
        if isinstance(want, Chain):
            return self._chain(want)
        if isinstance(want, Table):
            return _asked(partial(self._sets.table, want))
        if isinstance(want, SetOrMap):
            return _asked(partial(self._sets.named, want))
        raise TypeError(f"{want!r} is nothing of nft's")

    def _chain(self, want: Chain) -> Chain | None:
        try:
            if self._is_right(want):
                return want
        except FileNotFoundError:
            return None
        words = self._listing(f"chain {want.table} {want.name}")
        if not words:
            return None
        from cni_plugin.kernel.nft.nft_text import parsed  # where somebody changed it

        return parsed(words, want)

    def _is_right(self, want: Chain) -> bool:
        """Raises FileNotFoundError where there is no such chain."""
        generation = self._raw.generation()  # before the look, as before a list
        right = self._known.at(generation).right
        if right.get(want.key) == want:
            return True
        found = self._raw.chain(want.table, want.name, generation) if generation else None
        if found is None or found.declared != hook_of(want.hook, want.table) or found.comments != comments(want):
            return False
        right[want.key] = want
        return True

    def _listing(self, what: str) -> str:
        generation = self._raw.generation()  # before the list: a change in between makes the next reader list again
        listed = self._known.at(generation).listed
        if what not in listed:
            listed[what] = self._list(what)
        return listed[what]

    def _list(self, what: str) -> str:
        """What nft says of a chain, "" when there is none. Raises NftError."""
        accepted, words = self.run(f"list {what}")
        if accepted:
            return words
        if _code(words) == errno.ENOENT:
            return ""
        raise _refusal(words)


def _left(op: Op, there: Object | None) -> Op | None:
    """What is left of an operation, where this stands in its place."""
    each = op.object
    if op.verb == "delete":
        return op if there is not None else None
    if not isinstance(each, Element):
        return op
    if there is None:
        return Op("create", each)
    return None if there == each else Op("change", each, there)


def _asked(ask: Callable[[], _T]) -> _T:
    """What the kernel says. Raises NftError."""
    try:
        return ask()
    except OSError as error:
        code = error.errno or errno.EIO
        raise NftError(error.strerror or os.strerror(code), code) from error
    except ValueError as error:
        raise NftError(str(error)) from error


def _silence(error: OSError) -> NftError:
    """Why nobody answered: the library ends without a word where there are no sockets of netfilter's to be had."""
    try:
        netfilter().close()
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

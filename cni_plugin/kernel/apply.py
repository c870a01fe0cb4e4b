"""Operations made true, in order, with as few exchanges as order allows.

Neighbouring operations of one kind and namespace make a run; the requests of a run go to the kernel together, and it
carries out all of them even if it refuses one. So a failure is told with everything that took effect, also after the
refused one: that, and not the order asked for, is what a rollback has to undo.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

import msgspec

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.kinds import harmless_to, kind_of, replacement, requests
from cni_plugin.kernel.nft.nft import Nft, NftError
from cni_plugin.kernel.rtnl.encode import GONE, Absent, Place, adds, group_deletion, grouping
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Outcome
from cni_plugin.marks import GROUP
from cni_plugin.model.base import HOST, POD, Object
from cni_plugin.model.links import Link

if TYPE_CHECKING:
    from cni_plugin.kernel.rtnl.remover import Remover

Lane = tuple[str, str]
Ours = Callable[[Object], bool]


class How(msgspec.Struct, frozen=True):
    """Which objects are ours, and who deletes links where that is not to be waited for to the end."""

    ours: Ours
    remover: Remover | None = None


class Failure(Exception):
    """An operation that was refused, and why."""

    def __init__(self, op: Op, outcome: Outcome) -> None:
        self.op = op
        self.outcome = outcome
        super().__init__(outcome.reason)


class Applier:
    """One call of `apply`. `done` grows as operations take effect."""

    def __init__(self, host: Namespace, pod: Namespace | None, nft: Nft, how: How) -> None:
        self._spaces = {HOST: host} if pod is None else {HOST: host, POD: pod}
        self._nft = nft
        self._how = how
        self._done: list[Op] = []

    def run(self, ops: Sequence[Op]) -> None:
        """Carry them out. Raises KernelError."""
        try:
            for (kind, where), group in groupby(_with_nft_together(ops), _lane):
                self._run_group(kind, where, list(group))
        except Failure as failure:
            outcome = failure.outcome
            raise KernelError(failure.op, outcome.errno, self._done, outcome.reason) from failure

    def _run_group(self, kind: str, where: str, ops: list[Op]) -> None:
        try:
            self._run_lane(kind, where, ops)
        except OSError as error:
            raise _failure(ops[0], error) from error

    def _run_lane(self, kind: str, where: str, ops: list[Op]) -> None:
        space = self._spaces.get(where)
        if space is None:
            self._without_pod(ops)
        elif kind == "netlink":
            pod = self._spaces.get(POD)
            run = _Run(space, None if pod is None else pod.descriptor, self._how, self._done)
            run.carry_out(ops)
        elif kind == "nft":
            self._change_nft(ops)
        else:
            self._turn_knobs(space, ops)

    def _without_pod(self, ops: Iterable[Op]) -> None:
        for op in ops:
            if op.verb != "delete":
                raise Failure(op, Outcome(errno.ENOENT, "no pod's network namespace was entered"))
            self._done.append(op)

    def _turn_knobs(self, space: Namespace, ops: Iterable[Op]) -> None:
        with space.inside():
            for op in ops:
                try:
                    kind_of(type(op.object)).turn(op, op.object, space)
                except OSError as error:
                    raise _failure(op, error) from error
                self._done.append(op)

    def _change_nft(self, ops: Sequence[Op]) -> None:
        try:
            self._nft.change(ops)
        except NftError as error:
            raise Failure(ops[0], Outcome(error.errno, str(error))) from error
        self._done.extend(ops)


class _Run:
    """Operations of one namespace on their way to its socket."""

    def __init__(self, space: Namespace, pod: int | None, how: How, done: list[Op]) -> None:
        self._space = space
        self._place = Place(self._index, pod)
        self._ours, self._remover = how.ours, how.remover
        self._done = done
        self._waiting: list[tuple[Op, list[bytearray]]] = []

    def carry_out(self, ops: Iterable[Op]) -> None:
        """Send them all. Raises Failure for the first refused one of a batch, when the batch is through."""
        ops = list(ops)
        many = list(takewhile(_goes_with_others, ops))
        if len(many) > 1 or (many and self._remover is not None):
            self._delete_together(many)
            ops = ops[len(many) :]
        for op in ops:
            try:
                made = requests(op, self._place)
            except Absent as absent:
                if adds(op.verb, op.object):
                    self._flush()
                    raise Failure(op, Outcome(errno.ENODEV, str(absent))) from absent
                made = []
            self._waiting.append((op, made[:1] if _makes_link(op) else made))
            if _makes_link(op):
                self._flush()
                self._finish(op, made[1:])
            elif isinstance(op.object, Link) and op.verb == "delete":
                self._space.forget(op.object.name)
        self._flush()

    def _delete_together(self, ops: Sequence[Op]) -> None:
        """Put the links into a group, and delete the group: the kernel waits for a grace period once, not for each.

        RTM_SETLINK finds a link by its name or refuses; RTM_NEWLINK with a name that is gone would change the whole
        group (net/core/rtnetlink.c, rtnl_newlink before Linux 6.2).
        """
        names = [op.object.name for op in ops if isinstance(op.object, Link)]
        if self._remover is not None:
            outcomes = self._remover.remove(self._space, names)
        else:
            *outcomes, deleted = self._space.netlink.send(
                [*(grouping(name, GROUP) for name in names), group_deletion(GROUP)]
            )
            if deleted.errno and deleted.errno not in GONE:
                outcomes = self._space.netlink.send([each for op in ops for each in requests(op, self._place)])
        self._space.forget()
        refused: Failure | None = None
        for op, outcome in zip(ops, outcomes, strict=True):
            if outcome.errno and outcome.errno not in GONE:
                refused = refused or Failure(op, outcome)
            else:
                self._done.append(op)
        if refused is not None:
            raise refused

    def _finish(self, op: Op, made: list[bytearray]) -> None:
        """What belongs to a link that was just made.

        Not sent along with its creation: were that refused because the name is taken, it would change
        somebody else's link.
        """
        for outcome in self._space.netlink.send(made):
            if outcome.errno:
                raise Failure(op, outcome)

    def _index(self, name: str) -> int:
        """A link's number; what may be about to make that link is sent first."""
        if not self._space.known(name):
            self._flush()
        return self._space.index(name)

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        outcomes = iter(self._space.netlink.send([request for _, made in batch for request in made]))
        failed: Failure | None = None
        for op, made in batch:
            results = [next(outcomes) for _ in made]
            refusal = self._refusal(op, results)
            if refusal is None or any(not each.errno or each.unsure for each in results):
                self._done.append(op)
            if refusal is not None and failed is None:
                failed = Failure(op, refusal)
        if failed is not None:
            raise failed

    def _refusal(self, op: Op, outcomes: Sequence[Outcome]) -> Outcome | None:
        """The first outcome that is not as good as success."""
        harmless = harmless_to(op)
        bad = next((each for each in outcomes if each.errno and each.errno not in harmless), None)
        each = op.object
        if bad is None or bad.errno != errno.EEXIST or not each.replaces:
            return bad
        if not self._ours(each):
            return Outcome(bad.errno, f"{bad.reason}: {each.title} that is not ours is in the way")
        # made in the meantime by another hand of ours
        (again,) = self._space.netlink.send(replacement(each, self._place))
        return again if again.errno else None


def _failure(op: Op, error: OSError) -> Failure:
    return Failure(op, Outcome(error.errno or errno.EIO, error.strerror or str(error)))


def _with_nft_together(ops: Sequence[Op]) -> Sequence[Op]:
    """All that is nft's one after the other, where its last is: it is one transaction, in an order of its own."""
    places = [place for place, op in enumerate(ops) if op.object.SPOKEN == "nft"]
    if not places or places[-1] - places[0] < len(places):
        return ops
    theirs = [ops[place] for place in places]
    return [*(op for op in ops[: places[-1]] if op.object.SPOKEN != "nft"), *theirs, *ops[places[-1] + 1 :]]


def _goes_with_others(op: Op) -> bool:
    return op.verb == "delete" and isinstance(op.object, Link) and op.object.GROUPED


def _makes_link(op: Op) -> bool:
    return op.verb == "create" and isinstance(op.object, Link)


def _lane(op: Op) -> Lane:
    each = op.object
    return "netlink" if each.by_netlink else each.SPOKEN, each.where

"""Making a state true, whoever wants it: compare, apply, and on failure put back what was done.

A `Settler` does it for one thing of the node: cold where it was made just now, as by a request or by `tullectl repair`,
and warm where it is kept, as by the agent, which then knows whether what it made still stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EEXIST

from cni_plugin.diff import Op, diff, invert
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import KernelError
from cni_plugin.model.base import State, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Neigh, Route
from cni_plugin.model.links import Fdb, Tunnel
from cni_plugin.plan.node import FORWARDING, still_taught
from cni_plugin.store.records import Records

MOST_REFUSED = 20
"""Objects of peers that the kernel may refuse before the whole is given up."""


class Settler:
    """Makes one thing true, by turns: it is cold until a `settle` is `done`, and whenever somebody says so."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.sure = False
        """Whether what was made last stands, as far as anybody told: then only what changed need be compared."""
        self.refused: tuple[str, ...] = ()
        """What the kernel refused last of what others than the node itself are concerned with."""

    def settle(self, want: State, have: State, *, lenient: bool = False) -> list[Op]:
        """Make `want` of `have`, or, where we are lenient, most of it; the operations that it took.

        Raises KernelError, after what was done is taken back.
        """
        self.sure = False
        with naming_rivals(self._kernel):
            ops, refused = (settle_most if lenient else _settle_all)(self._kernel, want, have)
        self.refused = refused
        return ops

    def done(self) -> None:
        """All that goes with it is done, too, so that the next one may build on it; but not on what was refused."""
        self.sure = not self.refused


def put_right(
    kernel: Kernel, records: Records, look: Callable[[], tuple[State, State]], *, dry_run: bool = False
) -> list[Op]:
    """Make true what `look` tells (what is wanted, what stands); the operations that it takes, or would with `dry_run`.

    Others may be at the same: who finds something to do looks again under the lock. Raises KernelError.
    """
    ops = steps(kernel, *look())
    if dry_run or not ops:
        return ops
    with records.lock():
        return settle(kernel, *look())


def apply(kernel: Kernel, ops: Sequence[Op]) -> None:
    """Apply all or nothing. Raises KernelError, after what had been done is undone."""
    try:
        kernel.apply(ops)
    except KernelError as error:
        undo(kernel, error.done)
        raise


def undo(kernel: Kernel, ops: Sequence[Op]) -> None:
    """Take back operations, as far as the kernel lets us: one refusal must not keep the rest from being tried."""
    for op in invert(ops):
        try:
            kernel.apply([op])
        except KernelError:
            continue


def steps(kernel: Kernel, want: State, have: State) -> list[Op]:
    """What makes `want` of `have` on the node; before it forwards IPv6, what keeps the routes that it has learned.

    Two dumps, when forwarding is switched on, which is once in a boot.
    """
    forwards = state([Sysctl(FORWARDING[6], "1")]).items()
    turned_on = forwards <= want.items() and not forwards <= have.items()
    return diff({**still_taught(kernel.taught()), **want} if turned_on else want, have)


def settle(kernel: Kernel, want: State, have: State) -> list[Op]:
    """Make `want` of `have`; the operations that it took."""
    ops = steps(kernel, want, have)
    if ops:
        apply(kernel, ops)
    return ops


def _settle_all(kernel: Kernel, want: State, have: State) -> tuple[list[Op], tuple[str, ...]]:
    return settle(kernel, want, have), ()


def settle_most(kernel: Kernel, want: State, have: State) -> tuple[list[Op], tuple[str, ...]]:
    """Make `want` of `have`, but for what the kernel refuses of peers: the operations that it took, and why others not.

    Raises KernelError for anything else that is refused, and for too many, after what was done is taken back.
    """
    left, done = steps(kernel, want, have), list[Op]()
    refused: list[str] = []
    while left:
        try:
            kernel.apply(left)
        except KernelError as error:
            if not isinstance(error.op.object, Route | Neigh | Fdb) or len(refused) == MOST_REFUSED:
                undo(kernel, [*done, *error.done])
                raise
            refused.append(str(error))
            done += error.done
            over = {id(error.op), *map(id, error.done)}
            left = [op for op in left if id(op) not in over]
        else:
            return [*done, *left], tuple(refused)
    return done, tuple(refused)


@contextmanager
def naming_rivals(kernel: Kernel) -> Iterator[None]:
    """Of a device that another one is in the way of, the kernel's refusal is told with that one's name."""
    try:
        yield
    except KernelError as error:
        device = error.op.object
        rival = kernel.rival(device) if error.errno == EEXIST and isinstance(device, Tunnel) else ""
        if not rival or not isinstance(device, Tunnel):
            raise
        other = f"or give the cluster another backend.{device.UNIQUE}"
        remedy = f"that is {rival}: remove it (ip link delete {rival}), {other}"
        raise KernelError(error.op, error.errno, error.done, f"{error.reason}; {remedy}") from error

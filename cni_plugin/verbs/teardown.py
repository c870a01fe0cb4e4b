"""Taking many attachments down at the price of one.

Deleting a veth pair makes the kernel wait for an RCU grace period (10 to 20 ms), and deleting a hundred in one request
waits once. So whoever takes an attachment down does not delete its links itself: it is a generator that hands the
operations out, is resumed when they are done, and then gives addresses and record back. Who drives one of them applies
at once; who has several (the agent, GC) applies all together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias, TypeVar

from cni_plugin.diff import Op
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import KernelError
from cni_plugin.model.links import Link

Done = TypeVar("Done")
Takedown: TypeAlias = Generator[Sequence[Op], None, Done]
"""Yields operations once or more, each time to be resumed when they are done, or with the error that they met."""


def together(kernel: Callable[[], Kernel], takedowns: Sequence[Takedown[Done]]) -> list[Done | Exception]:
    """Drive them all side by side; what each returned or raised, in their order. Never raises for one of them.

    The kernel is asked for when there is something to apply.
    """
    outcomes: dict[int, Done | Exception] = {}
    handed: dict[int, Sequence[Op]] = {}
    for index, each in enumerate(takedowns):
        _resume(each, index, None, (handed, outcomes))
    while handed:
        refused = _apply_all(kernel(), handed)
        waiting = list(handed)
        handed = {}
        for index in waiting:
            _resume(takedowns[index], index, refused.get(index), (handed, outcomes))
    return [outcomes[index] for index in range(len(takedowns))]


def _resume(
    takedown: Takedown[Done],
    index: int,
    refused: Exception | None,
    to: tuple[dict[int, Sequence[Op]], dict[int, Done | Exception]],
) -> None:
    handed, outcomes = to
    try:
        handed[index] = next(takedown) if refused is None else takedown.throw(refused)
    except StopIteration as end:
        outcomes[index] = end.value
    except Exception as error:
        outcomes[index] = error


def _apply_all(kernel: Kernel, handed: dict[int, Sequence[Op]]) -> dict[int, Exception]:
    """Apply all of it, links first, so that they go in one request; who met a refusal, and which.

    A refusal of the whole does not tell who is concerned: then each is done by itself, and what is gone is success.
    """
    ops = [op for each in handed.values() for op in each]
    ops.sort(key=lambda op: not isinstance(op.object, Link))
    try:
        kernel.apply(ops)
    except (KernelError, OSError) as error:
        if len(handed) == 1:
            return dict.fromkeys(handed, error)
        alone = {index: _refusal(kernel, each) for index, each in handed.items()}
        return {index: refusal for index, refusal in alone.items() if refusal is not None}
    return {}


def _refusal(kernel: Kernel, ops: Sequence[Op]) -> Exception | None:
    try:
        kernel.apply(ops)
    except (KernelError, OSError) as error:
        return error
    return None

"""Attachments that are taken down side by side: one application for all of them, and each has its own outcome."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.layer3 import Neigh
from cni_plugin.model.links import Veth
from cni_plugin.verbs.run import Call, run_together
from cni_plugin.verbs.teardown import Takedown, together
from tests.unit.support import Node


class Recording(FakeKernel):
    """Keeps each application whole; refuses to delete the links it is told to keep."""

    def __init__(self, kept: Sequence[str] = ()) -> None:
        super().__init__()
        self.calls: list[list[Op]] = []
        self.kept = kept

    def apply(self, ops: Sequence[Op]) -> None:
        self.calls.append(list(ops))
        for op in ops:
            if isinstance(op.object, Veth) and op.object.name in self.kept:
                raise KernelError(op, errno.EBUSY)
        super().apply(ops)


def takedown(name: str, done: list[str]) -> Takedown[str]:
    yield [Op("delete", Veth(name)), Op("delete", Neigh("br0", name, learned=True))]
    done.append(name)
    return name.upper()


def test_the_links_of_all_go_in_one_application_before_anything_else() -> None:
    kernel, done = Recording(), list[str]()
    assert together(lambda: kernel, [takedown(each, done) for each in "abc"]) == ["A", "B", "C"]
    assert [[type(op.object) for op in call] for call in kernel.calls] == [[Veth] * 3 + [Neigh] * 3]
    assert done == ["a", "b", "c"]


def test_one_that_is_refused_keeps_its_address_and_the_others_go() -> None:
    kernel, done = Recording(kept="b"), list[str]()
    first, second, third = together(lambda: kernel, [takedown(each, done) for each in "abc"])
    assert (first, third) == ("A", "C")
    assert isinstance(second, KernelError)
    assert done == ["a", "c"]


def test_nothing_to_apply_asks_for_no_kernel() -> None:
    def nothing() -> Takedown[int]:
        return 7
        yield []

    assert together(lambda: 1 / 0, [nothing()]) == [7]  # type: ignore[arg-type, return-value]


def test_dels_that_come_together_are_one_application_and_each_has_its_reply(node: Node) -> None:
    pods = ["a eth0", "b eth1", "c eth2"]
    for each in pods:
        assert node.call("ADD", each).exit == 0
    calls = [Call("tulle", node.environ("DEL", each), node.stdin) for each in (*pods, "d eth3")]
    before = len(node.kernel.applied)
    assert [each.code for each in run_together(calls, lambda: node.kernel)] == [0, 0, 0, 0]
    assert [type(op.object) for op in node.kernel.applied[before:][:3]] == [Veth] * 3
    assert node.left() == []
    assert node.leases() == {}

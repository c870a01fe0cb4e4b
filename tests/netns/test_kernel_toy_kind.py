"""A kind of kernel object, added with a class and a file, is made, read, changed and removed by a real kernel."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from cni_plugin.diff import Op, diff, invert
from cni_plugin.kernel.errors import KernelError
from cni_plugin.model.base import state
from tests import toy_kind
from tests.netns.kernel_world import MakeNetns, bridge, kernel_of, put, run, wrong


def test_a_kind_is_added_with_a_class_and_a_file(netns: MakeNetns, tmp_path: Path) -> None:
    with toy_kind.added(tmp_path) as kind, kernel_of(netns("node")) as kernel:
        want = structs.replace(kind("toy0"), mtu=1400, alias="tulle:toy")

        put(kernel, [want])
        assert wrong(kernel, [want]) == []
        assert "mtu 1400" in run("ip link show toy0")
        assert [each.name for each in kernel.own_links()] == ["toy0"]

        wider = structs.replace(want, mtu=1500)
        kernel.apply(diff(state([wider]), kernel.read([wider])))
        assert wrong(kernel, [want]) == ["ip link set toy0 mtu 1400 type ifb"]

        kernel.apply(invert([Op("create", wider)]))
        assert kernel.read([want]) == {}


def test_a_link_of_another_kind_is_not_taken_for_it(netns: MakeNetns, tmp_path: Path) -> None:
    with toy_kind.added(tmp_path) as kind, kernel_of(netns("node")) as kernel:
        put(kernel, bridge())

        try:
            kernel.read([kind("tulle0")])
        except KernelError as error:
            assert "is no ifb (bridge)" in str(error)
        else:
            raise AssertionError("the bridge was taken for it")

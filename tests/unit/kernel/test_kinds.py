"""The contract of a kind of kernel object: a class in `model/` and a file in `objects/`, and nothing else.

A new kind is held to it without a line here: it is found by its class and by its file.
"""

from __future__ import annotations

import errno
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cni_plugin.diff import Op, diff, invert
from cni_plugin.kernel import kinds
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.host import objects as by_hand
from cni_plugin.kernel.rtnl import objects as by_netlink
from cni_plugin.model import every
from cni_plugin.model.base import HOST, POD, Key, Object, state
from cni_plugin.model.links import Bridge, Veth
from cni_plugin.model.nft import Set
from tests import toy_kind

KINDS = list(every.kinds(Object))
SPOKEN = [each for each in KINDS if each.SPOKEN != "nft"]
OF_TYPE: dict[object, st.SearchStrategy[object]] = {
    bool: st.booleans(),
    int: st.integers(0, 4094),
    tuple[str, ...]: st.lists(st.text(max_size=9)).map(tuple),
}
all_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@cache
def values(kind: type[Object]) -> st.SearchStrategy[Object]:
    """Objects of this kind, whose texts are names that each field has for itself."""
    hints = get_type_hints(kind)
    fields = {name: OF_TYPE.get(hints[name], st.just(f"{name}0")) for name in kind.__struct_fields__}
    if "ns" in fields:
        fields["ns"] = st.sampled_from((HOST, POD))
    return st.fixed_dictionaries(fields).map(lambda given: kind(**given)).filter(lambda each: not each.foreign)


def ready(each: Object) -> FakeKernel:
    """A kernel with what must be there before this object can."""
    keys = [*filter(None, (each.holder, *each.needs)), *([each.key] if each.COMES_ALONG else [])]
    kernel = FakeKernel()
    kernel.apply([Op("create", each) for each in state(map(holder, keys)).values()])
    return kernel


def holder(key: Key) -> Object:
    what, ns, name = key
    if what == "set":
        return Set(name, "ipv4_addr")
    return Bridge(name) if ns == HOST else Veth("wire0", peer=name)


@pytest.mark.parametrize("kind", SPOKEN, ids=lambda kind: kind.__name__)
def test_a_kind_has_a_file_that_writes_and_reads_it(kind: type[Object]) -> None:
    file = kinds.kind_of(kind)
    by_hand, by_netlink = kind.SPOKEN == "host", kind.by_netlink is not Object.by_netlink or kind.SPOKEN == "rtnl"

    assert callable(file.read)
    assert callable(getattr(file, "turn", None)) == by_hand
    assert callable(getattr(file, "write", None)) == by_netlink
    assert isinstance(getattr(file, "GONE", None), frozenset) == by_netlink


@pytest.mark.parametrize(("room", "spoken"), [(by_netlink, "rtnl"), (by_hand, "host")])
def test_a_file_is_that_of_a_kind(room: ModuleType, spoken: str) -> None:
    files = {each.name for each in pkgutil.iter_modules(room.__path__)}

    assert files == {each.__name__.lower() for each in KINDS if spoken == each.SPOKEN}


def test_nobody_pays_for_a_kind_that_is_not_met() -> None:
    """`kernel.linux` is what the engine imports for each pod."""
    script = "import sys, cni_plugin.kernel.linux; print(*(each for each in sys.modules if '.objects.' in each))"

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.split() == []


@all_kinds
@given(data=st.data())
def test_what_is_made_stands_as_it_was_wanted_and_goes_whole(kind: type[Object], data: st.DataObject) -> None:
    each = data.draw(values(kind))
    kernel = ready(each)
    before = dict(kernel.state)

    kernel.apply([Op("create", each)])
    assert kernel.read([each]) == state([each])
    assert diff(state([each]), kernel.read([each])) == []
    kernel.apply([Op("delete", each)])

    assert kernel.state == {key: one for key, one in before.items() if key != each.key}


@all_kinds
@given(data=st.data())
def test_a_change_leaves_what_was_wanted_last(kind: type[Object], data: st.DataObject) -> None:
    one = other = data.draw(values(kind).filter(lambda each: not each.absent))
    wanted = data.draw(values(kind))
    for field in kind.__struct_fields__:
        changed = structs.replace(other, **{field: getattr(wanted, field)})
        other = changed if changed.key == one.key and not (changed.absent or changed.foreign) else other
    kernel = ready(one)

    kernel.apply([Op("create", one), Op("change", other, one)])

    assert kernel.read([other]) == state([other])


@all_kinds
@given(data=st.data())
def test_a_kind_has_words_for_whatever_is_done_to_it(kind: type[Object], data: st.DataObject) -> None:
    each = data.draw(values(kind))

    assert all(each.words(verb).strip() for verb in ("create", "change", "delete"))
    assert each.title


def test_a_kind_is_added_with_a_class_and_a_file(tmp_path: Path) -> None:
    with toy_kind.added(tmp_path) as kind:
        kernel, want = FakeKernel(), state([structs.replace(kind("toy0"), mtu=1400)])

        ops = diff(want, {})
        kernel.apply(ops)

        assert [each.object.words(each.verb) for each in ops] == ["ip link add toy0 mtu 1400 type ifb"]
        assert kernel.read(want.values()) == want
        assert kinds.kind_of(kind).GONE
        assert "modprobe -a ifb" in str(KernelError(ops[0], errno.EOPNOTSUPP))
        kernel.apply(invert(ops))
        assert kernel.state == {}

"""The netlink socket and its codec: many requests at once, each with its own outcome, and a cheap beginning."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.kernel.host.netns import open_namespace
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from tests.netns.kernel_world import MakeNetns, path, run


@pytest.fixture
def node(netns: MakeNetns) -> str:
    name = netns("node")
    run("ip link add p0 type veth peer name p1", name)
    run("ip link set p0 up", name)
    return name


@pytest.fixture
def space(node: str) -> Iterator[Namespace]:
    space = Namespace(open_namespace(path(node)))
    yield space
    space.close()


def neighbour(space: Namespace, number: int, *, good: bool = True) -> bytearray:
    """A request that the kernel accepts, or refuses for the link it names."""
    fields = {"family": 2, "ifindex": space.index("p0") if good else 9999, "state": 0x80}
    attrs: list[codec.Attr] = [("NDA_DST", f"10.9.{number >> 8}.{number & 255}"), ("NDA_LLADDR", "02:00:00:00:00:01")]
    return codec.encode(codec.RTM_NEWNEIGH, codec.NLM_F_CREATE, fields, attrs)


def test_each_of_many_requests_has_its_outcome_and_a_refused_one_stops_no_other(space: Namespace, node: str) -> None:
    bad = {0, 99, 100, 101, 250, 349}

    outcomes = space.netlink.send([neighbour(space, number, good=number not in bad) for number in range(350)])

    assert {number for number, each in enumerate(outcomes) if each.errno} == bad
    assert {each.errno for each in outcomes} == {0, errno.ENODEV}
    assert run("ip neigh show dev p0", node).count("PERMANENT") == 350 - len(bad)


def test_refusals_of_every_request_do_not_overflow_the_socket(space: Namespace) -> None:
    outcomes = space.netlink.send([neighbour(space, number, good=False) for number in range(1000)])

    assert [each.errno for each in outcomes] == [errno.ENODEV] * 1000


def test_the_kernels_own_words_come_with_a_refusal(space: Namespace) -> None:
    fields = {"family": 2, "dst_len": 24, "table": 254, "proto": 84, "type": 1}
    attrs: list[codec.Attr] = [("RTA_DST", "10.8.0.0"), ("RTA_GATEWAY", "172.31.0.1"), ("RTA_OIF", space.index("p0"))]

    (outcome,) = space.netlink.send([codec.encode(codec.RTM_NEWROUTE, codec.NLM_F_CREATE, fields, attrs)])

    assert outcome.errno == errno.ENETUNREACH
    assert outcome.reason == "Nexthop has invalid gateway (Network is unreachable)"


def test_a_question_about_nothing_has_no_answer_and_a_wrong_one_is_refused(space: Namespace) -> None:
    assert space.link("nowhere") is None
    assert space.link_at(9999) is None
    assert space.link("a-name-longer-than-any-link-may-have") is None
    assert (space.index("nowhere"), space.name(9999)) == (0, "")

    with pytest.raises(Refused) as caught:
        space.netlink.dump(codec.encode(codec.RTM_GETADDR, 0, {"family": 0, "prefixlen": 5}))
    assert caught.value.errno == errno.EINVAL


def test_a_name_stands_for_a_number_until_it_is_forgotten(space: Namespace, node: str) -> None:
    before = space.index("p0")
    run("ip link del p0", node)
    run("ip link add p0 type veth peer name p1", node)

    assert space.index("p0") == before
    space.forget()
    assert space.index("p0") != before


def test_more_than_one_answer_fits_are_all_listed(space: Namespace) -> None:
    space.netlink.send([neighbour(space, number) for number in range(900)])
    attrs: list[codec.Attr] = [("NDA_IFINDEX", space.index("p0"))]

    entries = space.netlink.dump(codec.encode(codec.RTM_GETNEIGH, 0, {"family": 2}, attrs))

    assert len({each.text("NDA_DST") for each in entries}) == 900


def test_the_codec_loads_none_of_pyroute2s_sockets_and_leaves_the_library_whole() -> None:
    script = """
import sys
from cni_plugin.kernel.rtnl import codec
assert "pyroute2" not in sys.modules, "paid for before the first message"
codec.encode(codec.RTM_GETLINK, 0, {"family": 0})
names = [name for name in sys.modules if name.startswith("pyroute2")]
assert not any("iproute" in name or "ndb" in name for name in names), names
assert "multiprocessing" not in sys.modules and "pyroute2" not in sys.modules
import multiprocessing, pyroute2
assert pyroute2.IPRoute and multiprocessing.Process
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])

"""Names as long as anybody likes: the specification sets no limit, so none of ours is a network's or a container's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cni_plugin.attachment import Attachment, owner
from cni_plugin.marks import LONGEST_ALIAS
from cni_plugin.model.links import Veth
from tests.unit.support import Json, Node

NAMES = [("n" * 180, "c" * 64), ("n" * 200, "c" * 253), ("n" * 255, "c" * 5000), ("net", "c" * 241)]
LISTED = "cni.dev/valid-attachments"


@pytest.fixture(params=NAMES, ids=lambda each: f"{len(each[0])}-{len(each[1])}")
def names(request: pytest.FixtureRequest) -> tuple[str, str]:
    network, container = request.param
    return network, container


@pytest.fixture
def there(node: Node, names: tuple[str, str]) -> Node:
    """A network of that name with two pods, of which one bears the long name."""
    long = node.configured(name=names[0])
    for each in (f"{names[1]} eth0", "b eth1"):
        reply = long.call("ADD", each)
        assert reply.exit == 0, reply.said
    return long


def pods(node: Node) -> int:
    return sum(isinstance(each, Veth) for each in node.kernel.state.values())


def leases(node: Node, network: str) -> list[str]:
    return [each.name for each in (node.home / "data" / network).iterdir() if each.name.startswith("10.")]


def valid(*containers: str) -> list[Json]:
    return [{"containerID": each, "ifname": "eth0"} for each in containers]


def test_check_and_del_find_what_add_made(there: Node, names: tuple[str, str]) -> None:
    network, container = names
    added = there.call("DEL", f"{container} eth0") and there.call("ADD", f"{container} eth0")
    checked = there.after(added).call("CHECK", f"{container} eth0")
    assert checked.exit == 0, checked.said
    for each in (f"{container} eth0", "b eth1"):
        assert there.call("DEL", each).exit == 0
    assert (pods(there), leases(there, network), there.left()) == (0, [], [])


@pytest.mark.parametrize("lost", [False, True], ids=["on record", "records lost"])
def test_gc_keeps_what_is_listed_and_takes_the_rest(there: Node, names: tuple[str, str], lost: bool) -> None:
    network, container = names
    if lost:
        shutil.rmtree(there.home / "run")
    kept = there.configured(**{LISTED: valid(container)}).call("GC")
    assert (kept.exit, pods(there), len(leases(there, network))) == (0, 1, 1), kept.said
    gone = there.configured(**{LISTED: []}).call("GC")
    assert (gone.exit, pods(there), leases(there, network)) == (0, 0, []), gone.said


def test_gc_of_another_network_takes_nothing(there: Node) -> None:
    shutil.rmtree(there.home / "run")
    assert there.configured(name="others", **{LISTED: []}).call("GC").exit == 0
    assert pods(there) == 2


def test_without_records_an_entry_without_an_interface_keeps_what_may_be_its_containers(
    there: Node, names: tuple[str, str]
) -> None:
    shutil.rmtree(there.home / "run")
    assert there.configured(**{LISTED: [{"containerID": names[1]}]}).call("GC").code == 103
    both = owner(Attachment(names[0], "b", "eth1").alias)
    assert both is not None
    assert pods(there) == 1 + both.sealed


def test_a_network_whose_name_no_file_can_have_works_with_an_ipam_that_needs_none(node: Node) -> None:
    layer2 = node.configured(name="n" * 300, ipam=None, isDefaultGateway=None, ipMasq=None)
    for verb in ("ADD", "DEL"):
        reply = layer2.call(verb, "a eth0")
        assert reply.exit == 0, reply.said
    assert node.left() == []


def test_where_a_directory_is_called_by_the_network_that_is_said(node: Node, tmp_path: Path) -> None:
    del tmp_path
    reply = node.configured(name="n" * 300).call("ADD")
    assert reply.code == 5
    assert "at most 255 bytes" in reply.said


@pytest.mark.parametrize("ifname", ["eth0", "ünïcödé"])
@pytest.mark.parametrize("spare", [0, -1, 1, 40])
def test_an_alias_fits_and_tells_its_owner(ifname: str, spare: int) -> None:
    """By its names as long as there is room, to the byte."""
    room = LONGEST_ALIAS - len(f"tulle:net//{ifname}".encode())
    attachment = Attachment("net", "c" * (room + spare), ifname)
    assert len(attachment.alias.encode()) <= LONGEST_ALIAS
    told = owner(attachment.alias)
    assert told is not None
    assert told.sealed == (spare > 0)
    assert (told.digest, told.host_dev) == (attachment.digest, attachment.host_dev)
    assert told.sealed or told == attachment

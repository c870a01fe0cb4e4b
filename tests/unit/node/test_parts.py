"""Every part of a node keeps the room's contract, and a new one is a new file, with nothing else touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.agent.loop import QUIET
from cni_plugin.agent.settings import Settings
from cni_plugin.diff import Op
from cni_plugin.kernel.watch.changed import KNOBS, RULES
from cni_plugin.model.host import Sysctl
from cni_plugin.node.contract import ALL, Part, taken
from cni_plugin.node.parts import parts
from cni_plugin.node.repair import repair
from cni_plugin.node.site import Site
from cni_plugin.node.watch import Watch
from tests import toys
from tests.unit.agent.test_loop import CLUSTER, Clock, World
from tests.unit.agent.test_loop import clock as clock
from tests.unit.ctl.tool import Tool
from tests.unit.support import Node

KNOB = Sysctl("net/ipv4/conf/all/toy", "1")


@pytest.fixture(params=parts(), ids=lambda each: each.NAME)
def part(request: pytest.FixtureRequest) -> Part:
    found: Part = request.param
    return found


@pytest.fixture
def there(node: Node) -> Node:
    """A pod in a cluster of two nodes."""
    made = node.configured(cluster=CLUSTER)
    assert made.call("ADD").exit == 0
    return made


def world_of(node: Node, *, dry_run: bool = False) -> Site:
    made = Site(node.kernel, node.records, dry_run=dry_run)
    made.attachments.refresh()
    return made


def test_parts_have_their_order_and_their_names_to_themselves() -> None:
    found = parts()
    assert len({each.NAME for each in found}) == len({each.ORDER for each in found}) == len(found) > 5
    assert [each.ORDER for each in found] == sorted(each.ORDER for each in found)


def test_every_part_is_made_anew() -> None:
    assert not any(one is other for one, other in zip(parts(), parts(), strict=True))


def test_what_concerns_a_part_and_what_it_causes_are_known_words(part: Part) -> None:
    assert 0 < part.ON <= ALL
    assert 0 <= part.CAUSES <= ALL


def test_a_part_finds_a_node_right_that_is_right_and_says_so_of_each_thing(part: Part, there: Node) -> None:
    done = len(there.kernel.applied)
    found = [taken(look) for look in type(part)().looks(world_of(there), ALL)]
    assert found or part.NAME == "guards"
    assert [each for each in found if each.ops or each.problem] == []
    assert len(there.kernel.applied) == done


def test_a_part_asks_for_nothing_and_has_nothing_to_say_where_nothing_is_on_record(part: Part, node: Node) -> None:
    made = type(part)()
    world = world_of(node)
    assert [taken(look) for look in made.looks(world, ALL) if taken(look).ops] == []
    assert (made.watch(world), made.words()) == (Watch(), {})


def test_a_part_that_may_only_look_changes_nothing(part: Part, there: Node) -> None:
    for each in list(there.kernel.state.values()):
        there.kernel.apply([Op("delete", each)])
    files = {path: path.stat().st_mtime_ns for path in there.home.rglob("*") if path.is_file()}
    before = dict(there.kernel.state)
    for look in type(part)().looks(world_of(there, dry_run=True), ALL):
        taken(look)
    assert there.kernel.state == before
    assert {path: path.stat().st_mtime_ns for path in there.home.rglob("*") if path.is_file()} == files


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[None]:
    with toys.added(tmp_path / "toys", "node", "toy"):
        yield


@pytest.mark.usefixtures("toy")
def test_repair_and_diff_know_a_new_part_by_its_file(node: Node) -> None:
    assert "toys" in [each.NAME for each in parts()]
    (wrong,) = [each for each in repair(node.kernel, node.records, dry_run=True) if each.ops]
    assert (wrong.what, wrong.ops) == ("the toy", (Op("create", KNOB),))
    assert node.kernel.state == {}
    (put,) = [each for each in repair(node.kernel, node.records) if each.ops]
    assert (put.what, list(node.kernel.state.values())) == ("the toy", [KNOB])
    assert [each for each in repair(node.kernel, node.records, dry_run=True) if each.ops or each.problem] == []


@pytest.mark.usefixtures("toy")
def test_the_tool_tells_of_a_new_part_by_its_file(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool(node, monkeypatch)
    assert [each["what"] for each in tool("diff", "--json").json] == ["the toy"]
    (found,) = [each for each in tool("doctor", "--json").json if each["name"] == "not-as-recorded"]
    assert (found["key"], found["value"]) == ("the toy", "lacks 'sysctl -w net/ipv4/conf/all/toy=1'")
    assert tool("repair").exit == 0
    assert tool("diff").exit == 0


@pytest.mark.usefixtures("toy")
def test_the_loop_keeps_a_new_part_true(node: Node, clock: Clock) -> None:
    world = World(node, clock, Settings(interval=60))
    assert world.stands(KNOB.key)
    world.breaks(KNOB.key, RULES)
    assert not world.stands(KNOB.key), "that is no concern of its"
    world.happens(KNOBS)
    world.goes_on(QUIET)
    assert world.stands(KNOB.key)
    assert [what for what, *_ in world.told] == ["the toy", "the toy"]

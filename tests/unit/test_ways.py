"""The house as it is shown to who comes: the ways of CONTRIBUTING call by call, and the picture of the rooms.

Each function on a way is there, and they are called in that order.

They are followed on a kernel in memory. What comes before and after (the client, the agent's queue and its journal, the
real kernel) is not on the way there: of that the names are held.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from cni_plugin.agent.settings import Settings
from cni_plugin.kernel.watch.changed import ADDRESSES
from tests.manual import REPO, Block, blocks
from tests.unit.agent.test_loop import GATEWAY, Clock, World
from tests.unit.agent.test_loop import clock as clock
from tests.unit.ctl.tool import Around, Tool
from tests.unit.support import Node
from tests.unit.test_house import ROOMS

CODE = REPO / "cni_plugin"
CONTRIBUTING = REPO / "CONTRIBUTING.md"
ELSEWHERE = ("client.py", "agent/serve/", "agent/metrics/", "kernel/")
_STEP = re.compile(r"(\S+\.py) +([\w.]+)  +\S.*")
Step = tuple[str, str]


def steps(block: Block) -> list[Step]:
    """The files, as seen from the plugin's folder, and the functions in them."""
    return [found.groups() for line in block.text.splitlines() if (found := _STEP.fullmatch(line))]  # type: ignore[misc]


WAYS = [block for block in blocks(CONTRIBUTING) if steps(block)]
ADD, DEL, EVENT, FINDING = map(steps, WAYS)


def functions(node: ast.AST, within: str = "") -> Iterator[str]:
    """The functions of a module, those of a class with its name."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef):
            yield within + each.name
        elif isinstance(each, ast.ClassDef):
            yield from functions(each, f"{each.name}.")


def followed(way: list[Step], walk: Callable[[], object]) -> list[Step]:
    """The steps of a way in the order in which they are first taken."""
    taken: list[Step] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(CODE):
            step = str(path.relative_to(CODE)), frame.f_code.co_qualname
            if step in way and step not in taken:
                taken.append(step)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        walk()
    finally:
        sys.setprofile(before)
    return taken


def on_the_way(way: list[Step]) -> list[Step]:
    return [step for step in way if not step[0].startswith(ELSEWHERE)]


@pytest.mark.parametrize("block", WAYS, ids=str)
def test_a_way_has_eight_lines_and_each_names_a_function_that_is_there(block: Block) -> None:
    assert len(steps(block)) == len(block.text.splitlines()) == 8
    missing = [each for each in steps(block) if each[1] not in functions(ast.parse((CODE / each[0]).read_text()))]
    assert missing == []


def test_an_add_goes_that_way(node: Node) -> None:
    assert followed(ADD, lambda: node.call("ADD")) == on_the_way(ADD)


def test_a_del_goes_that_way(node: Node) -> None:
    assert node.call("ADD").exit == 0
    assert followed(DEL, lambda: node.call("DEL")) == on_the_way(DEL)


def test_an_event_goes_that_way(node: Node, clock: Clock) -> None:
    assert node.call("ADD").exit == 0
    world = World(node, clock, Settings(interval=60))
    assert followed(EVENT, lambda: world.breaks(GATEWAY, ADDRESSES)) == on_the_way(EVENT)
    assert world.stands(GATEWAY)


def test_a_finding_goes_that_way(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool(node, monkeypatch)
    tool.around(Around())
    assert followed(FINDING, lambda: tool("doctor")) == on_the_way(FINDING)


def test_in_the_picture_of_the_rooms_no_arrow_runs_up() -> None:
    (picture,) = (each for each in blocks(REPO / "docs" / "architecture.md") if each.mark.startswith("the rooms"))
    floors = [re.split(r" {3,}", line)[0].split() for line in picture.text.splitlines()]
    assert sorted(room for floor in floors for room in floor) == sorted(ROOMS)
    above: set[str] = set()
    for floor in floors:
        assert [(room, up) for room in floor if (up := ROOMS[room] & above)] == []
        above.update(floor)


def test_the_table_tells_of_every_room_and_of_no_file_that_is_not_there() -> None:
    table = CONTRIBUTING.read_text().partition("## To add one of a kind")[2]
    rooms = [str(each.parent.relative_to(CODE)) for each in CODE.rglob("contract.py")]
    assert len(rooms) > 5
    assert [each for each in rooms if f"in `{each}/`" not in table] == []
    assert [each for each in re.findall(r"`(\w+\.py)`", table) if not [*CODE.rglob(each)]] == []

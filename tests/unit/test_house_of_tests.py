"""The house of the tests: they lie as the code does, and no test asserts how quick its machine is.

How they wait is read from the tests' own text: what a clock says, and all that is worked out from it in a function, may
be printed and may be shown to be at least so much, for nothing ends before its time; that it is less than so much is a
figure of `scripts/bench`. What is waited for has minutes (`tests.pace`), what is cheap is counted or compared
(`cheaper`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
UNIT = TESTS / "unit"
FILES = sorted(TESTS.rglob("*.py"))
CLOCKS = {
    "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "process_time_ns", "thread_time",
    "thread_time_ns", "time.time", "time.time_ns", "getrusage",
}
MEASURED = {"cpu", "ms", "seconds", "wall"}
"""What the attributes of values are called that stand for a time."""
WAITS = {"communicate", "create_connection", "join", "run", "settimeout", "until", "urlopen", "wait"}
SHORTEST = 60.0
"""Seconds: who waits for less asserts that it comes so soon."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
OF_THE_WHOLE = {"house", "house_of_tests", "manifest", "manual", "pace", "policy", "ways"}
"""Tests of what is no module: the houses, the manual, the ways through them, what `conf/` ships, and how tests wait."""


def test_what_holds_a_room_lies_in_a_folder_of_its_name() -> None:
    folders = {path.parent.relative_to(UNIT) for path in UNIT.rglob("test_*.py")}
    homes = (TESTS.parent / "cni_plugin", TESTS.parent)
    assert [str(each) for each in sorted(folders) if not any((home / each).is_dir() for home in homes)] == []


def test_what_lies_in_no_folder_holds_a_module_without_a_room_or_the_whole() -> None:
    found = {path.stem.removeprefix("test_") for path in UNIT.glob("test_*.py")}
    assert found - {path.stem for path in (TESTS.parent / "cni_plugin").glob("*.py")} - OF_THE_WHOLE == set()


def test_no_test_asserts_that_something_takes_less_than_so_many_seconds() -> None:
    assert [f"{path}:{line}" for path in FILES for line in promises(path.read_text())] == []


def test_what_is_cheaper_is_cheaper_than_something_that_was_measured() -> None:
    assert [f"{path}:{line}" for path in FILES for line in limits(path.read_text())] == []


def test_what_must_come_has_minutes() -> None:
    assert [f"{path}:{line}" for path in FILES for line in hurries(path.read_text())] == []


@pytest.mark.parametrize("text", [
    "start = monotonic()\nassert monotonic() - start < 5",
    "start = time.time()\nwork()\ntook = time.time() - start\nassert 0 < took <= 2.5",
    "times = []\ntimes.append(perf_counter() - start)\nassert 0.1 > median(times)",
    "times = {}\ntimes.setdefault(1, []).append(thread_time())\nassert sorted(times[1])[3] < LIMIT",
    "def took():\n    return monotonic() - begun\ndef test():\n    assert took() < 1",
    "def test():\n    a = monotonic()\n    assert all(each < 3 for each in [monotonic() - a])",
    "assert 50 > run(words).cost.cpu",
])
def test_a_promise_in_seconds_is_seen(text: str) -> None:
    assert len(list(promises(text))) == 1


@pytest.mark.parametrize("text", [
    "start = monotonic()\nassert monotonic() - start > 0.5, 'not before its time'",
    "start = monotonic()\nassert count <= 20 * (monotonic() - start) + 2",
    "end = monotonic() + 60\nwhile monotonic() < end:\n    assert count < 5",
    "start = monotonic()\nprint(monotonic() - start)",
    "def one():\n    start = monotonic()\ndef other():\n    start = 3\n    assert start < 5",
])
def test_what_is_no_promise_in_seconds_is_left_alone(text: str) -> None:
    assert list(promises(text)) == []


def test_a_limit_and_a_hurry_are_seen() -> None:
    assert list(limits("cheaper(one, 2 * other)")) == [] and list(limits("cheaper(one, 2 * 0.5)")) == [1]
    loop = "while monotonic() < end:\n    look()"
    for text in ("p.wait(timeout=10)", "t.join(5)", "until(look, 'it', patience=3)", f"end = monotonic() + 4\n{loop}"):
        assert list(hurries(text)) == [1], text
    counted = "for _ in range(9):\n    if look():\n        break\n    time.sleep(0.1)"
    assert list(hurries(counted)) == [1] and list(hurries(counted.replace("break", "note()"))) == []
    at_last = f"end = monotonic() + LONG\n{loop}"
    for text in ("p.wait(timeout=PATIENCE)", "event.wait(0.01)", "later = monotonic() + 2", at_last):
        assert list(hurries(text)) == [], text
    assert list(hurries("with raises(TimeoutError):\n    p.wait(timeout=10)")) == [], "it is not to come"


def promises(text: str) -> Iterator[int]:
    """The lines of assertions by which something that a clock said has an upper limit."""
    if not any(each.rpartition(".")[2] in text for each in CLOCKS | MEASURED):
        return
    tree = ast.parse(text)
    timed = {each.name for each in ast.walk(tree) if isinstance(each, Function) and returns_time(each, set())}
    for scope in (tree, *(each for each in ast.walk(tree) if isinstance(each, Function))):
        known = times(scope, timed)
        for each in own(scope):
            if isinstance(each, ast.Assert) and any(is_limit(node, known, timed) for node in ast.walk(each.test)):
                yield each.lineno


def limits(text: str) -> Iterator[int]:
    """The lines on which something is to be cheaper than a number that nothing was measured for."""
    for each in ast.walk(ast.parse(text)):
        if not (isinstance(each, ast.Call) and name(each.func) == "cheaper"):
            continue
        if not any(isinstance(node, ast.Name) for node in ast.walk(each.args[1])):
            yield each.lineno


def hurries(text: str) -> Iterator[int]:
    """The lines on which something that must come is given less than minutes."""
    tree = ast.parse(text)
    loops = (each.test for each in ast.walk(tree) if isinstance(each, ast.While))
    ends = {node.id for test in loops for node in ast.walk(test) if isinstance(node, ast.Name)}
    never = {id(inner) for each in ast.walk(tree) if is_of_what_never_comes(each) for inner in ast.walk(each)}
    for each in ast.walk(tree):
        if id(each) in never:
            continue
        if isinstance(each, ast.Call) and any(map(is_short, given(each))):
            yield each.lineno
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) in ends and is_soon(each.value):
            yield each.lineno
        if isinstance(each, ast.For) and is_counted_wait(each):
            yield each.lineno


def is_of_what_never_comes(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and "Timeout" in "".join(ast.unparse(each.context_expr) for each in node.items)


def given(call: ast.Call) -> Iterator[ast.expr]:
    """What a call says of how long it waits."""
    called = name(call.func).rpartition(".")[2]
    if called in ("wait", "join", "settimeout"):
        yield from call.args
    if called in WAITS:
        yield from (each.value for each in call.keywords if each.arg in ("timeout", "patience"))


def is_short(node: ast.expr) -> bool:
    """Whether it is a number of seconds in which something is to come; fractions of one are pauses between looks."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and 1 <= node.value < SHORTEST


def is_counted_wait(node: ast.For) -> bool:
    """Whether it looks so and so often, and sleeps between two looks."""
    if not ast.unparse(node.iter).startswith("range("):
        return False
    inner = list(ast.walk(node))
    sleeps = any(isinstance(each, ast.Call) and name(each.func).rpartition(".")[2] == "sleep" for each in inner)
    return sleeps and any(isinstance(each, ast.Break | ast.Return) for each in inner)


def is_soon(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and is_clock(node.left, set()) and is_short(node.right)


def own(scope: ast.AST) -> Iterator[ast.AST]:
    """What stands in a module or a function itself, not in a function within it."""
    waiting = [scope]
    while waiting:
        inner = [each for each in ast.iter_child_nodes(waiting.pop()) if not isinstance(each, Function)]
        waiting += inner
        yield from inner


def times(scope: ast.AST, timed: set[str]) -> set[str]:
    """The names in it that stand for what a clock said, or for what was worked out from that."""
    known: set[str] = set()
    before = -1
    puts = [put for each in own(scope) for put in stored(each)]
    while len(known) > before:
        before = len(known)
        for target, value in puts:
            if tells_time(value, known, timed):
                known |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
    return known


def stored(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is put where."""
    if isinstance(node, ast.Assign):
        yield from ((target, node.value) for target in node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.comprehension | ast.For):
        yield node.target, node.iter
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "add"):
        yield from ((node.func.value, each) for each in node.args)


def is_limit(node: ast.AST, known: set[str], timed: set[str]) -> bool:
    """Whether it compares a time, as the lesser one, with something that is none."""
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    for less, operator, more in zip(sides, node.ops, sides[1:], strict=False):
        if isinstance(operator, ast.Gt | ast.GtE):
            less, more = more, less
        elif not isinstance(operator, ast.Lt | ast.LtE):
            continue
        if tells_time(less, known, timed) and not tells_time(more, known, timed):
            return True
    return False


def tells_time(node: ast.AST, known: set[str], timed: set[str]) -> bool:
    """Whether a clock, or a name or a function that stands for a time, is in it."""
    return any(
        is_clock(each, timed)
        or (isinstance(each, ast.Name) and each.id in known)
        or (isinstance(each, ast.Attribute) and each.attr in MEASURED)
        for each in ast.walk(node)
    )


def is_clock(node: ast.AST, timed: set[str]) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = name(node.func)
    return called in CLOCKS | timed or called.rpartition(".")[2] in CLOCKS


def returns_time(function: Function, timed: set[str]) -> bool:
    known = times(function, timed)
    returned = (each.value for each in own(function) if isinstance(each, ast.Return) and each.value is not None)
    return any(isinstance(each, ast.BinOp | ast.Name) and tells_time(each, known, timed) for each in returned)


def name(node: ast.expr) -> str:
    """As it is written: `time.monotonic`; of what is more than names, the last one."""
    if isinstance(node, ast.Attribute):
        return f"{name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""

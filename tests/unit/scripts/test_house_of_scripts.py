"""The house of the scripts: what a person runs lies open, and what is behind it has rooms of its own."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.unit.test_house import imported, length, tree

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and path.name != "__init__.py")
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "scripts/lib").rglob("*.py"))
CODE = [path for path in FILES if path.name != "__init__.py"]
ROOMS: dict[str, set[str]] = {
    # Nodes and pods in namespaces, and a runtime that calls a plugin.
    "lab": set(),
    # Measures there.
    "bench": {"lab"},
    # The bundle, the image, what they are made of. It knows the place of files, and nothing of nodes.
    "pack": set(),
    "summary": set(),
}
LONGEST_FUNCTION, LONGEST_FILE = 60, 350
WITHOUT_VENV = {"scripts", "cni_plugin.wire"} | sys.stdlib_module_names
"""What a script imports that runs before there is a virtual environment; our words for frames need no more."""


def room(name: str) -> str:
    """`scripts.lib.bench.pods` is in `bench`."""
    return name.split(".")[2]


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def ours(path: Path) -> Iterator[str]:
    """What a module imports of the scripts' own modules, by their full names."""
    known = {module(each) for each in CODE}
    yield from (each for each in imported(path) if each in known)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_lies_open_is_run_and_says_how(name: str) -> None:
    assert os.access(ROOT / "scripts" / name, os.X_OK)
    done = subprocess.run([ROOT / "scripts" / name, "--help"], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.startswith(f"usage: scripts/{name}") and done.stderr == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_is_on_the_map(name: str) -> None:
    assert f"`{name}`" in (ROOT / "scripts/lib/README.md").read_text()


def test_each_module_is_on_the_map() -> None:
    words = set(re.findall(r"\w+", (ROOT / "scripts/lib/README.md").read_text()))
    assert [str(path) for path in CODE if path.stem not in words] == []


def test_each_room_looks_into_those_that_it_may_and_needs() -> None:
    used: dict[str, set[str]] = {}
    for path in CODE:
        mine = room(module(path))
        used.setdefault(mine, set()).update({room(each) for each in ours(path)} - {mine})
    assert used == ROOMS


def test_no_files_import_each_other_in_a_circle() -> None:
    order = TopologicalSorter({module(path): set(ours(path)) for path in CODE}).static_order()
    assert len([*order]) == len(CODE)  # raises CycleError, which shows the circle


def test_what_runs_before_there_is_a_virtual_environment_needs_none() -> None:
    """What is frozen into a bundle (`frozen_`) runs there alone."""
    found = {
        (str(path), name)
        for path in (*CODE, *(Path("scripts", each) for each in ("bench", "image", "lab")))
        if not path.stem.endswith("_worker") and not path.stem.startswith("frozen_")
        for node in ast.walk(tree(path))
        for name in modules_of(node)
        if name not in WITHOUT_VENV and name.split(".")[0] not in WITHOUT_VENV
    }
    assert found == set()


def modules_of(node: ast.AST) -> list[str]:
    """The modules that a statement imports; of our packages with the module's name in them."""
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    if isinstance(node, ast.ImportFrom) and node.module == "cni_plugin":
        return [f"cni_plugin.{each.name}" for each in node.names]
    return [node.module or "."] if isinstance(node, ast.ImportFrom) else []


def test_a_package_is_made_without_code() -> None:
    packages = [ROOT / "scripts/__init__.py", *(path for path in FILES if path not in CODE)]
    assert len(packages) > 3
    assert [str(path) for path in packages if (ROOT / path).read_text()] == []


def test_a_module_opens_with_why_it_exists() -> None:
    assert [str(path) for path in CODE if len(ast.get_docstring(tree(path)) or "") < 60] == []


def test_files_and_functions_can_be_seen_whole() -> None:
    files = [*CODE, *(Path("scripts", each) for each in SCRIPTS), *Path("scripts/lib").rglob("*.sh")]
    assert [str(path) for path in files if len((ROOT / path).read_text().splitlines()) > LONGEST_FILE] == []
    functions = [
        (f"{path}:{node.lineno}", length(node))
        for path in CODE for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)
    ]
    assert [where for where, lines in functions if lines > LONGEST_FUNCTION] == []

"""What the tests with a real kernel share: namespaces, labs, the executable under test, a good guest's promise.

Every test makes its own namespaces under names that no other test process uses, so that several may run at once. At
the end of the session the machine's own namespace must hold the same links, routes and nft tables as at its beginning.
"""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.topology import LABS, REPO, Spec
from tests.conformance.nodes import Node
from tests.netns.agents import Agent
from tests.netns.failure_nodes import node_with

BUNDLE = REPO / "dist" / "tulle" / "tulle"
_numbers = itertools.count(1)


class MakeLab(Protocol):
    """Starts a lab without pods; keywords are those of `Spec`."""

    def __call__(self, **settings: str | int | bool) -> labs.Lab: ...


def unique() -> str:
    """A name that no other test, test process or person uses: of letters and digits, at most 11 bytes."""
    return f"t{os.getpid()}x{next(_numbers)}"


def host_state() -> dict[str, str]:
    """What there is in the machine's own namespace that a test could have left there."""
    commands = {
        "links": ["ip", "-o", "-br", "link"],
        "routes": ["ip", "route"],
        "IPv6 routes": ["ip", "-6", "route"],
        "nft tables": ["nft", "list", "tables"],
    }
    return {what: _stable(namespaces.attempt(argv).stdout) for what, argv in commands.items()}


def _stable(text: str) -> str:
    """Without what changes by itself: the lifetime of a route learnt by DHCP or router advertisement."""
    return "\n".join(line.split(" expires ")[0].rstrip() for line in text.splitlines())


@pytest.fixture(scope="session", autouse=True)
def host_untouched() -> Iterator[None]:
    """The machine's own namespace is after the session as it was before."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces are made")
    before = host_state()
    yield
    assert host_state() == before, "a test changed the machine's own namespace"


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable under test: $TULLE_PLUGIN, else the built bundle, else (no bundle, or older) the sources."""
    if given := os.environ.get("TULLE_PLUGIN"):
        return Path(given).absolute()
    sources = [path for folder in ("cni_plugin", "ipam") for path in (REPO / folder).rglob("*.py")]
    newest = max(path.stat().st_mtime for path in sources)
    if BUNDLE.exists() and BUNDLE.stat().st_mtime >= newest:
        return BUNDLE
    known = namespaces.attempt([sys.executable, "-I", "-c", "import cni_plugin"]).returncode == 0
    assert known, f"{BUNDLE} is missing or older than the sources: run scripts/build"
    wrapper = tmp_path_factory.mktemp("cni-bin") / "tulle"
    wrapper.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -m cni_plugin.client\n")
    wrapper.chmod(0o755)
    return wrapper


@pytest.fixture
def node(plugin: Path, tmp_path: Path) -> Iterator[Node]:
    """A node alone, without pods."""
    with node_with(plugin, tmp_path) as made:
        yield made


@pytest.fixture(params=["engine", "agent"])
def served(request: pytest.FixtureRequest, node: Node, plugin: Path) -> Iterator[Node]:
    """That node, once where every call is its own engine, and once where an agent serves them all."""
    with ExitStack() as stack:
        if request.param == "agent":
            stack.enter_context(Agent(node, plugin))
        yield node


@pytest.fixture
def netns() -> Iterator[Callable[[str], str]]:
    """Makes namespaces: `netns("pod")` gives the full name of a new one. All are gone after the test."""
    prefix = f"tulle-{unique()}-"

    def make(name: str) -> str:
        namespaces.create(prefix + name)
        return prefix + name

    yield make
    namespaces.delete(*namespaces.existing(prefix))
    assert namespaces.existing(prefix) == []


@pytest.fixture
def lab(plugin: Path) -> Iterator[MakeLab]:
    """Starts labs: `lab(nodes=2, backend="host-gw")`. Nothing of them is left after the test."""
    with ExitStack() as stack:

        def make(**settings: str | int | bool) -> labs.Lab:
            spec = Spec(**({"name": unique(), "plugin": str(plugin)} | settings))  # type: ignore[arg-type]
            stack.callback(_assert_gone, spec)
            stack.callback(labs.down, spec.name)
            return labs.up(spec)

        yield make


def _assert_gone(spec: Spec) -> None:
    assert namespaces.existing(spec.prefix) == [], "namespaces of the lab are left"
    assert not (LABS / spec.name).exists(), "files of the lab are left"

"""The two sides of every comparison: the plugins under test, and the reference plugins of this machine.

`TULLE_CNI_DIR` names a directory of plugins to test instead of the built bundle; with the reference's own
directory there, the comparison proves itself: the reference must equal the reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.nodes import Node, Plugins, is_root, kernel_filters_vlans, unique_name

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "dist" / "tulle"
OURS = ("tulle", "bridge", "host-local", "loopback")
"""The names the plugin is linked under: its own, and those of the plugins it stands in for."""


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if not is_root():
        pytest.skip("needs root: network namespaces are made")


@pytest.fixture(scope="session")
def reference() -> Plugins:
    """The reference plugins (Debian: containernetworking-plugins)."""
    directory = Path(os.environ.get("TULLE_REFERENCE_DIR", "/usr/lib/cni"))
    if not (directory / "bridge").exists():
        pytest.skip(f"no reference plugins in {directory}: install containernetworking-plugins")
    return Plugins("reference", directory)


@pytest.fixture(scope="session")
def tulle(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    """The built bundle as a CNI directory; plugins that are not ours (static, portmap...) are the reference's."""
    if given := os.environ.get("TULLE_CNI_DIR"):
        return Plugins("tulle", Path(given))
    executable = BUNDLE / "tulle"
    assert executable.exists(), f"{executable} is missing: run scripts/build"
    directory = tmp_path_factory.mktemp("cni-bin")
    for name in OURS:
        (directory / name).symlink_to(executable)
    reference = os.environ.get("TULLE_REFERENCE_DIR", "/usr/lib/cni")
    return Plugins("tulle", directory, f"{directory}:{reference}")


@pytest.fixture(scope="session")
def vlans() -> bool:
    """Whether bridges of this kernel filter VLANs."""
    return kernel_filters_vlans()


class Nodes:
    """Makes nodes and removes them, whatever happened to the test."""

    def __init__(self, stack: ExitStack, tmp_path: Path) -> None:
        self._stack = stack
        self._tmp_path = tmp_path

    def __call__(self, plugins: Plugins) -> Node:
        name = unique_name(plugins.side[:3])
        node = Node(name, plugins, self._tmp_path / name)
        self._stack.callback(node.remove)
        return node


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(stack, tmp_path)

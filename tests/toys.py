"""Toys: a file that nobody needs, added to a room as anybody would add one, from a folder of the test's own.

They stand in docs/growing.md, as examples, and are taken from there. The room is told of the folder while the block
runs; no module of the plugin names the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.rooms import tenant
from tests.manual import REPO, blocks

GROWING = REPO / "docs" / "growing.md"


def example(room: str, stem: str) -> str:
    """The manual's example of a file of this room: `agent.sources`, `ipams`."""
    (found,) = (each.text for each in blocks(GROWING) if each.mark == f"{room.replace('.', '/')}/{stem}.py")
    return found


@contextmanager
def added(folder: Path, room: str, stem: str, text: str = "") -> Iterator[None]:
    """That example, or another `text`, as the file `stem` of this room."""
    package = import_module(f"cni_plugin.{room}")
    place = folder / room
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{stem}.py").write_text(text or example(room, stem))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "__path__", [*package.__path__, str(place)])
        _forget(package.__name__, stem)
        try:
            yield
        finally:
            _forget(package.__name__, stem)


def _forget(package: str, stem: str) -> None:
    sys.modules.pop(f"{package}.{stem}", None)
    vars(import_module(package)).pop(stem, None)
    tenant.cache_clear()
    contract = sys.modules.get(f"{package}.contract")
    find: Any = getattr(contract, "find", None)
    if hasattr(find, "cache_clear"):  # some rooms remember what they found
        find.cache_clear()
    invalidate_caches()

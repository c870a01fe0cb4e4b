"""What only the agent's sources need lies apart in the bundle: a request that no agent serves does not pay for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cni_plugin.agent.sources import contract as sources
from tests.conformance.conftest import BUNDLE

SOURCES = BUNDLE / "_internal" / "sources"
SLOW = {"typing_extensions", "ssl", "_ssl", "_hashlib", "concurrent", "http", "asyncio", "lightkube", "etcd3gw"}
"""What msgspec, hashlib and others would take as soon as it could be imported, and the sources' own clients."""

pytestmark = pytest.mark.skipif(not BUNDLE.exists(), reason="there is no bundle in dist/tulle: run scripts/build")


def names(folder: Path) -> set[str]:
    """What can be imported from a folder."""
    return {each.name.partition(".")[0] for each in folder.iterdir()}


def test_the_engine_cannot_import_what_would_slow_it_down() -> None:
    archives: Any = pytest.importorskip("PyInstaller.archive.readers", reason="scripts/build installs PyInstaller")
    modules = set(archives.CArchiveReader(str(BUNDLE / "tulled")).open_embedded_archive("PYZ.pyz").toc)
    inside = BUNDLE / "_internal"
    (extensions,) = inside.glob("python3*/lib-dynload")
    assert not SLOW & (modules | names(inside) | names(extensions))


def test_the_sources_find_it_in_their_own_folder() -> None:
    assert names(SOURCES) >= SLOW


def test_each_source_is_in_the_engine() -> None:
    archives: Any = pytest.importorskip("PyInstaller.archive.readers", reason="scripts/build installs PyInstaller")
    modules = set(archives.CArchiveReader(str(BUNDLE / "tulled")).open_embedded_archive("PYZ.pyz").toc)
    assert {f"cni_plugin.agent.sources.{each}" for each in sources.names()} <= modules


def test_a_library_can_be_asked_for_its_version() -> None:
    wanted = {f"{each}-" for each in ("httpx2", "httpcore2", "etcd3gw", "lightkube")}
    found = {each.parent.name for each in SOURCES.glob("*.dist-info/METADATA")}
    assert all(any(name.startswith(each) for name in found) for each in wanted)

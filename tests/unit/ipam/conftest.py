"""A network of its own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.ipam.world import DUAL, Network


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """10.1.0.0/28."""
    return Network(tmp_path)


@pytest.fixture
def dual(tmp_path: Path) -> Network:
    """10.1.0.0/28 and fd00:1::/64."""
    return Network(tmp_path, dict(DUAL))


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: for tests that make thousands of files."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="tulle-test-", dir=memory))
    yield path
    shutil.rmtree(path)

"""A network of its own for each test."""

from __future__ import annotations

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

"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.support import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node on which no pod was ever wired."""
    return Node(tmp_path)

"""What the tests of tullectl share as fixtures."""

from __future__ import annotations

import pytest

from tests.unit.ctl.tool import Tool
from tests.unit.support import Node


@pytest.fixture
def tool(node: Node, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """tullectl on this node."""
    return Tool(node, monkeypatch)

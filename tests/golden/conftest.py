"""Golden texts: what a plan is, line by line, in the words of `ip`, `bridge`, `sysctl`, `ethtool` and `nft`.

A text that changed on purpose is written anew by `pytest tests/golden --update-golden`; the change then is to be seen,
and to be judged, in the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.txt as the code has it now")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with the one of this name, or write it."""
    update = bool(request.config.getoption("--update-golden", default=False))

    def compare(name: str, text: str) -> None:
        path = FOLDER / f"{name}.txt"
        if update:
            path.write_text(text.rstrip("\n") + "\n")
        assert path.is_file(), f"there is no {path.name}: write it with pytest tests/golden --update-golden"
        assert text.rstrip("\n").splitlines() == path.read_text().splitlines()

    return compare

"""Tests marked `soak` take minutes: they run with --soak or TULLE_SOAK=1, and are skipped by name otherwise."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", default=os.environ.get("TULLE_SOAK", "") not in ("", "0"),
                     help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --soak or TULLE_SOAK=1"))

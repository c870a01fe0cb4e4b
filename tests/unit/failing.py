"""System calls that fail for some paths, as they do when the kernel or a disk is in need."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


def fail(patch: pytest.MonkeyPatch, name: str, code: int, where: str, *, times: int = 1 << 30) -> None:
    """Make a call of `os` fail with this errno for paths that end so, as often as is said."""
    honest: Callable[..., object] = getattr(os, name)
    left = times

    def call(path: object, *args: object, **keys: object) -> object:
        nonlocal left
        if left and isinstance(path, str) and path.endswith(where):
            left -= 1
            raise OSError(code, os.strerror(code), path)
        return honest(path, *args, **keys)

    patch.setattr(os, name, call)

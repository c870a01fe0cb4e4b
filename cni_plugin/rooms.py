"""Rooms: folders in which one file is one of a kind, found by its name. To add one is to add a file.

    tenant("ipams", "host-local")   ->   the module cni_plugin.ipams.host_local
    tenant("ipams", "calico-ipam")  ->   None: there is no such file

Promises: only the file asked for is imported, for a start-up is paid for each pod; what a name leads to is remembered;
`contract`, which says what the files of a room promise, is none of them, nor is a folder, which one of them has behind
it.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType

CONTRACT = "contract"


@lru_cache(maxsize=256)
def tenant(room: str, name: str) -> ModuleType | None:
    """The file of a room that has this name, with `_` for each `-`; None without one."""
    stem = name.replace("-", "_")
    if not stem.isidentifier() or stem == CONTRACT:
        return None
    whole = f"cni_plugin.{room}.{stem}"
    try:
        found = importlib.import_module(whole)
        return None if hasattr(found, "__path__") else found
    except ModuleNotFoundError as error:
        if error.name != whole:
            raise
        return None


def names(room: str) -> list[str]:
    """What the files of a room are called, in order; none is imported."""
    import pkgutil  # for who asks for all of them, which no pod does

    package = importlib.import_module(f"cni_plugin.{room}")
    found = sorted(each.name for each in pkgutil.iter_modules(package.__path__) if not each.ispkg)
    return [each.replace("_", "-") for each in found if each != CONTRACT]


def tenants(room: str) -> list[ModuleType]:
    """All files of a room, in the order of their names."""
    found = (tenant(room, name) for name in names(room))
    return [each for each in found if each is not None]


@lru_cache(maxsize=16)
def default(room: str) -> str:
    """What is meant where a configuration names none: the file that says `DEFAULT`."""
    return next(name for name in names(room) if getattr(tenant(room, name), "DEFAULT", False))

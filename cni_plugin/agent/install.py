"""Puts the bundle that this executable belongs to on a node: the first step of a pod that brings the agent along.

The plugin must be found by the container runtime of the node, and must serve itself while no agent runs, so the whole
bundle goes there, as scripts/install lays it out. Promises: a release is complete and on the disk before anything leads
to it; every change that a runtime can see is one rename; the release before stays, for a plugin of it may be running.

    <root>/opt/tulle/<release>/         `current` and `previous` name two of them
    <root>/opt/cni/bin/tulle            -> /opt/tulle/current/tulle
"""

from __future__ import annotations

import os
import shutil
import sys

from cni_plugin.errors import IO_FAILURE, CniError
from cni_plugin.kernel.host import files, locks

HOME = "/opt/tulle"
PLUGINS = "/opt/cni/bin"
_NEW = ".new"


def install(root: str) -> str:
    """Make this release the current one of the node whose folders are mounted below `root`; its name.

    Raises CniError 5 when this is no bundle, OSError.
    """
    bundle = _bundle()
    release = files.follow(f"{bundle}/release").decode().strip()
    home, plugins = f"{root}{HOME}", f"{root}{PLUGINS}"
    for folder in (home, plugins):
        os.makedirs(folder, exist_ok=True)
    with locks.locked(f"{home}/.lock"):
        _put(bundle, home, release)
        _switch(home, release)
        _point(plugins, "tulle", f"{HOME}/current/tulle")
        _prune(home)
    return release


def _bundle() -> str:
    inside = getattr(sys, "_MEIPASS", "")
    if not inside:
        raise CniError(IO_FAILURE, "only a bundle can be installed: run the tulled that scripts/build makes")
    return os.path.dirname(inside)


def _put(bundle: str, home: str, release: str) -> None:
    """Copy it unless it is there. A copy that was cut off bears another name, and is made again."""
    if os.path.exists(f"{home}/{release}"):
        return
    shutil.rmtree(f"{home}/{_NEW}", ignore_errors=True)
    shutil.copytree(bundle, f"{home}/{_NEW}", symlinks=True)
    os.sync()  # a rename may reach the disk before the data does, and after a power cut nobody would copy again
    os.rename(f"{home}/{_NEW}", f"{home}/{release}")


def _switch(home: str, release: str) -> None:
    before = _target(home, "current")
    if before not in ("", release):
        _point(home, "previous", before)
    _point(home, "current", release)


def _prune(home: str) -> None:
    """Take away releases that nothing leads to."""
    kept = {_target(home, "current"), _target(home, "previous")}
    for name in files.names(home):
        path = f"{home}/{name}"
        if name not in kept and not os.path.islink(path) and os.path.exists(f"{path}/release"):
            shutil.rmtree(path)


def _target(folder: str, name: str) -> str:
    """Where a link leads, "" without one."""
    try:
        return os.readlink(f"{folder}/{name}")
    except OSError:
        return ""


def _point(folder: str, name: str, target: str) -> None:
    """A symbolic link, put in place of whatever is there by one rename."""
    temporary = f"{folder}/.{name}.new"
    files.remove(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, f"{folder}/{name}")

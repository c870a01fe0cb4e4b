"""A program in the background: it stands while its process lives, whoever started that."""

from __future__ import annotations

import errno

from cni_plugin.diff import Op
from cni_plugin.kernel.host import processes
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.model.host import Daemon


def turn(op: Op, each: Daemon, _space: Namespace) -> None:
    """Begin it, end it, or let it know that what it reads has changed. Raises OSError."""
    if op.verb == "change" and each.reload:
        return processes.tell(each.note, each.reload, _lines(each))
    if op.verb != "create":
        processes.end(each.note)
    if op.verb != "delete":
        _begin(each)
    return None


def read(want: Daemon, _look: Lookup) -> Daemon | None:
    """It as it was begun, if it runs."""
    found = processes.find(want.note)
    if found is None:
        return None
    digest, *argv = found.begun_with or ("",)
    return Daemon(want.name, tuple(argv), want.place, digest, want.reload)


def _begin(each: Daemon) -> None:
    try:
        processes.begin(each.note, each.argv, _lines(each))
    except FileNotFoundError as error:
        why = f"there is no {each.argv[0]}: install the package that it is in"
        raise OSError(errno.ENOENT, why) from error


def _lines(each: Daemon) -> list[str]:
    return [each.digest, *each.argv]

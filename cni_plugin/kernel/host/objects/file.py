"""A file that another program reads: whole or as it was before, and never somebody else's."""

from __future__ import annotations

import errno
import os
import stat

from cni_plugin.diff import Op
from cni_plugin.kernel.host import files
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.model.host import File


def turn(op: Op, each: File, _space: Namespace) -> None:
    """Write or remove it. Raises OSError, EEXIST where one that is not ours is in the way."""
    ours = _contents(each) is not None
    if op.verb == "delete":
        if ours:
            files.remove(each.path)
        return
    if not ours and os.path.lexists(each.path):
        raise OSError(errno.EEXIST, f"{each.path} is there already and not ours: move it away", each.path)
    content = each.content.encode()
    if not _is_ours(each, content):
        why = f"neither is it in a folder of ours, nor does its first line say {File.MARK}: it would not be known again"
        raise OSError(errno.EINVAL, why, each.path)
    files.make_folder(os.path.dirname(each.path))
    files.write(each.path, content, each.mode)


def read(want: File, _look: Lookup) -> File | None:
    """It as it stands, if it is ours."""
    content = _contents(want)
    if content is None:
        return None
    mode = stat.S_IMODE(os.lstat(want.path).st_mode)
    return File(want.path, content.decode(errors="replace"), mode, want.place)


def _contents(each: File) -> bytes | None:
    """What is in it, None for what is not there, no file, or not ours. Raises OSError."""
    content = files.note(each.path)
    return content if content is not None and _is_ours(each, content) else None


def _is_ours(each: File, content: bytes) -> bool:
    if each.place:
        return each.path.startswith(f"{each.place}/") and ".." not in each.path.split("/")
    return File.MARK.encode() in content.partition(b"\n")[0]

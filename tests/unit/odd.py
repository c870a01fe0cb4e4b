"""What people, backups and crashes leave where a file of ours belongs."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path


def put_odd(path: Path, kind: str) -> None:
    """Put something of this kind there that nobody of ours would, in the place of whatever stands there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "folder":
            path.mkdir()
            (path / ".damaged.x").write_text("x")
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/proc/version")  # which nobody can write to by mistake
        case "loop":
            path.symlink_to(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "huge":
            path.touch()
            os.truncate(path, 1 << 30)
        case "deep":
            path.write_bytes(b'{"conf":' + b"[" * 2000 + b"]" * 2000 + b"}")
        case "noise":
            path.write_bytes(os.urandom(3000))
        case "empty":
            path.touch()
        case _:
            raise AssertionError(f"nothing odd is called {kind}")

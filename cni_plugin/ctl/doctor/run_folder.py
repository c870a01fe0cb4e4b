"""The run folder: that records can be written there, and do not outlive a boot."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.doctor.contract import ERROR, NODE, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.kernel.host import files
from cni_plugin.store.records import DEFAULT_RUN_DIR

LAYER = NODE


class Mount(msgspec.Struct, frozen=True):
    """What the run folder is on."""

    path: str
    kind: str
    writable: bool


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Where records are, and on what."""

    run_dir: str = DEFAULT_RUN_DIR
    mount: Mount | None = None


def gather(eyes: Eyes) -> Facts:
    """What the folder is mounted from."""
    run_dir = eyes.records.run_dir
    return Facts(run_dir=run_dir, mount=eyes.notes.one("the run folder's mount", lambda: mount_of(run_dir)))


def run_folder(facts: Facts) -> Iterator[Finding]:
    """Records must not outlive a boot, and must be writable."""
    mount = facts.mount
    if mount is None:
        return
    if not mount.writable:
        yield Finding(
            "run-dir-read-only", ERROR, facts.run_dir, f"{mount.kind} on {mount.path}, not writable",
            "no pod can be started or stopped cleanly: nothing can be put on record",
            f"mount -o remount,rw {mount.path}, or see that there is space and root owns {facts.run_dir}",
        )
    if mount.kind not in ("tmpfs", "ramfs"):
        yield Finding(
            "run-dir-not-tmpfs", WARNING, facts.run_dir, f"{mount.kind} on {mount.path}",
            "records of an earlier boot are left on the disk; they are void, but each is written to a disk for nothing",
            f"mount -t tmpfs tmpfs {facts.run_dir}, or set TULLE_RUN_DIR to a folder below /run",
        )


def mount_of(path: str) -> Mount:
    """What a folder, or the first existing one above it, is mounted from."""
    there = path
    while not os.path.exists(there) and there not in ("", "/"):
        there = os.path.dirname(there)
    real = os.path.realpath(there or "/")
    text = files.follow("/proc/self/mountinfo").decode(errors="replace")
    points = [each for each in _mounts(text) if f"{real}/".startswith(f"{each[0].rstrip('/')}/")]
    point, kind = max(reversed(points), key=lambda each: len(each[0]), default=("/", "unknown"))
    return Mount(point, kind, files.writable(path) or os.geteuid() != 0)  # who is not root learns nothing of root


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    """Mount point and file system type (Documentation/filesystems/proc.rst, 3.5); later ones lie over earlier ones."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        yield point, after.split()[0]


FINDINGS = {run_folder: ("run-dir-read-only", "run-dir-not-tmpfs")}

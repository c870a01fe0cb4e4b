"""What other programs on the node are told to do with links and routes: systemd and NetworkManager.

Only their files are read. `root` stands before /etc, /run and /usr. All functions raise OSError for what is there and
cannot be read; what is not there is an empty answer.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from cni_plugin.ctl.facts import File, Mount
from cni_plugin.kernel.host import files
from cni_plugin.kernel.see.look import Link

_SYSTEMD = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
"""The first that has a file of a name wins (systemd.link(5), networkd.conf(5))."""
_ACTIVE = "/run/systemd/units/invocation:systemd-networkd.service"
"""systemd keeps this link while the unit runs (src/core/unit.c, unit_export_invocation_id)."""


def link_files(root: str) -> tuple[File, ...]:
    """systemd's .link files in the order in which udev tries them: by name."""
    return _in_order(root, "network", ".link")


def networkd(root: str) -> tuple[File, ...] | None:
    """systemd-networkd's configuration, later files going before; None when it does not run."""
    if not os.path.lexists(root + _ACTIVE):
        return None
    mains = (f"{root}{folder}/networkd.conf" for folder in _SYSTEMD)
    main = next((path for path in mains if os.path.exists(path)), "")
    return (*([_file(main)] if main else []), *_in_order(root, "networkd.conf.d", ".conf"))


def managed(root: str, links: Collection[Link]) -> tuple[str, ...]:
    """The links that NetworkManager takes care of, by the state that it keeps of each (`managed=true`)."""
    folder = f"{root}/run/NetworkManager/devices"
    indexes = {str(each.index): each.name for each in links}
    told = {name: files.follow(f"{folder}/{name}").decode(errors="replace") for name in files.names(folder)}
    return tuple(indexes[name] for name, text in told.items() if name in indexes and "managed=true" in text.split())


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


def _in_order(root: str, folder: str, ending: str) -> tuple[File, ...]:
    paths: dict[str, str] = {}
    for each in reversed(_SYSTEMD):
        place = f"{root}{each}/{folder}"
        paths.update({name: f"{place}/{name}" for name in files.names(place) if name.endswith(ending)})
    return tuple(_file(paths[name]) for name in sorted(paths))


def _file(path: str) -> File:
    return File(path, files.follow(path).decode(errors="replace"))


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    """Mount point and file system type (Documentation/filesystems/proc.rst, 3.5); later ones lie over earlier ones."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        yield point, after.split()[0]

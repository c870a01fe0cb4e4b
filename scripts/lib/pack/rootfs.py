"""What is in the root file system of the image: the bundle as on a node, and what it needs of a system.

    /opt/tulle/<release>/, /opt/tulle/current        as on a node
    /usr/local/bin/{tulle,tulled,tullectl}           -> /opt/tulle/current/
    /usr/lib, /usr/lib64                             libc and what else the bundle takes from the system
    /etc/ssl/certs/ca-certificates.crt               Mozilla's, as Debian packages them
    /usr/share/doc/*/copyright, /usr/share/doc/tulle/image.spdx.json

Promises: nothing else is in it; each file belongs to a package of the bill of materials; a folder comes before what is
in it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from scripts.lib.pack import requirements, sbom
from scripts.lib.pack.sbom import Inventory, Package

CERTIFICATES = Path("/usr/share/ca-certificates/mozilla")
BUNDLE_HOME = "opt/tulle"
EXECUTABLES = ("tulle", "tulled", "tullectl")

_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_FOLDERS = ("dev", "etc/cni/net.d", "etc/tulle", "opt/cni/bin", "proc", "run", "sys", "tmp", "usr/bin", "var/lib/cni")
_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "../run"}
"""`var/run`: runtimes tell a pod's namespace as /var/run/netns/..., which on a node is the same place."""


class ImageError(Exception):
    """The image cannot be made, and what to do about it."""


class Entry(NamedTuple):
    """A file, a folder or a link of the root file system; `packages`: what a file is made of."""

    path: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    data: bytes = b""
    target: str = ""
    packages: tuple[str, ...] = ()


class Root(NamedTuple):
    """The root file system by layers, the one that changes seldom first; and whose all that is."""

    layers: tuple[list[Entry], ...]
    packages: dict[str, Package]
    release: str


def collect(bundle: Path) -> Root:
    """Everything that goes into the image of a bundle. Raises ImageError, UnknownOwner."""
    try:
        release = (bundle / "release").read_text().strip()
        inventory = sbom.load(bundle / "packages.json")
    except FileNotFoundError as error:
        raise ImageError(f"{error.filename} is missing: run scripts/build first") from error
    ours = _bundle(bundle, release, inventory)
    system = _system(bundle)
    packages = inventory.packages | {each.name: each for each in system.packages.values()}
    base = [*_skeleton(), *_from_system(system), *_certificates(packages), *_copyrights(packages)]
    packages[sbom.ours().name] = sbom.ours()
    return Root((ordered(base), ordered(ours)), dict(sorted(packages.items())), release)


def _bundle(bundle: Path, release: str, inventory: Inventory) -> list[Entry]:
    """The bundle as it is installed on a node, and its executables on the path."""
    _refuse_unlocked(inventory.packages.values())
    home = f"{BUNDLE_HOME}/{release}"
    found = []
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if path.is_symlink():
            found.append(_link(f"{home}/{name}", os.readlink(path)))
        elif path.is_file():
            executable = 0o755 if os.access(path, os.X_OK) else 0o644
            owner = inventory.files.get(name) or (sbom.ours().name,) * (name in ("release", "inputs", "packages.json"))
            if not owner:
                raise ImageError(f"nobody says whose {path} is: build the bundle again (scripts/build --force)")
            found.append(Entry(f"{home}/{name}", mode=executable, data=path.read_bytes(), packages=owner))
    links = [_link(f"usr/local/bin/{each}", f"/{BUNDLE_HOME}/current/{each}") for each in EXECUTABLES]
    licence = Entry("usr/share/doc/tulle/LICENSE", data=(sbom.ROOT / "LICENSE").read_bytes(), packages=("tulle",))
    return [*found, *links, _link(f"{BUNDLE_HOME}/current", release), licence]


def _refuse_unlocked(packages: Iterable[Package]) -> None:
    """A bundle is told by what it is made of: an old one, or one from an environment that somebody changed by hand."""
    pins = requirements.locked("build")
    for each in packages:
        if each.kind != "pypi" or each.name == sbom.ours().name:
            continue
        pin = pins.get(requirements.normalised(each.name))
        if pin is None or pin.version != each.version:
            raise ImageError(
                f"the bundle has {each.name} {each.version}, and scripts/lib/pack/requirements-build.txt has "
                f"{pin.version if pin else 'none'}: remove .venv and build it again (scripts/build --force)"
            )


def _skeleton() -> list[Entry]:
    texts = [Entry(path, data=text.encode(), packages=("tulle",)) for path, text in _TEXTS.items()]
    return [*texts, *map(_folder, _FOLDERS), *(_link(path, target) for path, target in _LINKS.items())]


class _System(NamedTuple):
    """Files of this machine by their path in the image, and the package of each."""

    files: dict[str, str]
    packages: dict[str, Package]


def _system(bundle: Path) -> _System:
    """The libraries that the bundle's executables and libraries take from the system, and the loader of them all."""
    needed: set[str] = set()
    for path in sorted(bundle.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == b"\x7fELF":
            needed |= _libraries(path, bundle)
    outside = sorted(each for each in needed if not Path(each).resolve().is_relative_to(bundle.resolve()))
    files = {_merged(each): each for each in outside}
    return _System(files, sbom.owners(outside))


def _libraries(path: Path, bundle: Path) -> set[str]:
    """What the dynamic linker would load for it (ldd(1)). Raises ImageError when that is not there.

    An executable is loaded before it can say that libraries lie in the bundle: what it needs itself is the system's.
    """
    own = "" if path.parent == bundle else str(bundle / "_internal")
    environ = {"PATH": os.environ.get("PATH", ""), "LD_LIBRARY_PATH": own, "LC_ALL": "C"}
    answer = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False, env=environ)
    missing = re.findall(r"^\s*(\S+) => not found", answer.stdout, re.MULTILINE)
    if missing:
        raise ImageError(f"{path} needs {', '.join(missing)}, which this machine does not have")
    return loaded(answer.stdout)


def loaded(answer: str) -> set[str]:
    """The files that ldd names: libraries, wherever they lie, and the dynamic linker."""
    return set(re.findall(r"^\s*(?:\S+ => )?(/.+) \(0x[0-9a-f]+\)$", answer, re.MULTILINE))


def _merged(path: str) -> str:
    """Below /usr, where all of it is since Debian 12 and Ubuntu 20.04; /lib and /lib64 lead there."""
    return path.lstrip("/") if path.startswith("/usr/") else f"usr{path}"


def _from_system(system: _System) -> list[Entry]:
    return [
        Entry(name, mode=0o755, data=Path(path).read_bytes(), packages=(system.packages[path].name,))
        for name, path in system.files.items()
    ]


def _certificates(packages: dict[str, Package]) -> list[Entry]:
    """Mozilla's, from the package and not from /etc: what this machine trusts besides is nobody else's business."""
    files = sorted(CERTIFICATES.glob("*.crt"))
    if not files:
        raise ImageError(f"{CERTIFICATES} is empty: apt-get install ca-certificates")
    package = sbom.debian_package("ca-certificates")
    packages[package.name] = package
    data = b"".join(each.read_bytes() for each in files)
    return [Entry("etc/ssl/certs/ca-certificates.crt", data=data, packages=(package.name,))]


def _copyrights(packages: Mapping[str, Package]) -> list[Entry]:
    """What Debian's packages are distributed under, at its place."""
    return [
        Entry(f"usr/share/doc/{name}/copyright", data=sbom.copyright_of(name).read_bytes(), packages=(name,))
        for name, package in packages.items()
        if package.kind == "deb"
    ]


def _link(path: str, target: str) -> Entry:
    return Entry(path, tarfile.SYMTYPE, 0o777, target=target)


def _folder(path: str) -> Entry:
    return Entry(path, tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755)


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """In the order of their paths, every folder before what is in it."""
    found = {each.path: each for each in entries}
    for path in list(found):
        for parent in Path(path).parents:
            if parent != Path():
                found.setdefault(parent.as_posix(), _folder(parent.as_posix()))
    return [found[path] for path in sorted(found)]

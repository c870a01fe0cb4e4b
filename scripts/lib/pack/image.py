"""An OCI image of the bundle: what is in its root file system, and how that becomes layers, a configuration, an index.

No daemon and no other tool: an image is a few JSON files and a tar archive a layer, named by their digests
(https://github.com/opencontainers/image-spec). Promises: the same bundle gives the same image to the byte, whenever
and wherever it is made; nothing is in it but the bundle, the system's libraries that the bundle needs, certificates,
and who wrote all that; each file belongs to a package of the bill of materials.

    /opt/tulle/<release>/, /opt/tulle/current        as on a node
    /usr/local/bin/{tulle,tulled,tullectl}           -> /opt/tulle/current/
    /usr/lib, /usr/lib64                             libc and what else the bundle takes from the system
    /etc/ssl/certs/ca-certificates.crt               Mozilla's, as Debian packages them
    /usr/share/doc/*/copyright, /usr/share/doc/tulle/image.spdx.json
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.lib.pack import requirements, sbom
from scripts.lib.pack.sbom import Content, Inventory, Package

CERTIFICATES = Path("/usr/share/ca-certificates/mozilla")
BUNDLE_HOME = "opt/tulle"
EXECUTABLES = ("tulle", "tulled", "tullectl")
SBOM = "usr/share/doc/tulle/image.spdx.json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}

_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/:/nonexistent\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_FOLDERS = ("dev", "etc/cni/net.d", "etc/tulle", "opt/cni/bin", "proc", "run", "sys", "tmp", "usr/bin", "var/lib/cni")
_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "../run"}
"""`var/run`: runtimes tell a pod's namespace as /var/run/netns/..., which on a node is the same place."""

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"


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


# --- what is in it ---


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
    return Root((_ordered(base), _ordered(ours)), dict(sorted(packages.items())), release)


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


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    """In the order of their paths, every folder before what is in it."""
    found = {each.path: each for each in entries}
    for path in list(found):
        for parent in Path(path).parents:
            if parent != Path():
                found.setdefault(parent.as_posix(), _folder(parent.as_posix()))
    return [found[path] for path in sorted(found)]


# --- the image ---


class Image(NamedTuple):
    """Blobs by digest, the digest of the manifest, and the bill of materials."""

    blobs: dict[str, bytes]
    manifest: dict[str, object]
    bill: str


def build(root: Root, epoch: int) -> Image:
    """The image of a root file system. `epoch`: the time of all files, in seconds since 1970."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    shipped = [each for layer in root.layers for each in layer if each.kind == tarfile.REGTYPE]
    contents = [Content(each.path, each.data, each.packages) for each in shipped]
    bill = sbom.spdx(f"tulle-{root.release}", root.packages, contents, created)
    *lower, top = root.layers
    top = _ordered([*top, Entry(SBOM, data=bill.encode(), packages=("tulle",))])
    archives = [_tar(each, epoch) for each in (*lower, top)]
    packed = [gzip.compress(each, 9, mtime=0) for each in archives]
    config = _json(_config([_digest(each) for each in archives], created, root.release))
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [_descriptor(_LAYER, each) for each in packed],
    }
    return Image({_digest(each): each for each in (config, *packed, _json(manifest))}, manifest, bill)


def _tar(entries: Sequence[Entry], epoch: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in entries:
            info = tarfile.TarInfo(each.path)
            info.type, info.mode, info.mtime = each.kind, each.mode, epoch
            info.linkname, info.size = each.target, len(each.data)
            archive.addfile(info, io.BytesIO(each.data))
    return buffer.getvalue()


def _config(layers: Sequence[str], created: str, release: str) -> dict[str, object]:
    return {
        "created": created,
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Entrypoint": ["/opt/tulle/current/tulled"],
            "Env": [
                "PATH=/usr/local/bin:/usr/bin:/bin",
                "LANG=C.UTF-8",
                "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            ],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "Tulle",
                "org.opencontainers.image.description": "A container network for Kubernetes: CNI plugin and node agent",
                "org.opencontainers.image.version": sbom.ours().version,
                "org.opencontainers.image.revision": release,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
        "history": [{"created": created, "created_by": f"scripts/image: {each}"} for each in ("system", "bundle")],
    }


def files(image: Image, tag: str) -> dict[str, bytes]:
    """The image as files: an OCI image layout; and beside it what `docker load` reads."""
    manifest = _json(image.manifest)
    index = {
        "schemaVersion": 2,
        "mediaType": _INDEX,
        "manifests": [
            _descriptor(_MANIFEST, manifest)
            | {
                "annotations": {
                    "io.containerd.image.name": tag,
                    "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
                }
            }
        ],
    }
    layers = [each["digest"] for each in _layers(image)]
    docker = [{"Config": _blob(_config_digest(image)), "RepoTags": [tag], "Layers": [_blob(each) for each in layers]}]
    return {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        "manifest.json": _json(docker),
        **{_blob(digest): data for digest, data in sorted(image.blobs.items())},
    }


def archive(files: Mapping[str, bytes], epoch: int) -> bytes:
    """The same as one tar archive."""
    return _tar(_ordered(Entry(path, data=data) for path, data in files.items()), epoch)


def _layers(image: Image) -> list[dict[str, str]]:
    layers = image.manifest["layers"]
    assert isinstance(layers, list)
    return layers


def _config_digest(image: Image) -> str:
    config = image.manifest["config"]
    assert isinstance(config, dict)
    return str(config["digest"])


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

"""What a Kubernetes is made of before it runs: its executables, the image of its pods, and its keys.

It exists so that `kube.py` finds everything in one folder. Executables are looked for in $KUBEBUILDER_ASSETS, then
in what `../shared/kube/binaries.tar.xz` holds (unpacked once, into build/kube), then on PATH. The image is made here
from Debian's static busybox, the keys by openssl: nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from scripts.lib.lab.topology import REPO, LabError

NEEDED = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy",
    "containerd", "containerd-shim-runc-v2", "ctr", "runc",
)
TOOLS = ("openssl", "nft", "iptables", "conntrack", "unshare", "nsenter")
ARCHIVE = REPO.parent / "shared" / "kube" / "binaries.tar.xz"
UNPACKED = REPO / "build" / "kube"
BUSYBOX = Path("/bin/busybox")
IMAGE = "localhost/lab:1"
"""busybox: the pods of the lab, and the pause container of every pod."""


def search_path(names: tuple[str, ...] = NEEDED) -> str:
    """Where these executables are, in PATH's form. Raises LabError that says what is missing."""
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    inherited = os.environ.get("PATH", os.defpath)
    path = f"{assets}:{inherited}" if assets else inherited
    if _missing(path, names) and ARCHIVE.exists():
        path = f"{assets}:{_unpack()}:{inherited}" if assets else f"{_unpack()}:{inherited}"
    if missing := _missing(path, names):
        raise LabError(f"no {', '.join(missing)} in $KUBEBUILDER_ASSETS, {ARCHIVE.parent} or PATH")
    return path


def release(path: str) -> tuple[int, int]:
    """Which Kubernetes the kubelet there is of, as (1, 20). Raises LabError."""
    words = [shutil.which("kubelet", path=path) or "kubelet", "--version"]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    found = re.search(r"v(\d+)\.(\d+)\.", said)
    if found is None:
        raise LabError(f"{' '.join(words)} says {said!r}, which is no release of Kubernetes")
    return int(found[1]), int(found[2])


def lacks(names: tuple[str, ...] = NEEDED, tools: tuple[str, ...] = TOOLS) -> str:
    """Why there can be no Kubernetes here (or what else these are for), "" when there can. Unpacks nothing."""
    if os.geteuid() != 0:
        return "it needs root"
    path = ":".join(filter(None, (os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PATH", os.defpath))))
    missing = _missing(path, names)
    if missing and not ARCHIVE.exists():
        return f"no {', '.join(missing)} in $KUBEBUILDER_ASSETS, {ARCHIVE.parent} or PATH"
    missing = _missing(path, tools) + ([] if BUSYBOX.exists() else [str(BUSYBOX)])
    return f"the commands {', '.join(missing)} are missing" if missing else ""


def _missing(path: str, names: tuple[str, ...]) -> list[str]:
    return [each for each in names if shutil.which(each, path=path) is None]


def _unpack() -> Path:
    """By rename, for two tests may want it at once; anew when the archive has changed."""
    stamp = UNPACKED / "stamp"
    mark = str(ARCHIVE.stat().st_mtime_ns)
    if stamp.exists() and stamp.read_text() == mark:
        return UNPACKED
    UNPACKED.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED.parent, prefix="kube-") as scratch:
        fresh = Path(scratch) / "kube"
        fresh.mkdir()
        subprocess.run(["tar", "-C", str(fresh), "-xJf", str(ARCHIVE)], check=True)
        (fresh / "stamp").write_text(mark)
        if UNPACKED.exists():
            UNPACKED.rename(Path(scratch) / "old")
        fresh.rename(UNPACKED)
    return UNPACKED


def write_image(path: Path) -> None:
    """An archive with IMAGE, in the form of `docker save`, which `ctr images import` reads. Raises LabError."""
    if subprocess.run(["ldd", str(BUSYBOX)], capture_output=True, check=False).returncode == 0:
        raise LabError(f"{BUSYBOX} is linked dynamically: apt-get install busybox-static")
    applets = subprocess.run([str(BUSYBOX), "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = {"bin/busybox": BUSYBOX.read_bytes(), "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"}
    layer = _tar(files, {f"bin/{each}": "busybox" for each in applets if each != "busybox"}, ("tmp", "root"))
    config = json.dumps({
        "architecture": _architecture(), "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    path.write_bytes(_tar(
        {"config.json": config, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}, {}, ()
    ))


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _tar(files: dict[str, bytes], links: dict[str, str], folders: tuple[str, ...]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return archive.getvalue()


class Keys(NamedTuple):
    """The cluster's certificate authority, in a folder of its own, and what it has signed there."""

    folder: Path

    def make_authority(self) -> None:
        """The authority, and the pair of keys that service accounts' tokens are signed with."""
        self.folder.mkdir(parents=True, mode=0o700)
        self._openssl("ecparam -name prime256v1 -genkey -noout -out ca.key")
        self._openssl("req -x509 -new -key ca.key -days 3650 -subj /CN=lab -out ca.crt")
        self._openssl("genrsa -out accounts.key 2048")
        self._openssl("rsa -in accounts.key -pubout -out accounts.pub")

    def sign(self, name: str, subject: str, *extensions: str) -> None:
        """`name`.key and `name`.crt for this subject, such as /O=system:masters/CN=admin."""
        if (self.folder / f"{name}.crt").exists():
            return
        (self.folder / f"{name}.ext").write_text("\n".join(extensions) + "\n")
        self._openssl(f"ecparam -name prime256v1 -genkey -noout -out {name}.key")
        self._openssl(f"req -new -key {name}.key -subj {subject} -out {name}.csr")
        self._openssl(
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile {name}.ext "
            f"-out {name}.crt"
        )

    def kubeconfig(self, name: str, subject: str, server: str) -> Path:
        """A file for clients that are that subject."""
        self.sign(name, subject, "extendedKeyUsage=clientAuth")
        path = self.folder / f"{name}.kubeconfig"
        at = {kind: str(self.folder / f"{who}.{kind}") for who, kind in ((name, "crt"), (name, "key"))}
        cluster = {"server": server, "certificate-authority": str(self.folder / "ca.crt")}
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": {"client-certificate": at["crt"], "client-key": at["key"]}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
        }, indent=1))
        return path

    def _openssl(self, words: str) -> None:
        done = subprocess.run(
            ["openssl", *words.split()], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LabError(f"openssl {words}: {done.stderr.strip()}")

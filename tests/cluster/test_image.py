"""scripts/image makes an image that a real containerd runs, the same bytes every time, and says whose all of it is."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import BUNDLE, REPOSITORY
from tests.pace import PATIENCE, until

TAG = "localhost/tulle:test"
SBOM = "usr/share/doc/tulle/image.spdx.json"
TOOLS = ("containerd", "ctr", "runc", "containerd-shim-runc-v2", "unshare", "nsenter")

pytestmark = pytest.mark.skipif(not BUNDLE.exists(), reason="there is no bundle in dist/tulle: run scripts/build")


def build(output: Path, bundle: Path = BUNDLE, **environ: str) -> Path:
    """Have scripts/image make the image; the bill of materials lies beside it."""
    words = [str(REPOSITORY / "scripts" / "image"), "--tag", TAG, "--bundle", str(bundle), "--output", str(output)]
    done = subprocess.run(
        words, env={**os.environ, **environ}, capture_output=True, text=True, timeout=100, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("image") / "tulle.tar")


@pytest.fixture(scope="module")
def contents(image: Path) -> dict[str, bytes | str]:
    """The root file system that a runtime would lay out: files by their bytes, links by where they lead."""
    found: dict[str, bytes | str] = {}
    with tarfile.open(image) as archive:
        layers = [each["digest"] for each in json.loads(blob(archive, manifest_digest(archive)))["layers"]]
        for digest in layers:
            with tarfile.open(fileobj=io.BytesIO(blob(archive, digest))) as layer:
                found |= {each.name: each.linkname if each.issym() else content(layer, each)
                          for each in layer if not each.isdir()}
    return found


def blob(archive: tarfile.TarFile, digest: str) -> bytes:
    file = archive.extractfile("blobs/" + digest.replace(":", "/"))
    assert file is not None
    data = file.read()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def manifest_digest(archive: tarfile.TarFile) -> str:
    index = archive.extractfile("index.json")
    assert index is not None
    return str(json.loads(index.read())["manifests"][0]["digest"])


def content(layer: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    assert member.isreg() and (member.uid, member.gid, member.mtime) == (0, 0, 0), member.name
    file = layer.extractfile(member)
    assert file is not None
    return file.read()


# --- the bytes ---


def test_two_builds_are_the_same_to_the_byte(image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(BUNDLE, copy, symlinks=True, copy_function=shutil.copyfile)
    for each in BUNDLE.rglob("*"):
        if each.is_file() and os.access(each, os.X_OK):
            (copy / each.relative_to(BUNDLE)).chmod(0o700)
    again = build(tmp_path / "again.tar", copy, TZ="Asia/Tokyo", PYTHONHASHSEED="7", LC_ALL="C")
    assert again.read_bytes() == image.read_bytes()


def test_a_folder_has_what_the_archive_has(image: Path, tmp_path: Path) -> None:
    folder = build(tmp_path / "layout")
    with tarfile.open(image) as archive:
        packed = {each.name: content(archive, each) for each in archive if not each.isdir()}
    files = [each for each in folder.rglob("*") if each.is_file()]
    assert {each.relative_to(folder).as_posix(): each.read_bytes() for each in files} == packed


def test_a_bundle_that_is_not_whole_makes_no_image(tmp_path: Path) -> None:
    words = [str(REPOSITORY / "scripts" / "image"), "--bundle", str(tmp_path), "--output", str(tmp_path / "i.tar")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "run scripts/build" in done.stderr


def test_a_bundle_of_other_releases_than_are_locked_makes_no_image(tmp_path: Path) -> None:
    packages = json.loads((BUNDLE / "packages.json").read_text())
    for each in packages["packages"]:
        each["version"] += ".post9" * (each["name"] == "msgspec")
    (tmp_path / "release").write_text("0\n")
    (tmp_path / "packages.json").write_text(json.dumps(packages))
    words = [str(REPOSITORY / "scripts" / "image"), "--bundle", str(tmp_path), "--output", str(tmp_path / "i.tar")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "msgspec" in done.stderr and "scripts/build --force" in done.stderr


# --- the bill of materials ---


@pytest.fixture(scope="module")
def bill(contents: dict[str, bytes | str]) -> Any:
    return json.loads(contents[SBOM])


def test_the_bill_lies_in_the_image_and_beside_it(image: Path, contents: dict[str, bytes | str]) -> None:
    assert image.with_name("tulle.spdx.json").read_bytes() == contents[SBOM]


def test_every_file_is_in_the_bill_and_belongs_to_a_package(contents: dict[str, bytes | str], bill: Any) -> None:
    real = {f"./{path}": data for path, data in contents.items() if isinstance(data, bytes) and path != SBOM}
    listed = {each["fileName"]: each for each in bill["files"]}
    assert listed.keys() == real.keys()
    for name, file in listed.items():
        sums = {each["algorithm"]: each["checksumValue"] for each in file["checksums"]}
        assert sums == {
            "SHA1": hashlib.sha1(real[name]).hexdigest(), "SHA256": hashlib.sha256(real[name]).hexdigest()
        }
    packages = {each["SPDXID"] for each in bill["packages"]}
    owned = {each["relatedSpdxElement"] for each in bill["relationships"]
             if each["relationshipType"] == "CONTAINS" and each["spdxElementId"] in packages}
    assert owned == {each["SPDXID"] for each in bill["files"]}


def test_every_package_has_a_version_and_a_licence(bill: Any) -> None:
    texts = {each["licenseId"] for each in bill["hasExtractedLicensingInfos"] if each["extractedText"].strip()}
    for each in bill["packages"]:
        assert each["versionInfo"], each
        licence = each["licenseDeclared"]
        assert licence != "NOASSERTION", f"{each['name']}: nobody said under which licence"
        assert not licence.startswith("LicenseRef") or licence in texts
        assert each["externalRefs"][0]["referenceLocator"].startswith(("pkg:deb/debian/", "pkg:pypi/", "pkg:generic/"))


def test_the_versions_in_the_bill_are_those_installed_here(bill: Any) -> None:
    versions = {each["externalRefs"][0]["referenceLocator"].partition("/")[0]: 0 for each in bill["packages"]}
    assert {"pkg:deb", "pkg:pypi", "pkg:generic"} == set(versions)
    for each in bill["packages"]:
        locator, version = each["externalRefs"][0]["referenceLocator"], each["versionInfo"]
        if locator.startswith("pkg:pypi/"):
            assert importlib.metadata.version(each["name"]) == version
        elif locator.startswith("pkg:deb/"):
            words = ["dpkg-query", "--show", "--showformat", "${Version}\n", each["name"]]
            shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            assert version in shown.split()


def test_every_frozen_module_is_of_a_package_in_the_bill(bill: Any) -> None:
    archives: Any = pytest.importorskip("PyInstaller.archive.readers", reason="scripts/build installs PyInstaller")
    known = {each["name"] for each in bill["packages"]}
    homes = importlib.metadata.packages_distributions()
    for name in ("tulled", "tullectl"):
        modules = archives.CArchiveReader(str(BUNDLE / name)).open_embedded_archive("PYZ.pyz").toc
        tops = {each.partition(".")[0] for each in modules}
        assert {"cni_plugin", "msgspec"} <= tops
        for top in tops - set(sys.stdlib_module_names) - {"cni_plugin", "ipam"}:
            if not top.startswith(("_pyi", "_sysconfigdata")):
                assert {each.lower() for each in homes[top]} & known, f"{top} in {name} belongs to nobody"


# --- a real containerd ---

WORLD = """
set -e
mount --make-rprivate /
for each in /run /var/lib /opt; do mount -t tmpfs tmpfs $each; done
mkdir -p /run/work /var/lib/node
ip link set lo up
cat >/run/config.toml <<'END'
version = 2
root = "/var/lib/c"
state = "/run/c"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/c.sock"
END
exec containerd --config /run/config.toml
"""


CTR = "ctr --address /run/c.sock --namespace k8s.io"
RUN = f"{CTR} run --rm --snapshotter native"
ASK = "echo '{\"cniVersion\": \"1.1.0\"}'"
MOUNT = "--mount type=bind,src=/var/lib/node,dst=/host,options=rbind:rw"


class Node:
    """A containerd alone in namespaces of its own, whose files are in memory and end with it."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "containerd.log"
        words = ["unshare", "-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "bash", "-c", WORLD]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait()

    def sh(self, script: str, *, check: bool = True) -> str:
        """What a shell script says there, on stdout and stderr."""
        words = ["nsenter", "-m", "-n", "-p", "-t", self._init(), "--", "bash", "-c", script]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
            check=False,
        )
        assert not check or done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def ctr(self, *words: str) -> str:
        return self.sh(f"{CTR} {' '.join(words)}")

    def run(self, command: str, *options: str) -> str:
        """What a container of the image says, made and removed for this."""
        return self.sh(" ".join([RUN, *options, TAG, "test", command]))

    def close(self) -> None:
        self._process.kill()  # and by --kill-child what it started
        self._process.wait(PATIENCE)

    def _init(self) -> str:
        return Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().strip()

    def _wait(self) -> None:
        up = f"{CTR} version >&/dev/null && echo ok"

        def answers() -> bool:
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            return self._init() != "" and "ok" in self.sh(up, check=False)

        until(answers, "containerd answers", why=lambda: self._log.read_text()[-2000:])


@pytest.fixture(scope="module")
def node(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A containerd that has the image."""
    lacking = [each for each in TOOLS if shutil.which(each) is None]
    if os.geteuid() != 0 or lacking:
        pytest.skip("needs root" if os.geteuid() else f"not here: {', '.join(lacking)}")
    node = Node(tmp_path_factory.mktemp("containerd"))
    try:
        said = node.ctr("images", "import", "--snapshotter", "native", str(image))
        assert TAG in said
        yield node
    finally:
        node.close()


def test_containerd_imports_the_image_and_runs_all_three(node: Node) -> None:
    assert TAG in node.ctr("images", "ls", "-q")
    assert node.run("tulled --version").startswith("tulled ")
    assert "status" in node.run("tullectl --help")
    assert node.run("tulle").startswith("Tulle CNI plugin ")


def test_the_first_step_installs_a_plugin_that_runs_on_the_node(node: Node) -> None:
    node.run("tulled --install /host", MOUNT)
    node.sh("mkdir -p /opt/tulle /opt/cni && cp -a /var/lib/node/opt/. /opt/")
    assert node.sh("/opt/cni/bin/tulle").startswith("Tulle CNI plugin ")
    served = node.sh(f"{ASK} | TULLE_RUN_DIR=/run/none CNI_COMMAND=VERSION /opt/cni/bin/tulle")
    assert "1.1.0" in json.loads(served)["supportedVersions"]
    assert node.sh("readlink /opt/tulle/current").strip() == (BUNDLE / "release").read_text().strip()


@pytest.mark.parametrize(("source", "said"), [
    ({"type": "kubernetes", "kubeconfig": "/host/kubeconfig"}, "the Kubernetes API at https://127.0.0.1:1"),
    ({"type": "etcd", "endpoints": ["https://127.0.0.1:1"]}, "https://127.0.0.1:1"),
    ({"type": "file", "path": "/host/none.json"}, "/host/none.json"),
])
def test_each_source_begins_in_the_container(node: Node, source: dict[str, object], said: str) -> None:
    """Its libraries are in the bundle, and found: it gets as far as there is nobody to speak to."""
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}], "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    for name, value in (("kubeconfig", kubeconfig), ("agent.json", {"source": source})):
        node.sh(f"echo '{json.dumps(value)}' >/var/lib/node/{name}")
    rights = "--env NODE_NAME=n1 --cap-add CAP_NET_ADMIN --cap-add CAP_SYS_ADMIN"
    agent = f"{RUN} {rights} {MOUNT} {TAG} agent tulled --run-dir /host/run --conf /host/agent.json"
    log = node.sh(f"timeout --signal TERM 6 {agent}", check=False)
    assert said in log
    assert "Error:" not in log.replace("NewConnectionError", ""), "an import that failed would be told so"

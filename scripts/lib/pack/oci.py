"""An OCI image of a root file system: how it becomes layers, a configuration, an index.

No daemon and no other tool: an image is a few JSON files and a tar archive a layer, named by their digests
(https://github.com/opencontainers/image-spec). Promises: the same root file system gives the same image to the byte,
whenever and wherever it is made; the bill of materials that is in it tells of each file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scripts.lib.pack import sbom
from scripts.lib.pack.rootfs import Entry, Root, ordered
from scripts.lib.pack.sbom import Content

SBOM = "usr/share/doc/tulle/image.spdx.json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"


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
    top = ordered([*top, Entry(SBOM, data=bill.encode(), packages=("tulle",))])
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
    return _tar(ordered(Entry(path, data=data) for path, data in files.items()), epoch)


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

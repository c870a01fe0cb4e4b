"""Where the nodes of a simulated cluster stand, for `converge`: a file, or a real Kubernetes API.

The API server and its etcd live in a namespace of their own, which the node's namespace has a link to; there are no
kubelets, the Node objects are made by hand. Both end with the benchmark.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from typing import Protocol

from scripts.lib.bench.cluster import PODS, UNDERLAY, nodes
from scripts.lib.bench.world import inside
from scripts.lib.lab import namespaces
from scripts.lib.lab.kube import PORT, Kube
from scripts.lib.lab.runtime import Json
from scripts.lib.lab.topology import Spec

NAMESPACE = "kube-tulle"


class Cluster(Protocol):
    """The nodes, and how they change. `source` is the agent's setting; the first node is the one that is measured."""

    source: Json

    def reach(self, netns: str) -> None:
        """Give a node's namespace its way to the source."""

    def put(self, number: int) -> None:
        """So many nodes."""

    def join(self) -> None:
        """One more."""

    def leave(self) -> None:
        """It goes again."""


def uplink(netns: str) -> None:
    """A namespace that is the first node."""
    namespaces.create(netns)
    address = f"{UNDERLAY.network_address + 1}/{UNDERLAY.prefixlen}"
    links = ("link add up0 type veth peer name wire0", "link set wire0 up", "link set up0 up")
    namespaces.ip(netns, *links, f"addr add {address} dev up0")


class InFile:
    """The nodes in one file, which is replaced at each change."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "nodes.json"
        self.source: Json = {"type": "file", "path": str(self._path)}
        self._nodes: list[Json] = []

    def reach(self, netns: str) -> None:
        """It is there already."""

    def put(self, number: int) -> None:
        """So many nodes."""
        self._nodes = nodes(number)
        self._write(self._nodes[:number])

    def join(self) -> None:
        """One more."""
        self._write(self._nodes)

    def leave(self) -> None:
        """It goes again."""
        self._write(self._nodes[:-1])

    def _write(self, listed: Sequence[Json]) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"network": str(PODS), "backend": {"type": "vxlan"}, "nodes": listed}))
        new.rename(self._path)


class InKubernetes:
    """The nodes as Node objects of a real API server."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._links = 0
        self._nodes: list[Json] = []
        kubeconfig = str(kube.keys.folder / "admin.kubeconfig")
        self.source: Json = {"type": "kubernetes", "kubeconfig": kubeconfig, "configMap": f"{NAMESPACE}/tulle-config"}

    def reach(self, netns: str) -> None:
        """A link of its own, by which only the API server is reached."""
        self._links += 1
        ours, theirs = f"172.31.{self._links}.2", f"172.31.{self._links}.1"
        wire, name = self._kube.spec.wire, f"api{self._links}"
        namespaces.ip(wire, f"link add {name} type veth peer name api0 netns {netns}", f"link set {name} up",
                  f"addr add {theirs}/30 dev {name}")
        namespaces.ip(netns, "link set api0 up", f"addr add {ours}/30 dev api0",
                  f"route add {self._kube.address} via {theirs}")

    def put(self, number: int) -> None:
        """So many nodes."""
        self._nodes = nodes(number)
        conf = json.dumps({"Network": str(PODS), "Backend": {"Type": "vxlan"}})
        with self._api() as api:
            _ask(api, "POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
            _ask(api, "POST", maps, {"metadata": {"name": "tulle-config"}, "data": {"net-conf.json": conf}})
            for each in self._nodes[:number]:
                _ask(api, "POST", "/api/v1/nodes", node_object(each))

    def join(self) -> None:
        """One more."""
        with self._api() as api:
            _ask(api, "POST", "/api/v1/nodes", node_object(self._nodes[-1]))

    def leave(self) -> None:
        """It goes again."""
        with self._api() as api:
            _ask(api, "DELETE", f"/api/v1/nodes/{self._nodes[-1]['name']}")

    @contextmanager
    def _api(self) -> Iterator[HTTPSConnection]:
        keys = self._kube.keys.folder
        context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        with inside(self._kube.spec.wire):
            connection = HTTPSConnection(self._kube.address, PORT, timeout=30, context=context)
            try:
                connection.connect()
                yield connection
            finally:
                connection.close()


@contextmanager
def kubernetes(name: str) -> Iterator[InKubernetes]:
    """An API server without nodes while the block runs. Raises LabError when it does not come up."""
    kube = Kube(Spec(name=name, nodes=1, family="4"))
    namespaces.create(kube.spec.wire)
    namespaces.ip(kube.spec.wire, f"addr add {kube.address}/32 dev lo")
    (kube.folder / "log").mkdir(parents=True)
    kube.keys.make_authority()
    subject = "/CN=kube-apiserver"
    kube.keys.sign("apiserver", subject, f"subjectAltName=IP:{kube.address}", "extendedKeyUsage=serverAuth")
    kube.keys.sign("to-kubelet", f"/O=system:masters{subject}", "extendedKeyUsage=clientAuth")
    kube.keys.kubeconfig("admin", "/O=system:masters/CN=admin", kube.server)
    started: list[str] = []
    try:
        for part in ("etcd", "kube-apiserver"):
            kube.start(part)
            started.append(part)
        kube.wait(lambda: kube.try_kubectl("get", "--raw=/readyz") is not None, "the API answers")
        yield InKubernetes(kube)
    finally:
        for part in reversed(started):
            kube.stop(part)


def node_object(node: Json) -> Json:
    """A Node as kubelet and controller manager leave it, as far as an agent looks."""
    cidrs = node["podCIDRs"]
    assert isinstance(cidrs, list)
    addresses = [{"type": "InternalIP", "address": node["address"]}]
    return {
        "metadata": {"name": node["name"]}, "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": addresses},
    }


def _ask(api: HTTPSConnection, method: str, path: str, body: Json | None = None) -> None:
    """Raises OSError with the API's words."""
    api.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    answer = api.getresponse()
    said = answer.read()
    if answer.status >= 300:
        raise OSError(f"{method} {path}: {answer.status} {said[:300]!r}")

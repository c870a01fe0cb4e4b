"""A random walk of cluster changes: after each step the kernel equals a fresh plan, and pods that should answer do.

A walk is repeated by its seed: TULLE_WALK_SEED=... takes it again. With --soak or TULLE_SOAK=1 ten or five minutes are
walked with each source.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from scripts.lib.lab import labs, namespaces
from tests import soak
from tests.cluster.control_plane import PORT, ControlPlane, missing
from tests.cluster.etcd import PREFIX, Member, running
from tests.netns.conftest import MakeLab
from tests.netns.failing_engine import enter
from tests.netns.members import members
from tests.netns.walking import EtcdWalk, FileWalk, KubernetesWalk, Walk, walk

ROUTER = "192.0.2.254"
SHORT = {"file": 40, "etcd": 20, "kubernetes": 20}
"""Seconds."""
NODES = 4


def chosen_seed() -> int:
    seed = int(os.environ.get("TULLE_WALK_SEED", "0")) or random.randrange(1, 1 << 32)
    print(f"\nTULLE_WALK_SEED={seed}", file=sys.stderr, flush=True)
    return seed


@contextmanager
def file_walk(made: labs.Lab, plugin: Path, seed: int, _: Path) -> Iterator[Walk]:
    with members(made, plugin) as them:
        yield FileWalk(them, seed)


@contextmanager
def etcd_walk(made: labs.Lab, plugin: Path, seed: int, folder: Path) -> Iterator[Walk]:
    if shutil.which("etcd") is None:
        pytest.skip("no etcd: apt-get install etcd-server etcd-client")
    etcd = Member(made.spec.wire, folder / "etcd", ROUTER)
    source = {"type": "etcd", "endpoints": [etcd.url], "prefix": PREFIX}
    with running(etcd), members(made, plugin, source=source) as them:
        yield EtcdWalk(them, seed, etcd)


@contextmanager
def kubernetes_walk(made: labs.Lab, plugin: Path, seed: int, folder: Path) -> Iterator[Walk]:
    if missing():
        pytest.skip(f"no Kubernetes API server: {missing()}")
    folder.mkdir(exist_ok=True)
    with ControlPlane(folder) as plane, Door(made.spec.wire, plane):
        conf = json.loads(plane.kubeconfig.read_text())  # its server's certificate is for loopback alone
        conf["clusters"][0]["cluster"] = {"server": f"https://{ROUTER}:{PORT}", "insecure-skip-tls-verify": True}
        (folder / "kubeconfig").write_text(json.dumps(conf))
        source = {"type": "kubernetes", "kubeconfig": str(folder / "kubeconfig")}
        with members(made, plugin, source=source) as them:
            yield KubernetesWalk(them, seed, plane)


class Door:
    """A way from the nodes' wire to an API server, which lives in a network of its own."""

    def __init__(self, netns: str, plane: ControlPlane) -> None:
        self._plane = plane
        self._listener: socket.socket | None = None
        opened = threading.Thread(target=self._open, args=(netns,))  # so that this thread stays where it is
        opened.start()
        opened.join()

    def __enter__(self) -> Door:
        assert self._listener is not None
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _open(self, netns: str) -> None:
        enter(f"{namespaces.NETNS_DIR / netns}")
        self._listener = socket.create_server((ROUTER, PORT))

    def _serve(self) -> None:
        assert self._listener is not None
        with self._plane.inside(), suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", PORT), 5)
                except OSError:
                    caller.close()
                    continue
                server.settimeout(None)
                for pair in ((caller, server), (server, caller)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for each in (one, other):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
            each.close()


SOURCES = {"file": file_walk, "etcd": etcd_walk, "kubernetes": kubernetes_walk}
FAMILIES = {"file": "dual", "etcd": "dual", "kubernetes": "4"}
"""Kubernetes 1.20, the one that tests find, keeps a single subnet of a node unless a feature gate is opened."""


def go(lab: MakeLab, plugin: Path, folder: Path, source: str, seconds: float) -> None:
    seed = chosen_seed()
    made = lab(nodes=NODES, family=FAMILIES[source])
    with SOURCES[source](made, plugin, seed, folder) as walking:
        walk(walking, seed, seconds)


@pytest.mark.parametrize("source", SOURCES)
def test_after_each_step_of_a_short_walk_the_kernel_is_as_planned_and_all_pods_answer(
    lab: MakeLab, plugin: Path, tmp_path: Path, source: str
) -> None:
    go(lab, plugin, tmp_path, source, SHORT[source])


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("source", SOURCES)
def test_after_each_step_of_a_long_walk_the_kernel_is_as_planned_and_all_pods_answer(
    lab: MakeLab, plugin: Path, tmp_path: Path, source: str
) -> None:
    go(lab, plugin, tmp_path, source, soak.seconds("a walk of a cluster"))

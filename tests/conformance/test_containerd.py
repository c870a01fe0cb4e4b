"""containerd's `ctr run --cni` wires its containers by the bundle, from /etc/cni/net.d and /opt/cni/bin."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.clients import Client, make_rootfs, network, require
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import Node, Plugins
from tests.conformance.observe import snapshot
from tests.pace import PATIENCE, until

CONFIG = """
version = 2
root = "{state}/root"
state = "{state}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{socket}"
"""


class Containerd(Client):
    """A containerd of the test's own, and `ctr` that speaks to it."""

    def __init__(self, node: Node, socket_path: Path) -> None:
        super().__init__(node)
        self.socket = socket_path
        self.rootfs = make_rootfs(self.state / "rootfs")
        self._own_folders()
        (self.state / "config.toml").write_text(CONFIG.format(state=self.state, socket=self.socket))

    def _own_folders(self) -> None:
        """ctr reads fixed places: /etc is the machine's with cni/net.d on top, /opt has the plugins alone."""
        self.confs = self.state / "etc/cni/net.d"
        binaries = self.state / "opt/cni/bin"
        for folder in (self.confs, binaries, self.state / "work"):
            folder.mkdir(parents=True)
        for directory in reversed(self.path.split(":")):
            for plugin in Path(directory).iterdir():
                link = binaries / plugin.name
                link.unlink(missing_ok=True)
                link.symlink_to(plugin.resolve())

    def mounts(self) -> list[str]:
        layers = f"lowerdir=/etc,upperdir={self.state}/etc,workdir={self.state}/work"
        mine = [f"mount -t overlay overlay -o {layers} /etc", f"mount --bind {self.state}/opt /opt"]
        return [*super().mounts(), *mine]

    def name(self, container: str) -> str:
        """A container's name that no other test has: runc and the shim keep theirs below /run, which all share."""
        return f"{self.node.name}-{container}"

    def ctr(self, *words: str) -> list[str]:
        return ["ctr", "--address", str(self.socket), *words]

    def serve(self) -> subprocess.Popen[bytes]:
        log = (self.state / "containerd.log").open("wb")
        return subprocess.Popen(
            ["containerd", "--config", str(self.state / "config.toml")], stdout=log, stderr=log, env=self.environ
        )

    def wait(self) -> None:
        log = self.state / "containerd.log"
        with socket.socket(socket.AF_UNIX) as client:
            until(
                lambda: client.connect_ex(str(self.socket)) == 0, "containerd listens",
                why=lambda: log.read_text()[-2000:],
            )


@pytest.fixture
def containerd(nodes: Nodes, tulle: Plugins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    require("containerd", "ctr", "runc", "containerd-shim-runc-v2")
    client = Containerd(nodes(tulle), tmp_path_factory.mktemp("c") / "s")
    client.configure(network(client.node))
    daemon = client.serve()
    try:
        client.wait()
        yield client
        server = client.name("server")
        for words in (("tasks", "kill", "--signal", "9", server), ("containers", "delete", server)):
            client.run(*client.ctr(*words))
    finally:
        daemon.terminate()
        daemon.wait(timeout=PATIENCE)
        client.close()


def test_two_containerd_containers_talk(containerd: Containerd) -> None:
    node = containerd.node
    before = snapshot(node)
    rootfs = str(containerd.rootfs)
    command = ("run", "--rm", "--cni", "--rootfs", rootfs)
    server = containerd.start(*containerd.ctr(*command, containerd.name("server"), "/bin/sleep", "30"))
    address = _wait_for_lease(node)
    ping = (containerd.name("client"), "/bin/ping", "-c", "1", "-W", "2", address)
    client = containerd.run(*containerd.ctr(*command, *ping))
    assert client.returncode == 0, client.stdout + client.stderr
    assert "1 packets received" in client.stdout
    assert list(node.leases()) == [address], "the client's address went back when it ended"
    containerd.run(*containerd.ctr("tasks", "kill", "--signal", "9", containerd.name("server")))
    server.communicate(timeout=PATIENCE)
    after = snapshot(node)
    assert (after["leases"], after["records"], after["ruleset"]) == ({}, [], before["ruleset"])


def _wait_for_lease(node: Node) -> str:
    """The address of the only container, once it has one and answers."""
    def answers(address: str) -> bool:
        return node.run("ping", "-c1", "-W1", address, check=False).returncode == 0

    return until(lambda: next(filter(answers, node.leases()), ""), "a container has an address")

"""podman 4 with its CNI backend runs containers that talk to each other; their root file system is busybox."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.clients import Client, make_rootfs, network, require
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import Node, Plugins
from tests.conformance.observe import snapshot

CONTAINERS_CONF = """
[network]
network_backend = "cni"
cni_plugin_dirs = [{plugins}]
network_config_dir = "{confs}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{short}/tmp"
"""


class Podman(Client):
    """podman with storage, state and networks of its own."""

    def __init__(self, node: Node, short: Path) -> None:
        super().__init__(node)
        self.short = short  # podman refuses a runroot of more than 50 characters
        plugins = ", ".join(f'"{each}"' for each in self.path.split(":"))
        (self.state / "containers.conf").write_text(CONTAINERS_CONF.format(
            plugins=plugins, confs=self.confs, short=short
        ))
        self.rootfs = make_rootfs(self.state / "rootfs")

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "CONTAINERS_CONF": str(self.state / "containers.conf")}

    def words(self, *command: str) -> list[str]:
        folders = ("--root", str(self.state / "root"), "--runroot", str(self.short / "run"))
        return ["podman", *folders, "--runtime", "runc", *command]

    def container(self, name: str, *command: str, remove: bool = True) -> list[str]:
        # A container without CAP_SYS_RESOURCE may raise neither limits nor its OOM score.
        limits = ("--oom-score-adj=0", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        keep = ("--rm",) if remove else ("-d",)
        options = ("--network", "net", "--name", f"{self.node.name}-{name}", *limits, *keep)
        return self.words("run", *options, "--rootfs", f"{self.rootfs}:O", *command)


@pytest.fixture
def podman(nodes: Nodes, tulle: Plugins) -> Iterator[Podman]:
    require("podman", "runc")
    with tempfile.TemporaryDirectory(prefix="tulle-podman-") as short:
        client = Podman(nodes(tulle), Path(short))
        client.configure({**network(client.node), "cniVersion": "0.4.0"})
        try:
            yield client
        finally:
            client.run(*client.words("rm", "--all", "--force", "--time", "0"))
            client.close()


def test_two_podman_containers_talk(podman: Podman) -> None:
    node = podman.node
    before = snapshot(node)
    server = podman.run(*podman.container("server", "/bin/sleep", "60", remove=False))
    assert server.returncode == 0, server.stderr
    ((address, owner),) = node.leases().items()
    assert owner.split()[0] == server.stdout.strip()
    client = podman.run(*podman.container("client", "/bin/ping", "-c", "1", "-W", "2", address))
    assert (client.returncode, client.stderr) == (0, "")
    assert "1 packets received" in client.stdout
    assert list(node.leases()) == [address], "the client's address went back when it ended"
    stopped = podman.run(*podman.words("rm", "--force", "--time", "0", server.stdout.strip()))
    assert (stopped.returncode, stopped.stderr) == (0, "")
    after = snapshot(node)
    assert (after["leases"], after["records"], after["ruleset"]) == ({}, [], before["ruleset"])


def test_a_podman_container_gets_the_address_it_was_started_with(podman: Podman) -> None:
    command = podman.container("fixed", "/bin/ip", "addr", "show", "eth0")
    at = command.index("--rm")
    shown = podman.run(*command[:at], "--ip", "10.60.0.123", *command[at:])
    assert shown.returncode == 0, shown.stderr
    assert "inet 10.60.0.123/24" in shown.stdout

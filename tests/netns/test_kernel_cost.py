"""What a pod's ADD and DEL cost in questions to the kernel, on a node that has pods of the network already."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.nft import nft_process
from cni_plugin.meter import Meter
from cni_plugin.verbs.run import Agent, run
from tests.netns.kernel_world import MakeNetns, kernel_of, path

MOST = {"ADD": 17, "DEL": 3}
"""Messages to rtnetlink and nfnetlink together."""


class Pods:
    """Pods of one masqueraded network on a node, served as an agent serves them: the kernel stays open."""

    def __init__(self, kernel: LinuxKernel, folder: Path, make: MakeNetns) -> None:
        self._kernel, self._folder, self._make = kernel, folder, make
        self._netns: dict[str, str] = {}
        self._conf = json.dumps({
            "cniVersion": "1.1.0", "name": "net", "type": "tulle", "bridge": "cost0", "isGateway": True, "ipMasq": True,
            "ipam": {"type": "host-local", "subnet": "10.22.0.0/24", "dataDir": f"{folder}/ipam"},
        }).encode()

    def call(self, verb: str, container: str) -> None:
        """One request, which succeeds."""
        if container not in self._netns:
            self._netns[container] = self._make(container)
        environ = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere",
            "CNI_NETNS": path(self._netns[container]), "TULLE_RUN_DIR": f"{self._folder}/run",
        }
        reply = run("tulle", environ, self._conf, self._staying, agent=Agent(Meter()))
        assert reply.code == 0, reply.stdout

    @contextmanager
    def _staying(self) -> Iterator[LinuxKernel]:
        try:
            yield self._kernel
        finally:
            self._kernel.leave()


@pytest.fixture
def pods(netns: MakeNetns, tmp_path: Path) -> Iterator[Pods]:
    with kernel_of(netns("node")) as kernel:
        made = Pods(kernel, tmp_path, netns)
        made.call("ADD", "first")
        yield made


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is sent to the kernel."""
    sizes: list[int] = []

    class Noted(socket.socket):
        def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
            sizes.append(len(data))
            return super().send(data, flags)

    monkeypatch.setattr(socket, "socket", Noted)
    return sizes


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_one_more_pod_takes_a_few_messages(sent: list[int], pods: Pods, verb: str) -> None:
    for each in ("ADD", "DEL") if verb == "ADD" else ("ADD",):
        pods.call(each, "second")
    sent.clear()

    pods.call(verb, "second")

    assert len(sent) <= MOST[verb]


def test_one_more_pod_asks_nothing_of_the_library(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network has masqueraded stands, and to see that needs no process."""
    monkeypatch.setattr(nft_process.NftProcess, "run", lambda *_: pytest.fail("the library was asked"))
    pods.call("ADD", "second")
    pods.call("DEL", "second")

"""A real etcd for the tests, and nodes that learn from it: sources alone, or whole agents on the nodes of a lab.

An etcd lives in a network namespace that a test made, with its data in the test's folder, and ends with it. `Member` is
one server, `Listener` a source without an agent: it announces an address and remembers what it is told. `Agents` puts
the agent on each node of a lab, with this etcd as its source.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cni_plugin.agent.sources.contract import Announcement, Mailbox, Snapshot, Source, open_source
from cni_plugin.network import Network
from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.topology import Node as LabNode
from scripts.lib.lab.topology import conflist
from tests.conformance.nodes import Json
from tests.netns.failing_engine import enter
from tests.pace import PATIENCE, until

PREFIX = "/coreos.com/network"
CONF: Json = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}


class Member:
    """An etcd server at `address` in a network namespace. `more` are options of etcd, `client` of etcdctl."""

    def __init__(
        self, netns: str, folder: Path, address: str = "127.0.0.1", *, more: tuple[str, ...] = (),
        client: tuple[str, ...] = (), scheme: str = "http",
    ) -> None:
        self.netns, self.folder = netns, folder
        self.url = f"{scheme}://{address}:2379"
        self.peer_url = f"http://{address}:2380"
        self._more, self._client = more, client
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [
            *namespaces.inside(self.netns), "etcd", "--data-dir", str(self.folder / "data"), "--unsafe-no-fsync",
            "--heartbeat-interval", "50", "--election-timeout", "500", "--listen-client-urls", self.url,
            "--advertise-client-urls", self.url, "--listen-peer-urls", self.peer_url, *self._more,
        ]
        with (self.folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            self.wait()

    def wait(self) -> None:
        until(lambda: self.attempt("endpoint", "health").returncode == 0, "etcd answers")

    def stop(self) -> None:
        """End it as a service manager does; what it knows stays on its disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = ["etcdctl", "--endpoints", self.url, *self._client, *words]
        return namespaces.attempt(argv, netns=self.netns, env={"ETCDCTL_API": "3"})

    def ctl(self, *words: str) -> str:
        """What etcdctl says."""
        done = self.attempt(*words)
        assert done.returncode == 0, f"etcdctl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def put(self, key: str, value: object, *words: str) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.ctl("put", f"{PREFIX}/{key}", *words, "--", text)

    def remove(self, key: str) -> None:
        self.ctl("del", f"{PREFIX}/{key}")

    def subnets(self) -> dict[str, Json]:
        """Every key below subnets/, and its value."""
        lines = self.ctl("get", "--prefix", f"{PREFIX}/subnets/").splitlines()
        return {
            key.removeprefix(f"{PREFIX}/subnets/"): json.loads(value)
            for key, value in zip(lines[::2], lines[1::2], strict=True)
        }

    def lease_of(self, key: str) -> int:
        """The lease of a key below subnets/, 0 for none."""
        found = json.loads(self.ctl("get", f"{PREFIX}/subnets/{key}", "-w", "json"))
        return int(found["kvs"][0].get("lease", 0))


@contextmanager
def running(*members: Member) -> Iterator[None]:
    """These servers run meanwhile."""
    try:
        for each in members:
            each.start(wait=False)
        for each in members:
            each.wait()
        yield
    finally:
        for each in members:
            each.kill()


class Listener:
    """A node's source without an agent around it, in the namespace of its etcd."""

    def __init__(self, netns: str, folder: Path, name: str, address: str = "", **settings: object) -> None:
        self.netns, self.name = netns, name
        self.address = address or f"192.0.2.{int(name.strip('n'))}"
        self.settings = {"type": "etcd", "ttl": 86400, "state": str(folder / f"{name}.json"), **settings}
        self.troubles: list[str] = []
        self.heard: list[Snapshot] = []
        self.mailbox: Mailbox | None = None
        self.source: Source | None = None

    def open(self) -> Listener:
        """Begin to listen, and announce where this node is."""
        self.mailbox = Mailbox()
        thread = threading.Thread(target=self._open)  # a thread has a network namespace of its own, and so its threads
        thread.start()
        thread.join()
        assert self.source is not None
        self.say()
        return self

    def say(self, backend: str = "vxlan") -> None:
        """Announce the address that it has now."""
        assert self.source is not None
        mac = "0a:54:" + ":".join(f"{int(each):02x}" for each in self.address.split("."))
        self.source.publish(Announcement((ip_address(self.address),), backend, lambda _: {"vtepMAC": mac, "vni": "1"}))

    def _open(self) -> None:
        assert self.mailbox is not None
        enter(str(namespaces.NETNS_DIR / self.netns))
        self.source = open_source(self.settings, self.name, self.mailbox)

    @property
    def now(self) -> Snapshot:
        """The newest that it was told."""
        assert self.mailbox is not None
        newest, trouble = self.mailbox.take()
        if newest is not None:
            self.heard.append(newest)
        if not self.troubles or trouble != self.troubles[-1]:
            self.troubles.append(trouble)
        return self.heard[-1] if self.heard else Snapshot(None)

    @property
    def trouble(self) -> str:
        """What is wrong with the source now."""
        _ = self.now
        return self.troubles[-1]

    @property
    def cidrs(self) -> tuple[Network, ...]:
        me = self.now.me
        return me.pod_cidrs if me else ()

    @property
    def subnet(self) -> str:
        """What it has, as text; "" for nothing."""
        return " ".join(map(str, self.cidrs))

    def leased(self, seconds: float = PATIENCE) -> str:
        """The subnet, once it has one and its peers can know."""
        until(
            lambda: self.cidrs and self.name in {each.name for each in self.now.nodes},
            f"{self.name} has a subnet", patience=seconds, why=lambda: str(self.now),
        )
        return self.subnet

    def peers(self) -> set[str]:
        return {each.name for each in self.now.nodes}

    def close(self) -> None:
        if self.source is not None:
            self.source.close()
            self.source = None
        if self.mailbox is not None:
            self.mailbox.close()
            self.mailbox = None

    def __enter__(self) -> Listener:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()


class Agents:
    """The agent on each node of a lab, all with the same source; a context manager that ends those that still run."""

    def __init__(self, lab: labs.Lab, source: Mapping[str, object]) -> None:
        self.lab, self._settings = lab, source
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, *names: str) -> None:
        """Start these, all of them when none is named, and do not wait."""
        for node in self.lab.nodes:
            if not names or node.name in names:
                self._begin(node)

    def start(self, *names: str) -> None:
        """Start them, and wait until pods may come."""
        self.begin(*names)
        for node in self.lab.nodes:
            if not names or node.name in names:
                why = partial(self.log, node.name)
                until(partial(self._ready, node), f"{node.name} is ready", patience=60, why=why)

    def conf(self, node: LabNode) -> Path:
        return node.state / "net.d" / "10-tulle.conflist"

    def stop(self, *names: str) -> None:
        """End them in order."""
        for name in names:
            self._running.pop(name).terminate()

    def kill(self, *names: str) -> None:
        """End them as a power cut does, but for what the kernel holds."""
        for name in names:
            process = self._running.pop(name)
            process.kill()
            process.wait(PATIENCE)

    def subnet(self, name: str) -> str:
        """What the node's cluster file says that it has."""
        return next((" ".join(each["podCIDRs"]) for each in self.cluster(name) if each["name"] == name), "")

    def peers(self, name: str) -> set[str]:
        return {str(each["name"]) for each in self.cluster(name)} - {name}

    def cluster(self, name: str) -> list[dict[str, Any]]:
        """The nodes in the node's <run>/cluster.json, none while there is no such file."""
        with suppress(FileNotFoundError):
            found: list[dict[str, Any]] = json.loads(
                (self.lab.node(name).state / "run" / "cluster.json").read_text()
            )["nodes"]
            return found
        return []

    def log(self, name: str) -> str:
        path = self.lab.node(name).state / "agent.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._running.values():
            each.kill()
        for each in self._running.values():
            each.wait(PATIENCE)

    def _ready(self, node: LabNode) -> bool:
        assert self._running[node.name].poll() is None, f"the agent of {node.name} ended: {self.log(node.name)}"
        return self.conf(node).exists()

    def _begin(self, node: LabNode) -> None:
        template = conflist(node)
        for each in template["plugins"]:  # type: ignore[attr-defined]
            each.pop("cluster", None)
        conf = self.conf(node)
        labs.write_json(node.state / "template.json", template)
        labs.write_json(node.state / "agent.json", {
            "node": node.name, "network": "pods", "source": self._settings,
            "cni": {"path": str(conf), "template": str(node.state / "template.json")},
        })
        if node.name not in self._running:
            conf.unlink(missing_ok=True)
        built = Path(node.spec.plugin).resolve().with_name("tulled")
        words = [str(built)] if built.exists() else [sys.executable, "-I", "-m", "cni_plugin.agent"]
        with (node.state / "agent.log").open("ab") as log:
            self._running[node.name] = subprocess.Popen(
                [*namespaces.inside(node.netns), *words, "--conf", str(node.state / "agent.json")],
                env=os.environ | node.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            )


class Pinging:
    """Echo requests that go on meanwhile, 20 a second a pair; afterwards, how many of each were not answered."""

    def __init__(self, pairs: Mapping[str, tuple[str, str]]) -> None:
        """`pairs`: a name for each, the namespace that it goes out from, and where to."""
        self._pairs = pairs
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._stack = ExitStack()
        self.lost: dict[str, int] = {}
        self.sent: dict[str, int] = {}

    def __enter__(self) -> Pinging:
        for name, (netns, address) in self._pairs.items():
            words = [*namespaces.inside(netns), "ping", "-n", "-q", "-i", "0.05", "-W", "1", address]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            self._stack.callback(process.kill)
            self._started[name] = process
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.5)
        with self._stack:
            for name, ping in self._started.items():
                ping.send_signal(2)
                said = ping.communicate(timeout=PATIENCE)[0]
                words = next(line for line in said.splitlines() if "packets transmitted" in line).split()
                self.sent[name], received = int(words[0]), int(words[3])
                self.lost[name] = self.sent[name] - received

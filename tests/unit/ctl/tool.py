"""What the tests of tullectl share: the tool on a kernel in memory, a machine to look at, and an agent that answers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import cni_plugin.ctl.__main__ as ctl
from cni_plugin import wire
from cni_plugin.ctl import commands, host
from cni_plugin.ctl.cluster import asked
from cni_plugin.ctl.cluster import commands as cluster
from cni_plugin.ctl.host import Host, Looker
from cni_plugin.ctl.look import commands as look
from cni_plugin.ctl.look import ipam
from cni_plugin.ctl.map import commands as map_
from cni_plugin.ctl.reach import SILENT, Heard, Probe, Target
from cni_plugin.ctl.support import commands as support
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.kernel.nft.ruleset import Hook, hooks
from cni_plugin.kernel.see import heard
from cni_plugin.kernel.see.look import Entry, Link, Way
from cni_plugin.model.layer3 import Route
from tests.unit.support import Json, Node, Reply

COMMANDS = (commands, look, ipam, support, cluster, map_)
HOSTS = (host, asked)
CLUSTER: Json = {
    "node": "n1",
    "nodes": [
        {"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]},
        {"name": "n2", "address": "192.0.2.2", "podCIDRs": ["10.244.2.0/24"]},
    ],
}
"""A cluster of two, whose list is in the configuration itself."""


class Said(NamedTuple):
    """How a command ended."""

    exit: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout, decoded."""
        return json.loads(self.out)


class View:
    """A namespace as `tullectl` looks at it, told by a test. `ways` are the answers by destination."""

    def __init__(
        self,
        links: Sequence[Link] = (),
        *,
        addresses: Mapping[str, Sequence[str]] | None = None,
        routes: Sequence[Route] = (),
        ways: Mapping[str, Way] | None = None,
        neighbours: Sequence[Entry] = (),
        entries: Sequence[Entry] = (),
    ) -> None:
        self._links = tuple(links)
        self._addresses = addresses or {}
        self._routes = tuple(routes)
        self._ways = ways or {}
        self._neighbours = tuple(neighbours)
        self._entries = tuple(entries)

    def links(self) -> tuple[Link, ...]:
        """All links."""
        return self._links

    def addresses(self, dev: str) -> tuple[str, ...]:
        """The addresses of a link."""
        return tuple(self._addresses.get(dev, ()))

    def routes(self) -> tuple[Route, ...]:
        """All routes."""
        return self._routes

    def way(self, to: str, *, source: str = "", arriving: str = "") -> Way:
        """What was told of this destination; a packet that comes in may be told of as "source>destination"."""
        return self._ways.get(f"{source}>{to}" if arriving else to, Way("no route"))

    def neighbours(self) -> tuple[Entry, ...]:
        """Neighbours."""
        return self._neighbours

    def entries(self) -> tuple[Entry, ...]:
        """Forwarding entries."""
        return self._entries


class Around(Host):
    """A host told by a test."""

    def __init__(
        self, links: Sequence[Link] = (), *, uplink: str = "", rules: str = "", answers: Mapping[str, int] | None = None
    ) -> None:
        """`answers`: the largest packet that an address answers, in bytes; every other one is silent."""
        self._answers = answers or {}
        self._links = tuple(links)
        self._uplink = uplink
        self._rules = rules
        self.broken = False

    def links(self) -> tuple[Link, ...]:
        """The links told."""
        if self.broken:
            raise PermissionError(1, "Operation not permitted")
        return self._links

    def uplink(self) -> str:
        """The uplink told."""
        return self._uplink

    def hooks(self) -> tuple[Hook, ...]:
        """Those in the rules told."""
        return tuple(hooks(self._rules))

    def services(self) -> tuple[str, ...]:
        return ()

    def legacy(self) -> tuple[str, ...]:
        """None."""
        return ()

    def prober(self, own: Mapping[int, str]) -> nullcontext[Probe]:
        """Answers as told, after half a millisecond."""
        del own
        return nullcontext(self._probe)

    def _probe(self, asks: Sequence[Target], wait: float) -> list[Heard]:
        del wait
        return [Heard(0.5) if each.size <= self._answers.get(each.to, -1) else Heard(None, SILENT) for each in asks]

    def features(self, wanted: Collection[str]) -> dict[str, bool]:
        """All of them."""
        return dict.fromkeys(wanted, True)


class Glasses(Host):
    """Namespaces by path ("" is the node), told by a test."""

    def __init__(self, views: Mapping[str, Looker], rules: str = "") -> None:
        self._views = views
        self._rules = rules

    def sight(self, netns: str = "") -> nullcontext[Looker]:
        """The view told of."""
        if netns not in self._views:
            raise NetnsError("gone", netns)
        return nullcontext(self._views[netns])

    def ruleset(self) -> str:
        """The rules told of."""
        return self._rules


class Tool:
    """tullectl on a node in memory."""

    def __init__(self, node: Node, patch: pytest.MonkeyPatch) -> None:
        self._node = node
        self._patch = patch
        for each in COMMANDS:
            patch.setattr(each, "open_kernel", lambda: node.kernel)
        self.around(Around())
        patch.setattr(heard, "confirmed", dict)
        (node.home / "net.d").mkdir()

    def around(self, host: Host) -> None:
        """Let this be the host."""
        for each in HOSTS:
            self._patch.setattr(each, "Host", lambda: host)

    def __call__(self, *words: str, **environ: str) -> Said:
        """Run it. An exception that is not an exit fails the test."""
        home = self._node.home
        usual = {"TULLE_RUN_DIR": f"{home}/run", "NETCONFPATH": f"{home}/net.d", "COLUMNS": "200", "NO_COLOR": "1"}
        done = CliRunner().invoke(ctl.command_line(), list(words), env={**usual, **environ})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Said(done.exit_code, done.stdout, done.stderr)


def configure(node: Node, name: str = "10-tulle.conflist", **keys: object) -> Path:
    """The node's configuration as a file in its runtime's folder."""
    path = node.home / "net.d" / name
    path.parent.mkdir(exist_ok=True)
    plugin = {key: each for key, each in {**node.conf, **keys}.items() if key not in ("name", "cniVersion")}
    network = {"name": node.conf["name"], "cniVersion": "1.1.0"}
    path.write_text(json.dumps({**network, "plugins": [plugin, {"type": "portmap"}]}))
    return path


@contextmanager
def agent(node: Node, answers: Mapping[str, object], greeting: bytes = wire.GREETING) -> Iterator[None]:
    """Something that speaks the agent's protocol on its socket, and answers questions with these."""
    path = node.home / "run" / wire.SOCKET
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, answers, greeting))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            path.unlink()


def _answer(listener: socket.socket, answers: Mapping[str, object], greeting: bytes) -> None:
    while True:
        try:
            channel, _ = listener.accept()
        except OSError:
            return
        with channel:
            channel.sendall(greeting)
            head = channel.recv(wire.REQUEST_HEADER, socket.MSG_WAITALL)
            if len(head) < wire.REQUEST_HEADER:
                continue
            header = wire.parse_header(head)
            body = channel.recv(header.length, socket.MSG_WAITALL) if header.length else b""
            question = wire.parse_request(header, body).name
            known = question in answers
            text = json.dumps(answers[question]).encode() if known else b"unknown question"
            channel.sendall(wire.reply(text, 0 if known else 2))


def served(node: Node, verb: str = "ADD", pod: str = "a eth0", **changes: Any) -> dict[str, Any]:
    """A request that is served on the node, as the agent remembers it."""
    container, ifname = pod.split()
    reply: Reply = node.call(verb, pod)
    environ = {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname, "CNI_NETNS": f"/run/netns/{container}",
        "CNI_PATH": "/opt/cni/bin",
    }
    return {
        "verb": verb, "name": "tulle", "network": "pods", "container": container, "ifname": ifname, "code": reply.code,
        "message": "", "at": 1000.0, "seconds": 0.0042, "steps": {"ipam": 0.001}, "environ": environ,
        "stdin": json.dumps(node.conf), "stdout": json.dumps(reply.body) if reply.body else "", **changes,
    }  # fmt: skip


def metrics(at: float, **verbs: object) -> dict[str, object]:
    """What an agent says that counts its requests."""
    return {"started": 100.0, "at": at, "total": 1, "verbs": verbs, "repairs": {"masquerade": {"count": 3}}}

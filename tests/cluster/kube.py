"""A real Kubernetes as tests look at it: its pods, packets between them, and what a node has in its tables.

The cluster itself is a lab (`scripts/lib/lab/labs.py`, `scripts/lib/lab/kube.py`); here is what only tests ask of it.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from scripts.lib.lab import kube_node, labs, namespaces
from scripts.lib.lab.kube import Kube
from scripts.lib.lab.kube_parts import IMAGE
from tests.conformance.nodes import Json
from tests.pace import PATIENCE, until

SYSTEM = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Pod(NamedTuple):
    """A pod that runs, and where; how often its container was started again."""

    name: str
    node: str
    addresses: tuple[str, ...]
    restarts: int

    @property
    def address(self) -> str:
        """Its first."""
        return self.addresses[0]


class Cluster:
    """A lab with `source` kubernetes that is up."""

    def __init__(self, lab: labs.Lab) -> None:
        self.lab, self.kube = lab, Kube(lab.spec)

    def apply(self, *objects: Json) -> None:
        """Have these objects."""
        self.kube.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def items(self, *words: str) -> list[Json]:
        """What `kubectl get` lists."""
        return cast(list[Json], self.kube.get(*words)["items"])

    def pods(self, app: str) -> list[Pod]:
        """The pods with that label that run and are to stay, by node and name."""
        found = [
            Pod(at(each, "metadata.name"), at(each, "spec.nodeName"),
                tuple(one["ip"] for one in cast(list[dict[str, str]], at_any(each, "status.podIPs"))),
                cast(list[dict[str, int]], at_any(each, "status.containerStatuses"))[0]["restartCount"])
            for each in self.items("pods", "-l", f"app={app}")
            if _runs(each)
        ]
        return sorted(found, key=lambda each: (each.node, each.name))

    def wait_for_pods(self, app: str, count: int, seconds: float = 90.0) -> list[Pod]:
        """The pods with that label once so many run, and no other is left."""
        def there() -> bool:
            return len(self.pods(app)) == count == len(self.items("pods", "-l", f"app={app}"))

        self.kube.wait(there, f"{count} pods of {app} run", seconds)
        return self.pods(app)

    @contextlib.contextmanager
    def running(self, name: str, replicas: int, container: Json | None = None, **spec: object) -> Iterator[list[Pod]]:
        """A Deployment's pods, all of which run; nobody waits until they are gone again."""
        self.apply(deployment(name, replicas, container, **spec))
        try:
            yield self.wait_for_pods(name, replicas)
        finally:
            self.kube.kubectl("delete", "deployment", name)

    def on(self, node: str, script: str) -> str:
        """Run a shell script on a node. Raises CommandError."""
        return self.kube.on(node, "sh", "-ec", script)

    def in_pod(self, pod: Pod, *argv: str) -> list[str]:
        """The words that run a command of the machine's own in the network of a pod."""
        node = kube_node.inside(self.kube.node_folder(pod.node))
        return [*node, "nsenter", f"--net={self.sandbox(pod)}", "--", *argv]

    def sandbox(self, pod: Pod) -> str:
        """The network namespace of a pod, on its node."""
        script = "for each in /run/netns/cni-*; do echo $each $(nsenter --net=$each ip -o addr show dev eth0); done"
        wanted = re.compile(rf" {re.escape(pod.address)}/")
        found = [line.split()[0] for line in self.on(pod.node, script).splitlines() if wanted.search(line)]
        assert len(found) == 1, f"namespaces of {pod}: {found}"
        return found[0]

    def ping(self, pod: Pod, address: str, *options: str) -> bool:
        """Whether one of three packets is answered."""
        words = self.in_pod(pod, "ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "2", *options, address)
        return namespaces.attempt(words, env=SYSTEM).returncode == 0

    def fetch(self, pod: Pod, url: str) -> str:
        """What an HTTP client in the pod is answered. Raises CommandError."""
        return self.kube.kubectl("exec", pod.name, "--", "wget", "-q", "-O", "-", url)

    @contextlib.contextmanager
    def pinging(self, pod: Pod, address: str) -> Iterator[None]:
        """100 packets a second from pod to address meanwhile, and not one of them is lost."""
        words = self.in_pod(pod, "ping", "-n", "-i", "0.01", "-W", "2", "-q", address)
        with subprocess.Popen(words, env=SYSTEM, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ping:
            try:
                yield
            finally:
                # nsenter into a PID namespace forks: the ping itself is its child
                self.on(pod.node, f"pkill -INT -f '^ping .*{address}$'")
                try:
                    told = ping.communicate(timeout=PATIENCE)[0]
                except subprocess.TimeoutExpired:
                    ping.kill()
                    raise
        counted = re.search(r"(\d+) packets transmitted, (\d+) received", told)
        assert counted and int(counted[1]) == int(counted[2]) > 50, told

    def tables(self, node: str) -> str:
        """Where a node sends packets: its routes, and how its tunnels reach others."""
        return self.on(node, "ip -4 route; ip -6 route; ip neigh show nud permanent; bridge fdb show; nft list ruleset")

    def left(self, node: str) -> dict[str, list[str]]:
        """What there is of pods on a node."""
        leases = "find /var/lib/cni/networks -mindepth 2 -maxdepth 2 -name '[0-9a-f]*[.:]*'"
        return {
            "veths": self.on(node, "ip -br link show type veth | cut -d @ -f 1").split(),
            "attachments": self.on(node, "find /run/tulle/attachments -type f").split(),
            "addresses": self.on(node, leases).split(),
            "namespaces": self.on(node, "ls /run/netns").split(),
        }


def at_any(value: Json, path: str) -> object:
    """What a dotted path leads to."""
    found: object = value
    for key in path.split("."):
        found = cast(Json, found)[key]
    return found


def at(value: Json, path: str) -> str:
    """The text that a dotted path leads to."""
    found = at_any(value, path)
    assert isinstance(found, str), f"{path}: {found!r}"
    return found


def _runs(pod: Json) -> bool:
    rows = cast(list[dict[str, str]], cast(Json, pod["status"]).get("conditions", []))
    ready = any(row["type"] == "Ready" and row["status"] == "True" for row in rows)
    return ready and "deletionTimestamp" not in cast(Json, pod["metadata"])


def deployment(name: str, replicas: int, container: Json | None = None, **spec: object) -> Json:
    """A Deployment of busybox pods whose label `app` is its name; `container` and `spec` are further keys of these."""
    container = {"name": "c", "image": IMAGE, "imagePullPolicy": "Never", **(container or {})}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
            },
        },
    }


class Lines:
    """A command that prints as things happen: each line with the time at which it came. A context manager."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.seen: list[tuple[float, str]] = []
        self._process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Lines:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def first(self, fits: Callable[[str], object], seconds: float = 60.0) -> float:
        """When the first line that fits came."""
        def found() -> float | None:
            return next((when for when, line in list(self.seen) if fits(line)), None)

        when = until(found, "a line that fits", patience=seconds, why=lambda: f"the last ones: {self.seen[-5:]}")
        assert when is not None
        return when

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seen.append((time.monotonic(), line))

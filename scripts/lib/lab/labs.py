"""A cluster on one machine: nodes are network namespaces, so are their pods, and a CNI executable wires them.

It exists so that a person can play with several nodes, and a test can send real packets between them, with no
virtual machine and no container runtime. One lab is

    tulle-NAME-wire          the underlay: one bridge (two, with a router between, when `routed`)
    tulle-NAME-n1 ...        a node each: eth0 on the underlay, and what the plugin makes
    tulle-NAME-n1-p1 ...     a pod each: eth0, made by the plugin
    /run/tulle-lab/NAME/     lab.json; below n1/ the node's net.d, cluster.json, leases and attachment records

Where nodes learn of each other, there is an agent in each (`agents.py`), or a whole Kubernetes (`kube.py`).

Promises: the plugin is called as a runtime on that node would call it; nothing outside those names is
touched; `down` leaves nothing of a lab, however far it had come or was killed; names of two labs never meet.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, cast

from scripts.lib.lab import agents, kube_node, namespaces, underlay
from scripts.lib.lab.kube import Kube
from scripts.lib.lab.runtime import Attachment, Network, PluginError, Runtime
from scripts.lib.lab.topology import LABS, NETWORK, LabError, Node, Pod, Spec, cluster, conflist, shared_cluster

# Where chained plugins are looked for, after the plugin's own directory.
PLUGIN_DIRS = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))
LAST_PORT = 9  # discard (RFC 863): the datagram that ends a capture


def write_json(path: Path, value: object) -> None:
    """Writes a file that a reader sees whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


class Lab:
    """A lab that is up. Made by `up` or `load`."""

    def __init__(self, spec: Spec, pods: Mapping[str, Pod] | None = None) -> None:
        self.spec = spec
        self.nodes = tuple(Node(spec, number) for number in range(1, spec.nodes + 1))
        self.pods: dict[str, Pod] = dict(pods or {})

    @property
    def state(self) -> Path:
        return LABS / self.spec.name

    def node(self, name: str) -> Node:
        """The node of that name. Raises LabError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"no node {name!r} in lab {self.spec.name}: there is n1 to n{self.spec.nodes}")

    def runtime(self, node: str) -> Runtime:
        """The container runtime of that node."""
        where = self.node(node)
        return Runtime(
            path=(Path(self.spec.plugin).parent, *PLUGIN_DIRS),
            cache=where.state / "results",
            enter=namespaces.inside(where.netns),
            env=where.env,
        )

    def network(self, node: str) -> Network:
        """The network as the node's configuration directory has it now."""
        return Network.load(self.node(node).state / "net.d", NETWORK)

    def configure(self, node: str, **keys: object) -> None:
        """Writes the node's network configuration anew, `keys` added to the plugin's object."""
        where = self.node(node)
        write_json(where.state / "net.d" / "10-tulle.conflist", conflist(where, **keys))

    def set_cluster(self, nodes: tuple[Node, ...] | None = None, spec: Spec | None = None) -> None:
        """Writes each node's cluster file: with these `nodes` (all) and the backend of `spec` (the lab's).

        Where agents watch one file, it is that one; where they learn from somebody, there is nothing to write."""
        if self.spec.source == "file":
            write_json(agents.shared_file(self.spec), shared_cluster(spec or self.spec, nodes or self.nodes))
        for node in self.nodes if self.spec.source == "static" else ():
            seen = replace(node, spec=spec or self.spec)
            write_json(node.state / "cluster.json", cluster(seen, nodes or self.nodes))

    def add_node(self) -> Node:
        """One more node, which joins the cluster by itself where its source lets it. Raises LabError."""
        self.spec = replace(self.spec, nodes=self.spec.nodes + 1)
        self.spec.check()
        self.nodes = tuple(Node(self.spec, number) for number in range(1, self.spec.nodes + 1))
        node = self.nodes[-1]
        underlay.make_node(node)
        self.set_cluster()
        _join(self, node)
        self.save()
        return node

    def remove_node(self) -> None:
        """Cuts the last node's power for good, and takes it off the list of nodes where the lab keeps that."""
        node = self.nodes[-1]
        if self.spec.source == "kubernetes":
            folder = Kube(self.spec).node_folder(node.name)
            kube_node.end(folder)
            shutil.rmtree(folder)
        namespaces.delete(*(pod.netns for pod in self.pods.values() if pod.node == node.name), node.netns)
        shutil.rmtree(node.state, ignore_errors=True)
        self.pods = {path: pod for path, pod in self.pods.items() if pod.node != node.name}
        self.spec = replace(self.spec, nodes=self.spec.nodes - 1)
        self.nodes = self.nodes[:-1]
        self.set_cluster()
        self.save()

    def reboot(self, node: str) -> None:
        """A node of a Kubernetes loses its power, with all links, rules and processes, and starts again."""
        where, kube = self.node(node), Kube(self.spec)
        kube_node.end(kube.node_folder(node))
        namespaces.delete(where.netns)
        # The kernel may have been quicker.
        namespaces.attempt(["ip", "-n", self.spec.wire, "link", "delete", where.name])
        underlay.make_node(where)
        kube.boot(where)

    def add(self, node: str, name: str) -> Pod:
        """Makes a pod, wired by the plugin's ADD. Raises LabError, PluginError; leaves nothing then."""
        where = self.node(node)
        if not re.fullmatch(r"[a-z0-9]{1,20}", name):
            raise LabError(f"pod {name!r}: use 1 to 20 lower-case letters and digits")
        if f"{node}/{name}" in self.pods:
            raise LabError(f"{node}/{name} is there already: scripts/lab del {node}/{name} removes it")
        pod = Pod(node, name, f"{where.netns}-{name}")
        namespaces.create(pod.netns)
        try:
            result = self.runtime(node).add(self.network(node), self.attachment(pod))
        except Exception:
            with suppress(PluginError):  # the specification: a failed ADD is followed by a DEL
                self.runtime(node).delete(self.network(node), self.attachment(pod))
            namespaces.delete(pod.netns)
            raise
        ips = cast(list[dict[str, str]], result.get("ips", []))
        pod = replace(pod, addresses=tuple(one["address"].split("/")[0] for one in ips), attachment=result)
        self.pods[pod.path] = pod
        self.save()
        return pod

    def delete(self, path: str) -> None:
        """Has the plugin's DEL unwire a pod (n1/p1), then removes it. Raises LabError, PluginError."""
        pod = self.pod(path)
        self.runtime(pod.node).delete(self.network(pod.node), self.attachment(pod))
        namespaces.delete(pod.netns)
        del self.pods[path]
        self.save()

    def attachment(self, pod: Pod) -> Attachment:
        """What a runtime knows of the pod."""
        return Attachment(container=pod.netns, netns=f"{namespaces.NETNS_DIR / pod.netns}")

    def pod(self, path: str) -> Pod:
        """The pod of that path (n1/p1). Raises LabError."""
        if path not in self.pods:
            raise LabError(f"no pod {path!r}: lab {self.spec.name} has {', '.join(self.pods) or 'none'}")
        return self.pods[path]

    def place(self, where: str) -> tuple[str, dict[str, str]]:
        """Namespace and environment of a node (n1), a pod (n1/p1) or the underlay (wire). Raises LabError."""
        if where == "wire":
            return self.spec.wire, {}
        node = self.node(where.split("/")[0])
        return (self.pod(where).netns if "/" in where else node.netns), node.env

    def run(self, where: str, *argv: str) -> str:
        """Runs a command at a place, returns what it printed. Raises LabError, CommandError."""
        netns, env = self.place(where)
        done = namespaces.attempt(argv, netns=netns, env=env)
        if done.returncode != 0:
            raise namespaces.CommandError(argv, done)
        return done.stdout

    @contextmanager
    def capture(self, expression: str, link: int = 1) -> Iterator[list[str]]:
        """The packets on the wire meanwhile that match a pcap expression, a line of tcpdump each.

        The list is complete when the block is left: a last datagram is sent then, and awaited, because a
        tcpdump that is told to end loses what it has not read yet. Raises LabError when it cannot capture."""
        lines: list[str] = []
        words = ["tcpdump", "--immediate-mode", "-l", "-nn", "-t", "-T", "vxlan", "-i", f"link{link}"]
        argv = [*namespaces.inside(self.spec.wire), *words, f"({expression}) or udp dst port {LAST_PORT}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tcpdump:
            alarm = threading.Timer(60, tcpdump.kill)
            alarm.start()
            try:
                _read_until(tcpdump.stderr, "listening on")
                yield lines
                self._send_last_datagram(link)
                lines += _read_until(tcpdump.stdout, f".{LAST_PORT}: ")
            finally:
                alarm.cancel()
                tcpdump.kill()

    def _send_last_datagram(self, link: int) -> None:
        node = next(node for node in self.nodes if node.link == link)
        self.run("wire", "bash", "-c", f"echo > /dev/udp/{node.addresses[0]}/{LAST_PORT}")

    def save(self) -> None:
        """Writes lab.json."""
        pods = {path: asdict(pod) for path, pod in self.pods.items()}
        write_json(self.state / "lab.json", {"spec": asdict(self.spec), "pods": pods})


def _read_until(stream: IO[str] | None, mark: str) -> list[str]:
    """The lines before the one that has `mark`. Raises LabError with them when the stream ends before."""
    lines: list[str] = []
    for line in stream or ():
        if mark in line:
            return lines
        lines.append(line.rstrip())
    raise LabError("tcpdump ended early: " + "; ".join(lines))


def up(spec: Spec) -> Lab:
    """Makes the underlay and the nodes, no pods yet. Raises LabError; leaves nothing then."""
    spec.check()
    require_root()
    try:
        (LABS / spec.name).mkdir(parents=True)
    except FileExistsError:
        raise LabError(
            f"a lab named {spec.name} is there: remove it with `scripts/lab down --name {spec.name}`, "
            "or choose another --name"
        ) from None
    lab = Lab(spec)
    try:
        lab.save()
        underlay.make_wire(spec)
        for node in lab.nodes:
            underlay.make_node(node)
        _start_source(lab)
    except BaseException:
        down(spec.name)
        raise
    return lab


def _start_source(lab: Lab) -> None:
    lab.set_cluster()
    if lab.spec.source == "etcd":
        agents.start_etcd(lab.spec)
    if lab.spec.source == "kubernetes":
        Kube(lab.spec).up()
    for node in lab.nodes:
        _join(lab, node)
    for node in lab.nodes if lab.spec.source in {"file", "etcd"} else ():
        agents.ready(node)


def _join(lab: Lab, node: Node) -> None:
    """Starts what makes a node one of the cluster."""
    if lab.spec.source == "kubernetes":
        Kube(lab.spec).boot(node)
    elif lab.spec.source == "static":
        lab.configure(node.name)
    else:
        agents.start(node)


def load(name: str) -> Lab:
    """The lab of that name that is up. Raises LabError."""
    require_root()
    try:
        saved = json.loads((LABS / name / "lab.json").read_text())
    except OSError:
        there = ", ".join(names()) or "none"
        raise LabError(f"no lab named {name} (there is {there}): start one with `scripts/lab up`") from None
    except ValueError:
        raise LabError(f"lab {name} is half made: remove it with `scripts/lab down --name {name}`") from None
    pods = {path: Pod(**{**pod, "addresses": tuple(pod["addresses"])}) for path, pod in saved["pods"].items()}
    return Lab(Spec(**saved["spec"]), pods)


def names() -> list[str]:
    """The names of the labs that are up, or half up."""
    return sorted(path.name for path in LABS.glob("*"))


def down(name: str) -> bool:
    """Removes whatever there is of a lab, as if its nodes lost power. False when there was nothing."""
    require_root()
    spec = Spec(name=name)
    left, state = namespaces.existing(spec.prefix), LABS / name
    there = bool(left) or state.exists()
    namespaces.delete(*left)
    kube_node.remove_cgroups(spec.prefix)
    shutil.rmtree(state, ignore_errors=True)
    try:
        LABS.rmdir()
    except OSError:  # other labs are up, or no lab ever was
        pass
    return there


def require_root() -> None:
    """Raises LabError when this process cannot make network namespaces, or `ip` is missing."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, which takes root: run it with sudo")
    for tool, package in {"ip": "iproute2", "nsenter": "util-linux", "ping": "iputils-ping"}.items():
        if shutil.which(tool) is None:
            raise LabError(f"the command {tool} is missing: apt-get install {package}")

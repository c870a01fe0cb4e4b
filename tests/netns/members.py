"""Nodes of a lab whose agents learn the cluster from a source, by default a file that the test keeps.

The lab makes wires, nodes and pods; here are the agents, what each is told, and whether a node is what it should be:
the kernel is compared with a plan made afresh from what the test knows, not from what the agent wrote down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from cni_plugin.describe import describe
from cni_plugin.errors import CniError
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.node.repair import repair
from cni_plugin.store.records import Records
from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.topology import NETWORK, Node, conflist, shared_cluster
from tests.conformance import nodes as alone
from tests.netns.agents import Agent, Asker, in_node
from tests.pace import PATIENCE, until

Json = dict[str, object]
DEVICE = "tulle.1"


class _Place(NamedTuple):
    """What an `Agent` wants to know of a node."""

    path: str
    state: Path
    run_dir: Path


class Members:
    """The nodes of a lab, a list of them that all agents watch, and their agents."""

    def __init__(self, made: labs.Lab, plugin: Path, settings: Mapping[str, object]) -> None:
        self.lab = made
        self.file = made.state / "nodes.json"
        self.settings = {"source": {"type": "file", "path": str(self.file)}, "interval": 3600, **settings}
        self.conf = shared_cluster(made.spec, made.nodes)
        self.list = {str(each["name"]): each for each in cast(list[Json], self.conf.pop("nodes"))}
        self.agents: dict[str, Agent] = {}
        for node in made.nodes:
            place = _Place(f"{namespaces.NETNS_DIR / node.netns}", node.state, node.state / "run")
            self.agents[node.name] = Agent(cast(alone.Node, place), plugin)
            self.prepare(node)

    def prepare(self, node: Node) -> None:
        """The settings and the template of a node, which has no CNI configuration and no list of its own."""
        for path in (self.conflist(node.name), node.state / "cluster.json"):
            path.unlink(missing_ok=True)
        template = conflist(node)
        for each in cast(list[Json], template["plugins"]):
            each.pop("cluster", None)
        labs.write_json(node.state / "template.json", template)
        cni = {"path": str(self.conflist(node.name)), "template": str(node.state / "template.json")}
        own = {"node": node.name, "network": NETWORK, "cni": cni, "log": "debug"}
        labs.write_json(node.state / "agent.json", {**own, **self.settings})

    def configure(self, name: str, **settings: object) -> None:
        """Other settings for one agent; it reads them when it starts."""
        path = self.lab.node(name).state / "agent.json"
        labs.write_json(path, {**json.loads(path.read_text()), **settings})

    def conflist(self, name: str) -> Path:
        """Where the runtime of a node finds its CNI configuration."""
        return self.lab.node(name).state / "net.d" / "10-tulle.conflist"

    def cluster(self, *names: str) -> Json:
        """The cluster with these nodes, all on the list when none is named."""
        return {**self.conf, "nodes": [each for name, each in self.list.items() if not names or name in names]}

    def save(self, *names: str) -> None:
        """Write the list as an editor does."""
        labs.write_json(self.file, self.cluster(*names))

    def start(self, *names: str) -> None:
        """Start the agents of these nodes (all)."""
        for each in names or self.agents:
            self.agents[each].start()

    def join(self, *names: str) -> None:
        """Start them with the list as it is, and wait until each has its CNI configuration."""
        self.start(*names)
        for each in names or self.agents:
            self.until(self.conflist(each).exists, f"{each} is ready")

    def close(self) -> None:
        """End the agents."""
        for each in self.agents.values():
            each.kill()

    def until(
        self, condition: Callable[[], object], what: str, *, patience: float = PATIENCE
    ) -> None:
        """Wait for it. Fails the test with the agents' last words when it never comes."""
        until(condition, what, patience=patience, why=self.words)

    def words(self) -> str:
        """What the agents have logged."""
        return "\n".join(["", *(f"{name}: {each.log()}" for name, each in self.agents.items() if has_log(each))])

    def status(self, name: str) -> Json:
        """What the agent of a node answers about its cluster."""
        node = self.agents[name].node
        asker = Asker(node, {})
        answer = in_node(node.path, lambda: asker.question("status"))
        assert isinstance(answer, dict)
        return {**cast(Json, answer["cluster"]), "problem": answer["problem"]}

    def programmed(self, name: str) -> str:
        """All that a node holds for its peers, as text."""
        routes = [self.lab.run(name, "ip", each, "route", "show", "proto", "84") for each in ("-4", "-6")]
        netns = self.lab.node(name).netns
        words = (["ip", "neigh", "show", "dev", DEVICE], ["bridge", "fdb", "show", "dev", DEVICE])
        entries = [namespaces.attempt(each, netns=netns).stdout for each in words]
        return "\n".join([*routes, *entries])

    def holds(self, name: str, peer: str) -> bool:
        """Whether a node has something of another one in its tables."""
        text = self.programmed(name)
        return any(each in text for each in self.traces(peer))

    def traces(self, peer: str) -> list[str]:
        """What a peer is known by in others' tables."""
        entry = self.list.get(peer) or self.lab_entry(peer)
        addresses = [str(entry[key]) for key in ("address", "ipv6Address") if key in entry]
        return [*addresses, *cast(list[str], entry["podCIDRs"])]

    def lab_entry(self, name: str) -> Json:
        """A node as the lab made it."""
        whole = cast(list[Json], shared_cluster(self.lab.spec, self.lab.nodes)["nodes"])
        return next(each for each in whole if each["name"] == name)

    def reaches(self, source: str, target: str, timeout: float = 1.0) -> bool:
        """Whether a pod answers the first packet of another, in every family it has."""
        netns = self.lab.pod(source).netns
        return all(namespaces.ping(netns, each, timeout=timeout) for each in self.lab.pod(target).addresses)

    def answered(self, source: str, target: str) -> None:
        """Wait until a pod answers another one, asked again and again."""
        self.until(lambda: self.reaches(source, target, 0.2), f"{source} reaches {target}")

    def off(self, name: str, cluster: Json | None = None) -> list[str]:
        """What a node would have to do to be as a plan made afresh says, in operators' words; [] when it is."""
        wanted = {**(cluster or self.cluster()), "node": name}
        run_dir = str(self.lab.node(name).state / "run")

        def look() -> list[str]:
            with LinuxKernel() as kernel:
                records = Records(run_dir)
                try:
                    ops = Participant(NETWORK, kernel, records).differences(wanted)
                except (CniError, KernelError, OSError) as error:  # a device that goes while it is looked at, too
                    return [str(error)]
                problems = []
                for each in repair(kernel, records, dry_run=True):
                    ops += each.ops
                    problems += [f"{each.what}: {each.problem}"] if each.problem else []
                return [*map(describe, ops), *problems]

        return in_node(f"{namespaces.NETNS_DIR / self.lab.node(name).netns}", look)


def has_log(agent: Agent) -> bool:
    """Whether it was ever started."""
    return (agent.node.state / "agent.log").exists()


@contextmanager
def members(made: labs.Lab, plugin: Path, **settings: object) -> Iterator[Members]:
    """The nodes of a lab with agents that are not started yet, and end with the block."""
    them = Members(made, plugin, settings)
    try:
        yield them
    finally:
        them.close()

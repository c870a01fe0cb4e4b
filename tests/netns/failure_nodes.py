"""What the tests named after known failures share: one node alone with the plugin, and `tullectl` in a namespace.

A node here is the conformance tests' (an uplink to "the world", pods as namespaces); clusters are the lab's.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.lib.lab import labs
from scripts.lib.lab.topology import REPO
from tests.conformance.nodes import Call, Json, Node, Plugins, Reply, unique_name

REFERENCE = Path("/usr/lib/cni")
FOUR: Json = {"subnet": "10.60.0.0/24"}
SIX: Json = {"subnet": "2001:db8:60::/64"}
RANGES: dict[str, list[list[Json]]] = {"4": [[FOUR]], "6": [[SIX]], "dual": [[FOUR], [SIX]]}
DEFAULTS: dict[str, list[Json]] = {
    "4": [{"dst": "0.0.0.0/0"}], "6": [{"dst": "::/0"}], "dual": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}


@contextmanager
def node_with(plugin: Path, state: Path) -> Iterator[Node]:
    """A node alone whose runtime finds the plugin under test, and the reference's for whatever else it asks."""
    node = Node(unique_name("fail"), Plugins("tulle", plugin.parent, f"{plugin.parent}:{REFERENCE}"), state)
    try:
        yield node
    finally:
        node.remove()


def conf(node: Node, family: str = "4", **keys: object) -> Json:
    """A network named `net` of type tulle: gateway, masquerade, default routes; keys with None are left out."""
    ipam = {
        "type": "host-local", "dataDir": str(node.data_dir), "ranges": RANGES[family], "routes": DEFAULTS[family],
    }
    whole: Json = {
        "cniVersion": "1.1.0", "name": "net", "type": "tulle", "isGateway": True, "ipMasq": True, "ipam": ipam, **keys,
    }
    return {key: value for key, value in whole.items() if value is not None}


def ranges(node: Node, *subnets: str) -> Json:
    """An `ipam` object: one range set a subnet, no routes."""
    return {"type": "host-local", "dataDir": str(node.data_dir), "ranges": [[{"subnet": each}] for each in subnets]}


def address(result: Json, index: int = 0) -> str:
    """An address of a result, without its prefix length."""
    ips = result["ips"]
    assert isinstance(ips, list)
    return str(ips[index]["address"]).partition("/")[0]


def invoke(node: Node, command: str, configuration: Json, *, container: str, netns: str | None) -> Reply:
    """One call with the netns as it is given, which may be empty, absent or gone."""
    return node.invoke(configuration, Call(command=command, container=container, netns=netns))


def collect(node: Node, configuration: Json, *valid: str) -> Reply:
    """GC, with the containers that the runtime still knows."""
    listed = [{"containerID": each, "ifname": "eth0"} for each in valid]
    call = Call(command="GC", container=None, ifname=None)
    return node.invoke({**configuration, "cni.dev/valid-attachments": listed}, call)


def status(node: Node, configuration: Json) -> Reply:
    """STATUS."""
    return node.invoke(configuration, Call(command="STATUS", container=None, ifname=None))


def tullectl(plugin: Path, netns: str, run_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The operator's tool of the same build, in a node's namespace."""
    built = plugin.parent / "tullectl"
    command = [str(built)] if built.exists() else [sys.executable, "-m", "cni_plugin.ctl"]
    return subprocess.run(
        ["nsenter", f"--net=/run/netns/{netns}", "--", *command, *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(REPO), "TULLE_RUN_DIR": str(run_dir)},
        capture_output=True, text=True, timeout=60, check=False,
    )


def repair(plugin: Path, lab: labs.Lab, node: str) -> None:
    """`tullectl repair` on a node of a lab; fails the test when it could not put right what is wrong."""
    where = lab.node(node)
    done = tullectl(plugin, where.netns, where.state / "run", "repair")
    assert done.returncode == 0, done.stdout + done.stderr

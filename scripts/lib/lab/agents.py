"""The agents of a lab whose nodes learn of each other, and the etcd that they may learn from.

It exists so that the sources of nodes can be played with: what a node knows is no longer written into its files by
the lab, its agent finds it out.

    file    all agents watch /run/tulle-lab/NAME/cluster.json: edit it and look at `scripts/lab status`
    etcd    an etcd runs on the wire (192.0.2.254:2379); agents lease their subnets there, in flannel's own schema

Each agent's log is n1/agent.log in the lab's folder. Promises: an agent runs in its node's namespace with that node's
own run directory; killing everything in the namespaces (`down`) ends them all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scripts.lib.lab import namespaces
from scripts.lib.lab.kube_parts import search_path
from scripts.lib.lab.runtime import Json
from scripts.lib.lab.topology import LABS, LINK_NETS, POD_NETS, ROUTER, LabError, Node, Spec, backend, conflist, host

PATIENCE = 120.0
PREFIX = "/coreos.com/network"

# A request to etcd's JSON gateway from inside of the wire's namespace: keys and values are base64 there.
PUT = """
import base64, json, sys, urllib.request
url, key, value = sys.argv[1:]
body = {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()}
urllib.request.urlopen(url + "/v3/kv/put", json.dumps(body).encode(), 2).read()
"""


def source(spec: Spec) -> Json:
    """The agents' `source`, the same on all nodes."""
    if spec.source == "etcd":
        return {"type": "etcd", "endpoints": [etcd_url(spec)], "prefix": PREFIX}
    return {"type": "file", "path": str(shared_file(spec))}


def shared_file(spec: Spec) -> Path:
    """The cluster file that all agents watch."""
    return LABS / spec.name / "cluster.json"


def etcd_url(spec: Spec) -> str:
    """Where the nodes find etcd."""
    address = host(LINK_NETS[1, spec.families[0]], ROUTER)
    return f"http://{f'[{address}]' if ':' in address else address}:2379"


def start_etcd(spec: Spec) -> None:
    """Starts etcd on the wire with the network's configuration in it. Raises LabError."""
    path = search_path(("etcd",))
    folder, url = LABS / spec.name, etcd_url(spec)
    words = f"etcd --data-dir {folder}/etcd --log-level warn --listen-client-urls {url} --advertise-client-urls {url}"
    with (folder / "etcd.log").open("ab") as log:
        _start([*namespaces.inside(spec.wire), *words.split()], {"PATH": path}, log.fileno())
    config = json.dumps(network_conf(spec))
    put = [sys.executable, "-I", "-c", PUT, url, f"{PREFIX}/config", config]
    _wait(lambda: namespaces.attempt(put, netns=spec.wire).returncode == 0, "etcd answers", folder / "etcd.log")


def network_conf(spec: Spec) -> Json:
    """flannel's net-conf.json for this lab. A node's subnet is of the length that the static list has."""
    names = {4: ("Network", "EnableIPv4"), 6: ("IPv6Network", "EnableIPv6")}
    conf: Json = {"Backend": backend(spec)}
    for family in spec.families:
        network, enabled = names[family]
        conf |= {network: POD_NETS[family], enabled: True}
    return conf | ({} if 4 in spec.families else {"EnableIPv4": False})


def start(node: Node) -> None:
    """Starts a node's agent; `ready` waits for it."""
    settings = {
        "node": node.name, "network": "pods", "source": source(node.spec), "log": "debug",
        "cni": {"path": str(node.state / "net.d" / "10-tulle.conflist"), "template": str(node.state / "template.json")},
    }
    node.state.mkdir(parents=True, exist_ok=True)
    (node.state / "agent.json").write_text(json.dumps(settings, indent=2) + "\n")
    template = conflist(node)
    (node.state / "template.json").write_text(json.dumps(template, indent=2) + "\n")
    built = Path(node.spec.plugin).resolve().with_name("tulled")
    words = [str(built)] if built.exists() else [sys.executable, "-I", "-m", "cni_plugin.agent"]
    with (node.state / "agent.log").open("ab") as log:
        _start(
            [*namespaces.inside(node.netns), *words, "--conf", str(node.state / "agent.json")],
            os.environ | node.env, log.fileno(),
        )


def ready(node: Node) -> None:
    """Waits until the agent has put the CNI configuration in place, which it does last. Raises LabError."""
    conf = node.state / "net.d" / "10-tulle.conflist"
    _wait(conf.exists, f"the agent of {node.name} is ready", node.state / "agent.log")


def subnets(node: Node) -> list[str]:
    """What the node's agent says that its subnets are; none yet without its cluster file."""
    try:
        cluster = json.loads((node.state / "run" / "cluster.json").read_text())
    except OSError:
        return []
    return [cidr for each in cluster["nodes"] if each["name"] == node.name for cidr in each["podCIDRs"]]


def _start(argv: list[str], environment: dict[str, str], log: int) -> None:
    _children.append(subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
    ))


_children: list[subprocess.Popen[bytes]] = []
"""Kept for as long as this process: they are to outlive it, and are nobody's to wait for."""


def _wait(condition: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:]
            raise LabError(f"not within {PATIENCE:g} s: {what}. The end of {log}:\n{said}")
        time.sleep(0.05)

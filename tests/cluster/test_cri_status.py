"""What containerd 2 tells a kubelet of the network comes from our STATUS: not ready, and why, until the agent is.

containerd itself calls STATUS when the configuration says CNI 1.1, each time that it is asked through the CRI. Asked it
is by curl: a gRPC call is an HTTP/2 request with a length before the message, and the empty message is five zeros.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scripts.lib.lab import kube_node, kube_parts, labs, namespaces
from scripts.lib.lab.topology import LABS, REPO, Spec
from tests.pace import PATIENCE, until

PLUGIN = Path(os.environ.get("TULLE_PLUGIN", REPO / "dist" / "tulle" / "tulle"))
NEEDED = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
STATUS = "http://localhost/runtime.v1.RuntimeService/Status"
GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-"]


def lacks() -> str:
    """Why this cannot be tried here, "" when it can."""
    if missing := kube_parts.lacks(NEEDED, ("curl", "unshare", "nsenter")):
        return missing
    told = subprocess.run([_containerd(), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r" v?(\d+)\.(\d+)\.\d+", told)
    if found is None or int(found[1]) < 2:
        return f"containerd before 2.0 calls no STATUS, this is {found[0].strip() if found else 'another'}"
    return "" if PLUGIN.with_name("tulled").exists() else "dist/tulle is not built: run scripts/build"


def _containerd() -> str:
    path = f"{os.environ.get('KUBEBUILDER_ASSETS', '')}:{os.environ.get('PATH', os.defpath)}"
    return shutil.which("containerd", path=path) or "containerd"


pytestmark = [
    pytest.mark.xdist_group("kubernetes"), pytest.mark.skipif(bool(lacks()), reason=lacks()),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of a node that runs containerd alone, with the bundle on it."""
    spec = Spec(name=f"c{os.getpid()}", nodes=1, family="4", plugin=str(PLUGIN))
    try:
        node = labs.up(spec).nodes[0]
        folder = LABS / spec.name / "kube" / "n1"
        (folder / "conf").mkdir(parents=True)
        (folder.parent / "log").mkdir()
        path = kube_parts.search_path(NEEDED)
        kube_parts.write_image(folder.parent / "image.tar")
        (folder / "conf" / "containerd.toml").write_text(kube_node.containerd_conf(path))
        kube_node.boot(node, folder, path, "")
        until(lambda: kube_node.has_image(folder), "containerd runs")
        on(folder, f"mkdir /opt/tulle; cp -r {shlex.quote(str(PLUGIN.parent))} /opt/tulle/current")
        on(folder, "ln -s /opt/tulle/current/tulle /opt/cni/bin")
        yield folder
    finally:
        labs.down(spec.name)
        assert namespaces.existing(spec.prefix) == [] and not (LABS / spec.name).exists()


def on(folder: Path, script: str) -> None:
    """Run a shell script on the node."""
    namespaces.run([*kube_node.inside(folder), "sh", "-ec", script])


def network_of(folder: Path) -> str:
    """Why containerd says that the network is not ready, "" when it is."""
    socket = folder / "disk" / "run" / "containerd" / "containerd.sock"
    words = ["curl", "-s", "-m", "10", "--http2-prior-knowledge", "--unix-socket", str(socket), *GRPC, STATUS]
    told = subprocess.run(words, input=bytes(5), capture_output=True, check=True).stdout.decode(errors="replace")
    assert "NetworkReady" in told, told
    refused = re.search(r"NetworkPluginNotReady.*?(Network plugin returns error: [^\x00-\x1f]*)", told, re.DOTALL)
    return refused[1] if refused else ""


def test_containerd_says_that_the_network_is_not_ready_until_the_agent_is(folder: Path) -> None:
    conf = {
        "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "tulle",
        "plugins": [{"type": "tulle", "cluster": "/run/tulle/cluster.json", "ipam": {"type": "host-local"}}],
    }
    source, disk = {"type": "file", "path": "/run/nodes.json"}, folder / "disk"
    assert "cni plugin not initialized" in network_of(folder), "there is no configuration yet"
    on(folder, f"cd /etc/cni/net.d; echo '{json.dumps(conf)}' >.new; mv .new 10-tulle.conflist")
    on(folder, f"mkdir -p /etc/tulle; echo '{json.dumps({'node': 'n1', 'source': source})}' >/etc/tulle/agent.json")
    log = (folder / "agent.log").open("wb")
    agent = subprocess.Popen([*kube_node.inside(folder), "/opt/tulle/current/tulled"], stdout=log, stderr=log)
    try:
        until((disk / "run" / "tulle" / "agent.sock").exists, "the agent serves")
        until(lambda: "has not learned the cluster" in network_of(folder), "STATUS says that the agent is not ready")
        nodes = [{"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}]
        (disk / "run" / "nodes.json").write_text(json.dumps({"network": "10.244.0.0/16", "nodes": nodes}))
        until(lambda: network_of(folder) == "", "the network is ready")
    finally:
        with suppress(namespaces.CommandError):
            on(folder, "pkill -x tulled")
        agent.wait(PATIENCE)
        log.close()

"""Real CNI clients, each with files of its own: nothing of the machine's /var/lib, /etc/cni or /opt is touched.

cnitool, podman and containerd's `ctr` keep state in fixed places. Each command runs in the node's network
namespace and in a mount namespace in which those places are the node's own folders:

    unshare --mount sh -c 'mount --bind STATE/var-lib /var/lib; ...; exec sleep infinity' &
    nsenter --net=/run/netns/NODE --mount=/proc/$!/ns/mnt CMD...
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.conformance.cases import DEFAULT4, FOUR, sets
from tests.conformance.nodes import SYSTEM_PATH, Json, Node

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_DIR = Path("/run/tulle")
BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "ping", "sleep", "ip", "nc", "cat", "echo", "hostname")


class Client:
    """One CNI client's place on a node: its network configurations, and commands run with its files in place.

    A process that does nothing holds the mount namespace, because a client may mount there what a later command of
    it needs: podman keeps its containers' network namespaces as mounts. `close()` ends it.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.state = node.state / "client"
        self.confs = self.state / "net.d"
        self.confs.mkdir(parents=True)
        self._holder: subprocess.Popen[str] | None = None

    @property
    def path(self) -> str:
        return self.node.plugins.path or str(self.node.plugins.directory)

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": SYSTEM_PATH, "HOME": "/root"}

    def mounts(self) -> list[str]:
        """The commands that put the node's own folders in place.

        The run folder too: what podman leaves behind to clean up (conmon) does not hand TULLE_RUN_DIR on. The machine's
        own, an empty place to mount on, is left standing: to remove it would unmount it under a client that runs
        beside this one (rmdir detaches what other mount namespaces have there, fs/namei.c detach_mounts).
        """
        (self.state / "var-lib").mkdir()
        RUN_DIR.mkdir(exist_ok=True)
        return [f"mount --bind {self.state}/var-lib /var/lib", f"mount --bind {self.node.run_dir} {RUN_DIR}"]

    def configure(self, network: Mapping[str, object]) -> None:
        """Write a network's list of plugins where the client looks for it."""
        (self.confs / f"10-{network['name']}.conflist").write_text(json.dumps(network))

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the client's command; whatever it answers is returned."""
        return subprocess.run(
            self.argv(*argv),
            env={**self.environ, **(env or {})},
            capture_output=True, text=True, timeout=100, check=False,
        )

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start the client's command and leave it running; the caller ends it."""
        return subprocess.Popen(
            self.argv(*argv), env=self.environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

    def argv(self, *argv: str) -> list[str]:
        """The command line that runs a command in the node with the client's folders in place."""
        if self._holder is None:
            self._holder = self._hold()
        return ["nsenter", f"--net={self.node.path}", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *argv]

    def _hold(self) -> subprocess.Popen[str]:
        # "slave": a namespace that `ip netns add` mounts later on is seen inside; nothing from inside is seen outside.
        inside = "; ".join([*self.mounts(), "echo ready", "exec sleep infinity"])
        words = ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", inside]
        holder = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert holder.stdout is not None
        said = holder.stdout.readline()
        assert said == "ready\n", said
        return holder

    def close(self) -> None:
        """End the mount namespace and with it all that was mounted there."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.communicate()


def network(node: Node, *chained: Mapping[str, object], **keys: object) -> Json:
    """A list with our plugin first: gateway, masquerade, one range, a default route."""
    ours: Json = {
        "type": "bridge", "bridge": "br0", "isGateway": True, "ipMasq": True,
        "ipam": {
            "type": "host-local", "dataDir": str(node.data_dir), "ranges": sets(FOUR), "routes": [DEFAULT4],
        },
        **keys,
    }
    return {"cniVersion": "1.0.0", "name": "net", "plugins": [ours, *chained]}


def find_cnitool() -> str:
    """The path of cnitool: $CNITOOL, ../shared/bin beside the repository, or PATH. Skips the test without one."""
    places = (os.environ.get("CNITOOL", ""), str(REPOSITORY.parent / "shared/bin/cnitool"), shutil.which("cnitool"))
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    pytest.skip("no cnitool in $CNITOOL, ../shared/bin or PATH")


def require(*commands: str) -> None:
    """Skip the test, naming the command that this machine does not have."""
    for command in commands:
        if shutil.which(command, path=SYSTEM_PATH) is None:
            pytest.skip(f"{command} is not installed")


def make_rootfs(folder: Path) -> Path:
    """A root file system of busybox alone. Skips the test without a static busybox."""
    if not BUSYBOX.exists() or "statically" not in _file_kind(BUSYBOX):
        pytest.skip("no static busybox: install busybox-static")
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    return folder


def _file_kind(path: Path) -> str:
    """ "statically" for an ELF file without an interpreter (PT_INTERP), which any rootfs can run."""
    return "dynamically" if b"/ld-linux" in path.read_bytes()[:4096] else "statically"


def results(answer: str) -> Json:
    """The CNI result in what a client printed."""
    decoded = json.loads(answer)
    assert isinstance(decoded, dict)
    return decoded


def address(result: Mapping[str, object]) -> str:
    """The first address of a result, without its prefix length."""
    ips = result["ips"]
    assert isinstance(ips, Sequence)
    return str(ips[0]["address"]).partition("/")[0]

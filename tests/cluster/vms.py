"""Virtual machines with a stock Debian kernel, each a node: for what this machine's own kernel cannot show.

The machines come from a lab that boots them from this machine's own files (`$TULLE_VMLAB`, or ../shared/vmlab beside
the repository); `LACKS` says why there is none. The node list has node1 and node2 at 10.77.0.1 and .2.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BUNDLE = REPO / "dist" / "tulle"
PLUGIN = "/vmshare/tulle/tulle"
"""In the machines: a copy in the folder that the lab shares with them, for they see their own /tmp and not ours."""
VMLAB = Path(os.environ.get("TULLE_VMLAB", REPO.parent / "shared" / "vmlab")) / "vmlab.sh"
LAB = f"tulle{os.getpid() % 10000}"
LACKS = (
    "it needs root" if os.geteuid() != 0
    else f"there is no virtual machine lab: set TULLE_VMLAB ({VMLAB})" if not VMLAB.exists()
    else "" if BUNDLE.exists()
    else "dist/tulle is not built: run scripts/build"
)


class Vm:
    """One booted machine. `sh` runs a script in it and gives back stdout; a failure is an AssertionError."""

    def __init__(self, number: int) -> None:
        self.name, self.number = f"vm{number}", number
        self.interfaces: list[str] = []

    def sh(self, script: str, *, check: bool = True, seconds: int = 90) -> str:
        """Run a shell script."""
        argv = [str(VMLAB), "exec", "-n", "-t", str(seconds), self.name, "--", "sh", "-ec", script]
        done = subprocess.run(argv, env=_env(), capture_output=True, text=True, timeout=seconds + 60, check=False)
        assert not check or done.returncode == 0, f"{self.name}: {script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def cni(self, verb: str, pod: str, conf: dict[str, object], *, check: bool = True) -> dict[str, object]:
        """Call the plugin as a runtime would, for a pod in the namespace of that name."""
        env = f"CNI_COMMAND={verb} CNI_CONTAINERID={pod} CNI_NETNS=/run/netns/{pod} CNI_IFNAME=eth0 CNI_PATH=/opt"
        out = self.sh(f"echo {shlex.quote(json.dumps(conf))} | env {env} {PLUGIN}", check=check)
        return dict(json.loads(out)) if out.strip() else {}

    def add(self, pod: str, conf: dict[str, object]) -> list[str]:
        """A new pod; its addresses. The result is kept, and its interfaces."""
        self.sh(f"ip netns add {pod}")
        self.result = result = self.cni("ADD", pod, conf)
        ips, interfaces = result["ips"], result["interfaces"]
        assert isinstance(ips, list) and isinstance(interfaces, list)
        self.interfaces = [each["name"] for each in interfaces]
        return [each["address"].split("/")[0] for each in ips]

    def addresses(self, pod: str) -> list[str]:
        """Those that a pod has."""
        (link,) = json.loads(self.sh(f"ip -n {pod} -j addr show dev eth0"))
        return [each["local"] for each in link["addr_info"] if each["scope"] == "global"]

    def delete(self, pod: str, conf: dict[str, object]) -> None:
        """The pod and its namespace go."""
        self.cni("DEL", pod, conf)
        self.sh(f"ip netns del {pod}")

    def pings(self, pod: str, address: str, *options: str) -> bool:
        """Whether one of three packets from the pod is answered."""
        words = " ".join(options)
        out = self.sh(f"ip netns exec {pod} ping -c 3 -i 0.2 -W 2 {words} {address} || true")
        return " 0 received" not in out and "received" in out


    def python(self, place: str, script: str, *words: str, rest: str = "") -> str:
        """Run a Python script in a pod, "" is the machine itself; `rest` is what the shell is to do with it."""
        inside = f"ip netns exec {place} " if place else ""
        return self.sh(f"{inside}python3 -c {shlex.join([script, *words])} {rest}")


def _env(append: str = "") -> dict[str, str]:
    return {**os.environ, "VMLAB_ID": LAB, "VMLAB_APPEND": append}


@contextmanager
def booted(append: str = "") -> Iterator[tuple[Vm, Vm]]:
    """Both machines, booted with this at the end of the kernel's command line; stopped at the end whatever happened."""
    for step in (["prepare"], ["up", "2"]):
        argv = ["flock", "--close", "/run/lock/tulle-vmlab", str(VMLAB), *step]  # what all labs share is made once
        done = subprocess.run(argv, env=_env(append), capture_output=True, text=True, timeout=900, check=False)
        if done.returncode != 0:
            subprocess.run([str(VMLAB), "down"], env=_env(), capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, f"vmlab {step}: {done.stdout}\n{done.stderr}"
    copy = Path(os.environ.get("VMLAB_DIR", "/var/cache/vmlab")) / f"run-{LAB}" / "share" / "tulle"
    try:
        shutil.copytree(BUNDLE, copy, symlinks=True)
        yield Vm(1), Vm(2)
    finally:
        subprocess.run([str(VMLAB), "down"], env=_env(), capture_output=True, timeout=60, check=False)
        shutil.rmtree(copy, ignore_errors=True)


def from_outside(*argv: str) -> str:
    """Run a command on the wire between the machines, where it is neither of them."""
    done = subprocess.run(
        [str(VMLAB), "ns", *argv], env=_env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
    return done.stdout


def cluster_conf(number: int, backend: str) -> dict[str, object]:
    """The configuration of node `number`."""
    nodes = [
        {
            "name": f"node{each}",
            "address": f"10.77.0.{each}",
            "ipv6Address": f"fd00:77::{each}",
            "podCIDRs": [f"10.244.{each}.0/24", f"fd00:244:{each}::/64"],
        }
        for each in (1, 2)
    ]
    networks = {"network": "10.244.0.0/16", "ipv6Network": "fd00:244::/32"}
    cluster = {**networks, "backend": {"type": backend}, "node": f"node{number}", "nodes": nodes}
    return {"cniVersion": "1.1.0", "name": "vms", "type": "tulle", "cluster": cluster, "ipam": {"type": "host-local"}}

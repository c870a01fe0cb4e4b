"""The same pod on machines that lack something: served where it can be, and where not STATUS says so before ADD does.

Each machine is a network and a mount namespace of its own. A row says what is done to it, what a pod with IPv4 and what
one of both families come to there: "" for a pod that works, else words of the refusal, which STATUS and ADD share.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
from typing import NamedTuple

import pytest

from tests.conformance.conftest import BUNDLE
from tests.conformance.nodes import Json, Reply
from tests.pace import PATIENCE, until

READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
FORWARDS = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
IPV6_OFF = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"


FULL = "mkdir -p {0} && mount -t tmpfs -o size=64k,nr_inodes=9 none {0} && (head -c 99k /dev/zero >{0}/ballast || true)"


class Row(NamedTuple):
    """A machine: what is done to the node, what to each pod's sandbox, and what becomes of pods; `code` is ADD's."""

    node: str
    sandbox: str = "true"
    four: str = ""
    both: str = ""
    code: int = 100


MACHINES = {
    "as it comes": Row("true"),
    "no br_netfilter": Row("mount -t tmpfs none /proc/sys/net/bridge || true"),
    "no /proc/sys/net/ipv6": Row("mount -t tmpfs none /proc/sys/net/ipv6", both="there is no IPv6 here"),
    "IPv6 off on the node": Row(IPV6_OFF),
    "IPv6 off for new links of the sandbox": Row("true", "sysctl -qw net.ipv6.conf.default.disable_ipv6=1"),
    "IPv6 off in the sandbox": Row("true", IPV6_OFF),
    "IPv6 off on both": Row(IPV6_OFF, IPV6_OFF),
    "strict reverse path filter": Row("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1"),
    "/proc/sys read-only, right": Row(f"{FORWARDS} && {READ_ONLY}"),
    "/proc/sys read-only, IPv6 does not forward": Row(
        f"sysctl -qw net.ipv4.ip_forward=1 && {READ_ONLY}", both="sysctl -w net/ipv6/conf/all/forwarding=1"
    ),
    "/proc/sys read-only, nothing forwards": Row(
        READ_ONLY, four="sysctl -w net/ipv4/ip_forward=1", both="sysctl -w net/ipv4/ip_forward=1"
    ),
    "no room for leases": Row(FULL.format("$STATE"), four="$STATE", both="$STATE", code=5),
    "no room for records": Row(FULL.format("/run/tulle"), four="/run/tulle", both="/run/tulle", code=5),
    "leases read-only": Row("mount -t tmpfs -o ro none $STATE", four="$STATE", both="$STATE", code=5),
    "/proc/sys read-only, IPv6 off": Row(f"{FORWARDS} && {IPV6_OFF} && {READ_ONLY}", both="disable_ipv6=0"),
}


class Machine:
    """A node in namespaces of its own, which go with it; pods are made in it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        made = "mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up && echo made && exec sleep 900"
        words = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec", made]
        self._holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None and self._holder.stdout.readline() == "made\n"
        self._agent: subprocess.Popen[bytes] | None = None

    def start_agent(self) -> None:
        """Returns when it serves."""
        self._agent = subprocess.Popen([*self._inside, str(BUNDLE / "tulled")], env=self._environ(), stderr=DEVNULL)
        until(lambda: "agent.sock" in self.sh("ls /run/tulle 2>&1 || true"), "the agent serves")

    def remove(self) -> None:
        """End what runs in it."""
        for each in (self._agent, self._holder):
            if each is not None:
                each.terminate()
                each.wait(PATIENCE)

    def sh(self, script: str) -> str:
        """Run a script of the test's own on the node."""
        environ = {**os.environ, "STATE": str(self.state)}
        words = [*self._inside, "sh", "-ec", script]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def cni(self, verb: str, conf: Json) -> Reply:
        """Call the plugin, for the pod's eth0 where the verb is about one."""
        done = subprocess.run(
            [*self._inside, str(BUNDLE / "tulle")], input=json.dumps(conf), env=self._environ(CNI_COMMAND=verb),
            capture_output=True, text=True, timeout=60, check=False,
        )
        return Reply(done.returncode, done.stdout, done.stderr)

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", "--net", "--mount", f"--target={self._holder.pid}"]

    def _environ(self, **more: str) -> dict[str, str]:
        pod = {"CNI_CONTAINERID": "pod1", "CNI_NETNS": "/run/netns/pod1", "CNI_IFNAME": "eth0"}
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TULLE_RUN_DIR": "/run/tulle", **pod, **more}


@pytest.fixture(params=["engine", "agent"])
def machine(request: pytest.FixtureRequest, row: Row, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    try:
        made.sh(f"ip netns add pod1 && ip netns exec pod1 {row.sandbox} && {row.node}")
        if request.param == "agent":
            made.start_agent()
        yield made
    finally:
        made.remove()


def network(machine: Machine, *subnets: str) -> Json:
    ipam = {"type": "host-local", "dataDir": str(machine.state), "ranges": [[{"subnet": each}] for each in subnets]}
    return {
        "cniVersion": "1.1.0", "name": "net", "type": "tulle", "bridge": "br9",
        "isDefaultGateway": True, "ipMasq": True, "ipam": ipam,
    }


def works(machine: Machine, conf: Json, *gateways: str) -> None:
    """All verbs of a pod's life, and packets."""
    machine.cni("STATUS", conf).ok()
    result = machine.cni("ADD", conf).ok()
    later = {**conf, "prevResult": result}
    machine.cni("CHECK", later).ok()
    for each in gateways:
        machine.sh(f"ip netns exec pod1 ping -n -c1 -W5 {each}")
    machine.cni("GC", {**conf, "cni.dev/valid-attachments": [{"containerID": "pod1", "ifname": "eth0"}]}).ok()
    machine.cni("CHECK", later).ok()
    machine.cni("STATUS", conf).ok()
    machine.cni("DEL", later).ok()


def refused(machine: Machine, conf: Json, words: str, code: int) -> None:
    """Foretold, with the same words, and without a trace; what takes away works all the same."""
    status, add = machine.cni("STATUS", conf), machine.cni("ADD", conf)
    assert (status.code, add.code) == (50, code)
    words = words.replace("$STATE", str(machine.state))
    assert words in status.message
    assert words in add.message
    machine.cni("DEL", conf).ok()
    machine.cni("GC", {**conf, "cni.dev/valid-attachments": []}).ok()


def left(machine: Machine) -> str:
    """Leases, records and wires."""
    leases = [each.name for each in machine.state.glob("net/*") if each.name[0].isdigit()]
    records = "[ ! -d /run/tulle/attachments ] || find /run/tulle/attachments -type f"
    return "".join(leases) + machine.sh(f"ip -o link show type veth; {records}")


@pytest.mark.parametrize("row", MACHINES.values(), ids=MACHINES)
def test_a_pod_with_ipv4(machine: Machine, row: Row) -> None:
    conf = network(machine, "10.9.0.0/24")
    if row.four:
        refused(machine, conf, row.four, row.code)
    else:
        works(machine, conf, "10.9.0.1")
    assert left(machine) == ""


@pytest.mark.parametrize("row", MACHINES.values(), ids=MACHINES)
def test_a_pod_of_both_families(machine: Machine, row: Row) -> None:
    conf = network(machine, "10.9.0.0/24", "fd00:9::/64")
    if row.both:
        refused(machine, conf, row.both, row.code)
    else:
        works(machine, conf, "10.9.0.1", "fd00:9::1")
    assert left(machine) == ""

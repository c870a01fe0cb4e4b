"""The golden texts are no prose: each line is carried out as it stands, in a network namespace, and takes effect.

So what `tullectl plan` prints and what CHECK puts into its details can be copied into a shell.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from cni_plugin.backends import contract as backend
from cni_plugin.errors import CniError
from cni_plugin.model.base import State
from tests.golden.cases import BACKENDS, MASQUERADES, PODS, direct_routing, gone, made, masquerade, node, pod

TOOLS = ("ip", "bridge", "sysctl", "ethtool", "nft")
MISSING = [each for each in TOOLS if shutil.which(each) is None]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
PREPARE = (
    "ip link set lo up", "ip link add eth0 type bridge", "ip addr add 192.0.2.1/24 dev eth0",
    "ip addr add 2001:db8::1/64 dev eth0 nodad", "ip link set eth0 up",
)


class Shell:
    """A node's namespace and a pod's, for lines that people would type."""

    def __init__(self, name: str) -> None:
        self.node, self.pod = f"{name}-n", f"{name}-p"

    def run(self, line: str) -> str:
        """One line, `POD` standing for the pod's namespace; what it said."""
        told = ["ip", "netns", "exec", self.node, "sh", "-c", line.replace("POD", self.pod)]
        done = subprocess.run(told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def carry_out(self, script: str) -> None:
        """All lines in one shell, which stops at the first that fails."""
        self.run("set -e\n" + "\n".join(line for line in script.splitlines() if line))

    def links(self) -> set[str]:
        """The links of the node."""
        return {each["ifname"] for each in json.loads(self.run("ip -j link"))}


@pytest.fixture
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    made_for = Shell(f"tulle-gold-{os.getpid()}-{abs(hash(request.node.name)) % 10000}")
    both = (made_for.node, made_for.pod)
    try:
        for each in both:
            subprocess.run(["ip", "netns", "add", each], check=True)
        made_for.carry_out("\n".join(PREPARE))
        yield made_for
    finally:
        for each in both:
            subprocess.run(["ip", "netns", "del", each], check=False)


def stands(shell: Shell, state: State) -> None:
    """Whatever of a state has a name is there."""
    assert {key[2] for key in state if key[0] == "link" and key[1] == ""} <= shell.links()


def vlans_are_filtered(shell: Shell) -> bool:
    """Whether this kernel was built with CONFIG_BRIDGE_VLAN_FILTERING."""
    return "ok" in shell.run("ip link add probe type bridge vlan_filtering 1 && echo ok; ip link del probe || true")


@pytest.mark.parametrize("name", PODS)
def test_the_lines_of_a_pod_can_be_typed(shell: Shell, name: str) -> None:
    steps = list(pod(name))
    if "vlan_filtering 1" in made(steps[0][1]) and not vlans_are_filtered(shell):
        pytest.skip("this kernel's bridges do not filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING)")
    for _, state in steps:
        shell.carry_out(made(state))
        stands(shell, state)
    for _, state in reversed(steps):
        shell.carry_out(gone(state))
    assert shell.links() == {"lo", "eth0"}


def joined() -> Iterator[tuple[str, State]]:
    """Every plan of every backend that does not refuse."""
    yield "vxlan-direct-routing", direct_routing()
    for name in backend.names():
        for family, shape in BACKENDS.items():
            try:
                yield f"{name}-{family}", node(name, shape)
            except CniError:
                continue


@pytest.mark.parametrize("name", dict(joined()))
def test_the_lines_of_a_cluster_can_be_typed(shell: Shell, name: str) -> None:
    state = dict(joined())[name]
    shell.carry_out(made(state))
    stands(shell, state)
    shell.carry_out(gone(state))
    assert shell.links() == {"lo", "eth0"}
    assert shell.run("ip route show proto 84; ip -6 route show proto 84") == ""


@pytest.mark.parametrize("name", MASQUERADES)
def test_the_lines_of_a_masquerade_can_be_typed(shell: Shell, name: str) -> None:
    state = masquerade(name)
    shell.carry_out(made(state))
    (chain,) = state.values()
    rules = getattr(chain, "rules", ())
    assert shell.run("nft list chain inet tulle postrouting").count("masquerade fully-random") == len(rules) > 0
    shell.carry_out(gone(state))
    assert "chain" not in shell.run("nft list ruleset")

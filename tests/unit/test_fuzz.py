"""Whatever a request holds, the answer is JSON with a code of the specification, and the next request is served.

1,500 requests are drawn, in some seconds; with --soak or TULLE_SOAK=1 there are 20,000 more, in some minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from cni_plugin.meter import Meter
from cni_plugin.verbs.run import Agent, run
from tests.fuzzing import Fuzzed, flaw, requests
from tests.unit.support import DUAL, Json, Node, executable

LENDER = """#!/bin/sh
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.7/24", "gateway": "10.99.0.1"}]}'
"""
PLAIN: Json = {
    "cniVersion": "1.1.0", "name": "pods", "type": "tulle", "bridge": "tulle0", "isDefaultGateway": True,
    "ipMasq": True, "hairpinMode": True, "mtu": 1400, "vlan": 0, "dns": {"nameservers": ["10.22.0.1"]},
    "ipam": {"type": "host-local", "ranges": DUAL, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "data"},
    "runtimeConfig": {"dns": {"servers": ["10.22.0.1"]}, "portMappings": []}, "agent": "auto",
    "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
}
ADDED: Json = {
    "interfaces": [{"name": "tulle0"}, {"name": "eth0", "sandbox": "/run/netns/a"}],
    "ips": [{"address": "10.22.0.2/24", "gateway": "10.22.0.1", "interface": 1}], "routes": [{"dst": "0.0.0.0/0"}],
}
LIST: Json = {
    "network": "10.22.0.0/16", "backend": {"type": "vxlan", "vni": 7, "port": 8472, "directRouting": False},
    "node": "n1", "nodes": [
        {"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.22.0.0/24"]},
        {"name": "n2", "address": "192.0.2.2", "podCIDRs": ["10.22.1.0/24"]},
    ],
}
BASES: tuple[Json, ...] = (
    PLAIN,
    {**PLAIN, "prevResult": ADDED},
    {**PLAIN, "args": {"cni": {"ips": ["10.22.0.77"], "mac": "0a:58:0a:16:00:05"}}},
    {**PLAIN, "name": "cluster", "cluster": LIST, "ipam": {"type": "host-local", "dataDir": "data"}},
    {**PLAIN, "name": "foreign", "ipam": {"type": "lender", "x": {"y": ["host-local"]}}},
    {"cniVersion": "0.3.1", "name": "old", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"}},
    {"cniVersion": "1.0.0", "name": "flat", "type": "tulle", "vlanTrunk": [{"id": 5}, {"minID": 7, "maxID": 9}]},
)
EASY = settings(
    max_examples=750, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
HARD = settings(EASY, max_examples=10_000)


@pytest.fixture(params=["engine", "agent"])
def fuzzed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node that requests are thrown at, alone or in an agent; relative paths mean its own folder."""
    home = tmp_path / "far" / "away"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    executable(home / "bin" / "lender", LENDER)
    node = Node(home)
    node.agent = Agent(Meter()) if request.param == "agent" else None
    return node


def withstand(node: Node, hardness: settings) -> None:
    fixed = {"TULLE_RUN_DIR": f"{node.home}/run", "CNI_PATH": f"{node.home}/bin"}

    @hardness
    @given(requests(BASES, fixed))
    def throw(request: Fuzzed) -> None:
        stdout, code = run(request.name, request.environ, request.stdin, lambda: node.kernel, agent=node.agent)
        assert flaw(request, stdout, code) is None

    throw()
    for pod in ("last eth8", "last eth9"):
        assert node.call("ADD", pod).exit == 0
        assert node.call("DEL", pod).exit == 0


def test_any_request_is_answered_in_the_words_of_the_specification(fuzzed: Node) -> None:
    withstand(fuzzed, EASY)


@pytest.mark.soak
def test_so_are_twenty_thousand(fuzzed: Node) -> None:
    withstand(fuzzed, HARD)

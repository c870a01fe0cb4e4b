"""Called by the name host-local, the bundle is the IPAM of other main plugins: reference bridge, ptp and macvlan.

State on disk is the reference's, so a node may change from one to the other and back in the middle of its life.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.cases import DEFAULT4, DEFAULT6, FOUR, SIX, VERSIONS, sets
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import UPLINK, Call, Json, Node, Plugins
from tests.conformance.observe import addresses

MAIN_PLUGINS = ("bridge", "ptp", "macvlan")


@pytest.fixture
def mixed(tulle: Plugins, reference: Plugins, tmp_path: Path) -> Plugins:
    """A CNI directory in which host-local is ours and everything else the reference's."""
    directory = tmp_path / "mixed"
    directory.mkdir()
    for plugin in reference.directory.iterdir():
        (directory / plugin.name).symlink_to(plugin)
    (directory / "host-local").unlink()
    (directory / "host-local").symlink_to((tulle.directory / "host-local").resolve())
    return Plugins("mixed", directory)


def conf(node: Node, kind: str, version: str = "1.0.0") -> Json:
    ipam: Json = {
        "type": "host-local", "dataDir": str(node.data_dir), "ranges": sets(FOUR, SIX),
        "routes": [DEFAULT4, DEFAULT6],
    }
    extra: dict[str, Json] = {"bridge": {"bridge": "br0"}, "ptp": {}, "macvlan": {"master": UPLINK}}
    return {"cniVersion": version, "name": "net", "type": kind, "ipam": ipam, **extra[kind]}


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "1.0.0"])
@pytest.mark.parametrize("kind", MAIN_PLUGINS)
def test_reference_main_plugins_use_our_host_local(nodes: Nodes, mixed: Plugins, kind: str, version: str) -> None:
    node = nodes(mixed)
    configuration = conf(node, kind, version)
    result = node.add(configuration).ok()
    assert addresses(node.pod("pod1"), "eth0") == ["10.60.0.2/24", "2001:db8:60::2/64"]
    assert node.leases() == dict.fromkeys(("10.60.0.2", "2001:db8:60::2"), "pod1\r\neth0")
    if version == "1.0.0":
        checked = node.check({**configuration, "prevResult": result})
        assert checked.exit == 0, checked.message
    node.delete(configuration).ok()
    node.delete(configuration).ok()
    assert node.leases() == {}


def _ipam(node: Node, command: str, pod: str, configuration: Json) -> Json:
    """Run the host-local of this node's side by itself, as a main plugin does."""
    call = Call(command=command, container=pod, netns=node.pod(pod).path)
    return node.invoke({**configuration, "type": "host-local"}, call).ok()


@pytest.mark.parametrize("version", VERSIONS)
def test_host_local_answers_like_the_reference(
    nodes: Nodes, tulle: Plugins, reference: Plugins, version: str
) -> None:
    ours, theirs = nodes(tulle), nodes(reference)
    for pod in ("pod1", "pod2", "pod3"):
        answers = [_ipam(node, "ADD", pod, conf(node, "bridge", version)) for node in (ours, theirs)]
        assert answers[0] == answers[1]
    for node in (ours, theirs):
        _ipam(node, "DEL", "pod2", conf(node, "bridge", version))
    answers = [_ipam(node, "ADD", "pod4", conf(node, "bridge", version)) for node in (ours, theirs)]
    assert answers[0] == answers[1]
    assert {a: " ".join(o.split()) for a, o in ours.leases().items()} == {
        a: " ".join(o.split()) for a, o in theirs.leases().items()
    }


def test_a_node_moves_from_the_reference_to_us_and_back_with_its_state(
    nodes: Nodes, tulle: Plugins, reference: Plugins
) -> None:
    node = nodes(reference)
    configuration = conf(node, "bridge")
    _ipam(node, "ADD", "pod1", configuration)
    node.plugins = tulle
    _ipam(node, "ADD", "pod2", configuration)
    node.plugins = reference
    _ipam(node, "ADD", "pod3", configuration)
    node.plugins = tulle
    _ipam(node, "DEL", "pod1", configuration)
    _ipam(node, "ADD", "pod4", configuration)
    held = {lease: owner.split()[0] for lease, owner in node.leases().items() if "." in lease}
    assert held == {"10.60.0.3": "pod2", "10.60.0.4": "pod3", "10.60.0.5": "pod4"}
    node.plugins = reference
    for pod in ("pod2", "pod3", "pod4"):
        _ipam(node, "DEL", pod, configuration)
    assert node.leases() == {}


def test_a_pod_of_the_reference_bridge_is_taken_down_by_ours(
    nodes: Nodes, tulle: Plugins, reference: Plugins
) -> None:
    node = nodes(reference)
    configuration = conf(node, "bridge")
    result = node.add(configuration).ok()
    node.plugins = tulle
    checked = node.check({**configuration, "prevResult": result})
    assert checked.exit == 0, checked.message
    node.delete(configuration).ok()
    assert node.leases() == {}
    assert [each["ifname"] for each in node.pod("pod1").json("ip", "-j", "link")] == ["lo"]


def test_a_pod_of_ours_is_taken_down_by_the_reference_bridge(
    nodes: Nodes, tulle: Plugins, reference: Plugins
) -> None:
    node = nodes(tulle)
    configuration = conf(node, "bridge")
    node.add(configuration).ok()
    node.plugins = reference
    node.delete(configuration).ok()
    assert node.leases() == {}
    assert [each["ifname"] for each in node.pod("pod1").json("ip", "-j", "link")] == ["lo"]

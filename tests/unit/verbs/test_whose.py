"""A DEL that is not on record takes the wire in the pod only where nothing says that it is another's."""

from __future__ import annotations

import shutil

import pytest

from cni_plugin.diff import Op
from cni_plugin.model.base import POD
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import Bridge, PodLink, Veth
from tests.unit.support import Node

WIRE = Veth("veth4f0c9d2a", peer="eth0", peer_mac="0a:58:0a:16:00:05")
LATE = "late eth0"


def wired(node: Node) -> bool:
    return any(isinstance(each, PodLink) for each in node.kernel.state.values())


def wire(node: Node) -> None:
    """A pod that another plugin wired: no record, no mark."""
    node.kernel.apply([Op("create", WIRE), Op("create", Addr("eth0", "10.22.0.5/24", POD))])


def lease(node: Node, network: str, holder: str) -> None:
    folder = node.home / "data" / network
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "10.22.0.5").write_bytes(f"{holder}\r\neth0".encode())


def result(mac: str, host: str) -> dict[str, object]:
    """The result that a runtime kept of the ADD."""
    return {"cniVersion": "1.1.0", "interfaces": [
        {"name": "tulle0"}, {"name": host}, {"name": "eth0", "mac": mac, "sandbox": "/run/netns/late"},
    ]}


def test_a_late_del_leaves_the_pod_that_has_the_namespace_now(node: Node) -> None:
    node.call("ADD")
    before = node.standing()
    assert node.call("DEL", LATE).exit == 0
    assert node.standing() == before


def test_a_late_del_leaves_the_pod_whose_record_was_lost(node: Node) -> None:
    node.call("ADD")
    shutil.rmtree(node.home / "run")
    assert node.call("DEL", LATE).exit == 0
    assert node.configured(name="others").call("DEL").exit == 0
    assert wired(node)
    assert node.call("DEL").exit == 0
    assert not wired(node)


def test_the_del_after_a_refused_add_leaves_the_pod_that_it_was_refused_for(node: Node) -> None:
    node.call("ADD")
    assert node.call("ADD", LATE).code == 4
    assert node.call("DEL", LATE).exit == 0
    assert wired(node)


@pytest.mark.parametrize("network", ["pods", "others"])
def test_a_wire_whose_address_is_leased_to_another_pod_is_left(node: Node, network: str) -> None:
    """By the files that the reference keeps too; in a network of another name as well as in the same."""
    wire(node)
    lease(node, network, "live")
    assert node.call("DEL", LATE).exit == 0
    assert wired(node)
    assert (node.home / "data" / network / "10.22.0.5").read_bytes() == b"live\r\neth0"


def test_a_wire_whose_address_the_request_holds_is_taken_away(node: Node) -> None:
    """Networks may use the same addresses: that another one leases it, too, proves nothing."""
    wire(node)
    lease(node, "pods", "late")
    lease(node, "others", "live")
    assert node.call("DEL", LATE).exit == 0
    assert not wired(node)


def test_a_wire_that_the_kept_result_tells_otherwise_of_is_left(node: Node) -> None:
    wire(node)
    for broken in ({}, {"mtu": "x"}):
        told = node.configured(prevResult=result("0a:58:0a:16:00:99", "veth00000000"), **broken)
        assert told.call("DEL", LATE).exit == 0
    assert wired(node)


@pytest.mark.parametrize(
    ("mac", "host"),
    [(WIRE.peer_mac.upper(), "veth00000000"), ("0a:58:0a:16:00:99", WIRE.name), ("", "veth00000000")],
    ids=["its mac", "its other end", "no mac is told"],
)
def test_a_wire_that_the_kept_result_agrees_with_is_taken_away(node: Node, mac: str, host: str) -> None:
    wire(node)
    assert node.configured(prevResult=result(mac, host)).call("DEL", LATE).exit == 0
    assert not wired(node)


def test_a_folder_of_leases_that_cannot_be_read_does_not_stop_del(node: Node) -> None:
    wire(node)
    strange = node.home / "data" / "pods" / "10.22.0.5"
    strange.mkdir(parents=True)
    (node.home / "data" / "file").write_text("no folder")
    assert node.call("DEL", LATE).exit == 0
    assert not wired(node)


def test_looking_for_the_owner_makes_no_file(node: Node) -> None:
    wire(node)
    (node.home / "data" / "results").mkdir(parents=True)
    assert node.call("DEL", LATE).exit == 0
    assert list((node.home / "data" / "results").iterdir()) == []


def test_force_address_leaves_the_gateway_of_another_networks_pods(node: Node) -> None:
    """Of its own network it puts the old gateway out, of nobody else's."""
    node.call("ADD", "b eth1")
    other = node.configured(
        name="others", forceAddress=True, ipam={**_ipam(node), "subnet": "10.33.0.0/24"},
    )
    assert other.call("ADD").exit == 0
    changed = node.configured(name="others", forceAddress=True, ipam={**_ipam(node), "subnet": "10.44.0.0/24"})
    assert changed.call("ADD", "c eth2").exit == 0
    assert set(node.kernel.addresses("tulle0")) == {"10.22.0.1/24", "10.44.0.1/24"}


def test_a_failed_add_leaves_its_bridge_to_who_came_upon_it(node: Node) -> None:
    """Another plugin's veth may be plugged in between; only the records told of users before."""
    def plug_in_and_fail(*_: object) -> None:
        node.kernel.state[("link", "", "vethX")] = Veth("vethX", master="tulle0")
        raise OSError(28, "No space left on device")

    node.kernel.announce = plug_in_and_fail  # type: ignore[assignment,method-assign]
    assert node.call("ADD").code == 5
    assert any(isinstance(each, Bridge) for each in node.kernel.state.values())
    assert not any(isinstance(each, Addr) for each in node.kernel.state.values())


def _ipam(node: Node) -> dict[str, object]:
    ipam = node.conf["ipam"]
    assert isinstance(ipam, dict)
    return ipam

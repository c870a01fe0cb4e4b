"""ADD on a kernel in memory: what it answers and makes, and that one that fails leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.base import POD
from cni_plugin.model.layer3 import Addr, Route
from cni_plugin.model.links import Bridge, PodLink, Port, Up, Veth
from cni_plugin.model.nft import Chain
from cni_plugin.spec import VERSIONS
from tests.unit.support import DUAL, UPLINK, Node, Reply


def test_add_answers_with_interfaces_address_and_route(node: Node) -> None:
    reply = node.call("ADD")
    host = Attachment("pods", "a", "eth0").host_dev
    assert reply.exit == 0
    assert reply.body["cniVersion"] == "1.1.0"
    interfaces = reply.body["interfaces"]
    assert isinstance(interfaces, list)
    assert [(each["name"], each.get("sandbox", ""), each.get("mtu", 0)) for each in interfaces] == [
        ("tulle0", "", 0), (host, "", 1500), ("eth0", "/run/netns/a", 1500),
    ]
    assert reply.body["ips"] == [{"address": "10.22.0.2/24", "gateway": "10.22.0.1", "interface": 2}]
    assert reply.body["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.22.0.1"}]


def test_add_makes_the_wire_the_bridge_and_the_masquerade(node: Node) -> None:
    node.call("ADD")
    host, standing = Attachment("pods", "a", "eth0").host_dev, node.kernel.state
    veth = standing["link", "", host]
    assert isinstance(veth, Veth)
    assert (veth.master, veth.peer, veth.alias) == ("tulle0", "eth0", "tulle:pods/a/eth0")
    assert Up("eth0", POD) in standing.values()
    assert Addr("eth0", "10.22.0.2/24", POD) in standing.values()
    assert Addr("tulle0", "10.22.0.1/24") in standing.values()
    assert any(isinstance(each, Route) and each.via == "10.22.0.1" for each in standing.values())
    chain = standing["chain", "", "postrouting"]
    assert isinstance(chain, Chain)
    assert "ip saddr { 10.22.0.0/24 }" in chain.rules[0]
    assert node.kernel.announced == [("eth0", host)]


def test_add_writes_down_what_the_attachment_owns(node: Node) -> None:
    node.call("ADD")
    record = node.records.find(Attachment("pods", "a", "eth0"))
    assert record is not None
    assert (record.netns, record.bridge, record.ips) == ("/run/netns/a", "tulle0", ("10.22.0.2/24",))
    assert node.leases() == {"10.22.0.2": "a\r\neth0"}


@pytest.mark.parametrize("version", VERSIONS)
def test_add_answers_in_the_version_asked_for(node: Node, version: str) -> None:
    reply = node.configured(cniVersion=version).call("ADD")
    assert reply.exit == 0
    assert reply.body["cniVersion"] == version
    assert ("ip4" in reply.body) == (version in ("0.1.0", "0.2.0"))


def test_add_gives_a_pod_an_address_of_each_range_set(tmp_path: Path) -> None:
    node = Node(tmp_path, ipam={"subnet": None, "ranges": DUAL})
    assert node.call("ADD").addresses == ["10.22.0.2/24", "fd00:22::2/64"]
    assert Addr("tulle0", "fd00:22::1/64") in node.kernel.state.values()


def test_add_of_a_layer_2_network_makes_a_wire_without_addresses(node: Node) -> None:
    reply = node.configured(ipam=None, isDefaultGateway=None, ipMasq=None).call("ADD")
    assert reply.exit == 0
    assert "ips" not in reply.body
    assert not [each for each in node.kernel.state.values() if isinstance(each, Addr | Route | Chain)]


def test_add_without_a_container_interface_touches_nothing_in_the_pod(node: Node) -> None:
    reply = node.configured(ipam=None, isDefaultGateway=None, ipMasq=None, disableContainerInterface=True).call("ADD")
    assert reply.exit == 0
    assert [each for each in node.kernel.state.values() if getattr(each, "ns", "") == POD] == []
    assert node.kernel.announced == []


def test_a_second_pod_shares_bridge_and_masquerade_rule(node: Node) -> None:
    node.call("ADD")
    chain, bridge = node.kernel.state["chain", "", "postrouting"], node.kernel.state["link", "", "tulle0"]
    applied = len(node.kernel.applied)
    assert node.call("ADD", "b eth1").addresses == ["10.22.0.3/24"]
    assert node.kernel.state["chain", "", "postrouting"] == chain
    assert node.kernel.state["link", "", "tulle0"] == bridge
    names = {type(each.object).__name__ for each in node.kernel.applied[applied:]}
    assert not names & {"Bridge", "Chain"}


def test_a_second_add_is_refused_and_leaves_the_first_untouched(node: Node) -> None:
    node.call("ADD")
    before, left = node.standing(), node.left()
    again = node.call("ADD")
    assert again.code == 4
    assert "(eth0) already exists" in again.said
    assert (node.standing(), node.left()) == (before, left)


def test_the_same_attachment_in_another_namespace_is_refused_too(node: Node) -> None:
    node.call("ADD")
    for key in [key for key in node.kernel.state if key[1] == POD]:
        del node.kernel.state[key]  # another pod's namespace has none of the first one's links
    before, left = node.standing(), node.left()
    again = node.call("ADD", CNI_NETNS="/run/netns/other")
    assert again.code == 4
    assert "already" in again.said
    assert (node.standing(), node.left()) == (before, left)


def test_an_add_amid_another_of_the_same_is_refused_and_takes_nothing_of_it_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would hold one lease and one record, and the one that comes too late gave back what the other lives by."""
    replies: list[Reply] = []
    apply = node.kernel.apply

    def meanwhile(ops: Sequence[Op]) -> None:
        if any(isinstance(op.object, Veth) for op in ops) and not replies:
            replies.append(node.call("ADD"))
            assert node.configured(name="others").call("ADD", "b eth1").exit == 0, "nobody else is kept"
        apply(ops)

    monkeypatch.setattr(node.kernel, "apply", meanwhile)
    first = node.call("ADD")
    assert first.exit == 0, first.said
    assert replies[0].code == 11
    assert "by another ADD" in replies[0].said
    checked = node.after(first).call("CHECK")
    assert checked.exit == 0, checked.said


def test_an_add_after_a_killed_one_begins_anew(node: Node) -> None:
    """Its record and its lease stand, its wire does not."""
    node.call("ADD")
    node.unplug("a eth0")
    again = node.call("ADD")
    assert again.exit == 0
    assert list(node.leases()) == [each.split("/")[0] for each in again.addresses]


def test_a_requested_address_and_mac_are_given(node: Node) -> None:
    reply = node.call("ADD", CNI_ARGS="IP=10.22.0.77;MAC=02:00:00:00:00:07")
    assert reply.addresses == ["10.22.0.77/24"]
    assert PodLink("eth0", "02:00:00:00:00:07", 1500) in node.kernel.state.values()


def test_flags_of_the_port_are_set(node: Node) -> None:
    node.configured(hairpinMode=True, portIsolation=True).call("ADD")
    port = Port(Attachment("pods", "a", "eth0").host_dev, hairpin=True, isolated=True)
    assert port in node.kernel.state.values()


def test_called_as_bridge_the_default_bridge_is_cni0(node: Node) -> None:
    node.called = "bridge"
    assert node.call("ADD").exit == 0
    assert ("link", "", "cni0") in node.kernel.state

def test_a_bridge_of_somebody_else_keeps_its_mtu_and_bears_no_mark(node: Node) -> None:
    node.kernel.state["link", "", "br7"] = Bridge("br7", mtu=9000)
    assert node.configured(bridge="br7").call("ADD").exit == 0
    bridge = node.kernel.state["link", "", "br7"]
    assert isinstance(bridge, Bridge)
    assert (bridge.mtu, bridge.alias) == (9000, "")


@pytest.mark.parametrize(
    ("bridge", "conf", "pod"),
    [
        (1400, {}, 1400),
        (9000, {}, 1500),
        (1400, {"mtu": 9000}, 1400),
        (1500, {"mtu": 1300}, 1300),
        (1500, {"mtu": 1500}, 1500),
    ],
)
def test_a_pod_gets_what_a_bridge_of_somebody_else_carries_and_its_port_what_the_bridge_has(
    node: Node, bridge: int, conf: dict[str, int], pod: int
) -> None:
    """The bridge would follow a narrower port, and a wider one that is its only one."""
    node.kernel.state["link", "", "br7"] = Bridge("br7", mtu=bridge)
    assert node.configured(bridge="br7", **conf).call("ADD").exit == 0
    ends = [each.mtu for each in node.kernel.state.values() if isinstance(each, Veth | PodLink)]
    assert ends == [bridge, pod]


def test_who_asks_for_more_than_a_bridge_of_somebody_else_carries_is_told(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    node.kernel.state["link", "", "br7"] = Bridge("br7", mtu=1500)
    assert node.configured(bridge="br7", mtu=9000).call("ADD").exit == 0
    assert "an MTU of 1500 and not 9000: the bridge br7 carries no more" in capsys.readouterr().err


# Rollback


def operations_of_an_add(home: Path, conf: dict[str, object]) -> int:
    node = Node(home)
    assert node.configured(**conf).call("ADD").exit == 0
    return len(node.kernel.applied)


ROLLED_BACK: dict[str, dict[str, object]] = {
    "v4": {},
    "dual-vlan": {"vlan": 5, "macspoofchk": True, "vlanTrunk": [{"id": 7}]},
    "layer-2": {"ipam": None, "isDefaultGateway": None, "ipMasq": None},
}


@pytest.mark.parametrize("name", ROLLED_BACK)
@pytest.mark.parametrize("others", [False, True], ids=["first-pod", "second-pod"])
def test_an_add_that_fails_at_any_operation_leaves_the_kernel_the_leases_and_the_records_as_they_were(
    tmp_path: Path, name: str, others: bool
) -> None:
    conf = ROLLED_BACK[name]
    if "ipam" not in conf:
        conf = {**conf, "ipam": {"type": "host-local", "ranges": DUAL, "dataDir": f"{tmp_path}/x/data"}}
    count = operations_of_an_add(tmp_path / "x", conf)
    assert count > 5
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    failed = 0
    for at in range(count):
        node = Node(tmp_path / "x", FakeKernel(uplink=UPLINK)).configured(**conf)
        if others:
            node.call("ADD", "first eth9")
        before, left = node.standing(), node.left()
        node.kernel.fail_at = len(node.kernel.applied) + at
        reply = node.call("ADD")
        if reply.exit == 0:  # a second pod takes fewer operations
            break
        failed += 1
        assert reply.code == 100, reply.said
        assert node.standing() == before, f"operation {at}"
        assert node.left() == left, f"operation {at}"
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
    assert failed > 3


def test_an_error_of_the_kernel_says_which_line_was_refused_and_why(node: Node) -> None:
    node.kernel.fail_at = 0
    reply = node.call("ADD")
    assert reply.code == 100
    assert "Input/output error" in reply.said


def test_a_failed_announcement_takes_everything_back(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dev: str, host_dev: str) -> None:
        raise TimeoutError(110, f"{dev} {host_dev}")

    monkeypatch.setattr(node.kernel, "announce", refuse)
    assert node.call("ADD").code == 5
    assert node.standing() == {}
    assert node.left() == []

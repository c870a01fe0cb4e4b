"""The MTU of pods that live follows their cluster's, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.errors import CniError
from cni_plugin.kernel.door import Uplink
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.layer3 import Way
from cni_plugin.model.links import Bridge, PodLink, Veth, Vxlan
from cni_plugin.node.attached import Attachments
from cni_plugin.node.cluster.ensure import ensure
from cni_plugin.node.mtu import follow
from cni_plugin.node.repair import repair
from cni_plugin.store.records import Records
from tests.unit.node.cluster.test_peers import in_cluster, kernel_with, listed
from tests.unit.support import UPLINK, Json, Node, net_conf

POD = Attachment("pods", "a", "eth0")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node of a cluster with one pod, at 1450 bytes."""
    made = in_cluster(tmp_path)
    assert made.call("ADD").exit == 0
    return made


def ends(node: Node) -> list[int]:
    return [each.mtu for each in node.kernel.state.values() if isinstance(each, Veth | PodLink)]


def recorded(node: Node) -> list[int]:
    record = node.records.find(POD)
    assert record is not None
    return [record.mtu, *(each.mtu for each in record.objects if isinstance(each, Veth | PodLink))]


def behind(node: Node, mtu: int) -> list[Attachment]:
    found = Attachments(node.records)
    found.refresh()
    return found.behind("pods", mtu)


@pytest.mark.parametrize("mtu", [1400, 8950])
def test_both_ends_and_the_record_get_it(node: Node, mtu: int) -> None:
    follow(node.kernel, node.records, POD, mtu)
    assert (ends(node), recorded(node)) == ([mtu, mtu], [mtu, mtu, mtu])
    assert behind(node, mtu) == []


def test_to_check_such_a_pod_finds_nothing_wrong(tmp_path: Path) -> None:
    made = in_cluster(tmp_path)
    added = made.call("ADD")
    follow(made.kernel, made.records, POD, 1400)
    assert made.after(added).call("CHECK").exit == 0


def test_the_end_that_sends_gets_less_first_and_more_last(node: Node) -> None:
    kinds = {mtu: [type(op.object) for op in follow(node.kernel, node.records, POD, mtu)] for mtu in (1400, 1450)}
    assert kinds == {1400: [PodLink, Veth], 1450: [Veth, PodLink]}


@pytest.mark.parametrize("at", [0, 1])
def test_what_is_interrupted_is_done_at_the_next_look(node: Node, at: int) -> None:
    node.kernel.fail_at = len(node.kernel.applied) + at
    with pytest.raises(KernelError):
        follow(node.kernel, node.records, POD, 1400)
    assert behind(node, 1400) == [POD]
    node.kernel.fail_at = None
    follow(node.kernel, node.records, POD, 1400)
    assert (ends(node), recorded(node)) == ([1400, 1400], [1400, 1400, 1400])


def test_what_somebody_else_gave_a_link_stays(node: Node) -> None:
    (link,) = [each for each in node.kernel.state.values() if isinstance(each, PodLink)]
    node.kernel.state[link.key] = msgspec.structs.replace(link, mtu=1200)
    follow(node.kernel, node.records, POD, 1400)
    assert ends(node) == [1400, 1200]
    assert behind(node, 1400) == []


def test_a_pod_whose_namespace_cannot_be_entered_waits(node: Node) -> None:
    node.kernel._namespaces = frozenset()
    assert follow(node.kernel, node.records, POD, 1400) == []
    assert (ends(node), behind(node, 1400)) == ([1450, 1450], [POD])
    node.unplug("a eth0")
    follow(node.kernel, node.records, POD, 1400)
    assert behind(node, 1400) == [], "of a pod that is gone the record alone is left"


def test_another_pods_link_in_a_namespace_whose_path_is_used_again_stays(node: Node) -> None:
    """The node's end of the attachment is gone, and with it the pod's: what bears its name there is another's."""
    node.unplug("a eth0")
    node.kernel.apply([Op("create", Veth("veth0", peer="eth0", mtu=1450))])
    follow(node.kernel, node.records, POD, 1400)
    assert ends(node) == [1450, 1450]


def test_who_is_gone_is_let_be(node: Node) -> None:
    node.call("DEL")
    assert follow(node.kernel, node.records, POD, 1400) == []
    assert list(node.records.all()) == []


@pytest.mark.parametrize(("left", "pod"), [(1400, 1400), (1450, 1450), (8950, 1500)])
def test_at_a_bridge_of_somebody_else_the_pods_own_end_follows_as_far_as_that_carries(
    tmp_path: Path, left: int, pod: int
) -> None:
    made = in_cluster(tmp_path, bridge="br7")
    made.kernel.state["link", "", "br7"] = Bridge("br7", mtu=1500)
    assert made.call("ADD").exit == 0
    for _ in range(2):
        follow(made.kernel, made.records, POD, left)
        assert (ends(made), recorded(made)) == ([1500, pod], [pod, 1500, pod])


def test_whose_configuration_fixes_an_mtu_is_not_behind(tmp_path: Path) -> None:
    fixed = in_cluster(tmp_path, mtu=1300)
    assert fixed.call("ADD").exit == 0
    assert behind(fixed, 1400) == []


def test_nor_who_is_in_no_cluster(tmp_path: Path) -> None:
    alone = Node(tmp_path)
    assert alone.call("ADD").exit == 0
    assert behind(alone, 1400) == []


def test_without_an_agent_a_repair_makes_pods_follow(node: Node) -> None:
    node.kernel.found_ways["192.0.2.2"] = Way("eth0", 1400)
    before = dict(node.kernel.state)
    assert any(each.ops for each in repair(node.kernel, node.records, dry_run=True))
    assert node.kernel.state == before
    assert [each.problem for each in repair(node.kernel, node.records) if each.problem] == []
    links = (Bridge, Veth, PodLink, Vxlan)
    assert {each.mtu for each in node.kernel.state.values() if isinstance(each, links)} == {1350}
    assert [each.ops for each in repair(node.kernel, node.records) if each.ops] == []


# What the cluster leaves


LISTED: Json = {
    "node": "me", "nodes": [
        {"name": "me", "address": "192.0.2.1", "ipv6Address": "2001:db8::1", "podCIDRs": ["10.244.1.0/24"]},
        listed(2, "near", "4"), listed(3, "far", "4"),
    ],
}


def left(kernel: FakeKernel, tmp_path: Path, **backend: object) -> int:
    conf = net_conf(cluster={**LISTED, "backend": {"type": "vxlan", **backend}})
    facts = ensure(conf, kernel, Records(str(tmp_path)))
    assert facts is not None
    return facts.mtu


def test_it_is_the_smallest_over_the_ways_to_all_peers_less_the_overhead(tmp_path: Path) -> None:
    kernel = kernel_with()
    assert left(kernel, tmp_path / "a") == 1450
    kernel.found_ways["198.51.100.3"] = Way("eth1", 1400, via="198.51.100.254")
    assert left(kernel, tmp_path / "b") == 1350
    kernel.found_ways["2001:db8::2"] = Way("eth2", 1280)
    assert left(kernel, tmp_path / "c") == 1350, "no tunnel ends there"
    kernel.found_ways["192.0.2.2"] = None
    assert left(kernel, tmp_path / "d") == 1350, "who cannot be reached at the moment does not count"


def test_loopbacks_mtu_is_no_wires_where_a_machine_that_routes_has_its_address_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeKernel, "default_mtu", lambda _: 1500)
    kernel = FakeKernel(uplink=Uplink("lo", 65536, ("192.0.2.1/32",)), held=("192.0.2.1",))
    alone = {**LISTED, "nodes": LISTED["nodes"][:1]}  # type: ignore[index]
    facts = ensure(net_conf(cluster=alone), kernel, Records(str(tmp_path)))
    assert facts is not None and facts.mtu == 1450


def test_an_mtu_that_the_backend_fixes_holds(tmp_path: Path) -> None:
    assert left(kernel_with(), tmp_path, mtu=1200) == 1200


def test_what_leaves_too_little_for_ipv6_is_refused_with_the_number_that_would_do(tmp_path: Path) -> None:
    kernel = FakeKernel(uplink=Uplink("eth0", 1300, UPLINK.prefixes), held=("192.0.2.1",))
    assert left(kernel, tmp_path) == 1250
    six = [{**LISTED["nodes"][0], "podCIDRs": ["fd00:1::/64"]}, listed(2, "near", "6")]  # type: ignore[index]
    with pytest.raises(CniError, match=r"1300 bytes .* by eth0 leaves 1250 for pods, and IPv6 needs 1280 .* 1330"):
        ensure(net_conf(cluster={**LISTED, "nodes": six}), kernel, Records(str(tmp_path / "six")))

"""What the doctor finds between nodes, each a statement about what was told of a cluster."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cni_plugin.cluster import settled
from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.configs import ConfigFile
from cni_plugin.ctl.doctor.peers import Probed
from cni_plugin.ctl.reach import SILENT
from cni_plugin.kernel.see.look import Link
from tests.unit.ctl.doctor.telling import Told, diagnose
from tests.unit.support import cluster_node


def names(told: Told) -> dict[str, Any]:
    return {each.name: each for each in diagnose(told)}


def with_cluster(**told: Any) -> Told:
    usual = {"source": "kubernetes", "network": "tulle", "node": "me", "ready": True, "trouble": "", "problems": []}
    return {"agent": {"ready": True, "cluster": {**usual, **told}}}


PEER = Member(
    name="n2", addresses=("198.51.100.2",), subnets=("10.244.2.0/24",), overlay=("10.244.2.0",), way="vxlan"
)
SELF = msgspec.structs.replace(PEER, name="me", subnets=("10.244.1.0/24",), overlay=("10.244.1.0",), me=True, way="")
CLUSTER = Roster(
    network="pods", source="/run/tulle/cluster.json", node="me", backend="vxlan", device="tulle.1", vni=1, port=8472,
    mtu=1450, networks=("10.244.0.0/16",), members=(SELF, PEER), programmed=True,
)
PROBED = Probed(network="pods", node="n2", address="10.244.2.0", mtu=1450, ms=0.4)


def probed(**changes: Any) -> Probed:
    return msgspec.structs.replace(PROBED, **changes)


def facts(*probed: Probed, **changes: Any) -> Told:
    return {"clusters": (msgspec.structs.replace(CLUSTER, **changes),), "probed": probed, "agent": {"ready": True}}


OF_A_BARE_NODE = {"no-configuration"}


def test_a_cluster_that_is_right_has_no_finding() -> None:
    assert names(facts(PROBED)).keys() == OF_A_BARE_NODE
    assert names(with_cluster()).keys() == OF_A_BARE_NODE


def test_a_source_that_is_away_is_found_and_is_no_error_for_what_works_goes_on() -> None:
    found = names(with_cluster(trouble="https://192.0.2.9:6443: connection refused"))["source-away"]
    assert (found.severity, found.value) == ("warning", "https://192.0.2.9:6443: connection refused")


def test_a_cluster_that_is_not_ready_says_why() -> None:
    assert names(with_cluster(ready=False, reason="no subnet yet"))["cluster-not-ready"].value == "no subnet yet"


@pytest.mark.parametrize(("other", "name"), [
    (("n3", "192.0.2.2", "10.244.3.0/24"), "node-conflict"),
    (("n3", "192.0.2.3", "10.244.2.0/24"), "node-conflict"),
    (("n3", "192.0.2.3", "10.9.3.0/24"), "wrong-cluster-cidr"),
])  # fmt: skip
def test_what_the_snapshot_leaves_out_is_found_by_its_own_words(other: tuple[str, str, str], name: str) -> None:
    network = cluster_node("x", "192.0.2.9", "10.244.0.0/16").pod_cidrs
    _, problems = settled([cluster_node("n2", "192.0.2.2", "10.244.2.0/24"), cluster_node(*other)], network)
    found = names(with_cluster(problems=list(problems)))
    assert found.keys() == OF_A_BARE_NODE | {name} and "n3" in found[name].value


def test_a_thousand_conflicts_are_a_handful_of_findings() -> None:
    found = diagnose(with_cluster(problems=[f"n{number} is left out" for number in range(1000)]))
    assert len(found) == 7 and any("995 more" in each.value for each in found)


def test_ranges_outside_of_the_nodes_subnet_are_found_and_those_inside_are_not() -> None:
    ours = ConfigFile("/etc/cni/net.d/10.conflist", ours=True, network="pods", ranges=("10.244.9.0/24",))
    found = names({**facts(PROBED), "configs": (ours,)})
    assert found["ranges-outside-subnet"].value.startswith("10.244.9.0/24")
    inside = msgspec.structs.replace(ours, ranges=("10.244.1.128/25",))
    assert names({**facts(PROBED), "configs": (inside,)}) == {}


def test_a_peer_that_no_way_leads_to_is_found_with_the_backends_words() -> None:
    lost = msgspec.structs.replace(PEER, way="", why="host-gw needs all nodes on one link")
    assert names(facts(members=(SELF, lost)))["no-way-to-peer"].value == "host-gw needs all nodes on one link"


def test_silent_peers_are_one_finding_and_all_of_them_point_to_this_node() -> None:
    silent = [probed(node=f"n{at}", address=f"10.244.{at}.0", ms=None, why=SILENT) for at in range(9)]
    found = names(facts(*silent))["peer-silent"]
    assert found.key == "echo to n0, n1, n2 and 6 more" and "no peer is reached" in found.why
    assert "UDP 8472" in found.remedy
    excused = msgspec.structs.replace(silent[0], excused=True)
    assert "peer-silent" not in names(facts(excused, PROBED))


def test_black_holes_are_told_with_the_size_that_passes() -> None:
    holes = [probed(node=f"n{at}", whole=False, passes=1350 if at else 1300) for at in range(3)]
    found = [each for each in diagnose(facts(*holes)) if each.name == "mtu-black-hole"]
    assert [each.key for each in found] == ["packets to n0", "packets to n1, n2"]
    assert '"mtu": 1350' in found[1].remedy and "carry 100 bytes more" in found[1].remedy


def test_what_flannel_left_is_found_and_ours_and_other_peoples_are_left_alone() -> None:
    ours = Link("tulle.1", kind="vxlan", vni=1, udp_port=8472)
    flannel = Link("flannel.1", kind="vxlan", vni=1, udp_port=8472)
    with_links = {**facts(PROBED), "links": (ours, flannel)}
    assert names(with_links)["vni-clash"].key == "VNI 1 on UDP port 8472 of flannel.1"
    other = {**facts(PROBED), "links": (ours, Link("vxlan9", kind="vxlan", vni=9, udp_port=4789))}
    assert names(other).keys() == OF_A_BARE_NODE
    cni0 = {**facts(PROBED), "links": (ours, Link("cni0", kind="bridge"), Link("v", master="cni0"))}
    assert names(cni0)["flannel-leftover"].severity == "hint"
    assert names({**cni0, "links": cni0["links"][:2]})["flannel-leftover"].severity == "warning"

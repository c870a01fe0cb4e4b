"""What Node objects and the ConfigMap say: addresses, subnets, annotations of ours and flannel's, and rubbish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from cni_plugin.agent.sources.contract import Announcement, Snapshot
from cni_plugin.agent.sources.kube import announce
from cni_plugin.agent.sources.kube.lease import body, leased, read_lease, says
from cni_plugin.agent.sources.kube.objects import Configured, Own, Seen, read_config, read_node
from cni_plugin.agent.sources.kube.view import MOST_PROBLEMS, Known, View, has_flannel, own_of, snapshot
from cni_plugin.cluster import Node
from tests.unit.agent.sources.kube_objects import FLANNEL, Object, big_node, flannel_notes, lease, node, recorded, uid

SUBNET, ADDRESS, MAC = "10.244.1.0/24", "192.0.2.1", "0a:54:0a:f4:01:00"
BORN = datetime(2026, 5, 1, 10, tzinfo=UTC).timestamp()


def seen(found: Object, this_node: str = "me") -> Seen:
    return read_node(json.dumps(found).encode(), this_node)


def noted(notes: Mapping[str, str], cidrs: str = SUBNET, addresses: str = ADDRESS, this_node: str = "me") -> Seen:
    found = node("n1", cidrs, addresses)
    found["metadata"]["annotations"] = dict(notes)
    return seen(found, this_node)


def reached(found: Seen) -> Node:
    assert found.node is not None, found.problems
    return found.node


def addresses(found: Seen) -> list[str]:
    return [str(each) for each in reached(found).addresses]


# Nodes that say nothing of their own


def test_a_node_is_reached_at_its_internal_ip_since_it_was_created() -> None:
    found = seen(node("n1", SUBNET, ADDRESS))
    assert reached(found) == Node("n1", (ip_address(ADDRESS),), (ip_network(SUBNET),), since=BORN)
    assert (found.backend, found.flannels, found.leased, found.problems, found.own) == ("", False, False, (), None)


def test_a_dual_stack_node_of_a_newer_kubernetes_is_understood() -> None:
    found = reached(seen(recorded()))
    assert [str(each) for each in found.pod_cidrs] == ["10.244.3.0/24", "fd00:10:244:3::/64"]
    assert [str(each) for each in found.addresses] == ["192.0.2.13", "2001:db8::13"]  # IPv4 first, one a family


def test_what_a_kubelet_writes_beyond_that_is_not_kept() -> None:
    small, big = seen(node("node-00007", "10.0.7.0/24", "172.20.0.8")), seen(big_node(7))
    assert small == big


def test_the_old_field_for_one_subnet_serves_where_there_is_no_list() -> None:
    found = node("n1", SUBNET, ADDRESS)
    del found["spec"]["podCIDRs"]
    assert [str(each) for each in reached(seen(found)).pod_cidrs] == [SUBNET]


def test_a_node_without_a_subnet_is_not_there_yet_and_that_is_no_problem() -> None:
    found = seen(node("n1", "", ADDRESS))
    assert (found.node, found.problems) == (None, ())


@pytest.mark.parametrize("status", [{}, {"addresses": None}, {"addresses": [{"type": "Hostname", "address": "n1"}]}])
def test_a_node_without_an_address_is_left_out_and_that_is_told(status: Object) -> None:
    found = seen(node("n1", SUBNET) | {"status": status})
    assert found.node is None
    assert "n1" in found.problems[0] and "InternalIP" in found.problems[0] and "--node-ip" in found.problems[0]


# What agents announce


def test_what_our_agent_announced_goes_before_the_kubelet() -> None:
    found = noted({
        "tulle.network/address": "198.51.100.1", "tulle.network/ipv6-address": "2001:db8::1",
        "tulle.network/backend": "vxlan", "tulle.network/backend-data": json.dumps({"vtepMAC": MAC, "vni": "1"}),
    })
    assert addresses(found) == ["198.51.100.1", "2001:db8::1"]
    assert reached(found).data == {"vtepmac": MAC, "vni": "1"}
    assert (found.backend, found.flannels, found.problems) == ("vxlan", False, ())


def test_a_node_of_flannels_is_reached_as_flannel_says() -> None:
    found = noted(flannel_notes("198.51.100.1", "2E:99:aa:00:01:02"))
    assert addresses(found) == ["198.51.100.1"]
    assert reached(found).data == {"vtepmac": "2E:99:aa:00:01:02", "vni": "1"}
    assert (found.backend, found.flannels) == ("vxlan", True)


def test_a_node_of_flannels_host_gw_has_no_data() -> None:
    notes = flannel_notes(ADDRESS, MAC) | {f"{FLANNEL}/backend-type": "host-gw", f"{FLANNEL}/backend-data": "null"}
    found = noted(notes)
    assert (found.backend, reached(found).data, found.problems) == ("host-gw", {}, ())


def test_a_node_of_flannels_with_both_families_keeps_the_data_of_ipv4() -> None:
    data = '{"VNI":1,"VtepMAC":"2e:66:66:66:66:66"}'
    six = {f"{FLANNEL}/public-ipv6": "2001:db8::9", f"{FLANNEL}/backend-v6-data": data}
    found = noted(flannel_notes("198.51.100.1", MAC) | six)
    assert addresses(found) == ["198.51.100.1", "2001:db8::9"]
    assert reached(found).data["vtepmac"] == MAC


def test_what_our_agent_says_goes_before_what_flannel_left() -> None:
    ours = {"tulle.network/address": "192.0.2.7", "tulle.network/backend": "host-gw"}
    found = noted(flannel_notes("198.51.100.1", MAC) | ours)
    assert (addresses(found), found.backend, found.flannels) == (["192.0.2.7"], "host-gw", False)
    assert reached(found).data == {}


@pytest.mark.parametrize("prefix", ["tulle.network", FLANNEL])
def test_an_operators_overwrite_goes_before_all_and_for_its_family_alone(prefix: str) -> None:
    announced = {"tulle.network/address": "192.0.2.7", "tulle.network/ipv6-address": "2001:db8::7"}
    overwrite = {f"{prefix}/public-ip-overwrite": "203.0.113.9"}
    assert addresses(noted({**announced, **overwrite})) == ["203.0.113.9", "2001:db8::7"]
    assert addresses(noted(overwrite)) == ["203.0.113.9"]
    six = {f"{prefix}/public-ipv6-overwrite": "2001:db8::99"}
    assert addresses(noted(six)) == [ADDRESS, "2001:db8::99"]


# Rubbish


@pytest.mark.parametrize(("key", "value", "hint"), [
    ("tulle.network/address", "192.0.2.1/24", "address"),
    ("tulle.network/address", "127.0.0.1", "send to"),
    ("tulle.network/address", "fe80::1", "send to"),
    ("tulle.network/ipv6-address", "192.0.2.1", "IPv6"),
    ("tulle.network/public-ip-overwrite", "2001:db8::1", "IPv4"),
    ("tulle.network/public-ip-overwrite", "x" * 5000, "IPv4"),
    ("tulle.network/backend-data", "[1]", "JSON object"),
    ("tulle.network/backend-data", "{", "JSON object"),
    ("tulle.network/backend-data", '{"a": "' + "x" * 5000 + '"}', "4096"),
    ("tulle.network/backend-data", '{"vtepMAC": "01:00:5e:00:00:01"}', "unicast"),
    ("tulle.network/backend-data", '{"vtepMAC": "nonsense"}', "unicast"),
])  # fmt: skip
def test_rubbish_in_an_annotation_is_ignored_and_told_once_with_a_remedy(key: str, value: str, hint: str) -> None:
    found = noted({"tulle.network/backend": "vxlan", key: value}, this_node="n1")
    assert (addresses(found), reached(found).data) == ([ADDRESS], {})
    (told,) = found.problems
    assert "n1" in told and key in told and hint in told and len(told) < 300


def test_a_subnet_that_is_none_leaves_out_its_node_alone() -> None:
    found = seen(node("n1", "10.244.1.5/44", ADDRESS))
    assert found.node is None and "10.244.1.5/44" in found.problems[0]


def test_an_object_of_another_shape_leaves_out_its_node_alone() -> None:
    found = seen(node("n1", SUBNET, ADDRESS) | {"spec": {"podCIDRs": 7}})
    assert found.node is None and "n1" in found.problems[0]
    with pytest.raises(msgspec.MsgspecError):
        read_node(b'{"kind": "Node"}', "me")


# This node


def test_this_nodes_own_object_gives_its_subnets_and_all_its_addresses() -> None:
    found = seen(recorded() | {"metadata": node("me")["metadata"]}).own
    assert found is not None
    assert [str(each) for each in found.node.addresses] == ["2001:db8::13", "192.0.2.13", "192.0.2.113"]
    assert len(found.node.pod_cidrs) == 2


def test_what_this_node_announced_does_not_tell_it_where_it_is() -> None:
    found = noted({"tulle.network/address": "198.51.100.1"}, this_node="n1").own
    assert found is not None and [str(each) for each in found.node.addresses] == [ADDRESS]


def test_an_overwrite_is_the_first_that_this_node_is_known_by() -> None:
    found = noted({"tulle.network/public-ip-overwrite": "203.0.113.9"}, this_node="n1").own
    assert found is not None and [str(each) for each in found.node.addresses] == ["203.0.113.9", ADDRESS]


@pytest.mark.parametrize("status", ["True", "False", ""])
def test_the_condition_that_the_network_is_missing_is_seen(status: str) -> None:
    found = node("me", SUBNET, ADDRESS)
    found["status"]["conditions"] = [
        {"type": "Ready", "status": "True"}, *([{"type": "NetworkUnavailable", "status": status}] if status else [])
    ]
    own = seen(found).own
    assert own is not None and own.unavailable == status


# The ConfigMap


NOTHING = Configured()


def configured(before: Configured = NOTHING, **keys: str) -> Configured:
    data = {f"{key.replace('_', '-')}.json": each for key, each in keys.items()}
    return read_config(json.dumps({"data": data}).encode(), before)


GOOD = '{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}'


VXLAN = GOOD.replace("host-gw", "vxlan")


def test_the_config_map_gives_the_network_and_the_cni_configuration() -> None:
    found = configured(net_conf=GOOD, cni_conf='{"name": "pods", "plugins": [{"type": "tulle"}]}')
    assert found.conf is not None and found.conf.backend == "host-gw"
    assert (found.cni, found.problems) == ({"name": "pods", "plugins": [{"type": "tulle"}]}, ())


def test_flannels_own_config_map_gives_the_network_and_no_plugin_of_flannels() -> None:
    plugins = '[{"type": "flannel", "delegate": {"hairpinMode": true}}, {"type": "portmap"}]'
    found = configured(net_conf=GOOD, cni_conf=f'{{"name": "cbr0", "plugins": {plugins}}}')
    assert found.conf is not None and found.cni is None
    (problem,) = found.problems
    assert "cni-conf.json: invalid plugins 'flannel', 'portmap': no plugin of type tulle" in problem


def test_subnets_of_a_family_that_is_switched_off_are_not_used() -> None:
    both = noted({}, "10.244.1.0/24 fd00:1::/64", "192.0.2.1 2001:db8::1", this_node="n1")
    for off, left in (('"EnableIPv4": false, "EnableIPv6": true', "fd00:1::/64"), ('"EnableIPv6": false', SUBNET)):
        view = View()
        view.leases({})
        view.nodes({"n1": both, "n2": seen(node("n2", "10.244.2.0/24", "192.0.2.2"))})
        view.configure(configured(net_conf=f'{{{off}, "Backend": {{"Type": "vxlan"}}}}'))
        whole = snapshot(view.known(), "n1")
        assert whole is not None and whole.me is not None
        assert [str(each) for each in whole.me.pod_cidrs] == [left]
        assert all(each.version == (6 if ":" in left else 4) for node in whole.nodes for each in node.pod_cidrs)
        told = own_of(view.known().seen or (), "n1")
        assert told is not None and told.node.pod_cidrs == whole.me.pod_cidrs, "it announces what it makes"


def test_a_subnets_host_bits_are_masked_and_its_field_is_called_as_it_is() -> None:
    assert [str(each) for each in reached(seen(node("n1", "10.244.1.7/24", ADDRESS))).pod_cidrs] == [SUBNET]
    old = node("n1", "10.244.1", ADDRESS)
    del old["spec"]["podCIDRs"]
    assert "spec.podCIDR has '10.244.1'" in seen(old).problems[0]


def test_a_network_configuration_without_a_network_is_one() -> None:
    found = configured(net_conf="{}")
    assert found.conf is not None and (found.conf.networks, found.conf.backend, found.problems) == ((), "vxlan", ())


@pytest.mark.parametrize("bad", ["", "{", "[]", '{"Network": "10.244.0.0/40"}', '{"Network": 5}'])
def test_a_broken_network_configuration_leaves_the_one_before_in_force_and_is_told(bad: str) -> None:
    before = configured(net_conf=GOOD)
    after = configured(before, net_conf=bad)
    assert after.conf == before.conf and "stays in force" in after.problems[0]
    first = configured(net_conf=bad)
    assert first.conf is None and len(first.problems) == 1


def test_a_broken_cni_configuration_leaves_the_one_before_in_force_and_is_told() -> None:
    before = configured(net_conf=GOOD, cni_conf='{"name": "pods", "type": "tulle"}')
    after = configured(before, net_conf=GOOD, cni_conf="{")
    assert after.cni == before.cni and "cni-conf.json" in after.problems[0]
    assert configured(before, net_conf=GOOD).cni is None  # taken out on purpose


# Put together


def told(*found: Seen, conf: Configured | None = None, this_node: str = "n1") -> Snapshot:
    whole = snapshot(Known(found, conf or configured(net_conf=GOOD), (), ""), this_node)
    assert whole is not None
    return whole


def test_nothing_is_told_before_both_were_asked_for() -> None:
    assert snapshot(Known(None, Configured(), (), ""), "n1") is None
    assert snapshot(Known((), None, (), ""), "n1") is None


def test_the_younger_of_two_nodes_with_one_subnet_is_left_out() -> None:
    young = node("n2", SUBNET, "192.0.2.2")
    young["metadata"]["creationTimestamp"] = "2026-06-01T00:00:00Z"
    whole = told(seen(young), seen(node("n1", SUBNET, ADDRESS), "n1"))
    assert [each.name for each in whole.nodes] == ["n1"]
    assert any("n2" in each and SUBNET in each for each in whole.problems)


def test_a_subnet_outside_the_cluster_is_left_out_and_told() -> None:
    whole = told(seen(node("n1", "10.99.1.0/24", ADDRESS), "n1"))
    assert whole.nodes == () and "10.99.1.0/24" in whole.problems[0]
    assert whole.me is not None  # it still knows itself


def test_a_node_that_the_api_does_not_know_is_told_so() -> None:
    whole = told(seen(node("n2", SUBNET, ADDRESS)))
    assert whole.me is None and "n1" in whole.problems[0] and "kubelet" in whole.problems[0]


def test_what_was_announced_for_another_backend_is_not_used_and_told() -> None:
    notes = {"tulle.network/backend": "vxlan", "tulle.network/backend-data": json.dumps({"vtepMAC": MAC})}
    whole = told(noted(notes), this_node="n1")
    assert whole.nodes[0].data == {} and not any("vxlan" in each for each in whole.problems)  # its own is under way
    peer = told(noted(notes), this_node="n9")
    assert any("n1" in each and "vxlan" in each and "host-gw" in each for each in peer.problems)


def test_the_mac_of_a_node_of_ours_is_derived_and_never_believed() -> None:
    notes = {"tulle.network/backend": "vxlan", "tulle.network/backend-data": json.dumps({"vtepMAC": MAC, "vni": "1"})}
    (found,) = told(noted(notes), conf=configured(net_conf=VXLAN)).nodes
    assert found.data == {"vni": "1"}
    (theirs,) = told(noted(flannel_notes(ADDRESS, MAC)), conf=configured(net_conf=VXLAN)).nodes
    assert theirs.data == {"vtepmac": MAC, "vni": "1"}


@pytest.mark.parametrize("data", [None, "null", "{}", '{"VNI": 1}', '{"VtepMAC": "00:00:00:00:00:00"}'])
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_a_flannel_node_whose_mac_nobody_knows_is_left_out_and_told(data: str | None, backend: str) -> None:
    """flannel#1122: half way through its start it has announced its address and nothing else."""
    notes = flannel_notes(ADDRESS, MAC) | {f"{FLANNEL}/backend-type": backend}
    notes = {key: each for key, each in notes.items() if key != f"{FLANNEL}/backend-data"}
    found = noted(notes | ({f"{FLANNEL}/backend-data": data} if data else {}))
    whole = told(found, conf=configured(net_conf=VXLAN), this_node="n9")
    assert whole.nodes == ()
    assert any("node n1 is left out: it is flannel's, and its backend-data has no VtepMAC" in each
               for each in whole.problems)
    assert told(found, conf=configured(net_conf=GOOD), this_node="n9").nodes != (), "host-gw needs none"


def test_a_thousand_problems_are_not_told_one_by_one() -> None:
    whole = told(*(seen(node(f"m{index}", f"10.244.{index % 250}.1/24")) for index in range(1000)))
    assert len(whole.problems) == MOST_PROBLEMS + 1 and whole.problems[-1].startswith("and ")


# What this node says


def said(*texts: str, backend: str = "vxlan", **data: str) -> Announcement:
    return Announcement(tuple(ip_address(each) for each in texts), backend, lambda _: data)


def own(notes: Mapping[str, str] = {}, cidrs: str = SUBNET) -> Own:
    found = noted(notes, cidrs, this_node="n1").own
    assert found is not None
    return found


def test_what_is_announced_is_read_back_by_others_as_it_was_meant() -> None:
    found = announced(said("198.51.100.1", "2001:db8::1", vtepMAC=MAC, vni="7"))
    assert addresses(found) == ["198.51.100.1", "2001:db8::1"]
    assert (reached(found).data, found.backend, found.leased) == (
        {"vtepmac": MAC, "vni": "7"}, "vxlan", True
    )


def test_a_lease_says_what_is_announced_and_no_more() -> None:
    wanted = announce.notes(own(), said(ADDRESS, backend="host-gw"))
    assert wanted == {"tulle.network/address": ADDRESS, "tulle.network/backend": "host-gw"}
    assert body(own(), wanted) == lease("n1", address=ADDRESS, backend="host-gw")


@pytest.mark.parametrize("texts", [["192.0.2.1"], ["2001:db8::1"], ["192.0.2.1", "2001:db8::1"]])
def test_flannels_nodes_read_what_they_need_as_they_write_it(texts: list[str]) -> None:
    wanted = announce.flannels(own(cidrs="10.244.1.0/24 fd00:1::/64"), said(*texts, vtepMAC=MAC, vni="1"))
    assert wanted[f"{FLANNEL}/kube-subnet-manager"] == "true"
    assert wanted[f"{FLANNEL}/backend-type"] == "vxlan"
    for text in texts:
        name, key = ("public-ipv6", "backend-v6-data") if ":" in text else ("public-ip", "backend-data")
        assert wanted[f"{FLANNEL}/{name}"] == text
        assert json.loads(wanted[f"{FLANNEL}/{key}"]) == {"VNI": 1, "VtepMAC": MAC}


def test_flannels_annotations_that_the_node_bears_already_are_kept_up_to_date() -> None:
    there = noted(flannel_notes("198.51.100.1", "2e:99:aa:00:01:02"), this_node="n1")
    before = leased(there, read_lease(json.dumps(lease("n1", address=ADDRESS)).encode(), "n1")).own
    assert before is not None
    differing = announce.differing(before, announce.flannels(before, said(ADDRESS, vtepMAC=MAC, vni="1")))
    assert differing[f"{FLANNEL}/public-ip"] == ADDRESS and MAC in differing[f"{FLANNEL}/backend-data"]
    assert f"{FLANNEL}/kube-subnet-manager" not in differing  # as it is


def test_the_address_that_flannel_told_of_a_node_is_kept_when_the_node_moves() -> None:
    before = own(flannel_notes("203.0.113.1", "2e:99:aa:00:01:02"))
    assert before.node.addresses == (ip_address("203.0.113.1"), ip_address(ADDRESS))
    notes, flannels = (each(before, said(ADDRESS, vtepMAC=MAC)) for each in (announce.notes, announce.flannels))
    assert notes["tulle.network/address"] == flannels[f"{FLANNEL}/public-ip"] == "203.0.113.1"
    after = leased(noted(flannels, this_node="n1"), read_lease(json.dumps(body(before, notes)).encode(), "n1")).own
    assert after is not None and after.overwritten == before.overwritten
    assert says(after, announce.notes(after, said(ADDRESS, vtepMAC=MAC)))


def test_what_we_wrote_ourselves_for_flannels_nodes_is_nothing_that_flannel_told() -> None:
    before = announced(said("198.51.100.1", vtepMAC=MAC), this_node="n1").own
    assert before is not None
    flannels = announce.flannels(before, said("198.51.100.1", vtepMAC=MAC))
    after = leased(noted(flannels, this_node="n1"), before.lease).own
    assert after is not None and (after.inherited, after.overwritten) == ({}, ())


def test_an_address_of_flannels_that_the_kubelet_tells_too_is_nothing_to_keep() -> None:
    before = own(flannel_notes(ADDRESS, "2e:99:aa:00:01:02"))
    assert (before.inherited, before.overwritten) == ({}, ())
    assert "tulle.network/public-ip-overwrite" not in announce.notes(before, said(ADDRESS))


def test_what_an_operator_asked_flannel_to_tell_is_told_and_his_overwrites_go_before_it() -> None:
    asked = {f"{FLANNEL}/node-public-ip": "203.0.113.1", f"{FLANNEL}/node-public-ipv6": "2001:db8:f::1"}
    assert set(own(asked).overwritten) == {ip_address("203.0.113.1"), ip_address("2001:db8:f::1")}
    for prefix in (FLANNEL, "tulle.network"):
        found = own({**asked, f"{prefix}/public-ip-overwrite": "203.0.113.9"})
        assert set(found.overwritten) == {ip_address("203.0.113.9"), ip_address("2001:db8:f::1")}
    peer = noted({**asked, **flannel_notes("198.51.100.1", MAC)}, this_node="n9")
    assert addresses(peer) == ["198.51.100.1"]  # what it makes of that, a peer says itself


def test_a_backend_without_data_says_null_to_flannel() -> None:
    assert announce.flannels(own(), said(ADDRESS, backend="host-gw"))[f"{FLANNEL}/backend-data"] == "null"


def test_an_overwrite_is_what_peers_are_told() -> None:
    node = own({"tulle.network/public-ip-overwrite": "203.0.113.9"})
    assert announce.notes(node, said(ADDRESS))["tulle.network/address"] == "203.0.113.9"
    assert announce.flannels(node, said(ADDRESS))[f"{FLANNEL}/public-ip"] == "203.0.113.9"


def test_what_is_said_already_is_not_said_again() -> None:
    wanted = announce.flannels(own(), said(ADDRESS, vtepMAC=MAC))
    assert announce.differing(own(wanted), announce.flannels(own(wanted), said(ADDRESS, vtepMAC=MAC))) == {}
    shown = announced(said(ADDRESS, vtepMAC=MAC), this_node="n1").own
    assert shown is not None and says(shown, announce.notes(shown, said(ADDRESS, vtepMAC=MAC)))


def test_an_address_that_is_no_more_is_said_no_more() -> None:
    shown = announced(said(ADDRESS, "2001:db8::1"), this_node="n1").own
    assert shown is not None and not says(shown, announce.notes(shown, said(ADDRESS)))


def announced(what: Announcement, this_node: str = "me") -> Seen:
    """The node n1, whose agent announces that."""
    found = json.dumps(body(own(), announce.notes(own(), what))).encode()
    return leased(noted({}, this_node=this_node), read_lease(found, this_node))


# What a Lease is believed of


def with_lease(found: Object, notes: Mapping[str, str] = {}) -> Seen:
    return leased(noted(notes), read_lease(json.dumps(found).encode(), "me"))


def test_a_lease_goes_before_all_annotations_but_an_operators_overwrite() -> None:
    notes = {"tulle.network/address": "198.51.100.1", "tulle.network/backend": "host-gw"} | flannel_notes(ADDRESS, MAC)
    found = with_lease(lease("n1", address="203.0.113.1", backend="vxlan"), notes)
    assert (addresses(found), found.backend, found.flannels) == (["203.0.113.1"], "vxlan", False)
    over = with_lease(lease("n1", address="203.0.113.1"), {"tulle.network/public-ip-overwrite": "203.0.113.9"})
    assert addresses(over) == ["203.0.113.9"]


@pytest.mark.parametrize("change", [
    {"spec": {"holderIdentity": "n2"}},
    {"spec": {}},
    {"spec": {"holderIdentity": 7}},
    {"kind": "Node", "spec": {"podCIDRs": [SUBNET]}},
    {"metadata": lease("n1", "the-node-before")["metadata"]},
    {"metadata": lease("n1")["metadata"] | {"ownerReferences": []}},
    {"metadata": lease("n1")["metadata"] | {"ownerReferences": [{"kind": "Pod", "name": "n1", "uid": uid("n1")}]}},
    {"metadata": lease("n1")["metadata"] | {"ownerReferences": [{"kind": "Node", "name": "n2", "uid": uid("n1")}]}},
])  # fmt: skip
def test_a_lease_that_is_not_of_the_very_node_that_it_is_named_after_says_nothing(change: Object) -> None:
    found = lease("n1", address="203.0.113.66", backend="vxlan")
    notes = found["metadata"]["annotations"]
    found |= change
    found["metadata"]["annotations"] = notes
    assert with_lease(found) == noted({})


def test_a_lease_cannot_say_another_nodes_subnet_name_or_mac() -> None:
    found = with_lease(lease("n1", address=ADDRESS, backend_data=json.dumps({"vtepMAC": MAC, "podCIDRs": ["x"]}),
                             public_ip_overwrite="203.0.113.66", podcidrs="10.244.2.0/24"))
    assert told(found).nodes[0].data == {"podcidrs": '["x"]'}
    assert addresses(found) == [ADDRESS] and [str(each) for each in reached(found).pod_cidrs] == [SUBNET]


def test_rubbish_in_a_lease_is_told_and_the_node_is_reached_by_its_object() -> None:
    found = with_lease(lease("n1", address="127.0.0.1", backend="vxlan"))
    assert addresses(found) == [ADDRESS] and "tulle.network/address" in found.problems[0]


def test_flannel_is_around_when_another_node_is_its() -> None:
    theirs = noted(flannel_notes(ADDRESS, MAC))
    assert has_flannel([theirs], "n9") and not has_flannel([theirs], "n1")


def test_a_patch_says_only_what_it_is_about() -> None:
    assert set(announce.patch({"a": "b"}, up=False)) == {"metadata"}
    body: Object = announce.patch({}, up=True)
    (condition,) = body["status"]["conditions"]
    assert set(body) == {"status"} and (condition["status"], condition["reason"]) == ("False", "TulleIsUp")

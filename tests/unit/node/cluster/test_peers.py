"""This node's part of a cluster: after any change of the list, in any order, it is what a fresh plan would make."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin import cluster
from cni_plugin.backends import contract as backend
from cni_plugin.conf.plugin import NetConf
from cni_plugin.diff import Op
from cni_plugin.errors import CniError
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.base import State
from cni_plugin.model.host import Sysctl, ipv6_settings
from cni_plugin.model.layer3 import Addr, Route
from cni_plugin.model.links import Fdb, Vxlan
from cni_plugin.node.cluster.ensure import ensure
from cni_plugin.node.cluster.guard import split
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.store.clusters import all_facts, load
from cni_plugin.store.records import Records
from tests.pace import cheaper
from tests.unit.support import UPLINK, Json, Node, me, net_conf, node_state

FOREIGN = Route("203.0.113.0/24", UPLINK.name, "192.0.2.254", protocol=4)
ME: Json = {"name": "me", "address": "192.0.2.1", "ipv6Address": "2001:db8::1"}


def listed(number: int, kind: str, cidrs: str) -> Json:
    """A peer, on this node's link or behind a router, with pods of one family or two."""
    link, far = (f"192.0.2.{number}", f"2001:db8::{number}"), (f"198.51.100.{number}", f"2001:db8:ff::{number}")
    four, six = link if kind == "near" else far
    subnets = {"4": [f"10.244.{number}.0/24"], "6": [f"fd00:{number}::/64"]}
    found = [each for family in cidrs for each in subnets[family]]
    return {"name": f"n{number}", "address": four, "ipv6Address": six, "podCIDRs": found}


peers = st.dictionaries(
    st.integers(2, 6), st.tuples(st.sampled_from(["near", "near", "far"]), st.sampled_from(["4", "6", "46", ""])),
    max_size=5,
)
backends = st.sampled_from([
    {"type": "vxlan"}, {"type": "vxlan", "vni": 2}, {"type": "vxlan", "directRouting": True}, {"type": "host-gw"},
    {"type": "vxlan", "mtu": 1300}, {"type": "vxlan", "port": 4789},
])
my_cidrs = st.sampled_from([["10.244.1.0/24"], ["10.244.1.0/24", "fd00:1::/64"], ["fd00:1::/64"]])


@st.composite
def snapshots(draw: st.DrawFn) -> Json:
    found = draw(peers)
    nodes = [{**ME, "podCIDRs": draw(my_cidrs)}, *(listed(number, *found[number]) for number in found)]
    return {"node": "me", "backend": draw(backends), "nodes": nodes}


def program(network: str, snapshot: Json, kernel: FakeKernel, records: Records) -> list[Op]:
    """What the engine of one request does, which knows nothing of the last one."""
    return Participant(network, kernel, records).program(snapshot)


def fresh(snapshot: Json) -> State:
    """What a node that never knew another list would make of this one. Raises CniError."""
    parsed = cluster.parse(snapshot)
    found = backend.find(parsed.backend)
    mine, *others = parsed.nodes
    here = me(" ".join(map(str, mine.addresses)), " ".join(map(str, mine.pod_cidrs)))._replace(node=mine)
    return node_state(here, others, found, found.configure(parsed.options))


def own(state: State) -> State:
    """Without what is never turned back: sysctls of the whole node, shared with everybody, and a device's for IPv6."""
    kept = tuple(each.name.rpartition("/")[2] for each in ipv6_settings(""))
    return {
        key: each
        for key, each in state.items()
        if not (isinstance(each, Sysctl) and (not each.dev or each.name.endswith(kept)))
    }


def kernel_with(*objects: Route | Addr) -> FakeKernel:
    return FakeKernel(objects, uplink=UPLINK, held=("192.0.2.1", "2001:db8::1"))


damage = st.lists(st.integers(0, 30), max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(snapshots(), damage), min_size=2, max_size=6))
def test_after_any_walk_over_lists_and_damage_a_node_is_as_freshly_planned(
    steps: list[tuple[Json, list[int]]]
) -> None:
    kernel = kernel_with(FOREIGN)
    with TemporaryDirectory() as folder:
        records = Records(folder)
        for snapshot, broken in steps:
            for number in broken:
                there = [each for each in kernel.state.values() if each != FOREIGN]
                kernel.apply([Op("delete", there[number % len(there)])] if there else [])
            before = dict(kernel.state)
            try:
                want = fresh(snapshot)
            except CniError as refused:
                with pytest.raises(CniError) as caught:
                    program("pods", snapshot, kernel, records)
                assert caught.value.msg == refused.msg
                assert kernel.state == before
                continue
            program("pods", snapshot, kernel, records)
            assert own(kernel.state) == own({**want, FOREIGN.key: FOREIGN})
            assert program("pods", snapshot, kernel, records) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(snapshots(), min_size=1, max_size=4))
def test_two_clusters_on_one_node_leave_each_other_alone(steps: list[Json]) -> None:
    kernel = kernel_with()
    other: Json = {
        "node": "me", "backend": {"type": "vxlan", "vni": 77, "port": 8477},
        "nodes": [{**ME, "podCIDRs": ["10.99.1.0/24"]}, {**listed(9, "near", ""), "podCIDRs": ["10.99.9.0/24"]}],
    }
    with TemporaryDirectory() as folder:
        records = Records(folder)
        program("other", other, kernel, records)
        for snapshot in steps:
            try:
                want = fresh(snapshot)
            except CniError:
                continue
            program("pods", snapshot, kernel, records)
            assert own(kernel.state) == own({**fresh(other), **want})
        assert program("other", other, kernel, records) == []


@settings(max_examples=25, deadline=None)
@given(snapshots(), snapshots(), st.integers(0, 30))
def test_a_change_that_fails_halfway_is_put_right_by_the_next(one: Json, two: Json, at: int) -> None:
    kernel = kernel_with()
    with TemporaryDirectory() as folder:
        records = Records(folder)
        for snapshot in (one, two):
            try:
                want = fresh(snapshot)
            except CniError:
                return
            kernel.fail_at = len(kernel.applied) + at
            with suppress(KernelError):
                program("pods", snapshot, kernel, records)
            kernel.fail_at = None
            program("pods", snapshot, kernel, records)
            assert own(kernel.state) == own(want)


# What ensure does with the list


TWO: Json = {"node": "me", "nodes": [{**ME, "podCIDRs": ["10.244.1.0/24"]}, listed(2, "near", "4")]}
THREE: Json = {"node": "me", "nodes": [*TWO["nodes"], listed(3, "near", "4")]}  # type: ignore[misc]


def clustered(source: object) -> NetConf:
    return net_conf(cluster=source)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(f"{tmp_path}/run")


def test_a_network_without_a_cluster_has_no_part_in_one(records: Records) -> None:
    kernel = kernel_with()
    assert ensure(net_conf(), kernel, records) is None
    assert kernel.state == {}


def test_an_add_with_nothing_to_change_applies_nothing(records: Records) -> None:
    kernel = kernel_with()
    first = ensure(clustered(TWO), kernel, records)
    done = len(kernel.applied)
    assert ensure(clustered(TWO), kernel, records) == first
    assert len(kernel.applied) == done


def test_what_pods_need_to_know_of_the_cluster(records: Records) -> None:
    facts = ensure(clustered({**TWO, "network": "10.244.0.0/16"}), kernel_with(), records)
    assert facts is not None
    assert (facts.mtu, facts.device, facts.node, facts.backend, facts.peers) == (1450, "tulle.1", "me", "vxlan", 1)
    assert (facts.pod_cidrs, facts.inside) == (("10.244.1.0/24",), ("10.244.0.0/16",))


def test_failure_32_a_peer_that_left_while_nobody_looked_leaves_nothing(records: Records) -> None:
    kernel = kernel_with(FOREIGN)
    ensure(clustered(THREE), kernel, records)
    ensure(clustered(TWO), kernel, records)
    assert not [key for key in kernel.state if any("244.3." in part for part in key)]
    assert [each.dst for each in kernel.state.values() if isinstance(each, Fdb)] == ["192.0.2.2"]
    assert FOREIGN in kernel.state.values()


def test_failure_34_a_device_that_was_deleted_is_made_again_with_all_its_entries(records: Records) -> None:
    kernel = kernel_with()
    ensure(clustered(THREE), kernel, records)
    before = own(kernel.state)
    kernel.apply([Op("delete", each) for each in list(kernel.state.values()) if isinstance(each, Vxlan)])
    assert split(own(kernel.state)).network == {}
    ensure(clustered(THREE), kernel, records)
    assert own(kernel.state) == before


def test_a_list_in_a_file_is_read_anew_each_time(records: Records, tmp_path: Path) -> None:
    kernel, path = kernel_with(), tmp_path / "cluster.json"
    path.write_text(json.dumps(TWO))
    ensure(clustered(str(path)), kernel, records)
    path.write_text(json.dumps(THREE))
    facts = ensure(clustered(str(path)), kernel, records)
    assert facts is not None
    assert facts.peers == 2
    assert "10.244.3.0/24" in [each.dst for each in kernel.state.values() if isinstance(each, Route)]


@pytest.mark.parametrize(
    ("text", "says"), [(None, "No such file"), ("{", "the file is not valid JSON"), ("[]", "invalid cluster")]
)
def test_a_file_that_cannot_be_read_is_named(records: Records, tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "cluster.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CniError, match=says) as caught:
        ensure(clustered(str(path)), kernel_with(), records)
    assert caught.value.code == 7


def test_a_node_whose_address_is_on_no_interface_is_told_so(records: Records) -> None:
    kernel = FakeKernel(uplink=UPLINK)
    with pytest.raises(CniError, match=r"me's address 192\.0\.2\.1 is on no interface of this machine") as caught:
        ensure(clustered(TWO), kernel, records)
    assert caught.value.code == 7
    assert kernel.state == {}


def test_a_note_of_an_earlier_boot_or_none_that_can_be_read_counts_as_none(records: Records) -> None:
    ensure(clustered(TWO), kernel_with(), records)
    path = Path(records.run_dir) / "clusters" / "pods"
    path.write_text(path.read_text().replace('"boot":"', '"boot":"x'))
    assert load(records, "pods") is None
    path.write_bytes(b"junk")
    assert load(records, "pods") is None
    assert all_facts(records) == []


def test_four_times_as_many_peers_are_four_times_the_work_to_plan_and_to_compare(tmp_path: Path) -> None:
    """With room for noise: were each compared with all others, it would be sixteen times."""
    many: list[Json] = []
    for number in range(1000):
        high, low = divmod(number, 250)
        cidr = f"10.{high + 1}.{low}.0/24"
        many.append({"name": f"p{number}", "address": f"192.0.{high + 3}.{low + 1}", "podCIDRs": [cidr]})
    taken: dict[int, list[float]] = {250: [], 1000: []}
    for turn in range(3):
        for count, times in taken.items():
            source: Json = {"node": "me", "nodes": [{**ME, "podCIDRs": ["10.244.1.0/24"]}, *many[:count]]}
            kernel, records = kernel_with(), Records(str(tmp_path / f"{turn}-{count}"))
            begun = process_time()
            ensure(clustered(source), kernel, records)
            times.append(process_time() - begun)
            assert len([each for each in kernel.state.values() if isinstance(each, Fdb)]) == count
    cheaper(min(taken[1000]), 10 * min(taken[250]), taken)


# ADD in a cluster


def in_cluster(tmp_path: Path, **keys: object) -> Node:
    node = Node(tmp_path, kernel_with())
    node.conf = {
        "cniVersion": "1.1.0", "name": "pods", "type": "tulle", "ipMasq": True, "cluster": TWO,
        "ipam": {"type": "host-local", "dataDir": f"{tmp_path}/data"}, **keys,
    }
    return node


def test_add_in_a_cluster_takes_its_addresses_and_mtu_from_there(tmp_path: Path) -> None:
    node = in_cluster(tmp_path)
    reply = node.call("ADD")
    assert reply.addresses == ["10.244.1.2/24"]
    assert Addr("tulle0", "10.244.1.1/24") in node.kernel.state.values()
    assert ("route", "", "254", "10.244.2.0/24", "0", "") in node.kernel.state
    assert reply.body["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}]
    interfaces = reply.body["interfaces"]
    assert isinstance(interfaces, list)
    assert interfaces[2]["mtu"] == 1450


def test_after_del_in_a_cluster_the_node_stays_joined(tmp_path: Path) -> None:
    node = in_cluster(tmp_path)
    node.call("ADD")
    assert node.call("DEL").exit == 0
    assert ("link", "", "tulle.1") in node.kernel.state
    assert node.leases() == {}


def test_an_add_that_fails_at_any_operation_in_a_cluster_leaves_no_half_of_it(tmp_path: Path) -> None:
    whole = in_cluster(tmp_path / "whole")
    assert whole.call("ADD").exit == 0
    joined = own(fresh({**TWO, "backend": {"type": "vxlan"}}))
    for at in range(len(whole.kernel.applied)):
        node = in_cluster(tmp_path / str(at))
        node.kernel.fail_at = at
        if whole.kernel.applied[at].object.key in split(joined).guard:
            assert node.call("ADD").exit == 0, "a node that cannot be guarded has its network"
            continue
        assert node.call("ADD").code == 100
        assert node.standing() in ({}, joined), f"operation {at}"
        assert (node.leases(), list(node.records.all())) == ({}, [])


def test_status_in_a_cluster_speaks_of_its_own_pool(tmp_path: Path) -> None:
    assert in_cluster(tmp_path).call("STATUS").exit == 0
    lost = in_cluster(tmp_path, cluster={**TWO, "node": "nobody"}).call("STATUS")
    assert lost.code == 50
    assert "cluster.node 'nobody'" in lost.said


def test_a_changed_vni_replaces_the_device(records: Records) -> None:
    kernel = kernel_with()
    for vni in (1, 2):
        ensure(clustered({**TWO, "backend": {"type": "vxlan", "vni": vni}}), kernel, records)
    assert [each.name for each in kernel.state.values() if isinstance(each, Vxlan)] == ["tulle.2"]

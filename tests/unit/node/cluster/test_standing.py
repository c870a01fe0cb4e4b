"""What a former backend left on a node is known by its mark and goes; what bears none, or is another's, stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cni_plugin import cluster as clusters
from cni_plugin.diff import Op
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.links import Tunnel, Up, Vxlan
from cni_plugin.model.nft import NftObject
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.store.clusters import cluster_file
from cni_plugin.store.records import Records
from tests.unit.node.cluster.test_peers import ME, kernel_with, listed
from tests.unit.support import Json

HOST_GW: Json = {"type": "host-gw"}
BACKENDS: list[Json] = [{"type": "vxlan"}, {"type": "vxlan", "vni": 2, "port": 4789}, HOST_GW]
THEIRS = Vxlan("flannel.1", vni=1, port=8472, local="192.0.2.1")
SOMEBODYS = Vxlan("tulle.9", vni=9, port=8472, local="192.0.2.1", alias="an administrator's")


OTHERS: Json = {
    "node": "me", "backend": {"type": "vxlan", "vni": 7},
    "nodes": [{**ME, "podCIDRs": ["10.99.1.0/24"]}, {**listed(9, "near", ""), "podCIDRs": ["10.99.9.0/24"]}],
}


def of(backend: Json) -> Json:
    mine = {**ME, "podCIDRs": ["10.244.1.0/24"]}
    return {"node": "me", "backend": backend, "nodes": [mine, listed(2, "near", "4")]}


def tunnels(kernel: FakeKernel) -> set[str]:
    return {each.name for each in kernel.state.values() if isinstance(each, Tunnel)}


def device(backend: Json) -> set[str]:
    return {f"tulle.{backend.get('vni', 1)}"} if backend != HOST_GW else set()


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(f"{tmp_path}/run")


both = pytest.mark.parametrize(
    ("before", "after"), [(one, two) for one in BACKENDS for two in BACKENDS if one != two], ids=str
)


@both
def test_a_former_device_goes_while_an_agent_follows(records: Records, before: Json, after: Json) -> None:
    kernel = kernel_with()
    Path(records.run_dir).mkdir()
    member = Participant("pods", kernel, records)
    for backend in (before, after, before):
        member.converge(clusters.parse(of(backend)), cluster_file(records))
        assert tunnels(kernel) == device(backend)


@both
def test_it_goes_when_the_list_changed_while_nobody_ran(records: Records, before: Json, after: Json) -> None:
    kernel = kernel_with()
    Participant("pods", kernel, records).program(of(before))
    Participant("pods", kernel, records).program(of(after))
    assert tunnels(kernel) == device(after)


@both
def test_it_goes_when_a_crash_left_nothing_on_record_of_it(records: Records, before: Json, after: Json) -> None:
    fresh, kernel = kernel_with(), kernel_with()
    Participant("pods", fresh, Records(f"{records.run_dir}-of-another")).program(of(after))
    Participant("pods", kernel, records).program(of(before))
    shutil.rmtree(records.run_dir)
    Participant("pods", kernel, records).program(of(after))
    assert tunnels(kernel) == device(after)
    guarding = [{key for key, each in one.state.items() if isinstance(each, NftObject)} for one in (kernel, fresh)]
    assert guarding[0] == guarding[1], "who guarded the former device is gone with it"


def test_what_bears_no_mark_of_ours_stays(records: Records) -> None:
    kernel = kernel_with()
    kernel.apply([Op("create", THEIRS), Op("create", SOMEBODYS), Op("create", Up(SOMEBODYS.name))])
    Participant("pods", kernel, records).program(of({"type": "vxlan", "vni": 2}))
    Participant("pods", kernel, records).program(of(HOST_GW))
    assert tunnels(kernel) == {THEIRS.name, SOMEBODYS.name}


def test_what_another_networks_cluster_uses_stays(records: Records) -> None:
    kernel = kernel_with()
    Participant("other", kernel, records).program(OTHERS)
    for backend in BACKENDS:
        Participant("pods", kernel, records).program(of(backend))
        assert tunnels(kernel) == {"tulle.7"} | device(backend)
    assert Participant("other", kernel, records).program(OTHERS) == []

"""Every file of the room of wirings keeps the room's contract, whoever adds one."""

from __future__ import annotations

from typing import cast

import pytest

from cni_plugin import plugins
from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import NetConf
from cni_plugin.describe import script
from cni_plugin.diff import diff
from cni_plugin.features import contract as features
from cni_plugin.ipams import contract as ipams
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.base import HOST
from cni_plugin.model.links import Link
from cni_plugin.rooms import tenants
from cni_plugin.spec import IPConfig, Result
from cni_plugin.wirings.contract import Base, Want, Width, Wiring, find, names

WHO = Attachment("pods", "c1", "eth0")
LEASE = Result(ips=(IPConfig("10.22.0.5/24", "10.22.0.1"), IPConfig("fd00:22::5/64", "fd00:22::1")))


@pytest.fixture(params=tenants("wirings"), ids=lambda each: each.__name__.rpartition(".")[2])
def wiring(request: pytest.FixtureRequest) -> Wiring:
    return cast(Wiring, request.param.wiring)


@pytest.fixture
def want(wiring: Wiring) -> Want:
    conf = conf_of(wiring)
    lease = wiring.completed(conf, LEASE if wiring.KEPT else Result())
    link, mac = wiring.link(conf), "0a:58:0a:16:00:05"
    return Want(WHO, conf, link, Width(1400), mac, lease.ips, lease.routes, "/run/netns/c1")


def conf_of(wiring: Wiring) -> NetConf:
    name = wiring.NAMES[0]
    found = plugins.parse({"cniVersion": "1.1.0", "name": "pods", "type": name}, name)
    assert found.wiring is wiring
    return found.conf


def test_it_is_found_by_each_of_its_names_and_nobody_else_bears_one(wiring: Wiring) -> None:
    assert wiring.NAMES
    assert all(find(name) is wiring for name in wiring.NAMES)
    assert len(set(names())) == len(names())
    assert not set(wiring.NAMES) & {*ipams.names(), *features.names()}


def test_the_features_that_it_serves_are_there(wiring: Wiring) -> None:
    assert all(features.find(name) is not None for name in wiring.FEATURES)
    assert all(key == key.lower() for key in wiring.CAPABILITIES)


def test_its_keys_can_all_be_left_out(wiring: Wiring) -> None:
    assert issubclass(wiring.KEYS, NetConf)
    assert isinstance(conf_of(wiring), wiring.KEYS)


def test_the_same_facts_give_the_same_state_and_it_wants_something(wiring: Wiring, want: Want) -> None:
    assert wiring.pod(want) == wiring.pod(want) != {}


def test_what_it_makes_can_be_described_and_made_and_is_as_it_was_wanted(wiring: Wiring, want: Want) -> None:
    kernel = FakeKernel()
    kernel.enter("/run/netns/c1")
    host = wiring.host(Base(want.conf, want.link, wiring.gateways(want.conf, want.ips), want.width.pod))
    for state in (host, wiring.pod(want)):
        ops = diff(state, kernel.read(state.values()))
        assert all(script([op]) for op in ops)
        kernel.apply(ops)
        assert diff(wiring.adopt(state, kernel.read(state.values())), kernel.read(state.values())) == []


def test_what_is_on_the_node_goes_without_a_record(wiring: Wiring, want: Want) -> None:
    links = {key for key, each in wiring.pod(want).items() if isinstance(each, Link) and each.where == HOST}
    assert links <= wiring.bare(WHO).keys()
    assert links or not wiring.KEPT


def test_the_result_tells_of_the_pods_interface(wiring: Wiring, want: Want) -> None:
    found = wiring.interfaces(want, {want.link: ""}.__getitem__)
    inside = [each for each in found if each.sandbox]
    assert [each.sandbox for each in inside] == ["/run/netns/c1"]
    places = {each.interface for each in want.ips} - {None}
    assert places <= {found.index(inside[0])}


def test_an_attachment_that_was_never_made_is_not_alive(wiring: Wiring) -> None:
    assert not wiring.alive(WHO, FakeKernel())

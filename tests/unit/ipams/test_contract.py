"""Every file of the room of IPAMs keeps the room's contract, whoever adds one."""

from __future__ import annotations

from types import ModuleType
from typing import cast

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import IpamConf
from cni_plugin.ipams.contract import Ask, Ipam, Leases, find, names, served
from cni_plugin.rooms import tenants

ROOM = tenants("ipams")
PROMISED = [name for name in vars(Leases) if not name.startswith("_")]


@pytest.fixture(params=ROOM, ids=lambda each: each.__name__.rpartition(".")[2])
def ipam(request: pytest.FixtureRequest) -> Ipam:
    return cast(Ipam, request.param)


def test_it_says_what_it_is_called_what_it_needs_and_whether_it_may_keep_others_waiting(ipam: Ipam) -> None:
    assert all(served(name) is ipam for name in ipam.NAMES)
    assert {type(ipam.NEEDS_LINK), type(ipam.WAITS)} == {bool}


def test_its_keys_are_a_struct_that_can_be_empty(ipam: Ipam) -> None:
    conf = ipam.Conf()
    assert isinstance(conf, IpamConf)
    assert (conf.type, conf.subnets, conf.folder) == ("", (), "")
    assert set(conf.PATHS) <= set(conf.__struct_fields__)
    conf.check()


def test_to_open_its_leases_has_no_effect_and_they_can_do_all_that_is_asked_of_leases(ipam: Ipam) -> None:
    found = ipam.leases(Ask(Attachment("pods", "c1", "eth0"), ipam.Conf(), lambda _: False))
    assert [name for name in PROMISED if not hasattr(found, name)] == []
    if not ipam.NAMES:
        assert tuple(found.usage()) == ()


def test_each_name_has_one_file() -> None:
    assert sorted(set(names())) == sorted(names())
    assert "host-local" in names()


OTHERS = ["calico-ipam", "HOST-LOCAL", "host_local", "none", "delegated", "contract", "a.b", "../x"]


@pytest.mark.parametrize("kind", OTHERS)
def test_whoever_has_no_file_here_is_another_program(kind: str) -> None:
    assert served(kind) is None
    assert find(kind).WAITS


def test_who_names_no_ipam_gets_none() -> None:
    assert cast(ModuleType, find("")).__name__ == "cni_plugin.ipams.none"

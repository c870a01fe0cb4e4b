"""The network in Tulle's own `cluster` object: which families are in use, and the mistakes people make in one."""

from __future__ import annotations

import pytest

from cni_plugin import network
from cni_plugin.errors import CniError


def refusal(**keys: object) -> str:
    with pytest.raises(CniError) as caught:
        network.parse(keys)
    assert caught.value.code == 7
    return caught.value.msg


def test_a_family_is_in_use_when_its_network_is_given_unless_it_is_switched_off() -> None:
    both = {"network": "10.244.0.0/16", "ipv6Network": "fd00:10:244::/48"}
    assert [str(each) for each in network.parse(both).networks] == ["10.244.0.0/16", "fd00:10:244::/48"]
    assert [each.version for each in network.parse({**both, "enableIPv6": False}).networks] == [4]
    assert [each.version for each in network.parse({**both, "enableIPv4": False}).networks] == [6]
    assert network.parse({}).networks == ()


def test_a_backend_is_known_in_any_case_and_its_keys_are_its_own() -> None:
    found = network.parse({"backend": {"Type": "VXLAN", "VNI": 7, "DirectRouting": True}})
    assert (found.backend, found.options) == ("vxlan", {"vni": 7, "directrouting": True})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"network": "10.244.0.1/16"}, "invalid cluster.network '10.244.0.1/16'"),
        ({"network": "10.244.0.0"}, "write a network as address/prefix, such as 10.244.0.0/32"),
        ({"network": "10.244.0.0/255.255.0.0"}, "write a network as address/prefix, such as 10.244.0.0/16"),
        ({"network": "fd00::/48"}, "it must be an IPv4 network"),
        ({"backend": {"type": 4}}, "invalid cluster.backend.type 4"),
        ({"network": 10}, "invalid cluster.network 10"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_value(keys: dict[str, object], said: str) -> None:
    assert said in refusal(**keys)

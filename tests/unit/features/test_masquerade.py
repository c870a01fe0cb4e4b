"""`ipMasq` as a feature: who claims it, what of it is kept, and what follows for the node."""

from __future__ import annotations

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.features.contract import Asked, World
from cni_plugin.features.masquerade import Conf, feature
from cni_plugin.plan.masquerade import Masquerade
from cni_plugin.spec import IPConfig, Result

WHO = Attachment("pods", "c1", "eth0")
MADE = Result(ips=(IPConfig("10.22.0.5/24"), IPConfig("fd00:22::5/64")))
CLAIM = Masquerade(("10.22.0.0/24", "fd00:22::/64"), ("10.244.0.0/16",))


def test_a_pod_with_addresses_claims_its_subnets_and_nobody_without() -> None:
    asked = Asked(WHO, MADE, inside=("10.244.0.0/16",))
    assert feature.claim(Conf(ip_masq=True), asked) == CLAIM
    assert feature.claim(Conf(), asked) is None
    assert feature.claim(Conf(ip_masq=True), Asked(WHO, Result())) is None


def test_a_record_keeps_the_subnets_and_leaves_what_is_inside_to_the_network() -> None:
    assert msgspec.json.decode(feature.kept(CLAIM), type=Masquerade) == Masquerade(CLAIM.subnets)


def test_a_network_is_ready_when_its_own_rules_stand_whatever_others_have() -> None:
    both = feature.state(World({"pods": CLAIM, "others": Masquerade(("10.1.0.0/16",))}))
    alone = feature.state(World({"others": Masquerade(("10.1.0.0/16",))}))
    assert feature.ready(CLAIM, "pods", both)
    assert not feature.ready(CLAIM, "pods", alone)
    assert not feature.ready(CLAIM, "pods", {})

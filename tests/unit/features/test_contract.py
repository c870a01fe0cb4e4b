"""Every file of the room of features keeps the room's contract, whoever adds one."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.features.contract import Asked, Feature, NodeFeature, World, find, names, served
from cni_plugin.rooms import tenants
from cni_plugin.spec import IPConfig, Result

WHO = Attachment("pods", "c1", "eth0")
MADE = Result(ips=(IPConfig("10.22.0.5/24", "10.22.0.1"),))


@pytest.fixture(params=tenants("features"), ids=lambda each: each.__name__.rpartition(".")[2])
def feature(request: pytest.FixtureRequest) -> Feature:
    return cast(Feature, request.param.feature)


def test_it_is_found_by_the_name_of_its_claims_and_by_what_runtimes_call_it(feature: Feature) -> None:
    assert find(feature.NAME) is feature
    assert all(served(name) is feature for name in feature.NAMES)
    assert len(set(names())) == len(names())


def test_who_writes_none_of_its_keys_claims_nothing(feature: Feature) -> None:
    assert feature.claim(feature.KEYS(), Asked(WHO, MADE)) is None


def test_its_claims_are_values_that_a_record_can_keep(feature: Feature) -> None:
    assert feature.CLAIM.__struct_config__.frozen
    assert msgspec.json.schema(feature.CLAIM)  # raises TypeError for what JSON cannot hold


def test_a_feature_of_the_node_wants_nothing_where_nobody_claims_it(feature: Feature) -> None:
    if isinstance(feature, NodeFeature):
        assert feature.state(World({})) == {}
        assert feature.places()

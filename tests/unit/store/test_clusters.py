"""What was programmed of clusters, as the next who programs finds it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cni_plugin.kernel.host import files
from cni_plugin.model.base import state
from cni_plugin.model.layer3 import Route
from cni_plugin.store.clusters import ClusterFacts, others, programmed, save
from cni_plugin.store.records import Records

OURS = state([Route("10.61.2.0/24", "eth0", via="192.0.2.2")])
THEIRS = state([Route("10.71.2.0/24", "eth0", via="192.0.2.2")])


def facts(network: str) -> ClusterFacts:
    return ClusterFacts(network, "", files.boot_id(), "", 0, 1500, "me", "host-gw", (), (), 1, msgspec.Raw(b'"/list"'))


@pytest.mark.parametrize("name", ["pods", "p" * 300])
def test_what_a_network_had_programmed_is_none_of_others_however_long_its_name_is(tmp_path: Path, name: str) -> None:
    records = Records(str(tmp_path))
    save(records, facts(name), OURS)
    save(records, facts("another"), THEIRS)
    assert programmed(records, name) == OURS
    assert others(records, name) == THEIRS

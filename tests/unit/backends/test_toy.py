"""One file makes a backend: a node list names it, and ADD, plan, diff, doctor and STATUS know it.

The toy is VXLAN under another name and with a need of its own; no module of the plugin names it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import pytest

from cni_plugin.backends import contract as backends
from cni_plugin.diff import Op
from cni_plugin.errors import CniError
from cni_plugin.model.layer3 import Route
from cni_plugin.model.links import Tunnel
from cni_plugin.store.clusters import load
from tests import toys
from tests.unit.ctl.tool import CLUSTER, Around, Tool, configure
from tests.unit.support import Json, Node

BY_TOY = "ip route add 10.244.2.0/24 via 10.244.2.0 dev toy.3 proto 84 onlink"


@pytest.fixture(autouse=True)
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with toys.added(tmp_path_factory.mktemp("toys"), "backends", "toy"):
        yield


def member(node: Node, backend: Json) -> Node:
    return node.configured(
        cluster={**CLUSTER, "backend": backend}, ipam={"type": "host-local", "dataDir": f"{node.home}/data"}
    )


@pytest.fixture
def site(node: Node) -> Node:
    return member(node, {"type": "toy"})


@pytest.fixture
def tool(site: Node, monkeypatch: pytest.MonkeyPatch) -> Tool:
    made = Tool(site, monkeypatch)
    configure(site)
    return made


def devices(node: Node) -> list[str]:
    return [each.name for each in node.kernel.state.values() if isinstance(each, Tunnel)]


def test_a_node_list_names_it_and_an_add_joins_by_it(site: Node) -> None:
    assert site.call("ADD").addresses == ["10.244.1.2/24"]
    facts = load(site.records, "pods")
    assert facts is not None
    assert (facts.backend, facts.device, facts.mtu) == ("toy", "toy.3", 1423)
    assert [each.dev for each in site.kernel.state.values() if isinstance(each, Route) and not each.ns] == ["toy.3"]


def test_its_keys_are_its_own_and_its_refusals_too(node: Node) -> None:
    assert "invalid cluster.backend.height" in member(node, {"type": "toy", "height": "high"}).call("ADD").said
    with pytest.raises(CniError, match="use one of host-gw, toy, vxlan"):
        backends.find("wormhole")


def test_status_refuses_where_the_kernel_lacks_what_it_needs_before_anything_is_made(site: Node) -> None:
    site.kernel.lacking = frozenset({"balloon"})
    said = site.call("STATUS")
    assert said.code == 50
    assert "the kernel has no balloon, and the cluster's backend sends packets by balloon" in said.said
    assert "modprobe -a balloon" in said.said
    assert site.kernel.state == {}
    site.kernel.lacking = frozenset()
    assert site.call("STATUS").exit == 0


def test_plan_and_diff_say_in_words_what_it_makes(site: Node, tool: Tool) -> None:
    planned = tool("plan")
    assert planned.exit == 0, planned.err
    assert "1 peers by toy" in planned.out and BY_TOY in planned.out
    assert site.call("ADD").exit == 0
    assert tool("diff", "--json").json == []
    site.kernel.apply([Op("delete", each) for each in list(site.kernel.state.values()) if isinstance(each, Route)])
    assert BY_TOY in tool("diff").out


def test_doctor_finds_what_the_kernel_lacks_of_its_needs(site: Node, tool: Tool) -> None:
    class Grounded(Around):
        def features(self, wanted: Collection[str]) -> dict[str, bool]:
            return {each: each != "balloon" for each in wanted}

    for joined in (False, True):
        assert not joined or site.call("ADD").exit == 0
        assert "missing-feature" not in tool("doctor").out
        tool.around(Grounded())
        found = {each["name"]: each for each in tool("doctor", "--json").json}
        tool.around(Around())
        assert "by balloon" in found["missing-feature"]["why"] and "modprobe -a balloon" in json.dumps(found)


def test_nodes_are_shown_by_its_name(site: Node, tool: Tool) -> None:
    assert site.call("ADD").exit == 0
    assert "toy" in tool("nodes").out


def test_what_its_nodes_say_is_read_in_flannels_words_too() -> None:
    assert backends.in_flannels_words({"colour": "red"}, "toy") == {"Colour": "red"}


@pytest.mark.parametrize("after", [{"type": "host-gw"}, {"type": "toy", "height": 4}, {"type": "vxlan"}], ids=str)
def test_its_device_is_gone_when_the_cluster_has_another_backend(site: Node, after: Json) -> None:
    assert site.call("ADD").exit == 0
    assert devices(site) == ["toy.3"]
    later = member(site, after)
    assert later.call("ADD", "a eth1").exit == 0
    assert "toy.3" not in devices(later)
    back = member(site, {"type": "toy"})
    assert back.call("ADD", "a eth2").exit == 0
    assert devices(back) == ["toy.3"]

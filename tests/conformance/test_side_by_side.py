"""Tulle stands beside the reference `bridge`: the same configuration on two equal nodes, property by property.

Each side runs ADD for each pod, sends real packets, runs CHECK, then DEL; both sides' observations are taken
once a configuration and compared by one test a property.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.cases import CASES, Case
from tests.conformance.deviations import deviating_keys, without_deviations
from tests.conformance.nodes import Json, Node, Plugins, unique_name
from tests.conformance.observe import (
    Observation,
    bridge_view,
    normal_result,
    packets,
    pod_view,
    port_of,
    port_view,
    snapshot,
)

IFNAME = "eth0"
NO_VLANS = "this kernel has no VLAN filtering in bridges (CONFIG_BRIDGE_VLAN_FILTERING)"


@dataclass(frozen=True)
class Both:
    """What the two sides did with one case."""

    case: Case
    reference: Observation
    tulle: Observation
    itself: bool
    """The reference is being compared with itself."""


def _bridge_name(conf: Json) -> str:
    return str(conf.get("bridge") or "cni0")


def _wire(node: Node, conf: Json, case: Case, seen: Observation) -> list[Json]:
    raw: list[Json] = []
    for index in range(1, case.pods + 1):
        name = f"pod{index}"
        reply = node.add(conf, name, args=case.args)
        seen.codes.append(reply.code or reply.exit)
        seen.messages.append(reply.message if reply.exit else "")
        if reply.exit:
            continue
        raw.append(reply.result)
        seen.results.append(normal_result(reply.result, node.pod(name), keep_mac=case.mac))
        seen.pods.append(pod_view(node.pod(name), IFNAME, keep_mac=case.mac))
        seen.ports.append(port_view(node, port_of(node, node.pod(name), IFNAME)))
    return raw


def _check(node: Node, conf: Json, case: Case, raw: list[Json], seen: Observation) -> None:
    if conf["cniVersion"] in ("0.1.0", "0.2.0", "0.3.0", "0.3.1"):
        return
    for index, result in enumerate(raw, 1):
        reply = node.check({**conf, "prevResult": result}, f"pod{index}", args=case.args)
        seen.checks.append(reply.code or reply.exit)
        seen.check_messages.append(reply.message if reply.exit else "")


def observe(node: Node, case: Case) -> Observation:
    """Run one side's whole life of a case."""
    seen = Observation()
    conf = case.configuration(str(node.data_dir))
    for line in case.prepare:
        node.run(*line.split())
    seen.before = snapshot(node)
    raw = _wire(node, conf, case, seen)
    if raw:
        seen.packets = packets(node, [node.pod(f"pod{i}") for i in range(1, case.pods + 1)], raw, IFNAME)
    seen.bridge = bridge_view(node, _bridge_name(conf))
    seen.forwarding = {key: node.sysctl(f"net/{key}") for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")}
    seen.leases = node.leases()
    _check(node, conf, case, raw, seen)
    for index in range(1, case.pods + 1):
        reply = node.delete(conf, f"pod{index}", args=case.args)
        seen.deletes.append(reply.code or reply.exit)
        seen.messages.append(reply.message if reply.exit else "")
    seen.after = snapshot(node)
    seen.after["pods"] = [len(node.pod(f"pod{i}").json("ip", "-j", "link")) for i in range(1, case.pods + 1)]
    return seen


def _one_side(case: Case, plugins: Plugins) -> Observation:
    with ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="tulle-conformance-"))
        node = Node(unique_name(plugins.side[:3]), plugins, Path(state))
        stack.callback(node.remove)
        return observe(node, case)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name.replace(" ", "_"))
def both(request: pytest.FixtureRequest, reference: Plugins, tulle: Plugins, vlans: bool) -> Both:
    case: Case = request.param
    if "vlan" in case.conf and case.conf["vlan"] and not vlans:
        pytest.skip(NO_VLANS)
    itself = reference.directory == tulle.directory
    return Both(case, _one_side(case, reference), _one_side(case, tulle), itself)


def _equal(both: Both, what: str) -> None:
    expected, found = (
        without_deviations(what, both.case.name, getattr(side, what)) for side in (both.reference, both.tulle)
    )
    if deviating_keys(what, both.case.name) and not both.itself:
        assert getattr(both.tulle, what) != getattr(both.reference, what), "a row of DEVIATIONS has become untrue"
    assert found == expected, f"tulle said: {[m for m in both.tulle.messages + both.tulle.check_messages if m]}"


def test_add_succeeds_as_in_the_reference(both: Both) -> None:
    assert both.reference.codes == [0] * both.case.pods, both.reference.messages
    _equal(both, "codes")


def test_result_has_the_same_shape_and_the_same_addresses_and_routes(both: Both) -> None:
    _equal(both, "results")


def test_pod_has_the_same_link_addresses_and_routes(both: Both) -> None:
    _equal(both, "pods")


def test_bridge_is_the_same(both: Both) -> None:
    _equal(both, "bridge")


def test_bridge_ports_have_the_same_flags_and_vlans(both: Both) -> None:
    _equal(both, "ports")


def test_same_packets_get_through_with_the_same_sources(both: Both) -> None:
    _equal(both, "packets")


def test_forwarding_is_switched_on_for_the_same_families(both: Both) -> None:
    _equal(both, "forwarding")


def test_same_lease_files_are_on_disk(both: Both) -> None:
    _equal(both, "leases")


def test_check_passes_right_after_add(both: Both) -> None:
    """The reference's own CHECK sometimes fails falsely here (failure 28), so it is no measure for this."""
    assert [code for code in both.tulle.checks if code] == [], both.tulle.check_messages
    assert len(both.tulle.checks) == len(both.reference.checks)


def test_del_leaves_nothing_of_the_pods(both: Both) -> None:
    before, after = both.tulle.before, both.tulle.after
    assert both.tulle.deletes == [0] * both.case.pods, both.tulle.messages
    assert after["pods"] == [1] * both.case.pods, "only lo may be left in a pod"
    assert after["leases"] == {}
    assert after["records"] == []
    assert after["neighbours"] == []
    assert after["ruleset"] == before["ruleset"]
    assert after["rules"] == before["rules"]


def test_del_leaves_no_link_or_route_that_the_reference_does_not(both: Both) -> None:
    ours, theirs = both.tulle.after["links"], both.reference.after["links"]
    assert isinstance(ours, list) and isinstance(theirs, list)
    assert set(ours) <= set(theirs)  # for a VLAN's gateway the reference leaves a whole veth pair
    assert both.tulle.after["routes"] == both.reference.after["routes"]

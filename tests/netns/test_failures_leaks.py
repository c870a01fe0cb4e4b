"""Failures of peers in which something of a pod stays behind: each cannot happen here.

The numbers are those of the list of forty failures that the design names; issues of other projects are in the texts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests import soak
from tests.conformance.nodes import Json, Node, ping_all, run
from tests.conformance.observe import snapshot
from tests.netns.failure_nodes import address, collect, conf, invoke, ranges, status
from tests.pace import until

AN_EARLIER_BOOT = "00000000-0000-4000-8000-000000000000"


def reboot(node: Node, *survivors: str) -> None:
    """The node as after a reboot: pods, links, rules and the run folder are gone, the leases on disk are not."""
    for name in [name for name in node.pods if name not in survivors]:
        node.pods.pop(name).remove()
    _wait_for_the_kernel(node, len(survivors))
    stamp = node.data_dir / "net/.tulle/boot"
    assert stamp.readlink() != Path(AN_EARLIER_BOOT), "the leases bear the boot's stamp"
    stamp.unlink()
    stamp.symlink_to(AN_EARLIER_BOOT)
    if not survivors:
        run("ip", "-n", node.name, "link", "del", "tulle0", check=False)
        node.run("nft", "flush", "ruleset")
        shutil.rmtree(node.run_dir)
        node.run_dir.mkdir()


def test_failure_01_leases_of_an_earlier_boot_do_not_fill_the_pool(node: Node) -> None:
    """plugins#252, k3s#5885: files survive the reboot, pods do not, and each boot makes the pool smaller."""
    small = conf(node, ipam=ranges(node, "10.60.0.0/28"))
    for boot in range(3):
        got = {address(node.add(small, f"boot{boot}pod{index}").ok()) for index in range(12)}
        assert len(got) == 12
        assert len(node.leases()) == 12
        reboot(node)


def test_failure_01_an_address_that_is_still_in_use_is_not_given_out_again(node: Node) -> None:
    small = conf(node, ipam=ranges(node, "10.60.0.0/28"))
    living = address(node.add(small, "living").ok())
    node.add(small, "dead").ok()
    reboot(node, "living")
    later = [address(node.add(small, f"pod{index}").ok()) for index in range(12)]
    assert living not in later
    assert len(set(later)) == 12
    assert ping_all([(node.pod("living"), "10.60.0.1")]) == [True]


def _wait_for_the_kernel(node: Node, pods: int) -> None:
    """A namespace is taken down by a worker of the kernel, some moments after its last user went."""

    def ports() -> list[Json]:
        return [each for each in node.json("ip", "-j", "link") if str(each["ifname"]).startswith("tl")]

    until(lambda: len(ports()) <= pods, "the veths of dead pods are gone", why=ports)


@pytest.mark.parametrize("family", ["4", "6", "dual"])
@pytest.mark.parametrize("netns", [None, "", "/run/netns/tulle-no-such-pod"], ids=["absent", "empty", "stale"])
def test_failure_02_del_without_a_netns_leaves_nothing(node: Node, family: str, netns: str | None) -> None:
    """containerd/cri#948, plugins#210: an IP leaked whenever the runtime had no netns to name."""
    configuration = conf(node, family)
    first = node.add(configuration, "keeps-the-bridge").ok()
    before = snapshot(node)
    node.add(configuration, "pod1").ok()
    node.pods.pop("pod1").remove()
    for _ in range(2):
        deleted = invoke(node, "DEL", configuration, container="pod1", netns=netns)
        assert (deleted.exit, deleted.stdout) == (0, ""), deleted
    assert snapshot(node) == before
    assert address(first) in node.leases()


def test_failure_02_del_needs_neither_the_configuration_of_add_nor_any_add(node: Node) -> None:
    configuration = conf(node)
    before = snapshot(node)
    node.add(configuration, "pod1").ok()
    elsewhere = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}
    other = conf(node, ipMasq=False, bridge="other0", ipam=elsewhere)
    assert invoke(node, "DEL", other, container="pod1", netns="").exit == 0
    assert invoke(node, "DEL", configuration, container="never-added", netns="").exit == 0
    after = snapshot(node)
    assert {**after, "links": 0, "routes": 0} == {**before, "links": 0, "routes": 0}


def _round_without_netns(node: Node, rounds: Iterable[int]) -> None:
    configuration = conf(node, "dual", macspoofchk=True)
    ruleset = node.run("nft", "-s", "list", "ruleset").stdout
    for index in rounds:
        name = f"pod{index}"
        node.add(configuration, name).ok()
        assert "masquerade" in node.run("nft", "list", "ruleset").stdout
        node.pods.pop(name).remove()
        assert invoke(node, "DEL", configuration, container=name, netns="").exit == 0
        assert node.run("nft", "-s", "list", "ruleset").stdout == ruleset


def test_failure_03_no_masquerade_rule_outlives_a_pod_whose_netns_is_gone(node: Node) -> None:
    """plugins#810, nerdctl#1872: rules were looked up by addresses read in the dead netns, and stayed."""
    _round_without_netns(node, range(10))


@pytest.mark.soak
def test_failure_03_nor_after_many_rounds(node: Node) -> None:
    _round_without_netns(node, soak.turns("pods without a namespace"))


def test_failure_05_a_late_del_does_not_free_the_address_of_its_new_owner(node: Node) -> None:
    """calico#1406: the DEL of a sandbox long gone took the address from the pod that had it by then."""
    configuration = conf(node)
    taken = address(node.add(configuration, "old").ok())
    assert collect(node, configuration).exit == 0
    assert node.leases() == {}
    wanted = {**configuration, "runtimeConfig": {"ips": [taken]}}
    assert address(node.add(wanted, "new").ok()) == taken
    for netns in ("", node.pod("old").path):
        assert invoke(node, "DEL", configuration, container="old", netns=netns).exit == 0
    assert node.leases() == {taken: "new\r\neth0"}
    assert ping_all([(node.pod("new"), "10.60.0.1"), (node, taken)]) == [True, True]
    assert node.check({**configuration, "prevResult": _result_of(node, taken)}, "new").exit == 0


def _result_of(node: Node, taken: str) -> dict[str, object]:
    interface = {"name": "eth0", "sandbox": node.pod("new").path}
    return {
        "cniVersion": "1.1.0", "interfaces": [interface], "ips": [{"address": f"{taken}/24", "interface": 0}],
    }


def test_failure_08_an_empty_pool_is_told_by_status_before_a_pod_fails(node: Node) -> None:
    """Peers tell of an exhausted pool only in the events of the pods that could not start."""
    small = conf(node, ipam=ranges(node, "10.60.0.0/28"))
    assert status(node, small).exit == 0
    for index in range(13):
        node.add(small, f"pod{index}").ok()
    full = status(node, small)
    assert full.code == 50, full
    refused = node.add(small, "one-too-many")
    assert refused.code == 11, refused
    for told in (full, refused):
        assert "13" in told.message, "how many there are is said"
    node.delete(small, "pod4").ok()
    assert status(node, small).exit == 0
    node.add(small, "one-too-many").ok()


@pytest.mark.parametrize(
    ("subnet", "reserved"),
    [
        ("10.60.0.0/29", {"10.60.0.0", "10.60.0.1", "10.60.0.7"}),
        ("2001:db8:60::/125", {"2001:db8:60::", "2001:db8:60::1"}),
    ],
)
def test_failure_09_no_pod_gets_the_address_of_gateway_network_or_broadcast(
    node: Node, subnet: str, reserved: set[str]
) -> None:
    tight = conf(node, ipam=ranges(node, subnet))
    got: set[str] = set()
    for index in range(9):
        reply = node.add(tight, f"pod{index}")
        if reply.exit:
            assert reply.code == 11
            break
        got.add(address(reply.result))
    assert len(got) >= 5
    assert got & reserved == set()
    for each in reserved:
        asked = node.add({**tight, "runtimeConfig": {"ips": [each]}}, "asks")
        assert asked.exit != 0, f"{each} was given to a pod that asked for it"
        assert each in asked.message

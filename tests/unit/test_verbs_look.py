"""CHECK, STATUS and VERSION on a kernel in memory: what they see, and what they do not mind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cni_plugin.model import POD, PodLink, Sysctl
from cni_plugin.plan.masquerade import CHAIN, Masquerade, masquerade_chain
from cni_plugin.plan.pod import Attachment
from cni_plugin.records import Records
from cni_plugin.spec import VERSIONS
from tests.unit.support import Node

CHAIN_KEY = ("chain", "", CHAIN)

# CHECK


def test_check_passes_right_after_add(node: Node) -> None:
    checked = node.after(node.call("ADD"))
    reply = checked.call("CHECK")
    assert (reply.exit, reply.body) == (0, {}), reply.said


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("addr", POD, "eth0", "10.22.0.2/24"), "ip -n POD addr add 10.22.0.2/24 dev eth0"),
        (("up", POD, "eth0"), "ip -n POD link set eth0 up"),
        (("addr", "", "tulle0", "10.22.0.1/24"), "ip addr add 10.22.0.1/24 dev tulle0"),
        (("up", "", "tulle0"), "ip link set tulle0 up"),
        (("chain", "", "postrouting"), "nft 'add rule inet tulle postrouting"),
        (("link", "", Attachment("pods", "a", "eth0").host_dev), "ip link add tl"),
    ],
)
def test_check_says_in_the_operators_words_what_would_put_right_what_is_gone(
    node: Node, key: tuple[str, ...], line: str
) -> None:
    checked = node.after(node.call("ADD"))
    del node.kernel.state[key]
    reply = checked.call("CHECK")
    assert reply.code == 101
    assert line in str(reply.body["details"])


def test_check_misses_a_route(node: Node) -> None:
    checked = node.after(node.call("ADD"))
    (route,) = (key for key in node.kernel.state if key[0] == "route")
    del node.kernel.state[route]
    reply = checked.call("CHECK")
    assert reply.code == 101
    assert "ip -n POD route add 0.0.0.0/0 via 10.22.0.1 dev eth0" in str(reply.body["details"])


def test_check_does_not_mind_what_other_networks_have_masqueraded(node: Node) -> None:
    """Neither rules of theirs that stand, nor what an ADD that was killed has only noted."""
    checked = node.after(node.call("ADD"))
    node.records.set_masquerade("others", Masquerade(("10.77.0.0/24",)))
    assert checked.call("CHECK").exit == 0
    node.kernel.state[CHAIN_KEY] = masquerade_chain(node.records.masquerades())
    node.records.drop_masquerade("others")
    assert checked.call("CHECK").exit == 0


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not even noted"])
def test_check_misses_the_rule_of_its_own_network_among_those_of_others(node: Node, *, noted: bool) -> None:
    checked = node.after(node.call("ADD"))
    node.kernel.state[CHAIN_KEY] = masquerade_chain({"others": Masquerade(("10.77.0.0/24",))})
    if not noted:
        node.records.drop_masquerade("pods")
    reply = checked.call("CHECK")
    assert reply.code == 101
    assert "ip saddr { 10.22.0.0/24 }" in str(reply.body["details"])


def test_check_waits_for_a_change_of_its_own_network_that_is_under_way(node: Node) -> None:
    """A pod of another subnet comes: that is noted, and then made so, both under the lock."""
    checked = node.after(node.call("ADD"))
    both = Masquerade(("10.22.0.0/24", "10.23.0.0/24"))
    locked = node.records.lock

    @contextmanager
    def finishing() -> Iterator[None]:
        with locked():
            node.kernel.state[CHAIN_KEY] = masquerade_chain({"pods": both})
            yield

    node.records.set_masquerade("pods", both)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Records, "lock", lambda _: finishing())
        assert checked.call("CHECK").exit == 0


def test_check_misses_a_lease(node: Node) -> None:
    checked = node.after(node.call("ADD"))
    (node.home / "data" / "pods" / "10.22.0.2").unlink()
    reply = checked.call("CHECK")
    assert reply.code == 101
    assert "does not hold 10.22.0.2" in reply.said


def test_failure_28_check_does_not_mind_what_chained_plugins_change(node: Node) -> None:
    checked = node.after(node.call("ADD"))
    state = node.kernel.state
    host = ("link", "", Attachment("pods", "a", "eth0").host_dev)
    state[host] = msgspec.structs.replace(state[host], mtu=1300, mac="0e:00:00:00:00:99")
    state["link", POD, "eth0"] = PodLink("eth0", mac="02:00:00:00:00:99", mtu=1300)
    for key in [key for key in state if key[0] == "sysctl" and key[1] == POD]:
        del state[key]
    reply = checked.call("CHECK")
    assert reply.exit == 0, reply.said


def test_check_needs_the_result_of_add(node: Node) -> None:
    node.call("ADD")
    reply = node.call("CHECK")
    assert reply.code == 7
    assert "prevResult" in reply.said


def test_check_without_a_record_believes_the_result(node: Node) -> None:
    checked = node.after(node.call("ADD"))
    for path in (node.home / "run" / "attachments" / "pods").iterdir():
        path.unlink()
    assert checked.call("CHECK").exit == 0
    del node.kernel.state["addr", POD, "eth0", "10.22.0.2/24"]
    assert checked.call("CHECK").code == 101

def test_the_addresses_of_another_plugins_interface_are_not_ours_to_check(node: Node) -> None:
    answer = json.loads(json.dumps(node.call("ADD").body))
    answer["interfaces"].append({"name": "net1", "sandbox": "/run/netns/a"})
    answer["ips"].append({"address": "192.168.7.7/24", "interface": 3})
    reply = node.configured(prevResult=answer).call("CHECK")
    assert reply.exit == 0, reply.said


# STATUS


def test_status_is_silent_while_pods_can_be_added(node: Node) -> None:
    reply = node.call("STATUS")
    assert (reply.exit, reply.body) == (0, {}), reply.said


def test_failure_08_status_tells_when_the_pool_is_empty_and_when_it_no_longer_is(tmp_path: Path) -> None:
    node = Node(tmp_path, ipam={"subnet": "10.22.0.0/29"})
    pods = [f"c{i} eth{i}" for i in range(5)]
    for each in pods:
        assert node.call("ADD", each).exit == 0
    reply = node.call("STATUS")
    assert reply.code == 50
    assert "no free address" in reply.said
    assert "5 of 5 in use" in reply.said
    node.call("DEL", pods[0])
    assert node.call("STATUS").exit == 0


def test_status_of_a_cluster_that_cannot_be_is_not_available(node: Node) -> None:
    reply = node.configured(cluster=str(node.home / "nowhere.json")).call("STATUS")
    assert reply.code == 50
    assert "nowhere.json" in reply.said


def test_status_foretells_a_setting_that_pods_need_and_that_cannot_be_made(node: Node) -> None:
    node.kernel.read_only = frozenset({"net/ipv4/ip_forward"})
    node.kernel.state.clear()
    reply = node.call("STATUS")
    assert reply.code == 50
    assert "the next ADD would fail by sysctl -w net/ipv4/ip_forward=1" in reply.said
    assert node.configured(type="bridge", isDefaultGateway=False).call("STATUS").exit == 0, "it need not forward"


def test_status_minds_no_setting_that_stands(node: Node) -> None:
    node.kernel.read_only = frozenset({"net/ipv4/ip_forward"})
    node.kernel.state[("sysctl", "", "net/ipv4/ip_forward")] = Sysctl("net/ipv4/ip_forward", "1")
    assert node.call("STATUS").exit == 0


# VERSION


@pytest.mark.parametrize("stdin", [b"", b"{}", b"junk", b'{"cniVersion": "9.9.9"}', b'{"cniVersion": null}', b"\xff"])
def test_version_answers_whatever_stands_on_stdin(node: Node, stdin: bytes) -> None:
    reply = node.call("VERSION", stdin=stdin, CNI_CONTAINERID=None, CNI_NETNS="dummy", CNI_IFNAME="dummy")
    assert reply.exit == 0
    assert reply.body["supportedVersions"] == list(VERSIONS)

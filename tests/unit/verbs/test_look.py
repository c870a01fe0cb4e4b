"""CHECK, STATUS and VERSION on a kernel in memory: what they see, and what they do not mind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.model.base import POD
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import PodLink
from cni_plugin.plan.address import interface
from cni_plugin.plan.masquerade import CHAIN, Masquerade, masquerade_chain
from cni_plugin.spec import VERSIONS
from cni_plugin.store.records import Records
from cni_plugin.verbs import check
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
    node.records.set_note("masquerade", "others", Masquerade(("10.77.0.0/24",)))
    assert checked.call("CHECK").exit == 0
    node.kernel.state[CHAIN_KEY] = masquerade_chain(node.records.noted("masquerade", Masquerade))
    node.records.drop_note("masquerade", "others")
    assert checked.call("CHECK").exit == 0


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not even noted"])
def test_check_misses_the_rule_of_its_own_network_among_those_of_others(node: Node, *, noted: bool) -> None:
    checked = node.after(node.call("ADD"))
    node.kernel.state[CHAIN_KEY] = masquerade_chain({"others": Masquerade(("10.77.0.0/24",))})
    if not noted:
        node.records.drop_note("masquerade", "pods")
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

    node.records.set_note("masquerade", "pods", both)
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
    node.kernel.state["link", POD, "net1"] = PodLink("net1")
    reply = node.configured(prevResult=answer).call("CHECK")
    assert reply.exit == 0, reply.said


DEFAULT = [{"dst": "0.0.0.0/0", "gw": "10.22.0.1"}]


def changed(node: Node, **keys: object) -> Node:
    """After an ADD whose result a chained plugin changed, as a runtime gives it to CHECK."""
    return node.configured(prevResult={**json.loads(json.dumps(node.call("ADD").body)), **keys})


@pytest.mark.parametrize(
    "routes", [[], [{"dst": "0.0.0.0/0", "gw": "10.22.0.254"}], [{"dst": "192.0.2.0/24"}]],
    ids=["removed", "replaced", "another"],
)
def test_a_route_that_the_result_claims_no_more_is_not_missed(node: Node, routes: list[object]) -> None:
    """A chained plugin took the default route away, or gave the pod another one, and says so."""
    checked = changed(node, routes=routes)
    (route,) = (key for key in node.kernel.state if key[0] == "route")
    del node.kernel.state[route]
    reply = checked.call("CHECK")
    assert reply.exit == 0, reply.said


@pytest.mark.parametrize("routes", [DEFAULT, [{"dst": "0.0.0.0/0"}], [*DEFAULT, {"dst": "192.0.2.0/24"}]])
def test_a_route_that_the_result_claims_is_missed(node: Node, routes: list[object]) -> None:
    """Also where it is told without its gateway, which is then the address's."""
    checked = changed(node, routes=routes)
    (route,) = (key for key in node.kernel.state if key[0] == "route")
    assert checked.call("CHECK").exit == 0
    del node.kernel.state[route]
    assert checked.call("CHECK").code == 101


def test_each_route_of_a_result_is_understood_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives a pod 2,000 routes has CHECK look at each, and not at each of them for each."""
    routes = [{"dst": f"10.{each}.0.0/16", "gw": "10.22.0.1"} for each in range(100, 140)]
    ipam = {"type": "host-local", "subnet": "10.22.0.0/24", "dataDir": f"{node.home}/data", "routes": routes}
    pods = node.configured(ipam=ipam)
    checked, looks = pods.after(pods.call("ADD")), list[str]()

    def counted(text: str) -> object:
        looks.append(text)
        return interface(text)

    monkeypatch.setattr(check, "interface", counted)
    reply = checked.call("CHECK")
    assert reply.exit == 0, reply.said
    assert len(looks) < 2 * len(routes)


def test_an_address_that_the_result_has_instead_must_be_there(node: Node) -> None:
    checked = changed(node, ips=[{"address": "10.22.0.77/24", "interface": 2}])
    node.kernel.state.pop(("addr", POD, "eth0", "10.22.0.2/24"))
    assert "10.22.0.77/24" in checked.call("CHECK").said
    other = Addr("eth0", "10.22.0.77/24", POD)
    node.kernel.state[other.key] = other
    reply = checked.call("CHECK")
    assert reply.exit == 0, reply.said


@pytest.mark.parametrize(
    ("interfaces", "says"),
    [
        ([], "eth0 not found in prevResult"),
        ([{"name": "eth0"}], "eth0 not found in prevResult"),
        ([{"name": "eth0", "sandbox": "/run/netns/other"}], "doesn't match configured netns: /run/netns/a"),
        ([{"name": "eth0", "sandbox": "/run/netns/a"}, {"name": "br9"}], "Interface name br9 not found"),
        ([{"name": "eth0", "sandbox": "/run/netns/a"}, {"name": "net9", "sandbox": "/run/netns/a"}], "net9 not found"),
    ],
    ids=["no interfaces", "none in a sandbox", "another sandbox", "none such on the node", "none such in the pod"],
)
def test_a_result_that_is_not_of_what_stands_fails(node: Node, interfaces: list[object], says: str) -> None:
    reply = changed(node, interfaces=interfaces).call("CHECK")
    assert reply.code == 101
    assert says in reply.said


def test_an_empty_result_fails(node: Node) -> None:
    node.call("ADD")
    assert node.configured(prevResult={}).call("CHECK").code == 101


@pytest.mark.parametrize(
    "broken", [{"ips": [{"address": "null/32", "interface": 2}]}, {"ips": [{"address": "10.22.0.2", "interface": 2}]},
               {"routes": [{"dst": "x"}]}, {"routes": [{"dst": "0.0.0.0/0", "gw": "1.2"}]}],
)
def test_a_result_with_rubbish_in_it_is_refused_as_such(node: Node, broken: dict[str, object]) -> None:
    reply = changed(node, **broken).call("CHECK")
    assert reply.code == 6
    assert "prevResult is not a CNI result" in reply.said


def test_a_namespace_may_be_called_by_another_path(node: Node, tmp_path: Path) -> None:
    for each in ("ns", "other"):
        (tmp_path / each).touch()
    (tmp_path / "link").symlink_to(tmp_path / "ns")
    answer = json.loads(json.dumps(node.call("ADD", CNI_NETNS=f"{tmp_path}/ns").body))
    checked = node.configured(prevResult=answer)
    assert checked.call("CHECK", CNI_NETNS=f"{tmp_path}/link").exit == 0
    assert checked.call("CHECK", CNI_NETNS=f"{tmp_path}/other").code == 101


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

"""One file makes a wiring, an IPAM, a feature: the plugin knows it, and no other file was touched.

The toys are the manual's examples, in a folder of the test's own, by which the rooms are extended; no module of the
plugin names them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from errno import ENOBUFS, ENOSPC
from pathlib import Path

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.describe import script
from cni_plugin.diff import Op
from cni_plugin.model.base import POD
from cni_plugin.model.host import Sysctl
from cni_plugin.model.links import Veth
from cni_plugin.model.nft import Chain, Element, Map
from cni_plugin.node.chained import shelf
from cni_plugin.node.repair import repair
from cni_plugin.verbs import run
from cni_plugin.verbs.gc import collect_dead
from tests import toys
from tests.unit.ctl.tool import Around, Tool, configure
from tests.unit.support import Json, Node

CAPABILITY = '''"""Ports of the node, each an element of a map that all pods share: a capability of our own wiring."""

import msgspec

from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.features.contract import NodeFeature
from cni_plugin.model.base import state
from cni_plugin.model.nft import Element, Map

PORTS = Map("toy_ports", "inet_service", data="verdict")


class Mapping(Keys, frozen=True):
    host_port: int = 0


class RuntimeConfig(Keys, frozen=True):
    port_mappings: tuple[Mapping, ...] = ()


class Conf(Keys, frozen=True):
    runtime_config: RuntimeConfig = RuntimeConfig()


class Claim(msgspec.Struct, frozen=True):
    ports: tuple[int, ...]


class ToyPorts(NodeFeature):
    NAME = "portmap"
    NAMES = ("portmap",)
    KEYS = Conf
    CLAIM = Claim
    NEEDS = {"toyport": "ports of the node are toys"}

    def claim(self, conf, asked):
        ports = tuple(each.host_port for each in conf.runtime_config.port_mappings)
        return Claim(ports) if ports else None

    def pod(self, claim, who):
        return state(Element("toy_ports", str(each), "accept") for each in claim.ports)

    def joined(self, known, claim):
        return known

    def state(self, world):
        return state([PORTS]) if world.networks else {}

    def places(self):
        return state([PORTS])

    def ready(self, claim, name, have):
        return PORTS.key in have

    def status(self, conf):
        ports = [each.host_port for each in conf.runtime_config.port_mappings]
        return "port 22 is taken" if 22 in ports else ""


feature = ToyPorts()
'''

TOYS = [
    ("wirings", "toy_wire"), ("ipams", "toy_ipam"), ("features", "toy_tune"), ("features", "toy_paint"),
    ("features", "portmap", CAPABILITY),
]


@pytest.fixture
def node(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("toys")
    with ExitStack() as stack:
        for each in TOYS:
            stack.enter_context(toys.added(folder, *each))
        run._parsed.cache_clear()
        (tmp_path / "data").mkdir()
        found = Node(tmp_path)
        found.called = "toy-wire"
        found.conf = {
            "cniVersion": "1.1.0", "name": "toys", "type": "toy-wire", "mtu": 1400,
            "ipam": {"type": "toy-ipam", "dataDir": f"{tmp_path}/data"},
        }
        yield found
    run._parsed.cache_clear()


def leased(node: Node) -> list[str]:
    return sorted(each.name for each in (node.home / "data").iterdir())


def wires(node: Node) -> int:
    return sum(isinstance(each, Veth) for each in node.kernel.state.values())


def chained(node: Node, previous: object, **keys: object) -> Node:
    """The toy feature, behind a plugin with this result."""
    after = node.configured(type="toy-tune", ipam=None, mtu=None, prevResult=previous, **keys)
    after.called = "toy-tune"
    return after


def painted(node: Node, previous: object, *colours: str) -> Node:
    """The toy feature of the node, behind a plugin with this result."""
    after = node.configured(type="toy-paint", ipam=None, mtu=None, prevResult=previous, colours=colours)
    after.called = "toy-paint"
    return after


def paint(node: Node) -> tuple[str, ...]:
    found = node.kernel.state.get(Chain("toy_paint", "").key)
    return found.rules if isinstance(found, Chain) else ()


def colour(node: Node) -> str | None:
    key = Sysctl("net/ipv4/conf/eth0/colour", "", ns=POD, dev="eth0").key
    found = node.kernel.state.get(key)
    return found.value if isinstance(found, Sysctl) else None


# A wiring and an IPAM


def test_a_wiring_and_an_ipam_of_one_file_each_serve_add_check_del(node: Node) -> None:
    added = node.call("ADD")
    assert (added.exit, added.addresses, wires(node), leased(node)) == (0, ["10.99.0.1/24"], 1, ["toy-a"])
    checked = node.after(added).call("CHECK")
    assert checked.exit == 0, checked.said
    assert node.call("DEL").exit == 0
    assert (wires(node), leased(node), node.left()) == (0, [], [])
    assert node.call("DEL").exit == 0


def test_what_is_missing_of_them_is_told_by_check(node: Node) -> None:
    added = node.call("ADD")
    (node.home / "data" / "toy-a").unlink()
    assert "toy-ipam: nobody has it" in node.after(added).call("CHECK").said
    node.kernel.state = {key: each for key, each in node.kernel.state.items() if "10.99.0.1/24" not in key}
    assert "ip -n POD addr add 10.99.0.1/24 dev eth0" in node.after(added).call("CHECK").said


def test_gc_takes_away_what_they_made_for_who_is_not_listed(node: Node) -> None:
    assert [node.call("ADD", pod).exit for pod in ("a eth0", "b eth1")] == [0, 0]
    listed = node.configured(**{"cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth1"}]})
    assert listed.call("GC").exit == 0
    assert (wires(node), leased(node)) == (1, ["toy-b"])


def test_repair_finds_right_what_is_right_and_makes_a_wire_anew_that_is_gone(node: Node) -> None:
    assert node.call("ADD").exit == 0
    whole = dict(node.kernel.state)
    assert [each for each in repair(node.kernel, node.records, dry_run=True) if each.ops or each.problem] == []
    node.kernel.apply([Op("delete", each) for each in whole.values() if isinstance(each, Veth)])
    assert wires(node) == 0
    assert [each.problem for each in repair(node.kernel, node.records) if each.problem] == []
    assert node.kernel.state == whole


def test_their_keys_are_theirs_and_their_refusals_too(node: Node) -> None:
    assert node.call("STATUS").exit == 0
    assert "invalid colour 'black'" in node.configured(colour="black").call("ADD").said
    assert "expected `str`, got `int`" in node.configured(colour=5).call("ADD").said
    full = node.configured(ipam={"type": "toy-ipam", "dataDir": f"{node.home}/data", "closed": True})
    assert full.call("STATUS").code == 50
    assert node.left() == []


def test_their_configuration_is_checked_for_slips_of_the_pen(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    assert node.configured(color="red").call("ADD").exit == 0
    assert "color: there is no such key; did you mean colour?" in capfd.readouterr().err


def test_an_ipam_of_the_room_serves_our_own_wiring_and_is_an_executable_itself(node: Node) -> None:
    bridged = node.configured(type="tulle")
    bridged.called = "tulle"
    assert bridged.call("ADD").addresses == ["10.99.0.1/24"]
    assert bridged.call("DEL").exit == 0
    node.called = "toy-ipam"
    assert (node.call("ADD").addresses, leased(node)) == (["10.99.0.1/24"], ["toy-a"])
    assert (node.call("DEL").exit, leased(node)) == (0, [])


def test_whoever_is_called_by_a_name_that_nobody_bears_is_told_theirs_too(node: Node) -> None:
    node.called = "toy"
    reply = node.call("ADD")
    assert reply.code == 4
    assert all(name in reply.said for name in ("toy-wire", "toy-ipam", "toy-tune", "tulle", "host-local"))


# A capability of our own wiring


@pytest.fixture
def ported(node: Node) -> Node:
    """Our own wiring, asked for two ports."""
    found = node.configured(type="tulle", runtimeConfig={"portMappings": [{"hostPort": 80}, {"hostPort": 443}]})
    found.called = "tulle"
    return found


def ports(node: Node) -> list[str]:
    return sorted(each.value for each in node.kernel.state.values() if isinstance(each, Element))


def test_a_capability_is_served_with_the_same_request_and_goes_with_the_pod(ported: Node) -> None:
    added = ported.call("ADD")
    assert (added.exit, ports(ported)) == (0, ["443", "80"])
    assert ported.after(added).call("CHECK").exit == 0
    assert ported.call("DEL").exit == 0
    assert ports(ported) == []
    assert not any(isinstance(each, Map) for each in ported.kernel.state.values()), "the last pod that had any is gone"


def test_what_one_pod_has_of_it_is_no_concern_of_another(ported: Node) -> None:
    assert ported.call("ADD").exit == 0
    other = ported.configured(runtimeConfig={"portMappings": [{"hostPort": 22}]})
    assert other.call("ADD", "b eth1").exit == 0
    assert ported.configured(runtimeConfig=None).call("DEL").exit == 0
    assert ports(ported) == ["22"]


def test_who_has_it_chained_takes_it_from_nobody_who_is_served_it(ported: Node) -> None:
    added = ported.call("ADD")
    behind = ported.configured(
        type="portmap", ipam=None, mtu=None, runtimeConfig={"portMappings": [{"hostPort": 22}]}, prevResult=added.body
    )
    behind.called = "portmap"
    assert behind.call("ADD", "b eth1").exit == 0
    assert ports(ported) == ["22", "443", "80"]
    assert behind.call("DEL", "b eth1").exit == 0
    assert ports(ported) == ["443", "80"]
    assert ported.call("DEL").exit == 0
    assert not any(isinstance(each, Map) for each in ported.kernel.state.values())


def test_an_add_that_fails_late_takes_it_back(ported: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def announce(*_: str) -> None:
        raise OSError(ENOBUFS, "no room")

    monkeypatch.setattr(ported.kernel, "announce", announce)
    assert ported.call("ADD").exit == 1
    assert (ports(ported), wires(ported), leased(ported), ported.left()) == ([], 0, [], [])


def test_what_is_missing_of_it_is_told_by_check(ported: Node) -> None:
    added = ported.call("ADD")
    del ported.kernel.state[Element("toy_ports", "80").key]
    assert "add element inet tulle toy_ports { 80 : accept }" in ported.after(added).call("CHECK").said


def test_status_says_what_it_lacks(ported: Node) -> None:
    assert ported.call("STATUS").exit == 0
    taken = ported.configured(runtimeConfig={"portMappings": [{"hostPort": 22}]}).call("STATUS")
    assert (taken.code, "port 22 is taken" in taken.said) == (50, True)


# A feature behind a main plugin


@pytest.fixture
def previous(node: Node) -> Json:
    return node.call("ADD").body


def test_a_feature_of_one_file_adds_to_what_a_main_plugin_made_and_takes_it_away_again(
    node: Node, previous: Json
) -> None:
    red = chained(node, previous, colour="red")
    added = red.call("ADD")
    assert (added.exit, added.addresses, added.body["dns"]) == (0, ["10.99.0.1/24"], {"nameservers": ["red"]})
    assert colour(node) == "red"
    checked = chained(node, added.body, colour="red").call("CHECK")
    assert checked.exit == 0, checked.said
    assert red.call("DEL").exit == 0
    assert colour(node) is None
    assert red.call("DEL").exit == 0
    assert node.call("DEL").exit == 0
    assert node.left() == []


def test_whoever_makes_an_attachment_is_alone_at_it_as_a_main_plugin_and_chained(node: Node) -> None:
    who = Attachment("toys", "a", "eth0")
    with node.records.claim(who):
        assert (node.call("ADD").code, wires(node), leased(node)) == (11, 0, [])
    added = node.call("ADD")
    red = chained(node, added.body, colour="red")
    with shelf(node.records.run_dir, "toy_tune").claim(who):
        assert (red.call("ADD").code, colour(node)) == (11, None)
    assert (red.call("ADD").exit, colour(node)) == (0, "red")


def test_a_chained_attachment_goes_without_a_list_where_another_pod_has_its_path_by_now(node: Node) -> None:
    added = node.call("ADD", "b eth0")
    records = shelf(node.records.run_dir, "toy_tune")
    red = chained(node, added.body, colour="red")
    assert red.call("ADD", "a eth0", CNI_NETNS="/run/netns/b").exit == 0
    assert [each.container for each in records.all()] == ["a"]
    assert red.call("GC").exit == 0
    assert [each.container for each in records.all()] == []


def test_what_stood_before_is_put_back(node: Node, previous: Json) -> None:
    green = Sysctl("net/ipv4/conf/eth0/colour", "green", ns=POD, dev="eth0")
    node.kernel.state[green.key] = green
    red = chained(node, previous, colour="red")
    assert [red.call("ADD").exit, red.call("ADD").exit] == [0, 0]
    assert colour(node) == "red"
    assert chained(node, None).call("DEL").exit == 0
    assert colour(node) == "green"


def test_a_change_by_somebody_else_is_told_by_check(node: Node, previous: Json) -> None:
    red = chained(node, previous, colour="red")
    added = red.call("ADD")
    blue = Sysctl("net/ipv4/conf/eth0/colour", "blue", ns=POD, dev="eth0")
    node.kernel.state[blue.key] = blue
    reply = chained(node, added.body, colour="red").call("CHECK")
    assert reply.code == 101
    assert "red" in reply.said


def test_repair_puts_back_what_a_chained_feature_made_and_diff_only_tells(node: Node, previous: Json) -> None:
    assert chained(node, previous, colour="red").call("ADD").exit == 0
    blue = Sysctl("net/ipv4/conf/eth0/colour", "blue", ns=POD, dev="eth0")
    node.kernel.state[blue.key] = blue
    (found,) = [each for each in repair(node.kernel, node.records, dry_run=True) if each.ops]
    assert (found.what, colour(node)) == ("toy_tune of a eth0 in toys", "blue")
    assert [each.problem for each in repair(node.kernel, node.records) if each.problem] == []
    assert colour(node) == "red"


def test_who_claims_nothing_hands_the_result_on(node: Node, previous: Json) -> None:
    plain = chained(node, previous).call("ADD")
    assert (plain.exit, plain.body) == (0, previous)


def test_gc_of_a_feature_forgets_who_is_not_listed_and_keeps_who_is(node: Node, previous: Json) -> None:
    red = chained(node, previous, colour="red")
    assert red.call("ADD").exit == 0
    kept = red.configured(**{"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]})
    assert kept.call("GC").exit == 0
    shelf = node.home / "run" / "chained" / "toy_tune" / "toys"
    assert [each.name for each in shelf.iterdir()] == ["a:eth0"]
    assert red.configured(**{"cni.dev/valid-attachments": []}).call("GC").exit == 0
    assert not shelf.exists()


def test_a_feature_refuses_what_it_cannot_do_and_says_when_it_is_not_ready(node: Node, previous: Json) -> None:
    assert "invalid colour 'black'" in chained(node, previous, colour="black").call("ADD").said
    assert "prevResult missing" in chained(node, None, colour="red").call("ADD").said
    assert chained(node, None, colour="gold").call("STATUS").code == 50
    assert chained(node, None, colour="red").call("STATUS").exit == 0
    assert [each for each in node.left() if "chained" in each] == []


def test_a_feature_of_the_node_stands_once_for_all_pods_of_a_network_and_goes_with_the_last(
    node: Node, previous: Json
) -> None:
    assert painted(node, previous, "red").call("ADD").exit == 0
    assert painted(node, previous, "blue").call("ADD", "b eth1").exit == 0
    assert paint(node) == ("blue", "red")
    assert painted(node, None).call("DEL", "b eth1").exit == 0
    assert paint(node) == ("blue", "red"), "a pod of the network lives, and rules are for whole networks"
    assert painted(node, None).call("DEL").exit == 0
    assert (paint(node), [each for each in node.left() if "toy_paint" in each]) == ((), [])


def test_what_the_node_lost_of_it_is_told_by_check_and_made_anew_by_repair(node: Node, previous: Json) -> None:
    red = painted(node, previous, "red")
    added = red.call("ADD")
    assert painted(node, added.body, "red").call("CHECK").exit == 0
    del node.kernel.state[Chain("toy_paint", "").key]
    reply = painted(node, added.body, "red").call("CHECK")
    assert reply.code == 101
    assert "add rule inet tulle toy_paint red" in reply.said
    assert [each.problem for each in repair(node.kernel, node.records) if each.problem] == []
    assert paint(node) == ("red",)


def test_an_add_of_a_feature_that_fails_takes_back_what_it_noted(
    node: Node, previous: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(*_: object) -> None:
        monkeypatch.setattr(node.kernel, "apply", carried_out)
        raise OSError(ENOSPC, "no room")

    carried_out = node.kernel.apply
    monkeypatch.setattr(node.kernel, "apply", apply)
    assert painted(node, previous, "red").call("ADD").exit == 1
    assert [each for each in node.left() if "paint" in each] == []


def test_the_end_of_a_main_plugins_network_takes_nothing_of_a_chained_feature(node: Node, previous: Json) -> None:
    assert painted(node, previous, "red").call("ADD").exit == 0
    assert node.call("DEL").exit == 0
    assert paint(node) == ("red",)


def test_with_an_attachment_that_died_goes_what_was_chained_to_it(node: Node, previous: Json) -> None:
    for each in (painted(node, previous, "red"), chained(node, previous, colour="red")):
        assert each.call("ADD").exit == 0
    (dead,) = node.records.all()
    assert collect_dead(node.kernel, node.records, [dead]) == [""]
    assert (paint(node), wires(node), leased(node), node.left()) == ((), 0, [], [])


# What a person is told of them


@pytest.fixture
def tool(node: Node, monkeypatch: pytest.MonkeyPatch) -> Tool:
    found = Tool(node, monkeypatch)
    configure(node)
    return found


def test_plan_prints_the_very_lines_that_an_add_by_them_carries_out(node: Node, tool: Tool) -> None:
    said = tool("plan", "--container", "a")
    assert said.exit == 0, said.err
    assert node.call("ADD").exit == 0
    done = script(node.kernel.applied).splitlines()
    assert [line for line in said.out.splitlines() if line != "# the pod"] == done


def test_plan_tells_apart_what_a_capability_has_of_the_node(ported: Node, tool: Tool) -> None:
    configure(ported)
    said = tool("plan", "--json")
    assert said.exit == 0, said.err
    titles = [each["what"] for each in said.json]
    assert titles == ["portmap", "the bridge tulle0", "the pod"]
    assert ports(ported) == []


def test_doctor_knows_whose_configuration_it_is_once_pods_are_wired_by_it(node: Node, tool: Tool) -> None:
    assert node.call("ADD").exit == 0
    found = {each["name"] for each in tool("doctor", "--json").json}
    assert not found & {"no-configuration", "not-as-recorded", "bad-configuration"}


def test_cleanup_takes_away_what_features_have_on_the_node(node: Node, tool: Tool) -> None:
    chain = Chain("toy_paint", "type filter hook forward priority 0;")
    node.kernel.apply([Op("create", chain)])
    tool("cleanup", "--yes")
    assert node.kernel.read([chain]) == {}


def test_doctor_finds_what_the_kernel_lacks_of_a_capabilitys_needs(ported: Node, tool: Tool) -> None:
    class Portless(Around):
        def features(self, wanted: Collection[str]) -> dict[str, bool]:
            return {each: each != "toyport" for each in wanted}

    tool.around(Portless())
    configure(ported.configured(runtimeConfig=None))
    assert "missing-feature" not in tool("doctor").out, "nobody asks for any"
    configure(ported)
    found = {each["name"]: each for each in tool("doctor", "--json").json}
    assert found["missing-feature"]["why"] == "ports of the node are toys"

"""DEL and GC on a kernel in memory: whatever is left of a pod goes, and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.host import files
from cni_plugin.model.base import POD
from cni_plugin.model.links import PodLink, Veth
from cni_plugin.model.nft import Chain
from tests.unit.support import UPLINK, Node

# DEL


def test_after_del_only_the_bridge_is_left(node: Node) -> None:
    node.call("ADD")
    assert node.call("DEL").exit == 0
    assert node.left() == []
    kinds = {type(each).__name__ for each in node.standing().values()}
    assert kinds <= {"Bridge", "Up", "Addr", "Sysctl"}
    assert all("tulle0" in key[2] for key in node.standing() if key[0] != "sysctl")


def test_the_masquerade_stays_until_the_last_pod_goes(node: Node) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    node.call("DEL")
    assert ("chain", "", "postrouting") in node.kernel.state
    node.call("DEL", "b eth1")
    assert ("chain", "", "postrouting") not in node.kernel.state


@pytest.mark.parametrize("netns", [None, "", "/run/netns/a"], ids=["no-netns", "empty-netns", "with-netns"])
def test_failure_02_del_succeeds_with_and_without_a_netns_as_often_as_it_is_asked(
    node: Node, netns: str | None
) -> None:
    node.call("ADD")
    for _ in range(2):
        reply = node.call("DEL", CNI_NETNS=netns)
        assert (reply.exit, reply.body) == (0, {})
    assert node.left() == []


def test_del_before_any_add_succeeds_and_makes_nothing(node: Node) -> None:
    assert node.call("DEL").exit == 0
    assert node.left() == []
    assert node.kernel.state == {}


def test_del_works_when_the_namespace_is_gone(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.call("ADD")
    after = {key: each for key, each in node.kernel.state.items() if key[1] != POD}
    node.kernel = FakeKernel(after.values(), uplink=UPLINK, namespaces=())
    assert node.call("DEL").exit == 0
    assert node.left() == []


@pytest.mark.parametrize(
    "broken",
    [
        {"mtu": "x"}, {"vlan": -1}, {"ipam": {"type": "host-local", "ranges": [[{"subnet": "x"}]]}}, {"ipam": None},
        {"ipam": {"type": "no-such-plugin"}}, {"cluster": "/nowhere.json"}, {"hairpinMode": True, "promiscMode": True},
        {"bridge": "another"}, {"cniVersion": "0.2.0"}, {"ipMasq": False},
    ],
)
def test_del_works_with_another_configuration_than_add_had(node: Node, broken: dict[str, object]) -> None:
    node.call("ADD")
    assert node.configured(**broken).call("DEL").exit == 0
    assert node.left() == []
    assert ("chain", "", "postrouting") not in node.kernel.state


def test_del_of_a_lease_without_a_record_gives_it_back(node: Node) -> None:
    """What an ADD leaves that was killed after its first write, and what the reference plugin leaves."""
    node.call("ADD")
    for path in (node.home / "run" / "attachments" / "pods").iterdir():
        path.unlink()
    assert node.configured(mtu="x").call("DEL").exit == 0
    assert node.leases() == {}
    assert not [each for each in node.kernel.state.values() if isinstance(each, Veth | PodLink)]


def test_del_takes_down_a_pod_that_the_reference_plugin_wired(node: Node) -> None:
    """Its veth has another name and no record names it; its lease file is like ours."""
    wire = Veth("veth4f0c9d2a", peer="eth0")
    node.kernel.apply([Op("create", wire), Op("create", Veth("veth1", peer="eth7"))])
    folder = node.home / "data" / "pods"
    folder.mkdir(parents=True)
    (folder / "10.22.0.5").write_bytes(b"a\r\neth0")
    assert node.call("DEL").exit == 0
    assert node.leases() == {}
    assert [each.name for each in node.kernel.state.values() if isinstance(each, Veth)] == ["veth1"]


def test_del_of_a_network_that_the_pod_never_had_does_not_unplug_it(node: Node) -> None:
    node.call("ADD")
    assert node.configured(name="others").call("DEL").exit == 0
    assert any(isinstance(each, PodLink) for each in node.kernel.state.values())


def test_del_frees_the_address_only_after_the_wire_is_gone(node: Node) -> None:
    node.call("ADD")
    node.kernel.fail_at = len(node.kernel.applied)
    assert node.call("DEL").code == 100
    assert list(node.leases()) == ["10.22.0.2"]
    node.kernel.fail_at = None
    assert node.call("DEL").exit == 0
    assert node.leases() == {}


def test_failure_05_a_late_del_does_not_free_the_address_of_the_next_holder(node: Node) -> None:
    node.call("ADD", CNI_ARGS="IP=10.22.0.9")
    node.call("DEL")
    node.call("ADD", "b eth1", CNI_ARGS="IP=10.22.0.9")
    before = node.standing()
    assert node.call("DEL").exit == 0
    assert node.leases() == {"10.22.0.9": "b\r\neth1"}
    assert node.standing() == before

def test_a_record_of_an_earlier_boot_is_void(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure 1: what it names went with that boot."""
    node.call("ADD")
    monkeypatch.setattr(files, "boot_id", lambda: "another")
    assert node.records.find(Attachment("pods", "a", "eth0")) is None
# GC


def three_pods(node: Node) -> None:
    for each in ("a eth0", "b eth1", "c eth2"):
        assert node.call("ADD", each).exit == 0


def held_by(node: Node) -> set[str]:
    return {text.split("\r\n")[0] for text in node.leases().values()}


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_takes_away_what_is_not_listed(node: Node, key: str) -> None:
    three_pods(node)
    reply = node.configured(**{key: [{"containerID": "b", "ifname": "eth1"}]}).call("GC")
    assert (reply.exit, reply.body) == (0, {}), reply.said
    assert held_by(node) == {"b"}
    assert [each.container for each in node.records.all()] == ["b"]
    assert [each.alias for each in node.kernel.state.values() if isinstance(each, Veth)] == ["tulle:pods/b/eth1"]
    assert ("chain", "", "postrouting") in node.kernel.state


def test_gc_with_an_empty_list_takes_everything_away(node: Node) -> None:
    three_pods(node)
    assert node.configured(**{"cni.dev/valid-attachments": []}).call("GC").exit == 0
    assert node.left() == []
    assert not [each for each in node.kernel.state.values() if isinstance(each, Veth | Chain)]


@pytest.mark.parametrize("called", ["tulle", "host-local"])
def test_gc_tells_of_an_entry_without_an_interface_and_collects_the_others(node: Node, called: str) -> None:
    """It may mean any interface of its container, so all that the container has is kept."""
    three_pods(node)
    node.called = called
    listed = [{"containerID": "b", "ifname": "eth1"}, {"containerID": "c"}]
    reply = node.configured(**{"cni.dev/valid-attachments": listed}).call("GC")
    assert reply.code == 103
    assert "cni.dev/valid-attachments[1].ifname: missing" in reply.said
    assert held_by(node) == {"b", "c"}
    assert {each.container for each in node.records.all()} == ({"b", "c"} if called == "tulle" else {"a", "b", "c"})


def test_gc_without_a_list_takes_what_had_a_namespace_in_which_another_container_lives(node: Node) -> None:
    """Its wire is gone, and its path is a process number that is used again."""
    path = "/proc/4711/ns/net"
    assert node.call("ADD", CNI_NETNS=path).exit == 0
    node.unplug("a eth0")
    assert node.call("GC").exit == 0
    assert held_by(node) == {"a"}, "a pod whose wire somebody took away may live"
    assert node.call("ADD", "b eth0", CNI_NETNS=path).exit == 0
    assert node.call("GC").exit == 0
    assert held_by(node) == {"b"}
    assert [each.container for each in node.records.all()] == ["b"]


def test_gc_without_a_list_takes_only_what_is_provably_dead(node: Node) -> None:
    three_pods(node)
    node.unplug("b eth1")
    node.kernel = FakeKernel(
        node.kernel.state.values(), uplink=UPLINK, namespaces=("/run/netns/a", "/run/netns/c")
    )
    assert node.call("GC").exit == 0
    assert held_by(node) == {"a", "c"}
    assert [each.container for each in node.records.all()] == ["a", "c"]


def test_gc_without_a_list_keeps_a_pod_that_was_only_unplugged(node: Node) -> None:
    three_pods(node)
    node.unplug("b eth1")
    assert node.call("GC").exit == 0
    assert held_by(node) == {"a", "b", "c"}


def test_gc_without_a_list_keeps_a_lease_that_nothing_else_speaks_of(node: Node) -> None:
    """Another main plugin may have delegated to us: its pods have no wire and no record of ours."""
    three_pods(node)
    node.unplug("b eth1")
    (node.home / "run" / "attachments" / "pods" / "b:eth1").unlink()
    assert node.call("GC").exit == 0
    assert held_by(node) == {"a", "b", "c"}


def test_gc_finds_what_a_killed_add_left_by_lease_alone_and_by_wire_alone(node: Node) -> None:
    three_pods(node)
    for each in (node.home / "run" / "attachments" / "pods").iterdir():
        each.unlink()
    node.unplug("a eth0")
    (node.home / "data" / "pods" / "10.22.0.3").unlink()
    assert node.configured(**{"cni.dev/valid-attachments": []}).call("GC").exit == 0
    assert node.leases() == {}
    assert not [each for each in node.kernel.state.values() if isinstance(each, Veth)]


CHAIN = ("chain", "", "postrouting")
JUNK_NOTE = b'{"subnets": ["10.22.0.0/33"]}'


def spoil(node: Node, path: str, data: bytes = b"junk") -> None:
    """Leave no file of ours below the run folder that can be understood there."""
    (node.home / "run" / path).write_bytes(data)


def test_gc_forgets_what_a_network_claimed_whose_last_record_was_set_aside(node: Node) -> None:
    node.call("ADD")
    spoil(node, "attachments/pods/a:eth0")
    assert node.configured(**{"cni.dev/valid-attachments": []}).call("GC").exit == 0
    assert CHAIN not in node.kernel.state
    assert node.left() == ["run/attachments/pods/.tmp.damaged.a:eth0"]


def test_gc_forgets_what_a_network_claimed_whose_last_del_was_killed(node: Node) -> None:
    """Between the record and the note."""
    node.call("ADD")
    claimed = (node.home / "run" / "networks" / "pods").read_bytes()
    node.call("DEL")
    spoil(node, "networks/pods", claimed)
    assert node.configured(**{"cni.dev/valid-attachments": []}).call("GC").exit == 0
    assert node.left() == []


def test_gc_keeps_what_a_network_claims_for_a_pod_whose_record_was_set_aside(node: Node) -> None:
    node.call("ADD")
    spoil(node, "attachments/pods/a:eth0")
    listed = [{"containerID": "a", "ifname": "eth0"}]
    assert node.configured(**{"cni.dev/valid-attachments": listed}).call("GC").exit == 0
    assert CHAIN in node.kernel.state
    assert (node.home / "run" / "networks" / "pods").exists()


def test_a_note_that_names_no_network_keeps_no_other_from_what_it_claims(node: Node) -> None:
    assert node.call("ADD").exit == 0
    spoil(node, "networks/pods", JUNK_NOTE)
    ipam = {"type": "host-local", "subnet": "10.23.0.0/24", "dataDir": f"{node.home}/data"}
    other = node.configured(name="others", ipam=ipam)
    added = other.call("ADD", "z eth5")
    assert added.exit == 0
    assert other.after(added).call("CHECK", "z eth5").exit == 0
    assert other.call("DEL", "z eth5").exit == 0


def test_a_claim_on_record_that_cannot_be_understood_does_not_fail_check(node: Node) -> None:
    """As one of a later release, after the way back."""
    added = node.call("ADD")
    record = next(node.records.all())
    node.records.put(msgspec.structs.replace(record, claims={"masquerade": msgspec.Raw(b'{"from": 5}')}))
    assert node.after(added).call("CHECK").exit == 0


def test_the_rules_of_a_network_whose_note_names_none_go_with_its_last_pod(node: Node) -> None:
    node.call("ADD")
    spoil(node, "networks/pods", JUNK_NOTE)
    assert node.call("DEL").exit == 0
    assert CHAIN not in node.kernel.state
    assert node.left() == []


def test_gc_leaves_other_networks_alone(node: Node) -> None:
    three_pods(node)
    other = node.configured(name="others")
    assert other.call("ADD", "z eth5").exit == 0
    assert node.configured(**{"cni.dev/valid-attachments": []}).call("GC").exit == 0
    assert [each.container for each in node.records.all()] == ["z"]
    assert [each.alias for each in node.kernel.state.values() if isinstance(each, Veth)] == ["tulle:others/z/eth5"]


def test_gc_goes_on_past_errors_and_tells_them_all(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    three_pods(node)
    stuck, apply = Attachment("pods", "a", "eth0").host_dev, node.kernel.apply

    def refusing(ops: Sequence[Op]) -> None:
        if any(isinstance(op.object, Veth) and op.object.name == stuck for op in ops):
            raise KernelError(ops[0], errno.EBUSY)
        apply(ops)

    monkeypatch.setattr(node.kernel, "apply", refusing)
    reply = node.configured(**{"cni.dev/valid-attachments": []}).call("GC")
    assert reply.code == 103
    assert "pods a eth0" in reply.said
    assert [each.container for each in node.records.all()] == ["a"]
    assert held_by(node) == {"a"}, "the address of a wire that still stands is nobody else's"


DEEP = b"[" * 2000 + b"]" * 2000


@pytest.mark.parametrize(
    "stdin",
    [b'{"name": "pods", "x": ' + DEEP + b"}", b'{"cniVersion": "1.1.0", "name": "pods", "ipam": {"type',
     b'{"x": "\xff", "name": "pods"}'],
)
def test_del_with_a_configuration_that_cannot_be_read_goes_on_by_what_is_on_record(node: Node, stdin: bytes) -> None:
    assert node.call("ADD").exit == 0
    for verb in ("CHECK", "STATUS", "GC", "ADD"):
        assert node.call(verb, stdin=stdin).code == 6
    assert node.call("DEL", stdin=stdin).exit == 0
    assert (node.left(), node.leases()) == ([], {})
    assert node.call("DEL", stdin=stdin).exit == 0


@pytest.mark.parametrize("stdin", [b"", b"[]", DEEP, b'{"x": {"name": "pods"', b'{"name": "../pods", "x": ['])
def test_del_without_the_name_of_a_network_is_refused_by_the_specifications_codes(node: Node, stdin: bytes) -> None:
    assert node.call("DEL", stdin=stdin).code in (6, 7)

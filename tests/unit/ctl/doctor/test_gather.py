"""Where the doctor's facts come from: records, folders and files of a node in memory, some of which cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cni_plugin.ctl.diagnosis import examine
from cni_plugin.ctl.doctor import (
    addresses,
    attachments,
    configuration,
    conntrack,
    features,
    managers,
    mtu,
    routing,
    run_folder,
    stamps,
)
from cni_plugin.ctl.eyes import Eyes, Places
from cni_plugin.ctl.host import Host
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.see.look import Link
from cni_plugin.model.host import Sysctl
from tests.unit.ctl.tool import CLUSTER, Around, agent, configure
from tests.unit.support import UPLINK, Node

LINKS = (Link("eth0", 2, mtu=1500), Link("tulle0", 3, "bridge", 1500, alias="tulle:bridge"))


def eyes(node: Node, host: Host | None = None, root: str = "") -> Eyes:
    places = Places(f"{node.home}/data", f"{node.home}/net.d", root)
    return Eyes(node.kernel, node.records, places, host or Around(LINKS, uplink="eth0"))


def test_a_pod_is_known_by_its_record_and_its_state(node: Node) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    node.unplug("b eth1")
    found = {each.container: each for each in attachments.gather(eyes(node)).pods}
    assert (found["a"].state, found["a"].mtu, found["a"].ips) == ("up", 1500, ("10.22.0.2/24",))
    assert (found["b"].state, found["b"].mtu) == ("unplugged", 0)


def test_a_pod_whose_namespace_is_gone_is_dead(node: Node) -> None:
    node.call("ADD")
    node.unplug("a eth0")
    node.kernel = FakeKernel(node.kernel.state.values(), uplink=UPLINK, namespaces=())
    assert [each.state for each in attachments.gather(eyes(node)).pods] == ["dead"]


def test_sysctls_are_those_of_the_node_its_bridges_and_its_uplink(node: Node) -> None:
    node.call("ADD")
    node.kernel.state.update({each.key: each for each in (Sysctl("net/ipv4/conf/eth0/rp_filter", "1"),)})
    known = routing.gather(eyes(node)).sysctls
    assert known["net/ipv4/ip_forward"] == "1"
    assert known["net/ipv4/conf/tulle0/rp_filter"] == "2"
    assert known["net/ipv4/conf/eth0/rp_filter"] == "1"
    seen = eyes(node)
    assert conntrack.gather(seen).sysctls == {} == seen.unknown(), "conntrack is not loaded, which is no ignorance"


def test_a_network_alone_is_bound_by_the_uplink_and_a_cluster_by_its_tunnel(node: Node) -> None:
    node.call("ADD")
    (alone,) = mtu.gather(eyes(node)).limits
    assert (alone.network, alone.uplink, alone.most) == ("pods", "eth0", 1500)
    ipam = {"type": "host-local", "dataDir": f"{node.home}/data"}
    node.configured(name="far", cluster=CLUSTER, ipam=ipam).call("ADD", "b eth1")
    tunnel = next(each for each in mtu.gather(eyes(node)).limits if each.network == "far")
    assert (tunnel.uplink, tunnel.device, tunnel.most) == ("eth0", "tulle.1", 1450)


def test_pools_are_those_of_configurations_and_of_pods_whose_configuration_is_gone(node: Node) -> None:
    configure(node)
    ipam = {"type": "host-local", "dataDir": f"{node.home}/data", "subnet": "10.23.0.0/29"}
    node.configured(name="other", ipam=ipam).call("ADD")
    pools = [(each.network, each.used, each.size) for each in addresses.gather(eyes(node)).pools]
    assert pools == [("pods", 0, 253), ("other", 1, 5)]


def test_leases_that_nobody_holds_are_flaws_each_once(node: Node) -> None:
    node.call("ADD")
    for path in (node.home / "run" / "attachments" / "pods").iterdir():
        path.unlink()
    assert [(each.address, each.container) for each in addresses.gather(eyes(node)).flaws] == [("10.22.0.2", "a")]


def test_configurations_are_told_apart_and_what_they_need_is_known(node: Node) -> None:
    configure(node, vlan=7, agent="required")
    for name, text in (("00-x.conf", '{"type": "macvlan"}'), ("05-x.json", "{"), ("99-readme.txt", "x")):
        (node.home / "net.d" / name).write_text(text)
    found = configuration.gather(eyes(node)).configs
    assert [(Path(each.path).name, each.ours, bool(each.problem)) for each in found] == [
        ("00-x.conf", False, False), ("05-x.json", False, True), ("10-tulle.conflist", True, False),
    ]
    assert (found[2].agent, found[2].families) == ("required", (4,))
    assert set(found[2].needs) == {"bridge", "veth", "VLAN filtering", "nf_tables", "masquerade"}


def test_the_reference_bridge_is_ours_only_where_its_network_is_on_record(node: Node) -> None:
    configure(node, type="bridge")
    assert [each.ours for each in configuration.gather(eyes(node)).configs] == [False]
    node.call("ADD")
    assert [each.ours for each in configuration.gather(eyes(node)).configs] == [True]


def test_only_what_a_configuration_asks_for_is_asked_of_the_kernel(node: Node) -> None:
    configure(node, ipMasq=False)
    assert set(features.gather(eyes(node)).features) == {"bridge", "veth"}
    configure(node, vlan=7, cluster=CLUSTER)
    needed = features.gather(eyes(node)).features
    assert set(needed) == {"bridge", "veth", "vxlan", "nf_tables", "masquerade", "VLAN filtering"}


def test_records_and_folders_of_another_boot_are_told_of(node: Node) -> None:
    node.call("ADD")
    (path,) = (node.home / "run" / "attachments" / "pods").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "earlier", "created": 7.0}))
    boot = node.home / "data" / "pods" / ".tulle" / "boot"
    boot.unlink()
    boot.symlink_to("before")
    assert [(each.boot, each.at) for each in stamps.gather(eyes(node)).stamps] == [("earlier", 7.0), ("before", 0.0)]


def test_what_cannot_be_looked_at_is_not_known_and_all_else_goes_on(node: Node) -> None:
    node.call("ADD")
    host = Around()
    host.broken = True
    seen = eyes(node, host)
    examine(seen)
    assert seen.unknown() == {"links": "Operation not permitted"}
    assert [each.container for each in seen.pods] == ["a"]


def test_a_folder_that_cannot_be_read_is_not_known_and_not_empty(node: Node) -> None:
    (node.home / "net.d").write_text("no folder")
    assert "configuration" in configuration.gather(eyes(node)).unknown


def test_a_record_that_was_damaged_is_told_of(node: Node) -> None:
    node.call("ADD")
    (path,) = (node.home / "run" / "attachments" / "pods").iterdir()
    path.write_text("{")
    (damaged,) = attachments.gather(eyes(node)).damaged
    assert Path(damaged).read_text() == "{"


def test_an_agent_that_is_not_understood_is_not_known_rather_than_away(node: Node) -> None:
    before, now = eyes(node), eyes(node)
    examine(before)
    assert before.unknown() == {}
    with agent(node, {}, greeting=b"nonsense"):
        found = examine(now)
    assert "does not understand" in now.unknown()["agent"]
    assert [each.name for each in found if each.name.startswith("agent")] == []


def test_looking_changes_nothing(node: Node) -> None:
    node.configured(cluster=CLUSTER).call("ADD")
    before = (dict(node.kernel.state), len(node.kernel.applied), node.left())
    examine(eyes(node))
    assert (node.kernel.state, len(node.kernel.applied), node.left()) == before


# Other programs


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_link_files_come_by_name_and_those_in_etc_hide_others_of_their_name(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/systemd/network/99-default.link", "vendor")
    put(tmp_path, "usr/lib/systemd/network/50-x.link", "x")
    put(tmp_path, "etc/systemd/network/99-default.link", "operator")
    put(tmp_path, "etc/systemd/network/10-x.network", "no link file")
    assert [each.text for each in managers.link_files(str(tmp_path))] == ["x", "operator"]


def test_networkd_counts_only_while_it_runs(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/systemd/networkd.conf", "vendor")
    put(tmp_path, "etc/systemd/networkd.conf", "main")
    put(tmp_path, "etc/systemd/networkd.conf.d/tulle.conf", "extra")
    assert managers.networkd(str(tmp_path)) is None
    (tmp_path / "run/systemd/units").mkdir(parents=True)
    os.symlink("0123", tmp_path / "run/systemd/units/invocation:systemd-networkd.service")
    found = managers.networkd(str(tmp_path))
    assert found is not None
    assert [each.text for each in found] == ["main", "extra"]


def test_networkmanager_tells_by_index_which_links_it_manages(tmp_path: Path) -> None:
    put(tmp_path, "run/NetworkManager/devices/2", "[device]\nmanaged=true\n")
    put(tmp_path, "run/NetworkManager/devices/3", "[device]\nmanaged=false\n")
    put(tmp_path, "run/NetworkManager/devices/99", "[device]\nmanaged=true\n")
    assert managers.managed(str(tmp_path), LINKS) == ("eth0",)
    assert managers.managed(f"{tmp_path}/none", LINKS) == ()


@pytest.mark.parametrize("path", ["/proc", "/proc/sys/there/is/no/such/folder"])
def test_a_folder_is_on_the_mount_that_holds_it_or_would(path: str) -> None:
    found = run_folder.mount_of(path)
    assert (found.path.startswith("/proc"), found.kind) == (True, "proc")

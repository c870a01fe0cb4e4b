"""A relative path means the folder that the plugin is called in, with an agent, which stands elsewhere, as without one.

cnitool's users say CNI_PATH=./bin, and a dataDir may be written as "leases". An agent that resolved it where it stands
gave the next pod, served without it, the same address.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance.nodes import Call, Json, Node
from tests.netns.failure_nodes import address, conf, status

WITNESS = """#!/bin/sh
echo "$CNI_COMMAND" >>here
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.60.0.9/24"}]}'
"""


@pytest.fixture
def caller(served: Node, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the caller stands; an agent stands where the tests were started."""
    folder = served.state / "caller"
    (folder / "bin").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", "/")  # what it says may be anything
    return folder


def relative(node: Node, **ipam: object) -> Json:
    return conf(node, ipam={"type": "host-local", "dataDir": "leases", "subnet": "10.60.0.0/24", **ipam})


def test_a_relative_data_dir_is_the_callers(node: Node, caller: Path) -> None:
    first = address(node.add(relative(node), "one").ok())
    assert (caller / "leases/net" / first).read_text().startswith("one")
    assert address(node.add(conf(node, ipam={"type": "host-local", "dataDir": f"{caller}/leases", "subnet":
        "10.60.0.0/24"}), "two").ok()) != first
    assert status(node, relative(node)).exit == 0


def test_del_from_another_folder_gives_the_address_back(
    node: Node, caller: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record has the whole path."""
    got = address(node.add(relative(node), "one").ok())
    monkeypatch.chdir("/")
    node.delete(relative(node), "one").ok()
    assert not (caller / "leases/net" / got).exists()


def test_resolv_conf_and_cluster_are_the_callers(node: Node, caller: Path) -> None:
    (caller / "resolv").write_text("nameserver 192.0.2.53\n")
    added = node.add(relative(node, resolvConf="resolv"), "one").ok()
    assert added["dns"] == {"nameservers": ["192.0.2.53"]}
    (caller / "list.json").write_text(
        '{"backend": {"type": "host-gw"}, "nodes": [{"name": "me", "address": "198.51.100.1", "podCIDRs": '
        '["10.61.0.0/24"]}]}'
    )
    ipam = {"type": "host-local", "dataDir": "leases"}
    listed = conf(node, name="listed", bridge="br1", cluster="list.json", ipam=ipam)
    assert address(node.add(listed, "two").ok()) == "10.61.0.2"


def test_a_relative_cni_path_is_the_callers_and_its_plugins_run_there(node: Node, caller: Path) -> None:
    (caller / "bin/witness").write_text(WITNESS)
    (caller / "bin/witness").chmod(0o755)
    foreign = conf(node, cniVersion="1.0.0", ipam={"type": "witness"})
    for command in ("ADD", "DEL"):
        call = Call(command=command, container="one", netns=node.pod("one").path, extra={"CNI_PATH": "./bin"})
        node.invoke(foreign, call).ok()
    assert (caller / "here").read_text().split() == ["ADD", "DEL"]


def test_a_relative_netns_is_the_callers(node: Node, caller: Path) -> None:
    (caller / "ns").symlink_to(node.pod("one").path)
    for command in ("ADD", "DEL"):
        reply = node.invoke(conf(node), Call(command=command, container="one", netns="ns")).ok()
    assert reply == {}
    assert [each["ifname"] for each in node.pod("one").json("ip", "-j", "link")] == ["lo"]


def test_a_folder_that_is_gone_is_said_and_stops_no_del(node: Node, caller: Path) -> None:
    """getcwd(2) fails there; no other folder is taken in its place."""
    for each in (caller / "bin", caller):
        each.rmdir()
    refused = node.add(relative(node), "one")
    assert refused.code == 7
    assert "ipam.dataDir 'leases'" in refused.message
    assert "write the whole path" in refused.message
    assert node.delete(relative(node), "one").exit == 0
    assert not os.path.exists("/leases")

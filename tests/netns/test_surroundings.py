"""Folders and variables as administrators really have them: what works with the reference works, all else is told.

Each node has a mount namespace of its own for what is mounted.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance.nodes import Call, Json, Node, Reply
from tests.netns.failure_nodes import address, conf, status


def called(node: Node, command: str, before: str, **environ: str) -> Reply:
    """One request from a shell that does something first, in a mount namespace of its own."""
    call = Call(command=command, container="pod1", netns=node.pod("pod1").path)
    env = {**call.environ(node.plugins, node.run_dir), "RUN": str(node.run_dir), "DATA": str(node.data_dir), **environ}
    program = str(node.plugins.directory / "tulle")
    inside = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", f'{before}\nexec "$0"', program]
    done = subprocess.run(
        ["nsenter", f"--net={node.path}", *inside], input=json.dumps(conf(node)), capture_output=True, text=True,
        env=env, timeout=60, check=False,
    )
    return Reply(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("folder", "how", "says"),
    [
        ("RUN", "size=64k", "No space left on device: free some space"),
        ("DATA", "size=64k", "No space left on device: free some space"),
        ("RUN", "ro", "Read-only file system: mount that file system read-write"),
        ("DATA", "ro", "Read-only file system: mount that file system read-write"),
        ("RUN", "nr_inodes=1", "No space left on device: free some space or inodes"),
    ],
)
def test_status_tells_beforehand_of_a_disk_that_takes_nothing(node: Node, folder: str, how: str, says: str) -> None:
    node.data_dir.mkdir()
    mount = f"mount -t tmpfs -o {how} none ${folder}\ncat /dev/zero >${folder}/ballast 2>/dev/null || true"
    reply = called(node, "STATUS", mount)
    assert (reply.code, says in reply.message) == (50, True), reply
    assert ("run folder" if folder == "RUN" else "ipam.dataDir") in reply.message
    assert status(node, conf(node)).exit == 0


def test_folders_that_root_linked_to_another_disk_work(node: Node, tmp_path: Path) -> None:
    for name in ("run2", "leases2", "net2"):
        (tmp_path / name).mkdir()
    node.run_dir.rmdir()
    node.run_dir.symlink_to(tmp_path / "run2")
    node.data_dir.symlink_to(tmp_path / "leases2")
    (tmp_path / "leases2/net").symlink_to(tmp_path / "net2")
    got = address(node.add(conf(node)).ok())
    assert (tmp_path / "net2" / got).read_text().startswith("pod1")
    assert [each.name for each in (tmp_path / "run2/attachments/net").iterdir()] == ["pod1:eth0"]
    assert status(node, conf(node)).exit == 0
    assert node.delete(conf(node)).exit == 0
    assert not (tmp_path / "net2" / got).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a link of another user")
def test_a_run_folder_that_somebody_else_linked_is_refused_with_the_reason(node: Node, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    node.run_dir.rmdir()
    node.run_dir.symlink_to(tmp_path / "elsewhere")
    os.lchown(node.run_dir, 65534, 65534)
    reply = node.add(conf(node))
    assert reply.code == 5
    assert "neither root nor we have made" in reply.message
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("odd", [b"\xff\xfe", "\u00fc".encode("latin-1"), b"a\x01b"])
def test_variables_that_are_no_text_are_told_with_the_codes_of_the_specification(node: Node, odd: bytes) -> None:
    netns = os.fsencode(node.pod("pod1").path)
    variables = {
        b"CNI_CONTAINERID": 4, b"CNI_IFNAME": 4, b"CNI_NETNS": 8, b"CNI_COMMAND": 4, b"CNI_ARGS": 4,
    }
    for name, code in variables.items():
        given = {
            b"CNI_COMMAND": b"ADD", b"CNI_CONTAINERID": b"pod1", b"CNI_IFNAME": b"eth0", b"CNI_NETNS": netns,
            b"CNI_PATH": odd, b"TULLE_RUN_DIR": os.fsencode(node.run_dir), name: odd,
        }
        done = subprocess.run(
            [b"/usr/bin/nsenter", b"--net=" + os.fsencode(node.path), os.fsencode(node.plugins.directory / "tulle")],
            input=json.dumps(conf(node)).encode(), env=given, capture_output=True, timeout=60, check=False,
        )
        assert (done.returncode, json.loads(done.stdout)["code"]) == (1, code), done
    assert node.leases() == {}


def test_a_namespace_whose_path_is_no_text_works(node: Node, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff"
    os.symlink(os.fsencode(node.pod("pod1").path), odd)
    result: Json = {}
    for command in (b"ADD", b"CHECK", b"DEL"):
        given = {
            b"CNI_COMMAND": command, b"CNI_CONTAINERID": b"pod1", b"CNI_IFNAME": b"eth0", b"CNI_NETNS": odd,
            b"CNI_PATH": b"/x", b"TULLE_RUN_DIR": os.fsencode(node.run_dir),
        }
        told = {**conf(node), "prevResult": result} if result else conf(node)
        done = subprocess.run(
            [b"/usr/bin/nsenter", b"--net=" + os.fsencode(node.path), os.fsencode(node.plugins.directory / "tulle")],
            input=json.dumps(told).encode(), env=given, capture_output=True, timeout=60, check=False,
        )
        assert done.returncode == 0, done
        result = json.loads(done.stdout) if command == b"ADD" else result
    assert node.leases() == {}


@pytest.mark.parametrize("key", ["dataDir", "resolvConf"])
def test_a_path_with_a_nul_is_refused_by_its_key_and_stops_no_del(node: Node, key: str) -> None:
    odd = conf(node, ipam={"type": "host-local", "dataDir": "/x", "subnet": "10.60.0.0/24", key: "/a\0b"})
    refused = node.add(odd)
    assert (refused.code, f"ipam.{key}" in refused.message) == (7, True), refused
    assert node.delete(odd).exit == 0


def test_a_bridge_whose_name_would_be_a_template_is_refused_and_none_is_left(node: Node) -> None:
    refused = node.add(conf(node, bridge="br%d"))
    assert (refused.code, "br%d" in refused.message) == (7, True)
    assert node.json("ip", "-j", "link", "show", "type", "bridge") == []

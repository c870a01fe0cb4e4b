"""Bad input, a row a mistake: the specification's code, words that name key, value and remedy, and nothing left."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.links import Veth
from cni_plugin.verbs.run import as_cni_error, run
from tests.unit.support import UPLINK, Json, Node

FOUR: Json = {"subnet": "10.22.0.0/24"}


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """A request with one mistake, the code it gets, and words that the message must have."""

    what: str
    code: int
    says: tuple[str, ...]
    conf: Json = field(default_factory=dict)
    ipam: Json = field(default_factory=dict)
    stdin: bytes | None = None
    env: dict[str, str | None] = field(default_factory=dict)
    verb: str = "ADD"


def ranges(*found: Json) -> Json:
    return {"subnet": None, "ranges": [list(found)]}


WRONG = (
    Wrong(what="broken JSON", code=6, stdin=b'{"name": "pods"', says=("not valid JSON",)),
    Wrong(what="closed stdin", code=6, stdin=b"", says=("no network configuration on stdin",)),
    Wrong(what="a list", code=6, stdin=b"[]", says=("must be a JSON object",)),
    Wrong(what="unknown version", code=1, conf={"cniVersion": "2.0.0"}, says=("'2.0.0'", "incompatible CNI versions")),
    Wrong(what="half a version", code=1, conf={"cniVersion": "1.0"}, says=("'1.0'",)),
    Wrong(what="CHECK before its version", code=1, conf={"cniVersion": "0.3.1"}, verb="CHECK", says=("0.4.0", "CHECK")),
    Wrong(what="GC before its version", code=1, conf={"cniVersion": "1.0.0"}, verb="GC", says=("'1.1.0'", "GC")),
    Wrong(what="unknown verb", code=4, verb="FROB", says=("'FROB'", "ADD")),
    Wrong(
        what="no variables", code=4, says=("[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]",),
        env={"CNI_CONTAINERID": None, "CNI_NETNS": None, "CNI_IFNAME": None},
    ),
    Wrong(what="bad container id", code=4, env={"CNI_CONTAINERID": "../x"}, says=("'../x'", "CNI_CONTAINERID")),
    Wrong(what="long interface name", code=4, env={"CNI_IFNAME": "e" * 16}, says=("CNI_IFNAME", "15 bytes")),
    Wrong(what="bad interface name", code=4, env={"CNI_IFNAME": "a/b"}, says=("'a/b'",)),
    Wrong(what="args without value", code=4, env={"CNI_ARGS": "IP"}, says=("CNI_ARGS", "'IP'", "KEY=VALUE")),
    Wrong(what="unknown args", code=4, env={"CNI_ARGS": "COLOUR=red"}, says=("COLOUR", "IgnoreUnknown=1")),
    Wrong(what="no name", code=7, conf={"name": None}, says=("invalid name ''",)),
    Wrong(what="name leading out", code=7, conf={"name": "../x"}, says=("'../x'",)),
    Wrong(what="wrong type", code=7, conf={"mtu": "big"}, says=("mtu", "'big'")),
    Wrong(
        what="promiscuous and hairpin", code=7, conf={"promiscMode": True, "hairpinMode": True},
        says=("hairpinMode", "promiscMode", "to false"),
    ),
    Wrong(what="vlan too high", code=7, conf={"vlan": 4095}, says=("VLAN ID 4095", "4094")),
    Wrong(what="vlan below none", code=7, conf={"vlan": -1}, says=("VLAN ID -1",)),
    Wrong(what="trunk upside down", code=7, conf={"vlanTrunk": [{"minID": 9, "maxID": 8}]}, says=("vlanTrunk", "9")),
    Wrong(what="mtu too small", code=7, conf={"mtu": 1}, says=("mtu 1", "68")),
    Wrong(
        what="mtu too small for IPv6", code=7, conf={"mtu": 1200}, ipam={"subnet": "fd00:22::/64"},
        says=("mtu 1200", "1280"),
    ),
    Wrong(
        what="host ports", code=2, conf={"runtimeConfig": {"portMappings": [{"hostPort": 80}]}},
        says=("runtimeConfig.portMappings", "80", "chain the portmap plugin"),
    ),
    Wrong(
        what="bandwidth", code=2, conf={"runtimeConfig": {"bandwidth": {"ingressRate": 5}}},
        says=("runtimeConfig.bandwidth", "ingressRate", "chain the bandwidth plugin"),
    ),
    Wrong(what="bad mac", code=7, conf={"runtimeConfig": {"mac": "01:00:00:00:00:00"}}, says=("01:00:00:00:00:00",)),
    Wrong(what="no ranges", code=7, ipam={"subnet": None}, says=("ranges", "subnet")),
    Wrong(what="subnet that is none", code=7, ipam={"subnet": "10.22.0.0"}, says=("subnet: '10.22.0.0'", "/24")),
    Wrong(what="subnet with host bits", code=7, ipam={"subnet": "10.22.0.5/24"}, says=("subnet", "is 10.22.0.0/24")),
    Wrong(what="subnet too small", code=7, ipam={"subnet": "10.22.0.0/31"}, says=("'10.22.0.0/31'", "/30")),
    Wrong(
        what="subnets that overlap", code=7, ipam=ranges(FOUR, {"subnet": "10.22.0.128/25"}),
        says=("overlaps", "ranges[0]", "disjoint"),
    ),
    Wrong(
        what="families mixed in a set", code=7, ipam=ranges(FOUR, {"subnet": "fd00::/64"}),
        says=("family", "fd00::/64", "of its own"),
    ),
    Wrong(
        what="range outside its subnet", code=7, ipam=ranges({**FOUR, "rangeStart": "10.23.0.5"}),
        says=("ranges[0][0].rangeStart", "'10.23.0.5'", "10.22.0.0/24"),
    ),
    Wrong(
        what="range upside down", code=7, ipam=ranges({**FOUR, "rangeStart": "10.22.0.9", "rangeEnd": "10.22.0.8"}),
        says=("rangeEnd", "'10.22.0.8'", "swap"),
    ),
    Wrong(
        what="gateway that is the broadcast address", code=7, ipam=ranges({**FOUR, "gateway": "10.22.0.255"}),
        says=("gateway", "'10.22.0.255'", "10.22.0.1"),
    ),
    Wrong(
        what="gateway of another family", code=7, ipam=ranges({**FOUR, "gateway": "fd00::1"}),
        says=("gateway", "fd00::1", "IPv4"),
    ),
    Wrong(what="route that does not parse", code=7, ipam={"routes": [{"dst": "x"}]}, says=("ipam.routes.dst", "'x'")),
    Wrong(what="no resolv.conf", code=7, ipam={"resolvConf": "/no/such"}, says=("ipam.resolvConf", "'/no/such'")),
    Wrong(what="IPAM that is a path", code=7, ipam={"type": "/bin/sh"}, says=("ipam.type '/bin/sh'", "not a path")),
    Wrong(what="IPAM that is not there", code=7, ipam={"type": "no-such"}, says=("'no-such'", "CNI_PATH", "install")),
    Wrong(what="no CNI_PATH", code=4, ipam={"type": "dhcp"}, env={"CNI_PATH": None}, says=("CNI_PATH", "'dhcp'")),
    Wrong(
        what="address outside", code=102, env={"CNI_ARGS": "IP=10.99.0.5"}, says=("10.99.0.5", "10.22.0.0/24")
    ),
    Wrong(what="address of the gateway", code=102, env={"CNI_ARGS": "IP=10.22.0.1"}, says=("10.22.0.1", "reserved")),
    Wrong(what="address that does not parse", code=7, env={"CNI_ARGS": "IP=ten"}, says=("ips 'ten'",)),
    Wrong(what="cluster that is no file", code=7, conf={"cluster": "/no/such"}, says=("cluster '/no/such'",)),
    Wrong(what="cluster without nodes", code=7, conf={"cluster": {}}, says=("cluster.nodes",)),
    Wrong(
        what="addresses without an interface", code=7, conf={"disableContainerInterface": True},
        says=("ipam.type 'host-local'", "disableContainerInterface"),
    ),
)


@pytest.mark.parametrize("wrong", WRONG, ids=[each.what for each in WRONG])
def test_bad_input_is_refused_by_code_key_value_and_remedy_and_leaves_nothing(node: Node, wrong: Wrong) -> None:
    ipam = node.conf["ipam"]
    assert isinstance(ipam, dict)
    node = node.configured(ipam={key: each for key, each in {**ipam, **wrong.ipam}.items() if each is not None})
    reply = node.configured(**wrong.conf).call(wrong.verb, stdin=wrong.stdin, **wrong.env)
    assert reply.code == wrong.code, reply.said
    for words in wrong.says:
        assert words in reply.said
    assert reply.body["cniVersion"]
    assert node.kernel.state == {}
    assert node.left() == []


# What is wrong with the world and not with the request


class Blocked(FakeKernel):
    """A kernel whose every namespace is no good."""

    def __init__(self, kind: str) -> None:
        super().__init__(uplink=UPLINK)
        self.kind = kind

    def enter(self, netns: str, *, allow_own: bool = False) -> None:
        """Raises NetnsError."""
        del allow_own
        raise NetnsError(self.kind, netns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gone", "names nothing"),
        ("not-a-namespace", "is not a network namespace"),
        ("own", "is the host's own network namespace"),
    ],
)
def test_a_netns_that_is_gone_a_plain_file_or_the_hosts_own_is_refused(tmp_path: Path, kind: str, says: str) -> None:
    node = Node(tmp_path, Blocked(kind))
    reply = node.call("ADD")
    assert reply.code == 8
    assert "CNI_NETNS '/run/netns/a'" in reply.said
    assert says in reply.said
    assert (node.kernel.state, node.left()) == ({}, [])


@pytest.mark.parametrize("kind", ["gone", "not-a-namespace", "own"])
def test_no_error_of_a_netns_has_words_that_containerd_takes_for_success(tmp_path: Path, kind: str) -> None:
    said = Node(tmp_path, Blocked(kind)).call("ADD").said.lower()
    assert "not found" not in said
    assert "no such file or directory" not in said


def test_a_requested_address_that_is_taken_is_refused_by_the_name_of_its_holder(node: Node) -> None:
    node.call("ADD", "first eth9", CNI_ARGS="IP=10.22.0.9")
    before, left = node.standing(), node.left()
    reply = node.call("ADD", CNI_ARGS="IP=10.22.0.9")
    assert reply.code == 102
    assert "10.22.0.9" in reply.said
    assert "first (eth9)" in reply.said
    assert (node.standing(), node.left()) == (before, left)


def test_an_exhausted_pool_is_refused_with_its_size_and_may_be_tried_again(tmp_path: Path) -> None:
    node = Node(tmp_path, ipam={"subnet": "10.22.0.0/30"})
    node.call("ADD", "first eth9")
    before, left = node.standing(), node.left()
    reply = node.call("ADD")
    assert reply.code == 11
    for words in ("10.22.0.0/30", "1 usable", "1 in use", "larger range"):
        assert words in reply.said
    assert (node.standing(), node.left()) == (before, left)


def test_an_unknown_name_is_told_those_there_are(node: Node) -> None:
    node.called = "portmap"
    reply = node.call("ADD")
    assert reply.code == 4
    assert "'portmap'" in reply.said
    assert "Tulle acts as tulle, bridge, loopback, host-local; rename the link" in reply.said


def test_an_error_that_nobody_foresaw_is_still_an_error_object(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> FakeKernel:
        raise ZeroDivisionError("boom")

    env = {"CNI_COMMAND": "STATUS", "TULLE_RUN_DIR": f"{node.home}/run"}
    reply = run("tulle", env, json.dumps(node.conf).encode(), broken)
    assert reply.code == 1
    assert json.loads(reply.stdout)["code"] == 999
    assert "ZeroDivisionError: boom" in json.loads(reply.stdout)["msg"]
    assert "Traceback" in capfd.readouterr().err


# A disk that is full, or read-only

CREATING = ("mkdir", "link", "symlink", "rename", "write", "open")
CHANGING = (*CREATING, "unlink", "rmdir")


class Disk:
    """Makes the calls that need room on a disk fail, from the n-th on or only that one; counts them."""

    def __init__(self, patch: pytest.MonkeyPatch, calls: tuple[str, ...], code: int) -> None:
        self.tried = 0
        self.at = -1
        self.for_good = True
        self._code = code
        for name in calls:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **keys: Any) -> object:
            if not _needs_room(name, *args, **keys):
                return real(*args, **keys)
            self.tried += 1
            if self.at >= 0 and (self.tried > self.at if self.for_good else self.tried == self.at + 1):
                raise OSError(self._code, os.strerror(self._code), args[0] if isinstance(args[0], str) else None)
            return real(*args, **keys)

        return call


def _needs_room(name: str, path: object, *more: object, dir_fd: int | None = None, **_: object) -> bool:
    """Whether a call makes something new: what is there can be opened on a full disk as well."""
    if name not in ("open", "mkdir"):
        return True
    if name == "open" and not (isinstance(more[0], int) and more[0] & os.O_CREAT):
        return False
    return str(path) not in os.listdir(dir_fd) if dir_fd is not None else not Path(str(path)).exists()


@pytest.mark.parametrize("for_good", [True, False], ids=["stays-full", "full-once"])
def test_an_add_on_a_disk_that_gets_full_at_any_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_good: bool
) -> None:
    disk = Disk(monkeypatch, CREATING, errno.ENOSPC)
    disk.for_good = for_good
    for at in range(200):
        node = Node(tmp_path / str(at))
        node.home.mkdir()
        disk.tried, disk.at = 0, at
        reply = node.call("ADD")
        disk.at = -1
        if reply.exit == 0:
            break
        assert reply.code == 5, reply.said
        assert "No space left on device" in reply.said
        assert node.left() == [], f"write {at}"
        assert node.standing() == {}, f"write {at}"
    assert 10 < at < 199


def test_an_add_on_a_read_only_disk_says_so_and_touches_no_kernel(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, CHANGING, errno.EROFS).at = 0
    reply = node.call("ADD")
    assert reply.code == 5
    assert "Read-only file system" in reply.said
    assert str(node.home) in reply.said
    assert node.standing() == {}


def test_a_del_on_a_read_only_disk_fails_and_can_be_repeated(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.call("ADD")
    with monkeypatch.context() as patch:
        Disk(patch, CHANGING, errno.EROFS).at = 0
        assert node.call("DEL").code == 5
    assert node.call("DEL").exit == 0
    assert node.left() == []


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/run/tulle/lock"), PermissionError(errno.EPERM, "setns"),
        KernelError(Op("create", Veth("tl0")), errno.EPERM),
    ],
    ids=["folder", "namespace", "link"],
)
@pytest.mark.parametrize("uid", [0, 1000])
def test_who_is_not_root_is_told_to_be_and_root_something_else(
    error: Exception, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    said = as_cni_error(error).msg
    assert ("run as root" in said) == (uid != 0)
    assert "disk" not in said


@pytest.mark.parametrize("kind", ["fifo", "endless", "huge", "folder", "nul", "deep"])
@pytest.mark.parametrize("key", ["cluster", "resolvConf"])
def test_a_file_that_is_none_or_has_no_end_is_refused_at_once(node: Node, key: str, kind: str) -> None:
    path = node.home / "bin" / "named"
    path.parent.mkdir()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "huge":
            path.touch()
            os.truncate(path, 1 << 30)
        case "folder":
            path.mkdir()
        case "deep":
            path.write_bytes(b"[" * 2000 + b"]" * 2000)
    named = f"{path}\0" if kind == "nul" else str(path)
    ipam = {"type": "host-local", "subnet": "10.22.0.0/24", "dataDir": f"{node.home}/data"}
    told = node.configured(**({"cluster": named} if key == "cluster" else {"ipam": {**ipam, "resolvConf": named}}))
    reply = told.call("ADD")
    if (key, kind) == ("resolvConf", "deep"):
        assert reply.exit == 0, "it is text like any other"
    else:
        assert reply.code == 7
        assert f"invalid {'' if key == 'cluster' else 'ipam.'}{key}" in reply.said
        assert (node.left(), node.leases()) == ([], {})
    assert told.call("DEL").exit == 0

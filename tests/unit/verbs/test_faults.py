"""A call that fails because kernel or disk are in need says nothing of what was asked for, and nothing is taken for it.

EMFILE is no missing file, EIO no stray, ENOMEM no other sandbox: who cannot find out says so, and changes nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cni_plugin import delegate
from cni_plugin.diff import Op
from cni_plugin.errors import CHECK_FAILED, IO_FAILURE, NOT_AVAILABLE, TRY_AGAIN_LATER
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.host import files, knobs
from cni_plugin.model.base import POD
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import PodLink, Veth
from cni_plugin.verbs.run import refusal
from tests.unit.failing import fail
from tests.unit.support import Node

Fails = Callable[[str, int, str], None]
FAULTS = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EINTR)
faults = pytest.mark.parametrize("code", FAULTS, ids=errno.errorcode.__getitem__)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Makes a call of `os` fail with this errno for paths that end so."""
    return partial(fail, monkeypatch)


@faults
def test_check_does_not_take_a_sandbox_for_another_that_it_could_not_look_at(
    node: Node, fails: Fails, code: int
) -> None:
    """Under another path that leads there, as runtimes name it."""
    after = node.after(node.call("ADD"))
    fails("stat", code, "/run/netns/a")
    assert after.call("CHECK", CNI_NETNS="/var/run/netns/a").code not in (0, CHECK_FAILED)


@pytest.mark.parametrize("trusted", [True, False], ids=["by the index", "by all leases"])
@faults
def test_check_does_not_say_that_an_address_is_lost_whose_lease_it_could_not_read(
    node: Node, fails: Fails, code: int, trusted: bool
) -> None:
    after = node.after(node.call("ADD"))
    if not trusted:
        os.utime(node.home / "data/pods")
    fails("open", code, "10.22.0.2")
    assert after.call("CHECK").code == (IO_FAILURE if code == errno.EIO else TRY_AGAIN_LATER)


def test_a_lease_that_could_not_be_read_once_is_still_found_and_given_back(
    node: Node, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pod's ADD makes the index anew meanwhile, because the reference was here."""
    after = node.after(node.call("ADD"))
    os.utime(node.home / "data/pods")
    fails("open", errno.EIO, "10.22.0.2")
    assert node.call("ADD", "b net1").addresses == ["10.22.0.3/24"]
    monkeypatch.undo()
    assert after.call("CHECK").exit == 0
    assert after.call("DEL").exit == 0
    assert list(node.leases()) == ["10.22.0.3"]


@pytest.mark.parametrize(("call", "where"), [("open", "10.22.0.5"), ("open", "/data/others"), ("listdir", "/data")])
@faults
def test_a_late_del_leaves_the_wire_of_which_it_could_not_find_out_whose_it_is(
    node: Node, fails: Fails, code: int, call: str, where: str
) -> None:
    folder = node.home / "data/others"
    folder.mkdir(parents=True)
    (folder / "10.22.0.5").write_bytes(b"live\r\neth0")
    node.kernel.apply([Op("create", Veth("veth4f", peer="eth0", peer_mac="0a:58:0a:16:00:05"))])
    node.kernel.apply([Op("create", Addr("eth0", "10.22.0.5/24", POD))])
    fails(call, code, where)
    assert node.call("DEL", "late eth0").code == (IO_FAILURE if code == errno.EIO else TRY_AGAIN_LATER)
    assert any(isinstance(each, PodLink) for each in node.kernel.state.values())


@faults
@pytest.mark.parametrize("key", ["cluster", "resolvConf"])
def test_a_file_that_cannot_be_read_now_is_no_mistake_in_the_configuration(
    node: Node, fails: Fails, key: str, code: int
) -> None:
    named = f"{node.home}/named"
    Path(named).write_text("{}")
    ipam = {"type": "host-local", "subnet": "10.22.0.0/24", "dataDir": f"{node.home}/data"}
    told = node.configured(**({"cluster": named} if key == "cluster" else {"ipam": {**ipam, "resolvConf": named}}))
    fails("open", code, "/named")
    assert told.call("ADD").code == (IO_FAILURE if code == errno.EIO else TRY_AGAIN_LATER)
    assert told.call("STATUS").code == NOT_AVAILABLE


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOBUFS, "No buffer space available"),
        OSError(errno.EINVAL, "Invalid argument"),
        KernelError(Op("create", Veth("tl0")), errno.EINVAL),
        MemoryError(),
    ],
    ids=str,
)
def test_status_has_one_code_for_what_keeps_it_from_an_answer(error: Exception) -> None:
    assert f'"code":{NOT_AVAILABLE}'.encode() in refusal(error, "1.1.0", verb="STATUS").stdout
    assert f'"code":{NOT_AVAILABLE}'.encode() not in refusal(error, "1.1.0", verb="CHECK").stdout


@faults
def test_a_folder_that_cannot_be_looked_at_is_not_set_aside(tmp_path: Path, fails: Fails, code: int) -> None:
    files.make_own(str(tmp_path), "attachments", "pods")
    for call in ("stat", "lstat"):
        fails(call, code, "/pods")
    with pytest.raises(OSError, match=os.strerror(code)):
        files.make_own(str(tmp_path), "attachments", "pods")
    assert os.listdir(tmp_path / "attachments") == ["pods"]


def test_a_plugin_that_cannot_be_looked_at_now_is_not_said_to_be_missing(tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "lender").write_text("")
    fails("stat", errno.ENOMEM, "/lender")
    with pytest.raises(OSError, match="memory"):
        delegate.find("lender", [str(tmp_path)])


def test_a_setting_that_could_not_be_read_has_no_value_that_differs(fails: Fails) -> None:
    """EIO is what stable_secret says before it is first set, and it alone."""
    fails("open", errno.EIO, "/ip_forward")
    fails("open", errno.EIO, "/stable_secret")
    with pytest.raises(OSError, match="error"):
        knobs.read_sysctl(Sysctl("net/ipv4/ip_forward", "1"))
    assert knobs.read_sysctl(Sysctl("net/ipv6/conf/lo/stable_secret", "1")) == ""

"""Side by side with the reference host-local, on one and the same directory: the same addresses, both ways."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ipam.errors import IpamError
from tests.unit.ipam.world import Network, ips, pod

PLACES = [*os.environ.get("CNI_PATH", "").split(":"), "/usr/lib/cni", "/opt/cni/bin"]
BINARY = shutil.which("host-local", path=":".join(filter(None, PLACES)))

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="the reference host-local is not installed (Debian: containernetworking-plugins)")


class Refused(Exception):
    """The reference answered with an error."""


def reference(network: Network, verb: str, name: str, **more: object) -> list[str]:
    """What the reference's ADD gives (or its CHECK and DEL: nothing)."""
    conf = {"cniVersion": "1.0.0", "name": "pods", **more,
            "ipam": {"type": "host-local", "dataDir": str(network.data_dir), **network.ipam}}
    done = _run(conf, verb, name, None)
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    if done.returncode:
        raise Refused(answer.get("msg", done.stdout))
    return [each["address"].partition("/")[0] for each in answer.get("ips", [])]


def _run(conf: object, verb: str, name: str, seconds: float | None) -> subprocess.CompletedProcess[str]:
    env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0", "CNI_NETNS": "/x", "CNI_PATH": "/x"}
    return subprocess.run([str(BINARY)], input=json.dumps(conf), env=env, capture_output=True, text=True, check=False,
                          timeout=seconds)


def test_pods_of_the_reference_are_ours_after_the_change_and_ours_are_its_after_the_change_back(dual: Network) -> None:
    assert reference(dual, "ADD", "a") == ["10.1.0.2", "fd00:1::2"]
    assert dual.allocator().find(pod("a")) == ips("10.1.0.2", "fd00:1::2")
    assert dual.add("b") == ["10.1.0.3", "fd00:1::3"]
    assert reference(dual, "ADD", "c") == ["10.1.0.4", "fd00:1::4"]
    reference(dual, "CHECK", "b")
    reference(dual, "DEL", "b")
    with pytest.raises(Refused):
        reference(dual, "CHECK", "b")
    assert len(dual.allocator().release(pod("a"))) == 2
    assert dual.allocator().release(pod("b")) == ()
    assert set(dual.owners().values()) == {pod("c")}
    dual.check_hints()


def test_we_write_what_the_reference_writes(tmp_path: Path) -> None:
    ours, theirs = Network(tmp_path / "ours"), Network(tmp_path / "theirs")
    ours.add("a")
    reference(theirs, "ADD", "a")
    for name in ("10.1.0.2", "last_reserved_ip.0", "lock"):
        assert (ours.path / name).read_bytes() == (theirs.path / name).read_bytes()
    assert {f.name for f in ours.path.iterdir()} - {f.name for f in theirs.path.iterdir()} == {".tulle"}


ROUND: list[dict[str, object]] = [
    {"subnet": "10.1.0.0/29"},
    {"subnet": "10.1.0.0/28", "rangeStart": "10.1.0.4", "rangeEnd": "10.1.0.9", "gateway": "10.1.0.6"},
    {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.9"},
    {"ranges": [
        [{"subnet": "10.1.0.0/30"}, {"subnet": "10.2.0.0/30", "gateway": "10.2.0.2"}, {"subnet": "10.3.0.0/29"}]]},
    {"ranges": [[{"subnet": "fd00:1::/125", "rangeStart": "fd00:1::3"}]]},
    {"subnet": "10.1.0.0/29", "ranges": [[{"subnet": "fd00:1::/125"}]]},
    {"ranges": [[{"subnet": "2001:db8:0:0:1::/124"}]]},
]


@pytest.mark.parametrize("ipam", ROUND, ids=str)
def test_both_walk_the_same_way_round(tmp_path: Path, ipam: dict[str, object]) -> None:
    """The same ADDs and DELs in two directories give the same addresses, to the last one and past it."""
    ours, theirs = Network(tmp_path / "ours", ipam), Network(tmp_path / "theirs", ipam)
    script = ["+a", "+b", "-a", "+c", "+d", "-c", "+e", "+f", "+g", "-b", "+h", "+i", "+j", "-e", "+k"]
    for step in script:
        verb, name = step[0], step[1]
        if verb == "-":
            ours.allocator().release(pod(name))
            reference(theirs, "DEL", name)
            continue
        try:
            expected = reference(theirs, "ADD", name)
        except Refused:
            with pytest.raises(IpamError):
                ours.add(name)
        else:
            assert ours.add(name) == expected, step
    assert ours.lease_files() == theirs.lease_files()


@pytest.mark.parametrize("ipam", [
    {"subnet": "10.1.2.3/24"}, {"subnet": "10.1.2.0/31"}, {"subnet": "10.1.2.0/32"}, {"subnet": "fd00::/127"},
    {"subnet": "10.1.2.0"}, {"subnet": "10.1.2.0/255.255.255.0"}, {"subnet": "010.1.2.0/24"}, {"subnet": 5},
    {"subnet": "::ffff:10.1.0.0/120"}, {"ranges": []}, {"ranges": [[]]}, {"ranges": [[{"rangeStart": "10.1.2.3"}]]},
    {"rangeStart": "10.1.2.3"}, {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.20", "rangeEnd": "10.1.2.10"},
    {"subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.1"}, {"subnet": "10.1.2.0/24", "gateway": "x"},
    {"subnet": "10.1.2.0/24", "ranges": [[{"subnet": "10.1.2.0/25"}]]},
    {"ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}]]},
    {"ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.0.0/16"}]]},
], ids=str)
def test_what_the_reference_refuses_we_refuse(tmp_path: Path, ipam: dict[str, object]) -> None:
    with pytest.raises(Refused):
        reference(Network(tmp_path / "theirs", ipam), "ADD", "a")
    with pytest.raises(IpamError):
        Network(tmp_path / "ours", ipam).add("a")


@pytest.mark.parametrize("ipam", [
    {"subnet": "10.1.2.0/30"}, {"subnet": "10.1.2.0/24", "gateway": "169.254.1.1"},
    {"subnet": "10.1.2.0/24", "rangeStart": ""},
    {"SUBNET": "10.1.2.0/24", "RangeStart": "10.1.2.9"}, {"subnet": "10.1.2.0/24", "rangeStart": "::ffff:10.1.2.9"},
    {"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.255"},
    {"gateway": "10.9.9.9", "ranges": [[{"subnet": "10.1.2.0/24"}]]},
    {"subnet": "fd00::/64"}, {"subnet": "fd00::/126"}, {"subnet": "10.1.2.0/24", "ranges": None},
], ids=str)
def test_what_the_reference_accepts_gives_the_same_first_address(tmp_path: Path, ipam: dict[str, object]) -> None:
    expected = reference(Network(tmp_path / "theirs", ipam), "ADD", "a")
    assert Network(tmp_path / "ours", ipam).add("a") == expected


def test_runtime_ranges_come_first_in_both(tmp_path: Path) -> None:
    from ipam.allocator import Allocator
    from ipam.ranges import parse

    extra = [[{"subnet": "10.9.0.0/24"}]]
    theirs = Network(tmp_path / "theirs")
    expected = reference(theirs, "ADD", "a", runtimeConfig={"ipRanges": extra})
    ours = Allocator(str(tmp_path / "ours"), "pods", parse(theirs.ipam, extra), boot_id="b")
    assert [str(lease.address.ip) for lease in ours.allocate(pod("a"))] == expected == ["10.9.0.2", "10.1.0.2"]


def test_requested_addresses_mean_the_same(tmp_path: Path) -> None:
    theirs, ours = Network(tmp_path / "theirs"), Network(tmp_path / "ours")
    for wish in ("10.1.0.9", "10.1.0.1", "10.1.0.14", "10.1.0.9"):
        try:
            expected = reference(theirs, "ADD", f"p{wish}", args={"cni": {"ips": [wish]}})
        except Refused:
            with pytest.raises(IpamError):
                ours.allocator().allocate(pod(f"p{wish}"), ips(wish))
        else:
            (lease,) = ours.allocator().allocate(pod(f"p{wish}"), ips(wish))
            assert [str(lease.address.ip)] == expected
    assert ours.add("next") == reference(theirs, "ADD", "next") == ["10.1.0.2"]
    with pytest.raises(Refused, match=r"10\.9\.9\.9"):
        reference(theirs, "ADD", "outside", args={"cni": {"ips": ["10.9.9.9"]}})
    with pytest.raises(IpamError, match=r"10\.9\.9\.9"):
        ours.allocator().allocate(pod("outside"), ips("10.9.9.9"))


def test_each_waits_for_the_others_lock(network: Network) -> None:
    network.add("a")
    with (network.path / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(subprocess.TimeoutExpired):
            _reference_add_within(network, 0.3)
        fcntl.flock(held, fcntl.LOCK_UN)
    assert reference(network, "ADD", "c") != []


def _reference_add_within(network: Network, seconds: float) -> None:
    conf = {"cniVersion": "1.0.0", "name": "pods", "ipam": {"dataDir": str(network.data_dir), **network.ipam}}
    _run(conf, "ADD", "b", seconds)

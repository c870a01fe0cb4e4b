"""What a pod may count on when it asks for addresses, and an operator when they look."""

from __future__ import annotations

import errno
import os
import shutil
from ipaddress import ip_address
from pathlib import Path

import pytest

from ipam.allocator import Allocator, Usage
from ipam.errors import AddressOutside, AddressTaken, DuplicateAllocation, IpamError, PoolExhausted, StoreError
from ipam.ranges import parse
from ipam.store import Owner
from tests.unit.ipam.world import Network, ips, pod


def test_a_pod_gets_one_address_of_each_range_set_with_prefix_and_gateway(dual: Network) -> None:
    four, six = dual.allocator().allocate(pod("a"))
    assert (str(four.address), str(four.gateway), four.range_set) == ("10.1.0.2/28", "10.1.0.1", 0)
    assert (str(six.address), str(six.gateway), six.range_set) == ("fd00:1::2/64", "fd00:1::1", 1)
    dual.check_hints()


def test_addresses_go_round_before_one_is_used_again(network: Network) -> None:
    assert network.add("a", "b") == ["10.1.0.2", "10.1.0.3"]
    network.allocator().release(pod("a"))
    assert network.add(*range(12)) == [f"10.1.0.{n}" for n in range(4, 15)] + ["10.1.0.2"]


def test_a_lease_is_a_private_file_in_a_public_directory(network: Network) -> None:
    network.add("a")
    assert network.lease_files() == {"10.1.0.2": "a\r\neth0"}
    assert (network.path / "10.1.0.2").stat().st_mode & 0o777 == 0o600
    assert network.path.stat().st_mode & 0o777 == 0o755
    assert (network.path / "last_reserved_ip.0").read_text() == "10.1.0.2"


def test_release_says_what_it_took_back_and_is_empty_the_second_time(dual: Network) -> None:
    allocator = dual.allocator()
    allocator.allocate(pod("a"))
    assert allocator.find(pod("a")) == ips("10.1.0.2", "fd00:1::2")
    assert allocator.release(pod("a")) == ips("10.1.0.2", "fd00:1::2")
    assert allocator.release(pod("a")) == ()
    assert allocator.find(pod("a")) == ()
    assert dual.lease_files() == {}
    dual.check_hints()


def test_two_interfaces_of_one_container_are_two_owners(network: Network) -> None:
    allocator = network.allocator()
    allocator.allocate(pod("a", "eth0"))
    allocator.allocate(pod("a", "net1"))
    assert allocator.release(pod("a", "eth0")) == ips("10.1.0.2")
    assert allocator.find(pod("a", "net1")) == ips("10.1.0.3")


def test_a_second_add_for_the_same_interface_is_refused(network: Network) -> None:
    network.add("a")
    with pytest.raises(DuplicateAllocation, match=r"10\.1\.0\.2 has been allocated to a \(eth0\)"):
        network.allocator().allocate(pod("a"))
    with pytest.raises(DuplicateAllocation):
        network.allocator().allocate(pod("a"), ips("10.1.0.9"))


def test_nothing_is_made_on_disk_for_a_network_that_nobody_used(network: Network) -> None:
    allocator = network.allocator()
    assert allocator.release(pod("a")) == ()
    assert allocator.find(pod("a")) == ()
    assert allocator.collect([]) == ()
    assert list(allocator.leases()) == []
    assert allocator.release_address(ip_address("10.1.0.2")) is None
    assert allocator.usage() == (Usage(0, 0, 13, 13),)
    assert not network.path.exists()


class TestRequestedAddresses:
    def test_each_goes_to_the_set_that_contains_it(self, dual: Network) -> None:
        four, six = dual.allocator().allocate(pod("a"), ips("fd00:1::99", "10.1.0.9"))
        assert (str(four.address), str(six.address)) == ("10.1.0.9/28", "fd00:1::99/64")

    def test_the_next_pod_continues_after_it(self, network: Network) -> None:
        network.allocator().allocate(pod("a"), ips("10.1.0.9"))
        assert network.add("b") == ["10.1.0.10"]

    def test_one_written_as_mapped_ipv6_is_ipv4(self, network: Network) -> None:
        (lease,) = network.allocator().allocate(pod("a"), ips("::ffff:10.1.0.9"))
        assert str(lease.address) == "10.1.0.9/28"

    def test_all_that_no_set_can_serve_are_named_and_nothing_is_taken(self, dual: Network) -> None:
        with pytest.raises(AddressOutside) as caught:
            dual.allocator().allocate(pod("a"), ips("10.1.0.9", "10.1.0.10", "10.9.0.1", "fd00:2::1"))
        assert "10.1.0.10, 10.9.0.1, fd00:2::1" in str(caught.value), "one a set: the second is not served either"
        assert dual.lease_files() == {}

    def test_one_that_is_taken_names_its_owner_and_the_other_family_is_given_back(self, dual: Network) -> None:
        dual.allocator().allocate(pod("a"), ips("fd00:1::99"))
        before = dual.lease_files()
        with pytest.raises(AddressTaken, match=r"fd00:1::99 is not available .* belongs to a \(eth0\)"):
            dual.allocator().allocate(pod("b"), ips("fd00:1::99"))
        assert dual.lease_files() == before
        dual.check_hints()

    @pytest.mark.parametrize("reserved", ["10.1.0.1", "10.1.0.0", "10.1.0.15"])
    def test_gateway_network_and_broadcast_are_refused(self, network: Network, reserved: str) -> None:
        network.ipam |= {"rangeStart": "10.1.0.0", "rangeEnd": "10.1.0.15"}
        with pytest.raises(AddressTaken, match="reserved"):
            network.allocator().allocate(pod("a"), ips(reserved))


def test_when_the_second_family_is_full_the_first_is_not_taken(network: Network) -> None:
    network.ipam = {"ranges": [[{"subnet": "10.1.0.0/28"}], [{"subnet": "fd00:1::/126"}]]}
    network.add("a", "b")
    before = network.lease_files()
    with pytest.raises(PoolExhausted, match=r"fd00:1::/126 \(2 usable, 2 in use\)"):
        network.allocator().allocate(pod("c"))
    assert network.lease_files() == before


def test_a_large_ipv6_range_goes_round_and_skips_what_is_taken(network: Network) -> None:
    network.ipam = {"subnet": "fd00:1::/64", "rangeStart": "fd00:1::fff0"}
    network.write_lease("fd00:1::fff1", "somebody\r\neth0")
    assert network.add(*range(3)) == ["fd00:1::fff0", "fd00:1::fff2", "fd00:1::fff3"]
    (network.path / "last_reserved_ip.0").write_text("fd00:1::ffff:ffff:ffff:fffe")
    assert network.add("x", "y") == ["fd00:1::ffff:ffff:ffff:ffff", "fd00:1::fff4"]


def test_a_pool_crosses_block_boundaries(network: Network) -> None:
    network.ipam = {"subnet": "10.0.0.0/12", "rangeStart": "10.0.255.254", "rangeEnd": "10.1.0.1"}
    assert network.add(*range(4)) == ["10.0.255.254", "10.0.255.255", "10.1.0.0", "10.1.0.1"]
    assert network.allocator().usage()[0].free == 0
    with pytest.raises(PoolExhausted):
        network.add("more")


def test_a_changed_configuration_still_releases_what_the_old_one_gave(dual: Network) -> None:
    dual.add("a")
    dual.ipam = {"subnet": "192.0.2.0/24"}
    assert dual.allocator().release(pod("a")) == ips("10.1.0.2", "fd00:1::2")


def test_a_pod_of_an_old_configuration_may_ask_again_in_a_new_one(network: Network) -> None:
    network.add("a")
    network.ipam = {"subnet": "192.0.2.0/24"}
    assert network.add("a") == ["192.0.2.2"]
    assert network.allocator().release(pod("a")) == ips("10.1.0.2", "192.0.2.2")


class TestLeasesWithoutAnInterface:
    """Early versions of the reference wrote the container ID alone."""

    def test_any_interface_of_that_container_finds_and_releases_them(self, network: Network) -> None:
        network.write_lease("10.1.0.5", "old")
        assert network.allocator().find(pod("old")) == ips("10.1.0.5")
        with pytest.raises(DuplicateAllocation):
            network.allocator().allocate(pod("old"))
        assert network.allocator().release(pod("old", "net7")) == ips("10.1.0.5")
        network.check_hints()

    def test_they_are_released_only_when_nothing_fits_better(self, network: Network) -> None:
        network.write_lease("10.1.0.5", "old\n")
        network.write_lease("10.1.0.6", "old\r\neth0")
        assert network.allocator().release(pod("old")) == ips("10.1.0.6")
        assert network.allocator().release(pod("old")) == ips("10.1.0.5")

    def test_collect_keeps_them_while_the_container_is_valid(self, network: Network) -> None:
        network.write_lease("10.1.0.5", "old")
        assert network.allocator().collect([pod("old")]) == ()
        assert network.allocator().collect([pod("new")]) == (Owner("old", ""),)


class TestCollect:
    def test_it_releases_all_that_is_not_valid(self, dual: Network) -> None:
        dual.add("a", "b", "c")
        assert dual.allocator().collect([pod("b"), pod("unknown")]) == (pod("a"), pod("c"))
        assert set(dual.owners().values()) == {pod("b")}
        dual.check_hints()

    def test_it_sweeps_index_entries_that_lead_nowhere(self, network: Network) -> None:
        network.add("a")
        network.set_index("ghost:eth0", "10.1.0.9")
        network.allocator().collect([pod("a")])
        network.check_hints()


class TestOperators:
    def test_leases_come_in_the_order_of_addresses(self, dual: Network) -> None:
        dual.allocator().allocate(pod("a"), ips("10.1.0.10"))
        dual.allocator().allocate(pod("b"), ips("10.1.0.9"))
        assert [(str(ip), owner) for ip, owner in dual.allocator().leases()] == [
            ("10.1.0.9", pod("b")), ("10.1.0.10", pod("a")), ("fd00:1::2", pod("a")), ("fd00:1::3", pod("b"))]

    def test_usage_is_the_same_with_and_without_the_bitmap(self, dual: Network) -> None:
        dual.add("a", "b")
        dual.write_lease("10.1.0.1", "whoever leased the gateway\r\neth0")
        dual.write_lease("192.0.2.7", "outside\r\neth0")
        unclean = dual.allocator().usage()
        dual.allocator().release(pod("nobody"))
        assert dual.clean
        assert dual.allocator().usage() == unclean == (Usage(0, 2, 11, 13), Usage(1, 2, 2**64 - 4, 2**64 - 2))

    def test_free_ranges_are_what_is_left(self, network: Network) -> None:
        network.add("a")
        network.allocator().allocate(pod("b"), ips("10.1.0.9"))
        assert network.allocator().free_ranges() == (ips("10.1.0.3", "10.1.0.8"), ips("10.1.0.10", "10.1.0.14"))

    def test_one_address_is_taken_back_and_the_rest_of_the_pod_stays(self, dual: Network) -> None:
        dual.add("a")
        assert dual.allocator().release_address(ip_address("10.1.0.2")) == pod("a")
        assert dual.allocator().release_address(ip_address("10.1.0.2")) is None
        assert dual.allocator().find(pod("a")) == ips("fd00:1::2")
        dual.check_hints()

    def test_looking_changes_nothing_on_disk(self, network: Network) -> None:
        network.add("a")
        network.write_lease("10.1.0.9", "other\r\neth0", age=-60)
        before = _snapshot(network.path)
        allocator = network.allocator(boot="another boot", is_alive=lambda owner: owner == pod("a"))
        assert allocator.find(pod("a")) == ips("10.1.0.2")
        assert allocator.usage()[0].used == 2, "one is alive, the other was written after our last change"
        assert len(list(allocator.leases())) == 2
        assert _snapshot(network.path) == before


def test_what_somebody_else_changed_is_noticed_whatever_the_clock_says(network: Network) -> None:
    network.add("a")
    network.write_lease("10.1.0.3", "other\r\neth0")
    assert network.add("b") == ["10.1.0.4"]
    assert network.allocator().release(pod("other")) == ips("10.1.0.3")
    (network.path / "10.1.0.2").unlink()
    assert network.allocator().find(pod("a")) == ()
    network.allocator().release(pod("nobody"))
    network.check_hints()


def test_wrong_hints_cost_time_but_never_an_address(network: Network) -> None:
    """A directory that claims to be clean and is not: bits cleared, bits set, owners swapped."""
    network.add("a", "b")
    used = next((network.path / ".tulle/used").iterdir())
    used.write_bytes(b"\x00" * 8192)
    (network.path / "last_reserved_ip.0").unlink()
    network.set_index("a:eth0", "10.1.0.3")
    _claim_clean(network)
    assert network.add("c") == ["10.1.0.4"]
    assert network.allocator().release(pod("a")) == (), "10.1.0.3 is b's, and stays b's"
    assert network.allocator().find(pod("b")) == ips("10.1.0.3")
    used.write_bytes(b"\xff" * 8192)
    _claim_clean(network)
    assert network.add("d") == ["10.1.0.5"], "before a pool is called full, the leases are read"


@pytest.mark.parametrize("owner", [
    Owner("", "eth0"), Owner("a b", "eth0"), Owner("a\r\nb", "eth0"), Owner("a", "e\n"), Owner("a\udc80", "eth0")])
def test_an_owner_that_could_not_be_read_back_is_refused(network: Network, owner: Owner) -> None:
    with pytest.raises(IpamError, match="cannot own an address"):
        network.allocator().allocate(owner)


@pytest.mark.parametrize("name", ["x" * 3000, "../../etc/passwd", "c.tmp:eth0", "ünïcode", "-", "new"])
def test_any_other_owner_comes_and_goes(network: Network, name: str) -> None:
    network.allocator().allocate(pod(name))
    network.allocator().allocate(pod("other"))
    assert network.allocator().find(pod(name)) == ips("10.1.0.2")
    assert network.allocator().release(pod(name)) == ips("10.1.0.2")
    assert list(network.index()) == ["other:eth0"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_network_name_that_is_no_directory_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IpamError, match="network name"):
        Allocator(str(tmp_path), name, parse({"subnet": "10.1.0.0/28"}), boot_id="b")


class TestNothingIsFollowed:
    def test_a_network_directory_that_somebody_links_elsewhere_is_refused(
        self, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        os.symlink(tmp_path / "elsewhere", network.path)
        if os.geteuid() == 0:
            os.lchown(network.path, 65534, 65534)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 65534)
        with pytest.raises(StoreError, match=r"pods cannot be used.*neither root nor we have made.*have root make it"):
            network.add("a")
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_one_that_root_moved_to_another_disk_works_as_with_the_reference(
        self, network: Network, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        os.symlink(tmp_path / "elsewhere", network.path)
        assert network.add("a") == ["10.1.0.2"]
        assert (tmp_path / "elsewhere" / "10.1.0.2").read_bytes() == b"a\r\neth0"
        assert network.allocator().release(pod("a")) == ips("10.1.0.2")

    @pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
    def test_a_disk_without_hard_links_works_as_with_the_reference(
        self, network: Network, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "link", refuse)
        assert network.add("a", "b") == ["10.1.0.2", "10.1.0.3"]
        with pytest.raises(AddressTaken):
            network.allocator().allocate(pod("c"), ips("10.1.0.2"))
        assert network.allocator().release(pod("a")) == ips("10.1.0.2")
        assert network.lease_files() == {"10.1.0.3": "b\r\neth0"}

    @pytest.mark.parametrize("name", [".tulle", "lock", "last_reserved_ip.0"])
    def test_a_link_in_place_of_a_file_of_ours_is_replaced(self, network: Network, tmp_path: Path, name: str) -> None:
        network.path.mkdir()
        (tmp_path / "target").mkdir()
        os.symlink(tmp_path / "target", network.path / name)
        network.add("a")
        assert list((tmp_path / "target").iterdir()) == []
        assert not (network.path / name).is_symlink()

    def test_a_link_a_pipe_and_a_directory_in_the_place_of_leases_are_set_aside(self, network: Network) -> None:
        network.path.mkdir()
        (network.path / "secret").write_text("a\r\neth0")
        os.symlink("secret", network.path / "10.1.0.2")
        os.mkfifo(network.path / "10.1.0.3")
        (network.path / "10.1.0.4").mkdir()
        allocator = network.allocator()
        assert network.allocator().find(pod("a")) == ()
        assert str(allocator.allocate(pod("b"))[0].address.ip) == "10.1.0.5"
        assert [str(d.address) for d in allocator.damaged()] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]


def test_losing_the_private_directory_loses_nothing(network: Network) -> None:
    network.add("a")
    shutil.rmtree(network.path / ".tulle")
    assert network.allocator().find(pod("a")) == ips("10.1.0.2")
    assert network.add("b") == ["10.1.0.3"]
    network.check_hints()


def _claim_clean(network: Network) -> None:
    from ipam.hints import CLEAN

    os.utime(network.path, ns=(CLEAN, CLEAN))


def _snapshot(path: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for f in [path, *path.rglob("*")]:
        s = f.lstat()
        found[str(f)] = (s.st_ino, s.st_mtime_ns, s.st_ctime_ns)
    return found

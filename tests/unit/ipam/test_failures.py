"""Failures that users of other networks report, as far as addresses have a part in them: they do not happen here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ipam.errors import AddressTaken, PoolExhausted
from tests.unit.ipam.world import Network, ips, pod
from tests.unit.odd import put_odd


class TestFailure01LeasesLeakAtReboot:
    def test_failure_01_fifty_leases_of_an_earlier_boot_leave_nothing(self, network: Network) -> None:
        network.ipam = {"subnet": "10.1.0.0/24"}
        network.add(*range(50))
        after = network.allocator(boot="boot-2")
        assert after.usage()[0].used == 0, "void before anybody cleans up"
        assert after.find(pod(7)) == ()
        (lease,) = after.allocate(pod("new"))
        assert list(after.leases()) == [(lease.address.ip, pod("new"))]
        network.check_hints()

    def test_failure_01_round_robin_goes_on_after_a_boot(self, network: Network) -> None:
        network.add("a", "b")
        (lease,) = network.allocator(boot="boot-2").allocate(pod("c"))
        assert str(lease.address.ip) == "10.1.0.4"

    def test_failure_01_what_still_stands_keeps_its_address(self, network: Network) -> None:
        network.add("dead", "alive")
        after = network.allocator("boot-2", is_alive=lambda owner: owner == pod("alive"))
        after.allocate(pod("new"))
        assert set(network.owners().values()) == {pod("alive"), pod("new")}
        assert after.find(pod("alive")) == ips("10.1.0.3")

    def test_failure_01_the_next_boot_asks_again(self, network: Network) -> None:
        network.add("a")
        network.allocator("boot-2", is_alive=lambda _: True).allocate(pod("b"))
        network.allocator("boot-3").allocate(pod("c"))
        assert set(network.owners().values()) == {pod("c")}

    def test_failure_01_a_directory_of_the_reference_is_adopted_as_it_is(self, network: Network) -> None:
        network.write_lease("10.1.0.2", "ref\r\neth0", age=10**6)
        network.add("a")
        assert set(network.owners().values()) == {pod("ref"), pod("a")}

    def test_failure_01_leases_the_reference_made_after_our_last_change_are_not_void(self, network: Network) -> None:
        """We, then the reference, then a boot, then the reference again, then we: its pods are running."""
        network.add("ours")
        network.write_lease("10.1.0.7", "of this boot\r\neth0".replace(" ", "-"), age=-60)
        after = network.allocator("boot-2")
        after.allocate(pod("b"))
        assert set(network.owners().values()) == {pod("of-this-boot"), pod("b")}

    def test_failure_01_a_torn_lease_of_an_earlier_boot_is_void_too(self, network: Network) -> None:
        network.add("a")
        (network.path / "10.1.0.2").write_text("")
        after = network.allocator("boot-2", is_alive=lambda _: True)
        after.allocate(pod("b"))
        assert after.damaged() == ()

    def test_failure_01_release_and_collect_settle_a_boot_as_well(self, network: Network) -> None:
        network.add("a", "b", "c")
        network.allocator("boot-2").release(pod("a"))
        assert network.lease_files() == {}
        network.add("d")
        assert network.allocator("boot-3").collect([pod("d")]) == ()
        assert network.lease_files() == {}


def test_failure_05_a_late_del_of_the_old_pod_does_not_free_the_new_pods_address(network: Network) -> None:
    network.ipam |= {"rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.5"}
    assert network.add("a") == ["10.1.0.5"]
    network.allocator().collect([])
    assert network.add("b") == ["10.1.0.5"]
    assert network.allocator().release(pod("a")) == ()
    assert network.allocator().find(pod("b")) == ips("10.1.0.5")
    with pytest.raises(PoolExhausted):
        network.add("c")


def test_failure_05_not_even_when_the_index_still_names_it(network: Network) -> None:
    network.add("a")
    network.write_lease("10.1.0.2", "b\r\neth0")
    assert network.allocator().release(pod("a")) == ()
    assert network.lease_files() == {"10.1.0.2": "b\r\neth0"}


class TestFailure06TornLeaseFiles:
    @pytest.mark.parametrize("text", [
        b"", b" \r\n ", b"\x00\x00\x00\x00", b"\xff\xfe\r\neth0", b"a b\r\neth0", b"\r\neth0", b"a\r\neth0\r\nmore",
        b"x" * 300_000])
    def test_failure_06_a_lease_that_cannot_be_read_is_set_aside_and_never_given_out(
        self, network: Network, text: bytes
    ) -> None:
        network.add("a", "b")
        network.write_lease("10.1.0.2", text)
        allocator = network.allocator()
        assert [str(d.address) for d in allocator.damaged()] == ["10.1.0.2"]
        assert allocator.damaged()[0].flaw
        assert allocator.find(pod("a")) == ()
        assert "10.1.0.2" not in network.add(*range(11)), "the whole rest of the pool"
        with pytest.raises(PoolExhausted, match="13 usable, 13 in use"):
            network.add("more")
        with pytest.raises(AddressTaken, match="damaged"):
            allocator.allocate(pod("more"), ips("10.1.0.2"))
        allocator.collect([])
        assert [str(d.address) for d in allocator.damaged()] == ["10.1.0.2"]

    def test_failure_06_an_operator_gives_it_free(self, network: Network) -> None:
        network.write_lease("10.1.0.2", "")
        allocator = network.allocator()
        assert allocator.release_address(ips("10.1.0.2")[0]) is None
        assert allocator.damaged() == ()
        assert network.add("a") == ["10.1.0.2"]

    def test_failure_06_a_torn_cursor_costs_the_round_robin_and_nothing_else(self, network: Network) -> None:
        network.add("a")
        for text in ("", "10.1.0", "10.1.0.300", "\x00", "fd00::1", "192.0.2.1"):
            (network.path / "last_reserved_ip.0").write_text(text)
            assert network.add("b") == ["10.1.0.3"]
            network.allocator().release(pod("b"))


class TestFailure08ExhaustionIsSilent:
    def test_failure_08_an_empty_pool_says_so_with_its_size(self, network: Network) -> None:
        network.add(*range(13))
        assert network.allocator().usage()[0].free == 0
        with pytest.raises(PoolExhausted, match=r"no free address in 10\.1\.0\.0/28 \(13 usable, 13 in use\): .*GC"):
            network.add("more")

    def test_failure_08_one_release_makes_room(self, network: Network) -> None:
        network.add(*range(13))
        network.allocator().release(pod(4))
        assert network.allocator().usage()[0].free == 1
        assert network.add("more") == ["10.1.0.6"]


@pytest.mark.parametrize("ipam", [
    {"subnet": "10.1.0.0/28"},
    {"subnet": "10.1.0.0/28", "rangeStart": "10.1.0.0", "rangeEnd": "10.1.0.15", "gateway": "10.1.0.7"},
    {"subnet": "fd00:1::/124"},
    {"subnet": "fd00:1::/124", "rangeStart": "fd00:1::", "gateway": "fd00:1::f"},
])
def test_failure_09_no_pod_gets_gateway_network_or_broadcast(network: Network, ipam: dict[str, object]) -> None:
    network.ipam = ipam
    allocator = network.allocator()
    size = allocator.usage()[0].size
    given = network.add(*range(size))
    with pytest.raises(PoolExhausted):
        network.add("more")
    subnet = "fd00:1::" if "fd00" in str(ipam) else "10.1.0."
    gateway = str(ipam.get("gateway", f"{subnet}1"))
    reserved = {gateway, "10.1.0.0", "10.1.0.15", "fd00:1::"}
    assert len(set(given)) == size == (13 if subnet == "10.1.0." else 14)
    assert not reserved & set(given)


PLACES = (
    "lock", "last_reserved_ip.0", ".tulle", ".tulle/index", ".tulle/boot", ".tulle/used", ".tulle/used/4.a01",
    ".tulle/used/4.zz", ".tulle/used/junk", ".tulle/tmp", ".tulle/spare.3",
)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "loop", "socket", "huge", "noise", "empty"])
@pytest.mark.parametrize("place", PLACES)
def test_what_stands_in_the_place_of_a_file_of_ours_keeps_nobody_from_an_address(
    network: Network, place: str, kind: str
) -> None:
    network.add("live")
    put_odd(network.path / place, kind)
    assert network.add("new") == ["10.1.0.3"]
    put_odd(network.path / place, kind)
    assert network.allocator().find(pod("live")) == ips("10.1.0.2")
    assert network.allocator().usage()[0].used == 2
    put_odd(network.path / place, kind)
    assert network.allocator().release(pod("new")) == ips("10.1.0.3")
    put_odd(network.path / place, kind)
    assert network.allocator().collect([]) == (pod("live"),)
    assert network.lease_files() == {}
    network.add("next")
    network.check_hints()


def test_a_data_directory_may_be_as_deep_as_the_kernel_has_paths(tmp_path: Path) -> None:
    deep = f"{tmp_path}{'/a' * 1500}"
    network = Network(Path(deep))
    assert network.add("a", "b") == ["10.1.0.2", "10.1.0.3"]
    shutil.rmtree(network.path)
    for _ in range(1500):  # what removes trees calls itself for each
        os.rmdir(deep)
        deep = os.path.dirname(deep)

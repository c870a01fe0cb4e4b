"""What a configuration of ranges means, and which ones are refused with which words."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.errors import RangeError
from ipam.ranges import parse
from tests.unit.ipam.world import ips


def test_a_subnet_gives_all_but_network_gateway_and_broadcast() -> None:
    (one,) = parse({"subnet": "10.22.0.0/24"})
    r = one.ranges[0]
    assert (str(r.start), str(r.end), str(r.gateway)) == ("10.22.0.1", "10.22.0.254", "10.22.0.1")
    assert (one.size, one.family) == (253, 4)


def test_an_ipv6_subnet_has_no_broadcast_address() -> None:
    (one,) = parse({"subnet": "fd00:22::/64"})
    assert str(one.ranges[0].end) == "fd00:22::ffff:ffff:ffff:ffff"
    assert one.size == 2**64 - 2
    assert one.family == 6


def test_an_explicit_range_may_name_network_and_broadcast_but_no_pod_gets_them() -> None:
    (one,) = parse({"subnet": "10.22.0.0/29", "rangeStart": "10.22.0.0", "rangeEnd": "10.22.0.7"})
    assert one.reserved == set(ips("10.22.0.0", "10.22.0.1", "10.22.0.7"))
    assert one.size == 5


def test_the_gateway_of_one_range_is_not_given_out_by_another() -> None:
    sets = parse({"ranges": [
        [{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.19", "gateway": "10.0.0.25"}],
        [{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.20", "rangeEnd": "10.0.0.29"}],
    ]})
    assert [s.size for s in sets] == [10, 9]


def test_sets_come_in_the_order_runtime_then_old_style_then_ranges() -> None:
    sets = parse(
        {"subnet": "10.2.0.0/24", "ranges": [[{"subnet": "10.3.0.0/24"}], [{"subnet": "fd00:3::/64"}]]},
        [[{"subnet": "10.1.0.0/24"}]],
    )
    assert [(s.index, str(s)) for s in sets] == [
        (0, "10.1.0.0/24"), (1, "10.2.0.0/24"), (2, "10.3.0.0/24"), (3, "fd00:3::/64")]


def test_keys_match_in_any_case_and_null_and_empty_are_absent() -> None:
    (one,) = parse({"Subnet": "10.1.0.0/24", "RANGESTART": "10.1.0.9", "rangeEnd": None, "gateway": "", "ranges": None})
    assert str(one.ranges[0].start) == "10.1.0.9"
    assert str(one) == "10.1.0.9-10.1.0.254 of 10.1.0.0/24"


def test_a_gateway_outside_the_subnet_is_allowed() -> None:
    (one,) = parse({"subnet": "10.1.0.0/24", "gateway": "169.254.1.1"})
    assert one.size == 254


def test_an_ipv4_address_written_as_ipv6_is_the_ipv4_address() -> None:
    (one,) = parse({"subnet": "10.1.0.0/24", "rangeStart": "::ffff:10.1.0.9"})
    assert str(one.ranges[0].start) == "10.1.0.9"


@pytest.mark.parametrize(("ipam", "key", "words"), [
    ({}, "ranges", "names no range"),
    ({"rangeStart": "10.1.0.2"}, "ranges", "names no range"),
    ({"ranges": []}, "ranges", "names no range"),
    ({"ranges": [[]]}, "ranges[0]", "empty range set"),
    ({"ranges": [{}]}, "ranges[0]", "is not a list"),
    ({"ranges": "x"}, "ranges", "is not a list"),
    ({"ranges": [["10.1.0.0/24"]]}, "ranges[0][0]", "is not an object"),
    ({"ranges": [[{}]]}, "ranges[0][0].subnet", "is missing"),
    ({"subnet": "10.1.0.0"}, "subnet", "is not an address and a prefix length"),
    ({"subnet": "10.1.0.0/255.255.255.0"}, "subnet", "is not an address and a prefix length"),
    ({"subnet": "fd00::%eth0/64"}, "subnet", "is not an address and a prefix length"),
    ({"subnet": 5}, "subnet", "is not an address and a prefix length"),
    ({"subnet": "10.1.0.0/33"}, "subnet", "is no subnet"),
    ({"subnet": "010.1.0.0/24"}, "subnet", "is no subnet"),
    ({"subnet": "10.1.2.3/24"}, "subnet", "host bits set: the network is 10.1.2.0/24"),
    ({"subnet": "10.1.0.0/31"}, "subnet", "too small"),
    ({"subnet": "fd00::/127"}, "subnet", "too small"),
    ({"subnet": "::ffff:10.1.0.0/120"}, "subnet", "IPv4 written as IPv6"),
    ({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.5"}, "rangeStart", "not in the subnet 10.1.0.0/24"),
    ({"subnet": "10.1.0.0/24", "rangeEnd": "fd00::1"}, "rangeEnd", "not in the subnet"),
    ({"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.x"}, "rangeEnd", "is not an IP address"),
    ({"subnet": "10.1.0.0/24", "rangeStart": 7}, "rangeStart", "is not an IP address"),
    ({"ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}]]},
     "ranges[0][0].rangeEnd", "comes before rangeStart 10.1.0.9"),
    ({"subnet": "10.1.0.0/24", "gateway": "fd00::1"}, "gateway", "another family"),
    ({"subnet": "10.1.0.0/24", "gateway": "10.1.0.255"}, "gateway", "network or broadcast address"),
    ({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]}, "ranges[0]", "another family"),
    ({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.0/25"}]]}, "ranges[0]", "overlaps 10.1.0.1-10.1.0.254"),
    ({"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "10.1.0.0/25"}]]}, "ranges[0]", "of subnet"),
])
def test_a_bad_range_is_refused_by_key_value_and_remedy(ipam: dict[str, object], key: str, words: str) -> None:
    with pytest.raises(RangeError) as caught:
        parse(ipam)
    assert caught.value.key == key
    assert words in str(caught.value)
    assert len(str(caught.value).split(": ")) >= 3, "key: value problem: remedy"


def test_a_bad_runtime_range_is_named_as_such() -> None:
    with pytest.raises(RangeError) as caught:
        parse({"subnet": "10.1.0.0/24"}, [[{"subnet": "x"}]])
    assert caught.value.key == "runtimeConfig.ipRanges[0][0].subnet"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=4), st.integers(0, 255))
def test_round_robin_tries_each_address_once_starting_after_the_last(sizes: list[tuple[int, int]], last: int) -> None:
    ranges, at = [], 1
    for gap, size in sizes:
        first = at + gap
        ranges.append({"subnet": "10.0.0.0/24", "rangeStart": f"10.0.0.{first}", "rangeEnd": f"10.0.0.{first + size}"})
        at = first + size + 1
    (one,) = parse({"ranges": [ranges]})
    every = [n for r in one.ranges for n in range(int(r.start), int(r.end) + 1)]
    cursor = ip_address(f"10.0.0.{last}")
    order = [n for first, end in one.spans(cursor) for n in range(first, end + 1)]
    assert sorted(order) == sorted(every)
    if int(cursor) in every:
        start = every.index(int(cursor)) + 1
        assert order == every[start:] + every[:start]
    else:
        assert order == every

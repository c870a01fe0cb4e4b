"""Values of sets and maps as a kernel has them: what is written is read, in nft's own spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.kernel.nft.nft_values import (
    TYPES,
    Span,
    after,
    before,
    data_packer,
    data_reader,
    kind_of,
    number_of,
    packer,
    reader,
    sizes,
)

PORTS = st.integers(0, 65535)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=15)
VALUES: dict[str, st.SearchStrategy[str]] = {
    "ipv4_addr": st.builds(str, st.builds(IPv4Address, st.integers(0, 2**32 - 1))),
    "ipv6_addr": st.builds(str, st.builds(IPv6Address, st.integers(2**64, 2**128 - 1))),
    "ether_addr": st.binary(min_size=6, max_size=6).map(lambda each: each.hex(":")),
    "inet_proto": st.sampled_from(["tcp", "udp", "sctp", "icmp", "ipv6-icmp", "200"]),
    "inet_service": PORTS.map(str),
    "mark": st.integers(0, 2**32 - 1).map(lambda each: f"0x{each:08x}"),
    "ifname": NAMES.map(lambda each: f'"{each}"'),
}
RANGES: dict[str, st.SearchStrategy[str]] = {
    "ipv4_addr": st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 31)).map(
        lambda each: str(IPv4Network(each, strict=False))
    ),
    "ipv6_addr": st.tuples(st.integers(2**64, 2**128 - 1), st.integers(64, 127)).map(
        lambda each: str(IPv6Network(each, strict=False))
    ),
    "inet_service": st.tuples(PORTS, PORTS).filter(lambda each: each[0] < each[1]).map("{0[0]}-{0[1]}".format),
}


def test_every_type_is_tried() -> None:
    assert VALUES.keys() == TYPES.keys()


@given(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4), st.data())
def test_what_is_written_is_read(types: list[str], data: st.DataObject) -> None:
    kind, text = " . ".join(types), " . ".join(data.draw(VALUES[each]) for each in types)

    wire = packer(kind)(text)

    assert wire.first == wire.last
    assert len(wire.first) == sum(sizes(kind))
    assert reader(kind)(wire) == text


@given(st.lists(st.sampled_from(sorted(RANGES)), min_size=1, max_size=3), st.data())
def test_ranges_are_read_as_they_were_written(types: list[str], data: st.DataObject) -> None:
    kind, text = " . ".join(types), " . ".join(data.draw(RANGES[each]) for each in types)

    assert reader(kind)(packer(kind)(text)) == text


@given(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=5))
def test_a_type_is_known_by_its_number(types: list[str]) -> None:
    assert kind_of(number_of(" . ".join(types))) == " . ".join(types)


@pytest.mark.parametrize(("kind", "text", "wire"), [
    ("ipv4_addr . inet_proto . inet_service", "192.0.2.1 . tcp . 8080", "c0000201 06000000 1f900000"),
    ("inet_service", "8080", "1f90"),
    ("ifname", '"eth0"', "65746830" + "00" * 12),
    ("ether_addr . ipv4_addr", "02:00:00:00:00:01 . 192.0.2.1", "020000000001 0000 c0000201"),
])
def test_several_together_are_padded_to_four_bytes_each(kind: str, text: str, wire: str) -> None:
    assert packer(kind)(text).first == bytes.fromhex(wire)


@pytest.mark.parametrize(("text", "first", "last"), [
    ("10.1.2.3/8", "0a000000", "0affffff"), ("10.0.0.1-10.0.0.9", "0a000001", "0a000009"),
    ("0.0.0.0/0", "00000000", "ffffffff"), ("10.0.0.1/32", "0a000001", "0a000001"),
])
def test_a_range_is_from_its_first_to_its_last_value(text: str, first: str, last: str) -> None:
    assert packer("ipv4_addr")(text) == Span(bytes.fromhex(first), bytes.fromhex(last))


def test_another_spelling_is_the_same_value() -> None:
    assert packer("ipv6_addr")("2001:DB8:0::2") == packer("ipv6_addr")("2001:db8::2")
    assert packer("ifname")("eth0") == packer("ifname")('"eth0"')


@pytest.mark.parametrize("text", ["accept", "drop", "return", "continue", "jump pod7", "goto pod7"])
def test_a_verdict_is_read_as_it_was_written(text: str) -> None:
    assert data_reader("verdict")(data_packer("verdict")(text)) == text


@pytest.mark.parametrize(("kind", "text"), [
    ("ipv4_addr", "fd00::1"), ("ipv4_addr", "10.0.0.0/33"), ("ipv4_addr", "10.0.0.1 . 80"), ("inet_service", "65536"),
    ("inet_proto", "256"), ("ether_addr", "02:00"), ("mark", "-1"), ("ifname", '"sixteen-letters-"'), ("ifname", '""'),
    ("ipv4_addr . inet_service", "10.0.0.1"), ("ipv4_addr", ""),
])
def test_what_is_no_value_of_a_type_is_told(kind: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"is no {kind}"):
        packer(kind)(text)


@pytest.mark.parametrize("text", ["jump", "accept pod7", "reject", ""])
def test_what_is_no_verdict_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is no verdict"):
        data_packer("verdict")(text)


def test_a_type_that_is_not_known_is_told() -> None:
    with pytest.raises(ValueError, match="ct_state has a type that is not known"):
        packer("ct_state")
    with pytest.raises(ValueError, match="number 26"):
        kind_of(26)


@given(st.binary(min_size=1, max_size=16))
def test_what_comes_after_a_value_comes_before_the_next(value: bytes) -> None:
    following = after(value)

    assert following is None if value == b"\xff" * len(value) else before(following or b"") == value

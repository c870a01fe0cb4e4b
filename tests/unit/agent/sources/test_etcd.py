"""The etcd source without an etcd: subnets carved, flannel's JSON both ways, whose key is whose, what the store says.

With a real etcd, real nodes and real packets: tests/cluster/test_etcd.py and test_flannel_move.py.
"""

from __future__ import annotations

import errno
import json
import os
import select
import threading
from base64 import b64decode
from collections.abc import Iterable
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cni_plugin.agent.sources.contract import Announcement, Mailbox, check, open_source
from cni_plugin.agent.sources.lease import claim, gateway, memory, schema
from cni_plugin.agent.sources.lease.claim import Us
from cni_plugin.agent.sources.lease.gateway import Change
from cni_plugin.agent.sources.lease.schema import Entry, Stored
from cni_plugin.agent.sources.lease.view import MOST_COMPLAINTS, View, peers
from cni_plugin.errors import CniError
from cni_plugin.flannel import parse
from cni_plugin.network import Address, Network, NetworkConf
from ipam.carve import carve
from ipam.errors import PoolExhausted
from tests.unit.failing import fail

PREFIX = "/coreos.com/network/"
NET_CONF = b'{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'
FLANNELS = (
    b'{"PublicIP":"192.0.2.5","PublicIPv6":null,"BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"82:4b:b6:2f:54:4e"}}'
)
"""As flanneld writes it: lease.LeaseAttrs and vxlan.vxlanLeaseAttrs through encoding/json."""
VXLAN = {"vtepMAC": "0a:54:0a:f4:05:00", "vni": "1"}


def nets(text: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, text.split()))


def at(text: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, text.split()))


def said(addresses: str, backend: str = "vxlan") -> Announcement:
    return Announcement(at(addresses), backend, lambda _: VXLAN if backend == "vxlan" else {})


def stored(key: str, value: bytes | str = b"{}", created: int = 1, lease: int = 7) -> Stored:
    return Stored(key, value.encode() if isinstance(value, str) else value, created, created, lease)


def key(cidrs: str, addresses: str = "", name: str = "", created: int = 1, lease: int = 7) -> Entry:
    """A key as a Tulle node, or without a name flannel's, wrote it."""
    value = schema.value_of(said(addresses), nets(cidrs), name, 1.0) if addresses else json.dumps({"Node": name})
    return schema.entry(stored(schema.key_of(nets(cidrs)), value, created, lease))


def conf(**keys: object) -> NetworkConf:
    return parse({"network": "10.244.0.0/16", **keys}, carved=True)


# Carving


class Cut:
    """A network, how it is cut, and what of it is taken."""

    def __init__(self, base: int, bits: int, length: int, taken: Iterable[tuple[int, int]]) -> None:
        self.network = IPv4Network((base << 12 & 0xFFFFFFFF, 32 - bits), strict=False)
        self.length = max(length, self.network.prefixlen)
        size = 1 << (32 - self.length)
        self.first = self.network[0]
        self.last = self.network[-1] - (size - 1)
        self.taken = [
            IPv4Network((int(self.network[0]) + offset % (1 << bits), prefix), strict=False)
            for offset, prefix in taken
        ]

    def all(self) -> list[IPv4Network]:
        return [each for each in self.network.subnets(new_prefix=self.length) if not self.hit(each)]

    def hit(self, cidr: IPv4Network) -> bool:
        return any(cidr.overlaps(each) for each in self.taken)


cuts = some.builds(
    Cut,
    some.integers(0, 2**20 - 1),
    some.integers(4, 8),
    some.integers(22, 29),
    some.lists(some.tuples(some.integers(0, 255), some.integers(23, 32)), max_size=12),
)


@settings(deadline=None)
@given(cuts, some.integers(0, 2**64))
def test_a_subnet_is_aligned_in_bounds_and_overlaps_nothing_that_is_taken(cut: Cut, start: int) -> None:
    free = cut.all()
    if not free:
        with pytest.raises(PoolExhausted, match="no subnet is free"):
            carve(cut.first, cut.last, cut.length, cut.taken, start)
        return
    found = carve(cut.first, cut.last, cut.length, cut.taken, start)
    assert found in free
    every = list(cut.network.subnets(new_prefix=cut.length))
    turned = every[start % len(every) :] + every[: start % len(every)]
    assert found == next(each for each in turned if each in free), "the first that is free, from the start on"


@settings(deadline=None, max_examples=50)
@given(cuts)
def test_carving_again_and_again_gives_disjoint_subnets_until_every_free_one_is_given(cut: Cut) -> None:
    given_out: list[Network] = []
    for start in range(len(cut.all())):
        given_out.append(carve(cut.first, cut.last, cut.length, [*cut.taken, *given_out], start * 7))
    assert sorted(map(str, given_out)) == sorted(map(str, cut.all()))
    with pytest.raises(PoolExhausted, match=f"from {cut.first}/{cut.length}"):
        carve(cut.first, cut.last, cut.length, [*cut.taken, *given_out])


def test_only_what_lies_between_the_first_and_the_last_is_given() -> None:
    first, last = at("10.244.1.0 10.244.3.0")
    found = [carve(first, last, 24, [], start) for start in range(6)]
    assert found == [*nets("10.244.1.0/24 10.244.2.0/24 10.244.3.0/24")] * 2


def test_a_network_of_ipv6_is_carved_without_counting_it_out() -> None:
    first, last = at("fd00:0:0:1:: fd00:ffff:ffff:ffff::")
    taken = nets("fd00:8000::/48 10.244.0.0/16")
    assert carve(first, last, 64, taken, (0x8000 << 32) - 1) == ip_network("fd00:8000:1::/64")


# flannel's words


@pytest.mark.parametrize("text", ["10.12.13.0/24", "10.12.13.0/24 fd00:12:13::/56", "fd00:10:244:5::/64"])
def test_a_key_says_its_subnets_and_is_made_of_them(text: str) -> None:
    name = schema.key_of(nets(text))
    assert name == "&".join(each.replace("/", "-") for each in text.split())
    assert schema.cidrs_of(name) == nets(text)


@pytest.mark.parametrize(
    "name",
    [
        "", "10", "10.12.13.0", "10.12.13-24", "10.12.13.300-24", "10.12.13.0-24hi", "10.12.13.0-33", "10.12.13.1-24",
        "&2001::-56", "10.12.13.0-24&:12:13:-56", "10.12.13.0-24&2001-56", "10.12.13.0-24&2001::",
        "10.12.13.0-24&2001::-56hi", "fd00::-64&10.0.0.0-24", "10.0.0.0-24&10.0.1.0-24", "a/b",
    ],
)
def test_what_names_no_subnet_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        schema.cidrs_of(name)


def test_a_flannel_node_is_called_after_its_address_and_its_vtep_is_known() -> None:
    node = schema.entry(stored("10.244.5.0-24", FLANNELS)).node
    assert node is not None
    assert (node.name, node.addresses, node.pod_cidrs) == ("192.0.2.5", at("192.0.2.5"), nets("10.244.5.0/24"))
    assert node.data == {"vni": "1", "vtepmac": "82:4b:b6:2f:54:4e"}


def test_what_we_write_is_what_a_flannel_node_reads() -> None:
    value = json.loads(schema.value_of(said("192.0.2.5"), nets("10.244.5.0/24"), "n5", 12.5))
    assert value.pop("Node") == "n5" and value.pop("Since") == 12.5
    theirs = json.loads(FLANNELS)
    assert {**value, "BackendData": {**value["BackendData"], "VtepMAC": theirs["BackendData"]["VtepMAC"]}} == theirs
    assert value["BackendData"]["VtepMAC"] == VXLAN["vtepMAC"]


def test_with_a_subnet_of_ipv6_the_data_of_ipv6_is_there_too() -> None:
    value = json.loads(schema.value_of(said("192.0.2.5 2001:db8::5"), nets("10.244.5.0/24 fd00::/64"), "n5", 0.0))
    assert value["PublicIPv6"] == "2001:db8::5"
    assert value["BackendV6Data"] == value["BackendData"] == {"VNI": 1, "VtepMAC": VXLAN["vtepMAC"]}


def test_a_node_without_ipv4_says_so_in_flannels_way_and_is_read_as_it_is() -> None:
    value = schema.value_of(said("2001:db8::5", "host-gw"), nets("fd00::/64"), "n5", 0.0)
    assert json.loads(value)["PublicIP"] == "0.0.0.0" and "BackendData" not in json.loads(value)
    assert schema.entry(stored("fd00::-64", value)).addresses == at("2001:db8::5")


@given(some.sampled_from(["192.0.2.5", "192.0.2.5 2001:db8::5"]), some.text(max_size=20), some.floats(0, 2e9))
def test_what_we_write_is_what_we_read(addresses: str, name: str, since: float) -> None:
    cidrs = nets("10.244.5.0/24 fd00:0:0:5::/64")
    found = schema.entry(stored(schema.key_of(cidrs), schema.value_of(said(addresses), cidrs, name, since)))
    assert (found.cidrs, found.name, found.addresses, found.since) == (cidrs, name, at(addresses), since)
    assert (found.backend, found.data) == ("vxlan", {"vtepmac": VXLAN["vtepMAC"], "vni": "1"})


def test_keys_of_the_value_match_in_any_case() -> None:
    assert schema.entry(stored("10.244.5.0-24", FLANNELS.lower())).node == schema.entry(
        stored("10.244.5.0-24", FLANNELS)
    ).node


@pytest.mark.parametrize(
    "value",
    [
        b"", b"{", b"\xff", b"[]", b'"x"', b'{"PublicIP": 5}', b'{"PublicIP": "nowhere"}', b"[" * 100_000,
        b'{"PublicIP":"192.0.2.5","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"82:4b"}}',
    ],
)
def test_a_value_that_is_not_understood_takes_its_subnet_and_is_nobodys_peer(value: bytes) -> None:
    found = schema.entry(stored("10.244.5.0-24", value))
    assert found.cidrs == nets("10.244.5.0/24") and found.node is None
    assert "10.244.5.0-24" in found.problem


def test_a_reservation_is_taken_and_nobody_lives_there_yet() -> None:
    for value in ("{}", '{"PublicIP": "192.0.2.5"}', '{"Node": "n5"}'):
        found = schema.entry(stored("10.244.5.0-24", value, lease=0))
        assert (found.node, found.problem) == (None, "")


# Whose key is whose

OURS = Us("n1", at("192.0.2.1"), nets("10.244.1.0/24"))


@pytest.mark.parametrize(
    ("entry", "ours"),
    [
        (key("10.244.1.0/24", "192.0.2.1", "n1"), True),
        (key("10.244.9.0/24", "192.0.2.1", "n1"), True),  # the disk is new
        (key("10.244.9.0/24", "192.0.2.1", "N1"), True),  # the host writes itself otherwise
        (key("10.244.1.0/24", "192.0.2.99", "n1"), True),  # the address changed
        (key("10.244.1.0/24", "192.0.2.1", "old-name"), True),  # the host was renamed
        (key("10.244.9.0/24", "192.0.2.99", "n1"), False),  # a twin
        (key("10.244.1.0/24", "192.0.2.99", "n7"), False),  # who took it while we were away
        (key("10.244.9.0/24", "192.0.2.1", "n7"), False),  # an address that was ours
        (key("10.244.9.0/24", "192.0.2.1"), True),  # a flannel of this machine
        (key("10.244.1.0/24", "192.0.2.99"), False),  # a flannel that took it
        (key("10.244.9.0/24", name="n1"), True),  # a reservation by name
        (key("10.244.1.0/24", name="n2"), False),
        (key("10.244.1.0/24"), False),  # nobody's
    ],
)
def test_a_key_is_ours_when_two_of_name_address_and_memory_agree(entry: Entry, ours: bool) -> None:
    assert claim.is_ours(entry, OURS) == ours


def test_two_machines_of_one_name_are_told_apart_and_it_is_said() -> None:
    twin = key("10.244.9.0/24", "192.0.2.99", "n1")
    assert claim.chosen([twin], OURS, conf()) == (None, ())
    assert [*claim.twins([twin, key("10.244.1.0/24", "192.0.2.1", "n1")], OURS)] == [
        "another node calls itself n1, too: 192.0.2.99 with 10.244.9.0-24; give each node a name of its own, or remove "
        "that key if this node had it before"
    ]


def test_a_subnet_that_a_flannel_has_by_now_may_be_this_nodes_own_behind_a_nat_and_that_is_said() -> None:
    theirs = key("10.244.1.0/24", "203.0.113.1")
    assert claim.taken_by_flannel([theirs], OURS.remembered) == (
        ". 10.244.1.0-24 is a flannel's at 203.0.113.1: if that was this node's --public-ip, set address.public"
    )
    for other in (key("10.244.1.0/24", "203.0.113.1", "n7"), key("10.244.9.0/24", "203.0.113.1"), key("10.244.1.0/24")):
        assert claim.taken_by_flannel([other], OURS.remembered) == ""


def test_what_it_has_goes_before_what_is_reserved_and_that_before_the_elder() -> None:
    has, reserved = key("10.244.1.0/24", "192.0.2.1", "n1", created=9), key("10.244.2.0/24", name="n1", lease=0)
    elder, younger = key("10.244.3.0/24", "192.0.2.1", "n1", 3), key("10.244.4.0/24", "192.0.2.1", "n1", 4)
    assert claim.chosen([younger, elder, reserved, has], OURS, conf()) == (has, (elder, younger))
    assert claim.chosen([younger, elder, reserved], OURS, conf()) == (reserved, (elder, younger))
    assert claim.chosen([younger, elder], OURS, conf()) == (elder, (younger,))


def test_a_key_that_does_not_fit_the_configuration_any_more_is_let_go_of() -> None:
    old = key("10.244.1.0/24", "192.0.2.1", "n1")
    others = ({"network": "10.99.0.0/16"}, {"subnetLen": 25}, {"subnetMin": "10.244.5.0"},
        {"ipv6Network": "fd00::/48", "enableIPv6": True})
    for keys in others:
        assert claim.chosen([old], OURS, conf(**keys)) == (None, (old,))


def test_the_subnet_of_the_last_time_is_asked_for_while_it_is_free() -> None:
    assert claim.pick([], OURS, conf()) == OURS.remembered
    for taken in ("10.244.1.0/24", "10.244.0.0/20", "10.244.1.128/25"):
        found = claim.pick([key(taken, "192.0.2.9", "n9")], OURS, conf())
        assert found != OURS.remembered and not claim.overlaps(found, nets(taken))


def test_nodes_begin_at_different_places_and_each_at_the_same_place_always() -> None:
    found = [claim.pick([], Us(f"n{number}", ()), conf()) for number in range(40)]
    assert found == [claim.pick([], Us(f"n{number}", ()), conf()) for number in range(40)]
    assert len(set(found)) > 30


def test_a_subnet_of_each_family_is_picked() -> None:
    both = conf(ipv6Network="fd00:10:244::/48", enableIPv6=True)
    found = claim.pick([], Us("n1", ()), both)
    assert [each.version for each in found] == [4, 6] and claim.fits(found, both)


def test_who_was_there_first_has_it() -> None:
    younger = key("10.244.1.0/24 fd00::/64", "192.0.2.1", "n1", 5)
    elder = key("10.244.2.0/24 fd00::/64", "192.0.2.2", "n2", 4)
    assert claim.elder([younger, elder], younger) == elder
    assert claim.elder([younger, elder], elder) is None


# What the store says


def view(*subnets: Stored, config: bytes | None = NET_CONF) -> View:
    made = View(PREFIX, lambda: None)
    load(made, 10, *subnets, config=config)
    return made


def load(made: View, revision: int, *subnets: Stored, config: bytes | None = NET_CONF) -> None:
    made.load(revision, [
        *([stored(f"{PREFIX}config", config)] if config is not None else []),
        *(each._replace(key=f"{PREFIX}subnets/{each.key}") for each in subnets),
    ])


def change(name: str, value: bytes, revision: int, *, gone: bool = False) -> Change:
    return Change(Stored(PREFIX + name, value, revision, revision, 7), gone)


def names(made: View) -> list[str]:
    return sorted(each.stored.key for each in made.entries())


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"{}", b'{"Network": "10.244"}', b'{"Network": 5}', b"[" * 9999])
def test_a_broken_configuration_keeps_the_last_good_one_and_is_told(broken: bytes) -> None:
    made = view()
    good = made.conf
    made.apply([change("config", broken, 11)])
    assert made.conf == good and made.whole
    assert len(made.complaints()) == 1 and "what it said last stays true" in made.complaints()[0]
    made.apply([change("config", b'{"Network": "10.99.0.0/16"}', 12)])
    assert made.conf is not None and made.conf != good and made.complaints() == ()


def test_a_configuration_that_is_missing_is_asked_for_in_words_that_can_be_typed() -> None:
    made = view(config=None)
    assert (made.conf, made.whole) == (None, False)
    assert "etcdctl put /coreos.com/network/config '{\"Network\"" in made.complaints()[0]


def test_a_configuration_that_is_gone_keeps_the_last_one() -> None:
    made = view()
    made.apply([change("config", b"", 11, gone=True)])
    assert made.conf is not None and not made.whole
    assert "is missing" in made.complaints()[0] and "stays true" in made.complaints()[0]


def test_news_that_is_older_than_a_listing_changes_nothing() -> None:
    made = view(stored("10.244.1.0-24", FLANNELS))
    load(made, 20, stored("10.244.2.0-24", FLANNELS))
    made.apply([change("subnets/10.244.1.0-24", FLANNELS, 15), change("subnets/10.244.2.0-24", b"", 16, gone=True)])
    assert names(made) == ["10.244.2.0-24"] and made.revision == 20
    load(made, 18, stored("10.244.3.0-24", FLANNELS))
    assert names(made) == ["10.244.2.0-24"]
    made.apply([change("subnets/10.244.2.0-24", b"", 21, gone=True)])
    assert (names(made), made.revision) == ([], 21)


def test_a_store_that_was_put_back_is_listed_anew() -> None:
    made = view(stored("10.244.1.0-24", FLANNELS))
    made.load(3, [], anew=True)
    assert (names(made), made.revision, made.whole) == ([], 3, False)


def test_a_key_that_names_no_subnet_is_passed_over_and_told() -> None:
    made = view(stored("rubbish", b"{}"), stored("10.244.1.0-24", FLANNELS))
    assert names(made) == ["10.244.1.0-24"]
    assert "/subnets/rubbish names no subnet" in made.complaints()[0]
    made.apply([change("subnets/rubbish", b"", 11, gone=True)])
    assert made.complaints() == ()


def test_what_was_announced_for_another_backend_is_of_no_use_and_is_told() -> None:
    entries = [key("10.244.1.0/24", "192.0.2.1", "n1"), schema.entry(stored("10.244.5.0-24", FLANNELS))]
    nodes, complaints = peers(entries, "host-gw")
    assert [each.data for each in nodes] == [{}, {}]
    assert complaints[0] == "n1 announces vxlan, and the network's backend is host-gw"
    assert peers(entries, "vxlan")[1] == ()


def test_the_mac_of_a_node_of_ours_is_derived_and_never_believed() -> None:
    nodes, _ = peers([key("10.244.1.0/24", "192.0.2.1", "n1")], "vxlan")
    assert [each.data for each in nodes] == [{"vni": "1"}]


@pytest.mark.parametrize("data", [b'{"VNI": 1}', b"null", b"{}"])
def test_a_flannel_node_whose_mac_nobody_knows_is_left_out_and_told(data: bytes) -> None:
    value = b'{"PublicIP": "192.0.2.5", "BackendType": "vxlan", "BackendData": ' + data + b"}"
    nodes, complaints = peers([schema.entry(stored("10.244.5.0-24", value))], "vxlan")
    assert nodes == []
    assert "192.0.2.5 is left out: it is flannel's, and its backend-data has no VtepMAC" in complaints[0]


def test_no_more_is_complained_of_than_a_person_reads() -> None:
    made = view(*(stored(f"10.244.{number}.0-24", b"{") for number in range(1, 200)))
    assert len(made.complaints()) == MOST_COMPLAINTS + 1
    assert made.complaints()[-1] == f"and {199 - MOST_COMPLAINTS} more of that kind"


# The gateway's lines


def line(**result: object) -> dict[str, object]:
    return {"result": {"header": {"revision": "9"}, **result}}


def test_lines_of_the_stream_are_understood() -> None:
    name, value = gateway.coded("/a"), gateway.coded("x")
    event = {"kv": {"key": name, "value": value, "create_revision": "2", "mod_revision": "8"}}
    gone = {"type": "DELETE", "kv": {"key": gateway.coded("/b"), "mod_revision": "9"}}
    assert gateway._changes(line(created=True), 9, "e") == ()
    assert gateway._changes(line(events=[event, gone]), 9, "e") == (
        Change(Stored("/a", b"x", 2, 8, 0), False), Change(Stored("/b", b"", 0, 9, 0), True)
    )


def test_a_stream_that_cannot_go_on_says_why() -> None:
    with pytest.raises(gateway.Compacted, match="before revision 7"):
        gateway._changes(line(canceled=True, compact_revision="7"), 3, "e")
    with pytest.raises(gateway.Compacted, match="it was put back"):
        gateway._changes(line(created=True), 50, "e")
    with pytest.raises(gateway.EtcdError, match="e: no leader"):
        gateway._changes(line(canceled=True, cancel_reason="no leader"), 3, "e")
    with pytest.raises(gateway.EtcdError, match="e: invalid auth token"):
        gateway._changes({"error": {"message": "invalid auth token"}}, 3, "e")


@given(some.text(some.characters(max_codepoint=126), min_size=1, max_size=9), some.text(max_size=5))
def test_a_span_is_of_all_keys_that_begin_so(prefix: str, rest: str) -> None:
    first, end = (b64decode(gateway.span(prefix)[each]) for each in ("key", "range_end"))
    assert first <= (prefix + rest).encode() < end


# Memory, and settings


def test_the_last_subnet_is_remembered_for_its_network(tmp_path: Path) -> None:
    path = str(tmp_path / "lib" / "lease.json")
    memory.Memory(path, PREFIX).write(nets("10.244.5.0/24 fd00::/64"))
    assert memory.Memory(path, PREFIX).read() == nets("10.244.5.0/24 fd00::/64")
    assert memory.Memory(path, "/other/").read() == ()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b"{}", b'{"prefix": "/coreos.com/network/", "podCIDRs": ["x"]}', b"\0" * 70000]
)
def test_a_memory_that_cannot_be_read_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lease.json"
    path.write_bytes(data)
    assert memory.Memory(str(path), PREFIX).read() == ()


@pytest.mark.parametrize("name", ["lease.json", "subnet.env"])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO], ids=errno.errorcode.__getitem__)
def test_a_memory_that_cannot_be_read_now_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    """With another subnet the node's pods would have to be made anew."""
    monkeypatch.setattr(memory, "FLANNEL_ENV", str(tmp_path / "subnet.env"))
    fail(monkeypatch, "open", code, name)
    with pytest.raises(OSError, match=os.strerror(code)):
        memory.Memory(str(tmp_path / "lease.json"), PREFIX).read()


def test_what_a_flannel_on_this_node_had_is_remembered_until_we_have_had_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tmp_path / "subnet.env"
    env.write_text(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.5.1/24\nFLANNEL_IPV6_SUBNET=fd00:10:244:5::1/64\n"
        "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    monkeypatch.setattr(memory, "FLANNEL_ENV", str(env))
    remembered = memory.Memory(str(tmp_path / "lease.json"), PREFIX)
    assert remembered.read() == nets("10.244.5.0/24 fd00:10:244:5::/64")
    remembered.write(nets("10.244.9.0/24"))
    assert remembered.read() == nets("10.244.9.0/24")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"endpoints": []}, "source.endpoints"),
        ({"endpoints": ["ftp://192.0.2.1"]}, "source.endpoints 'ftp"),
        ({"endpoints": ["http://192.0.2.1:x"]}, "source.endpoints"),
        ({"endpoints": ["http://"]}, "source.endpoints"),
        ({"endpoints": ["https://[::1"]}, "source.endpoints"),
        ({"endpoints": ["https://192.0.2.9:99999"]}, "source.endpoints"),
        ({"endpoints": ["http://root:word@192.0.2.9:2379"]}, "who asks as username and password"),
        ({"prefix": "network"}, "source.prefix"),
        ({"prefix": "/"}, "source.prefix"),
        ({"certFile": "/c"}, "certFile and keyFile"),
        ({"ttl": 0}, "source.ttl"),
        ({"renewMargin": 0}, "source.renewMargin"),
        ({"ttl": "a day"}, "source.ttl"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name(options: dict[str, object], complaint: str) -> None:
    """Also before a release is put on a node, which opens nothing."""
    with pytest.raises(CniError, match=complaint) as caught:
        check({"type": "etcd", **options})
    assert caught.value.code == 7
    assert "root:word" not in caught.value.msg


def test_an_answer_that_nobody_foresaw_is_told_and_ends_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(*_: object) -> None:
        raise RecursionError("nested so deep")

    monkeypatch.setattr(gateway.Gateway, "listed", listed)
    mailbox = Mailbox()
    source = open_source({"type": "etcd", "state": str(tmp_path / "lease.json")}, "n1", mailbox)
    try:
        select.select([mailbox.fileno()], [], [])
        assert mailbox.take() == (None, "nested so deep")
        assert "etcd-listen" in {each.name for each in threading.enumerate()}
    finally:
        source.close()
        mailbox.close()

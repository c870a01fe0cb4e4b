"""A real etcd as the source of nodes: leases taken, kept, lost and taken again, whatever happens to etcd meanwhile.

First sources alone, then whole agents on nodes with pods. The numbers of failures are those of the list of forty that
the design names; other projects' issues are in the texts.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from cni_plugin.agent.sources.lease import gateway
from cni_plugin.network import Network
from tests import soak
from tests.cluster.etcd import CONF, PREFIX, Listener, Member, running
from tests.netns.conftest import host_untouched, lab, netns, plugin  # noqa: F401
from tests.pace import until

TTL = 3


@pytest.fixture
def etcd(netns: Callable[[str], str], tmp_path: Path) -> Iterator[Member]:  # noqa: F811
    """One server, with the network's configuration in it."""
    member = Member(netns("etcd"), tmp_path / "etcd")
    with running(member):
        member.put("config", CONF)
        yield member


@pytest.fixture
def listener(etcd: Member, tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    """Makes nodes: `listener("n1", ttl=3)`. All are closed after the test."""
    with ExitStack() as stack:

        def make(name: str, address: str = "", **settings: object) -> Listener:
            made = Listener(etcd.netns, tmp_path, name, address, **settings)
            stack.callback(made.close)
            return made.open()

        yield make


MakeListener = Callable[..., Listener]


def disjoint(subnets: list[str]) -> bool:
    each: list[Network] = [ip_network(cidr) for subnet in subnets for cidr in subnet.split()]
    return all(not one.overlaps(other) for at, one in enumerate(each) for other in each[at + 1 :])


# Leases


def test_twenty_nodes_that_start_at_once_share_out_a_network_with_room_for_exactly_twenty(
    etcd: Member, listener: MakeListener
) -> None:
    etcd.put("config", {**CONF, "Network": "10.244.0.0/19", "SubnetMin": "10.244.8.0", "SubnetMax": "10.244.27.0"})
    nodes = [listener(f"n{number}") for number in range(1, 21)]
    subnets = [each.leased() for each in nodes]
    assert disjoint(subnets) and len(set(subnets)) == 20
    assert len(etcd.subnets()) == 20
    for each in nodes:
        until(lambda node=each: len(node.peers()) == 20, f"{each.name} knows all")  # type: ignore[misc]
    with_no_room = listener("n21")
    until(lambda: any("no subnet is free" in each for each in with_no_room.now.problems), "it is said")
    assert with_no_room.cidrs == () and len(etcd.subnets()) == 20
    nodes[6].close()
    etcd.remove(f"subnets/{subnets[6].replace('/', '-')}")
    assert with_no_room.leased() == subnets[6], "it waited for one to be free"
    until(lambda: with_no_room.now.problems == (), "and says no longer that there is none")


def test_a_node_writes_what_flannel_writes_and_nothing_is_taken_before_it_knows_its_address(
    etcd: Member, listener: MakeListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.time()
    node = listener("n1")
    key = node.leased().replace("/", "-")
    value = etcd.subnets()[key]
    assert value == {
        "PublicIP": "192.0.2.1", "PublicIPv6": None, "BackendType": "vxlan", "Node": "n1", "Since": value["Since"],
        "BackendData": {"VNI": 1, "VtepMAC": "0a:54:c0:00:02:01"},
    }
    since = float(str(value["Since"]))
    assert since - begun > -1 and time.time() - since > -1
    assert node.now.me is not None and node.now.me.since == value["Since"]
    silent = Listener(etcd.netns, Path("/nonexistent"), "n2")
    monkeypatch.setattr(silent, "say", lambda: None)
    with silent:
        until(lambda: silent.peers() == {"n1"}, "it listens")
        time.sleep(0.3)
        assert silent.cidrs == () and len(etcd.subnets()) == 1


@pytest.mark.parametrize("how", ["as it was", "with a new disk", "with a new address", "with a new name"])
def test_a_node_that_restarts_has_the_same_subnet(
    etcd: Member, listener: MakeListener, tmp_path: Path, how: str
) -> None:
    others = [listener(f"n{number}") for number in (5, 6)]
    before = listener("n1")
    subnet = before.leased()
    lease = etcd.lease_of(subnet.replace("/", "-"))
    before.close()
    if how == "with a new disk":
        (tmp_path / "n1.json").unlink()
    after = {
        "with a new address": lambda: listener("n1", "192.0.2.77"),
        "with a new name": lambda: listener("n2", "192.0.2.1", state=str(tmp_path / "n1.json")),
    }.get(how, lambda: listener("n1"))()
    assert after.leased() == subnet
    until(lambda: str(etcd.subnets()[subnet.replace("/", "-")]["PublicIP"]) == after.address, "it says where it is now")
    assert etcd.lease_of(subnet.replace("/", "-")) == lease, "and goes on with the lease that it had"
    assert len(etcd.subnets()) == 3 and after.now.problems == ()
    for each in others:
        until(lambda node=each: after.name in node.peers() and len(node.peers()) == 3, "peers know")  # type: ignore[misc]


def test_a_lease_is_renewed_and_goes_with_its_node(etcd: Member, listener: MakeListener) -> None:
    stays, goes = listener("n1", ttl=TTL), listener("n2", ttl=TTL)
    subnets = {stays.leased(), goes.leased()}
    time.sleep(TTL * 2)
    assert set(etcd.subnets()) == {each.replace("/", "-") for each in subnets}
    goes.close()
    until(lambda: stays.peers() == {"n1"}, "the one that is gone is nobody's peer any more")
    assert [len(each.nodes) for each in stays.heard][-1] == 1
    assert stays.subnet in subnets and stays.trouble == ""


def test_after_its_lease_ended_a_node_has_the_same_subnet_if_it_is_free(etcd: Member, listener: MakeListener) -> None:
    node, witness = listener("n1", ttl=TTL), listener("n9")
    subnet = node.leased()
    witness.leased()
    node.close()
    until(lambda: len(etcd.subnets()) == 1, "its lease ended")
    assert listener("n1").leased() == subnet


def test_after_its_lease_ended_a_node_has_another_subnet_if_somebody_has_its_own_and_says_so(
    etcd: Member, listener: MakeListener
) -> None:
    etcd.put("config", {**CONF, "Network": "10.244.0.0/22"})  # three subnets
    node = listener("n1", ttl=TTL)
    subnet = node.leased()
    node.close()
    until(lambda: not etcd.subnets(), "its lease ended")
    etcd.put(f"subnets/{subnet.replace('/', '-')}", {"PublicIP": "192.0.2.50", "BackendType": "vxlan"})
    again = listener("n1", ttl=TTL)
    other = again.leased()
    assert other != subnet and disjoint([other, subnet])
    assert any(f"n1 had {subnet} and has {other} now" in each for each in again.now.problems)


def test_a_node_whose_key_is_taken_from_it_takes_another_while_it_runs(etcd: Member, listener: MakeListener) -> None:
    node = listener("n1")
    subnet = node.leased()
    etcd.put(f"subnets/{subnet.replace('/', '-')}", {"PublicIP": "192.0.2.50", "BackendType": "vxlan", "Node": "n50"})
    until(lambda: node.subnet not in (subnet, "") and "n50" in node.peers(), "it has another")
    assert disjoint([node.subnet, subnet])
    assert subnet.replace("/", "-") in etcd.subnets(), "the other's key is left alone"


def test_a_key_that_somebody_removed_is_there_again_at_once(etcd: Member, listener: MakeListener) -> None:
    node = listener("n1")
    subnet = node.leased()
    etcd.remove(f"subnets/{subnet.replace('/', '-')}")
    until(lambda: list(etcd.subnets()) == [subnet.replace("/", "-")], "it is there again")
    assert {each.me.pod_cidrs for each in node.heard if each.me} <= {(), node.cidrs}, "and it never had another"


def test_a_disk_that_cannot_be_written_is_told_of_and_keeps_nobody_from_being_a_node(
    etcd: Member, listener: MakeListener
) -> None:
    node = listener("n1", ttl=TTL, state="/proc/nowhere/lease.json")
    subnet = node.leased()
    until(lambda: any("the subnet cannot be remembered" in each for each in node.now.problems), "it is told")
    node.address = "192.0.2.200"
    node.say()
    until(lambda: "192.0.2.200" in str(etcd.subnets()), "what it announces is written")
    time.sleep(TTL + 1)
    assert node.subnet == subnet and len(etcd.subnets()) == 1, "and its lease renewed"


def test_a_reservation_never_ends_whoever_made_it(etcd: Member, listener: MakeListener) -> None:
    etcd.put("subnets/10.244.77.0-24", {"PublicIP": "192.0.2.1"})
    etcd.put("subnets/10.244.78.0-24", {"Node": "n2"})
    flannels_way, by_name, own = listener("n1"), listener("n2"), listener("n3", reserve=True)
    assert (flannels_way.leased(), by_name.leased()) == ("10.244.77.0/24", "10.244.78.0/24")
    own.leased()
    assert [etcd.lease_of(each.subnet.replace("/", "-")) for each in (flannels_way, by_name, own)] == [0, 0, 0]
    assert etcd.subnets()["10.244.78.0-24"]["PublicIP"] == "192.0.2.2"


def test_what_is_taken_is_kept_clear_of_whatever_its_length(etcd: Member, listener: MakeListener) -> None:
    etcd.put("config", {**CONF, "Network": "10.244.0.0/21"})  # seven subnets, of which these leave one
    etcd.put("subnets/10.244.4.0-22", {"PublicIP": "192.0.2.50"})
    etcd.put("subnets/10.244.1.128-25", "what is this?")
    etcd.put("subnets/10.244.2.0-24", {"PublicIP": "192.0.2.51"})
    node = listener("n1")
    assert node.leased() == "10.244.3.0/24"
    assert any("10.244.1.128-25 is taken, but its value is not understood" in each for each in node.now.problems)


def test_two_machines_of_one_name_have_two_subnets_and_it_is_said(
    etcd: Member, listener: MakeListener, tmp_path: Path
) -> None:
    one = listener("n1")
    one.leased()
    other = listener("n1", "192.0.2.99", state=str(tmp_path / "other.json"))
    until(lambda: len(etcd.subnets()) == 2 and other.cidrs, "both have one")
    assert disjoint([one.subnet, other.subnet])
    until(lambda: any("another node calls itself n1" in each for each in other.now.problems), "it is said")


def test_a_node_has_a_subnet_of_each_family_of_which_neither_is_anybody_elses(
    etcd: Member, listener: MakeListener
) -> None:
    """A transaction looks at keys, and those of two nodes with one IPv6 subnet differ when their IPv4 ones do."""
    etcd.put("config", {**CONF, "IPv6Network": "fd00:10:244::/60", "EnableIPv6": True})  # fifteen subnets
    nodes = [listener(f"n{number}") for number in range(1, 16)]
    subnets = [each.leased() for each in nodes]
    assert disjoint(subnets) and all(len(each.split()) == 2 for each in subnets)
    assert all("&fd00:10:244:" in key for key in etcd.subnets())


def test_a_network_that_moves_takes_its_nodes_along(etcd: Member, listener: MakeListener) -> None:
    nodes = [listener("n1"), listener("n2")]
    for each in nodes:
        each.leased()
    etcd.put("config", {**CONF, "Network": "10.99.0.0/16"})
    for each in nodes:
        until(lambda node=each: node.subnet.startswith("10.99."), "it has a subnet of the new network")  # type: ignore[misc]
    until(lambda: len(etcd.subnets()) == 2, "and none of the old one")
    assert disjoint([each.subnet for each in nodes])


def test_failure_36_what_dead_nodes_held_is_free_again_after_their_time(etcd: Member, listener: MakeListener) -> None:
    """weave#2797, #3384: 70 % of the range was out of reach, held by peers that were gone."""
    etcd.put("config", {**CONF, "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.5.0"})  # five subnets
    nodes = [listener(f"n{number}", ttl=TTL) for number in range(1, 6)]
    every = {each.leased() for each in nodes}
    assert len(every) == 5
    for each in nodes[:3]:
        each.close()
    fresh = [listener(f"n{number}", ttl=TTL) for number in range(6, 9)]
    assert {each.leased() for each in (*fresh, *nodes[3:])} == every, "the whole range is used again"
    until(lambda: nodes[4].peers() == {"n4", "n5", "n6", "n7", "n8"}, "who stayed knows who came")


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_whatever_happens_no_two_nodes_ever_have_one_subnet(etcd: Member, listener: MakeListener, long: bool) -> None:
    """A walk: nodes come, go and change address, keys are removed, etcd restarts; there is room for all and no more."""
    etcd.put("config", {**CONF, "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.12.0"})
    chance = random.Random(25)
    nodes = {f"n{number}": listener(f"n{number}", ttl=TTL) for number in range(1, 13)}

    def have() -> list[str]:
        return [each.subnet for each in nodes.values() if each.subnet]

    def restart() -> None:
        etcd.stop()
        etcd.start()

    def leave_and_return() -> None:
        for name in chance.sample(sorted(nodes), 3):
            nodes.pop(name).close()
        assert disjoint(have())
        for number in range(1, 13):
            if f"n{number}" not in nodes:
                nodes[f"n{number}"] = listener(f"n{number}", ttl=TTL)

    def move() -> None:
        node = nodes[chance.choice(sorted(nodes))]
        node.address = f"192.0.2.{chance.randrange(100, 250)}"
        node.say()

    def remove_keys() -> None:
        for key in chance.sample(sorted(etcd.subnets()), 2):
            etcd.remove(f"subnets/{key}")

    for _ in soak.turns("leases") if long else range(25):
        step = chance.choice([restart, leave_and_return, move, move, remove_keys, remove_keys])
        step()

        def settled(name: str = step.__name__) -> bool:
            assert disjoint(have()), name
            return len(have()) == 12 == len(etcd.subnets())

        until(settled, step.__name__, why=lambda: (have(), [each.now.problems for each in nodes.values()]))
        assert disjoint(have()), step.__name__


# etcd itself


def test_while_etcd_is_away_everything_stays_and_it_is_said(etcd: Member, listener: MakeListener) -> None:
    nodes = [listener("n1", ttl=TTL), listener("n2", ttl=TTL)]
    subnets = [each.leased() for each in nodes]
    until(lambda: all(len(each.peers()) == 2 for each in nodes), "they know each other")
    etcd.stop()
    until(lambda: all("127.0.0.1:2379" in each.trouble for each in nodes), "it is said")
    time.sleep(TTL + 1)
    assert [each.subnet for each in nodes] == subnets and all(len(each.peers()) == 2 for each in nodes)
    etcd.start()
    until(lambda: all(each.trouble == "" for each in nodes), "it is over")
    time.sleep(TTL + 1)
    assert [each.subnet for each in nodes] == subnets and all(len(each.peers()) == 2 for each in nodes)
    assert len(etcd.subnets()) == 2
    for each in nodes:
        counts = [len(snapshot.nodes) for snapshot in each.heard]
        assert counts == sorted(counts), "no peer was ever let go of"


def test_a_node_may_start_while_etcd_is_away(etcd: Member, listener: MakeListener) -> None:
    etcd.stop()
    node = listener("n1")
    until(lambda: "127.0.0.1:2379" in node.trouble, "it is said")
    assert node.heard == []
    etcd.start()
    node.leased()
    assert node.trouble == ""


def test_an_etcd_that_hangs_holds_up_no_end_of_the_source(
    etcd: Member, listener: MakeListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were its answers waited for, that would be for hours."""
    monkeypatch.setattr(gateway, "PATIENCE", 9999.0)
    monkeypatch.setattr(gateway, "SILENCE", 9999.0)
    node = listener("n1")
    node.leased()
    assert etcd._process is not None
    etcd._process.send_signal(19)
    try:
        node.close()
    finally:
        etcd._process.send_signal(18)


def test_an_etcd_that_hangs_is_told_of_and_another_endpoint_is_asked(
    etcd: Member, listener: MakeListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "SILENCE", 2.0)
    other = f"{etcd.url.replace('127.0.0.1', 'localhost')}"
    node = listener("n1", endpoints=[etcd.url, "http://127.0.0.9:2379", other])
    node.leased()
    assert etcd._process is not None
    etcd._process.send_signal(19)
    until(lambda: all(each in node.trouble for each in (etcd.url, "127.0.0.9", other)), "all that was tried is told")
    etcd._process.send_signal(18)
    until(lambda: node.trouble == "", "it is over")
    listener("n2", endpoints=[etcd.url]).leased()
    until(lambda: node.peers() == {"n1", "n2"}, "and changes are heard of")


@pytest.mark.parametrize("broken", ["", "{", '{"Network": "10.244.0.0/99"}', '{"Backend": {}}'])
def test_a_broken_configuration_changes_nothing_and_is_told(etcd: Member, listener: MakeListener, broken: str) -> None:
    node = listener("n1")
    before = node.leased(), node.now.conf
    etcd.put("config", broken)
    until(lambda: any("what it said last stays true" in each for each in node.now.problems), "it is told")
    assert (node.subnet, node.now.conf) == before
    etcd.put("config", {**CONF, "Backend": {"Type": "host-gw"}})
    until(lambda: node.now.conf and node.now.conf.backend == "host-gw", "the next good one counts")
    until(lambda: not any("config" in each for each in node.now.problems), "and nothing is wrong with it")


def test_compaction_is_survived(etcd: Member, listener: MakeListener) -> None:
    node, writer = listener("n1"), listener("n2")
    node.leased(), writer.leased()
    etcd.stop()
    etcd.start()
    for number in range(30):
        etcd.put("elsewhere", str(number))
    revision = json.loads(etcd.ctl("get", "/x", "-w", "json"))["header"]["revision"]
    etcd.ctl("compaction", str(revision))
    etcd.stop()
    etcd.start()
    third = listener("n3")
    third.leased()
    until(lambda: node.peers() == {"n1", "n2", "n3"}, "changes after it are seen")


def test_a_store_that_lost_everything_is_filled_again_and_no_peer_is_let_go_of(
    etcd: Member, listener: MakeListener
) -> None:
    nodes = [listener(f"n{number}") for number in range(1, 4)]
    subnets = [each.leased() for each in nodes]
    until(lambda: all(len(each.peers()) == 3 for each in nodes), "they know each other")
    etcd.ctl("del", "--prefix", PREFIX)
    until(lambda: all(any("is missing" in one for one in each.now.problems) for each in nodes), "it is said")
    assert all(len(each.peers()) == 3 for each in nodes) and [each.subnet for each in nodes] == subnets
    etcd.put("config", CONF)
    until(lambda: all(each.now.problems == () and len(each.peers()) == 3 for each in nodes), "it is as it was")
    assert [each.subnet for each in nodes] == subnets and len(etcd.subnets()) == 3


def test_a_store_that_was_put_back_to_an_earlier_state_is_listed_anew(
    etcd: Member, listener: MakeListener
) -> None:
    first = listener("n1")
    first.leased()
    etcd.ctl("snapshot", "save", str(etcd.folder / "backup"))
    later = listener("n2")
    subnets = first.leased(), later.leased()
    etcd.stop()
    (etcd.folder / "data").rename(etcd.folder / "old")
    etcd.ctl(
        "snapshot", "restore", str(etcd.folder / "backup"), "--data-dir", str(etcd.folder / "data"),
        "--initial-advertise-peer-urls", etcd.peer_url, "--initial-cluster", f"default={etcd.peer_url}",
    )
    etcd._more = ("--initial-advertise-peer-urls", etcd.peer_url)
    etcd.start()
    until(lambda: len(etcd.subnets()) == 2, "the one that the backup knows nothing of has written itself in again")
    until(lambda: first.peers() == later.peers() == {"n1", "n2"}, "and all know all")
    assert (first.subnet, later.subnet) == subnets


def certified(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """An authority, and a certificate for 127.0.0.1 by it: options of etcd, of etcdctl, and of the source."""
    folder.mkdir()
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for words in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=etcd -keyout key.pem -out csr",
        "x509 -req -in csr -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out cert.pem",
    ):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)
    ca, cert, key = (str(folder / each) for each in ("ca.pem", "cert.pem", "key.pem"))
    return (
        ("--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth"),
        ("--cacert", ca, "--cert", cert, "--key", key),
        {"caFile": ca, "certFile": cert, "keyFile": key},
    )


def test_etcd_is_spoken_to_by_tls_with_a_certificate_on_both_sides(
    netns: Callable[[str], str], tmp_path: Path  # noqa: F811
) -> None:
    server, client, ours = certified(tmp_path / "pki")
    member = Member(netns("tls"), tmp_path / "etcd", more=server, client=client, scheme="https")
    with running(member):
        member.put("config", CONF)
        with Listener(member.netns, tmp_path, "n1", endpoints=[member.url], **ours) as node:
            node.leased()
        without = {"caFile": ours["caFile"]}
        with Listener(member.netns, tmp_path, "n2", endpoints=[member.url], **without) as stranger:
            until(lambda: member.url in stranger.trouble, "who has no certificate is told so")
        with Listener(member.netns, tmp_path, "n3", endpoints=[member.url]) as gullible:
            until(lambda: "CERTIFICATE_VERIFY_FAILED" in gullible.trouble, "nobody is trusted for nothing")
        assert len(member.subnets()) == 1


def test_etcd_may_ask_for_a_name_and_a_password(etcd: Member, tmp_path: Path) -> None:
    etcd.ctl("user", "add", "root:secret")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("auth", "enable")
    etcd._client = ("--user", "root:secret")
    with Listener(etcd.netns, tmp_path, "n1", username="root", password="secret", ttl=TTL) as node:
        node.leased()
        time.sleep(TTL + 1)
        assert len(etcd.subnets()) == 1 and node.trouble == ""
    with Listener(etcd.netns, tmp_path, "n2", username="root", password="guessed") as stranger:
        until(lambda: "invalid user ID or password" in stranger.trouble, "it is told")


def test_a_token_that_is_over_is_asked_for_again(etcd: Member, tmp_path: Path) -> None:
    etcd.ctl("user", "add", "root:secret")
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("auth", "enable")
    etcd._client = ("--user", "root:secret")
    with Listener(etcd.netns, tmp_path, "n1", username="root", password="secret") as node:
        node.leased()
        etcd.stop()
        etcd.start()  # which forgets the tokens that it gave
        node.address = "192.0.2.200"
        node.say()
        until(lambda: "192.0.2.200" in str(etcd.subnets()), "it is let in again")
        until(lambda: node.trouble == "", "and listens")


@pytest.fixture
def three(netns: Callable[[str], str], tmp_path: Path) -> Iterator[list[Member]]:  # noqa: F811
    """Three members of one etcd, in one namespace."""
    where = netns("three")
    addresses = [f"127.0.0.{number}" for number in (1, 2, 3)]
    cluster = ",".join(f"m{each}=http://{each}:2380" for each in addresses)
    members = [
        Member(where, tmp_path / f"m{each}", each, more=(
            "--name", f"m{each}", "--initial-cluster", cluster, "--initial-advertise-peer-urls", f"http://{each}:2380",
        ))
        for each in addresses
    ]
    with running(*members):
        members[0].put("config", CONF)
        yield members


def test_one_of_three_members_may_be_dead_and_another_may_die(three: list[Member], tmp_path: Path) -> None:
    endpoints = [each.url for each in three]
    three[0].kill()
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(Listener(three[0].netns, tmp_path, f"n{number}", endpoints=endpoints, ttl=5))
            for number in (1, 2, 3)
        ]
        subnets = [each.leased() for each in nodes]
        assert disjoint(subnets)
        three[0].start()
        three[1].kill()
        time.sleep(7)
        until(lambda: all(each.trouble == "" and len(each.peers()) == 3 for each in nodes), "all goes on")
        assert [each.subnet for each in nodes] == subnets
        late = stack.enter_context(Listener(three[0].netns, tmp_path, "n4", endpoints=endpoints, ttl=5))
        late.leased()
        until(lambda: all("n4" in each.peers() for each in nodes), "and all hear of the one that comes")


def test_a_member_that_lost_the_others_is_not_listened_to(three: list[Member], tmp_path: Path) -> None:
    with Listener(three[0].netns, tmp_path, "n1", endpoints=[three[0].url]) as node:
        subnet = node.leased()
        for each in three[1:]:
            each.kill()
        until(lambda: node.trouble, "it is told")
        assert node.subnet == subnet
        three[1].start()
        until(lambda: node.trouble == "", "two of three are enough")

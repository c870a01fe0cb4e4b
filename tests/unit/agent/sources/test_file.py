"""The file source: what people write down is followed, and what they write wrong changes nothing but what is said."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugin.agent.sources import file as source_file
from cni_plugin.agent.sources.contract import Announcement, Mailbox, Snapshot, Source, open_source
from cni_plugin.agent.sources.file import MOST_BYTES, Reader
from cni_plugin.errors import CniError
from cni_plugin.kernel.host import files
from cni_plugin.kernel.watch.inotify import Inotify
from tests.pace import until
from tests.unit.failing import fail
from tests.unit.support import Json

NET: Json = {"Network": "10.244.0.0/16", "SubnetLen": 25, "Backend": {"Type": "vxlan", "VNI": 7}}


def node(number: int, **keys: object) -> Json:
    cidr = f"10.244.{number}.0/24"
    return {"name": f"n{number}", "address": f"192.0.2.{number}", "podCIDRs": [cidr], **keys}


def whole(*numbers: int, **keys: object) -> str:
    return json.dumps({**NET, "nodes": [node(each) for each in numbers], **keys})


def put(path: Path, text: str) -> None:
    """As an editor or a tool does: a new file over the old one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def names(snapshot: Snapshot | None) -> list[str]:
    assert snapshot is not None
    return [each.name for each in snapshot.nodes]


class Told:
    """What a source told so far."""

    def __init__(self, path: Path, name: str = "n1") -> None:
        self.mailbox = Mailbox()
        self.snapshot: Snapshot | None = None
        self.trouble = ""
        self.count = 0
        self.source: Source = open_source({"type": "file", "path": str(path)}, name, self.mailbox)

    def take(self) -> None:
        newest, self.trouble = self.mailbox.take()
        if newest is not None:
            self.snapshot = newest
            self.count += 1

    def until(self, *wanted: str, trouble: str = "") -> Snapshot:
        """Wait until these are the nodes, and this is part of what is wrong (nothing)."""

        def fits() -> Snapshot | None:
            self.take()
            right = self.trouble == "" if not trouble else trouble in self.trouble
            return self.snapshot if right and self.snapshot and tuple(names(self.snapshot)) == wanted else None

        found = until(fits, f"{wanted} {trouble}", why=lambda: (self.snapshot, self.trouble))
        assert found is not None
        return found

    def close(self) -> None:
        self.source.close()
        self.mailbox.close()


@pytest.fixture
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Told]:
    """A source of `cluster.json` with n1 and n2, or of the folder `nodes.d` with the same, as the parameter says."""
    path = tmp_path / getattr(request, "param", "cluster.json")
    if path.suffix == ".json":
        path.write_text(whole(1, 2))
    else:
        fill(path, 1, 2)
    made = Told(path)
    made.until("n1", "n2")
    yield made
    made.close()


def fill(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    put(folder / "net-conf.json", json.dumps(NET))
    for each in numbers:
        put(folder / f"n{each}.json", json.dumps(node(each)))


def test_a_file_tells_the_network_the_nodes_and_which_of_them_this_is(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(whole(2, 1))
    snapshot, problem = Reader(str(path), "n1").read()
    assert problem == "" and snapshot is not None
    assert snapshot.conf is not None and snapshot.me is not None
    assert (snapshot.conf.backend, snapshot.conf.options) == ("vxlan", {"vni": 7})
    assert [str(each) for each in snapshot.conf.networks] == ["10.244.0.0/16"]
    assert snapshot.me.name == "n1" and snapshot.me.pod_cidrs == (ip_network("10.244.1.0/24"),)
    assert sorted(names(snapshot)) == ["n1", "n2"]


@pytest.mark.parametrize(("name", "said", "me"), [("n1", "n2", "n1"), ("host", "n2", "n2"), ("host", "", None)])
def test_a_file_for_one_node_alone_may_say_which_one_that_is(
    tmp_path: Path, name: str, said: str, me: str | None
) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(whole(1, 2, node=said))
    snapshot, _ = Reader(str(path), name).read()
    assert snapshot is not None and (snapshot.me.name if snapshot.me else None) == me
    peers = [each for each in names(snapshot) if each != name]
    assert peers == [each for each in ("n1", "n2") if each != me], "it is no peer of itself"


@pytest.mark.parametrize("name", ["N1", "n1"])
def test_a_host_name_with_capitals_is_the_same_node(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "nodes.d", 1, 2)
    put(tmp_path / "cluster.json", whole(1, 2))
    for path in (tmp_path / "nodes.d", tmp_path / "cluster.json"):
        snapshot, _ = Reader(str(path), name).read()
        assert snapshot is not None and snapshot.me is not None and snapshot.me.name == "n1"
        assert names(snapshot) == ["n1", "n2"]


def test_a_folder_tells_the_same_as_a_file_with_its_contents(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1, 2, 3)
    put(tmp_path / "cluster.json", whole(1, 2, 3))
    one, _ = Reader(str(tmp_path / "cluster.json"), "n2").read()
    other, _ = Reader(str(tmp_path / "nodes.d"), "n2").read()
    assert one == other


def test_a_folder_may_keep_the_cni_configuration_too(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1)
    put(tmp_path / "nodes.d" / "cni-conf.json", '{"name": "pods", "plugins": [{"type": "tulle"}]}')
    snapshot, _ = Reader(str(tmp_path / "nodes.d"), "n1").read()
    assert snapshot is not None and names(snapshot) == ["n1"]
    assert snapshot.cni == {"name": "pods", "plugins": [{"type": "tulle"}]}


def test_a_cni_configuration_that_calls_another_plugin_is_passed_over_and_told(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1)
    put(tmp_path / "nodes.d" / "cni-conf.json", '{"name": "cbr0", "plugins": [{"type": "flannel"}]}')
    snapshot, _ = Reader(str(tmp_path / "nodes.d"), "n1").read()
    assert snapshot is not None and snapshot.cni is None
    assert any("no plugin of type tulle" in each and "cni-conf.json" in each for each in snapshot.problems)


def test_a_family_that_is_switched_off_has_no_subnets(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1)
    put(tmp_path / "nodes.d" / "n2.json", json.dumps(node(2, podCIDRs=["10.244.2.0/24", "fd00:2::/64"])))
    cases: tuple[tuple[dict[str, object], int], ...] = (
        ({}, 2), ({"EnableIPv6": True}, 2), ({"EnableIPv6": False}, 1), ({"IPv6Network": "fd00::/16"}, 1),
    )
    for keys, left in cases:
        put(tmp_path / "nodes.d" / "net-conf.json", json.dumps({"Network": "10.244.0.0/16", **keys}))
        snapshot, problem = Reader(str(tmp_path / "nodes.d"), "n2").read()
        assert snapshot is not None and snapshot.me is not None and len(snapshot.me.pod_cidrs) == left, (keys, problem)


def test_of_two_nodes_of_a_folder_with_one_subnet_the_younger_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1)
    put(tmp_path / "nodes.d" / "n2.json", json.dumps(node(2, podCIDRs=["10.244.1.0/25"], since=9)))
    snapshot, problem = Reader(str(tmp_path / "nodes.d"), "n1").read()
    assert snapshot is not None and names(snapshot) == ["n1"] and problem == ""
    assert "n2 is left out: its subnet 10.244.1.0/25 overlaps one of n1" in snapshot.problems[0]


def test_backend_data_and_age_come_from_the_file(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d")
    text = json.dumps(node(1, backendData={"VtepMAC": "02:00:00:00:00:01"}, since=12.5, ipv6Address="2001:db8::1"))
    put(tmp_path / "nodes.d" / "n1.json", text)
    snapshot, _ = Reader(str(tmp_path / "nodes.d"), "n1").read()
    assert snapshot is not None and snapshot.me is not None
    assert (snapshot.me.data, snapshot.me.since) == ({"vtepmac": "02:00:00:00:00:01"}, 12.5)
    assert [str(each) for each in snapshot.me.addresses] == ["192.0.2.1", "2001:db8::1"]


BROKEN = {
    "half": ('{"Network": "10.244.0.0/16", "nodes": [{"na', "not valid JSON"),
    "empty": ("", "there is no network configuration in the file"),
    "no object": ("[]", "must be a JSON object"),
    "no nodes": ("{}", "invalid cluster.nodes []: list every node with name, address and podCIDRs"),
    "bad address": (whole(1).replace("192.0.2.1", "192.0.2.999"), "invalid cluster.nodes[0].address '192.0.2.999': "),
    "bad network": (whole(1).replace("10.244.0.0/16", "10.244.0.1/16"), "invalid cluster.network '10.244.0.1/16': "),
    "no name": ('{"nodes": [{"address": "192.0.2.1"}]}', "it has no name"),
    "too deep": ("[" * 100_000, ""),
    "not text": ("\udcff", "not valid JSON"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_keeps_the_last_good_state_and_says_file_key_value_and_remedy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(whole(1, 2))
    reader = Reader(str(path), "n1")
    good, _ = reader.read()
    text, words = BROKEN[kind]
    path.write_bytes(text.encode(errors="surrogateescape"))
    kept, problem = reader.read()
    assert kept is good
    assert problem.startswith(f"{path}: ") and words in problem and problem.endswith("; what it said last stays true")
    path.write_text(whole(2))
    after, problem = reader.read()
    assert (names(after), problem) == (["n2"], "")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_of_a_folder_keeps_that_nodes_last_good_state_while_others_are_followed(
    tmp_path: Path, kind: str
) -> None:
    fill(tmp_path / "nodes.d", 1, 2)
    reader = Reader(str(tmp_path / "nodes.d"), "n1")
    before, _ = reader.read()
    path = tmp_path / "nodes.d" / "n2.json"
    path.write_bytes(BROKEN[kind][0].encode(errors="surrogateescape"))
    fill(tmp_path / "nodes.d", 3)
    after, problem = reader.read()
    assert before is not None and after is not None and problem == ""
    assert names(after) == ["n1", "n2", "n3"] and after.nodes[1] == before.nodes[1]
    (said,) = after.problems
    assert said.startswith(f"{path}: ") and said.endswith("; what it said last stays true")
    path.unlink()
    assert names(reader.read()[0]) == ["n1", "n3"], "a node whose file is removed has left"


def test_the_words_for_a_bad_key_of_a_nodes_file_name_the_key_as_it_stands_there(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1)
    put(tmp_path / "nodes.d" / "n2.json", json.dumps(node(2, address="nowhere")))
    put(tmp_path / "nodes.d" / "n3.json", json.dumps(node(3, podCIDRs=["10.244.3.0"])))
    put(tmp_path / "nodes.d" / "n4.json", '{"name": "n4"}')
    put(tmp_path / "nodes.d" / "n5.json", json.dumps(node(5, podCIDRs=["10.244.5.1/24"])))
    snapshot, _ = Reader(str(tmp_path / "nodes.d"), "n1").read()
    assert snapshot is not None and names(snapshot) == ["n1"]
    two, three, four, five = snapshot.problems
    assert two.endswith("n2.json: invalid address 'nowhere': write an IPv4 or IPv6 address without a prefix")
    assert "n3.json: invalid podCIDRs[0] '10.244.3.0': write a network as address/prefix" in three
    assert "n4.json: invalid node {'name': 'n4'}: it has no address" in four
    assert "n5.json: invalid podCIDRs[0] '10.244.5.1/24': write a network as address/prefix" in five


def test_keys_that_nobody_reads_are_told_with_what_was_meant_and_stop_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(whole(1, nodes=[node(1, ipv6Adress="fd00::1")], Backend={"Type": "vxlan", "prot": 8472}))
    snapshot, trouble = Reader(str(path), "n1").read()
    assert (names(snapshot), trouble) == (["n1"], "")
    assert snapshot is not None and snapshot.problems == (
        f"{path}: cluster.nodes[0].ipv6Adress: there is no such key; did you mean ipv6Address?",
        f"{path}: cluster.backend.prot: there is no such key; did you mean port?",
    )

    folder = tmp_path / "nodes.d"
    folder.mkdir()
    (folder / "net-conf.json").write_text(json.dumps(NET))
    (folder / "n1.json").write_text(json.dumps(node(1, podCIDR="10.244.1.0/24")))
    reader = Reader(str(folder), "n1")
    for _ in range(2):
        snapshot, trouble = reader.read()
        assert (names(snapshot), trouble) == (["n1"], "")
        assert snapshot is not None and snapshot.problems == (
            f"{folder}/n1.json: podCIDR: there is no such key; did you mean podCIDRs?",
        )


def test_a_broken_network_configuration_of_a_folder_stays_while_nodes_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1)
    reader = Reader(str(tmp_path / "nodes.d"), "n1")
    before, _ = reader.read()
    fill(tmp_path / "nodes.d", 2)
    put(tmp_path / "nodes.d" / "net-conf.json", '{"Network": "10.0.0.0/33"}')
    after, _ = reader.read()
    assert before is not None and after is not None and after.conf == before.conf and names(after) == ["n1", "n2"]
    assert "net-conf.json: invalid Network '10.0.0.0/33'" in after.problems[0]


@pytest.mark.parametrize("gone", [("net-conf.json",), ("n1.json", "n2.json"), ("net-conf.json", "n1.json", "n2.json")])
def test_a_folder_that_is_being_emptied_or_filled_says_nothing(tmp_path: Path, gone: tuple[str, ...]) -> None:
    fill(tmp_path / "nodes.d", 1, 2)
    reader = Reader(str(tmp_path / "nodes.d"), "n1")
    before, _ = reader.read()
    for each in gone:
        (tmp_path / "nodes.d" / each).unlink()
    after, problem = reader.read()
    assert after is before and "write" in problem


def test_what_is_no_file_or_too_large_is_refused_and_holds_nobody_up(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1)
    folder = tmp_path / "nodes.d"
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "fifo.json")
    (folder / "device.json").symlink_to("/dev/zero")
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "nowhere.json").symlink_to("not-there")
    with (folder / "large.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    snapshot, _ = Reader(str(folder), "n1").read()
    assert snapshot is not None and names(snapshot) == ["n1"]
    said = {each.split(": ")[0].rpartition("/")[2]: each.partition(": ")[2] for each in snapshot.problems}
    assert said == {
        "device.json": "it is not a file",
        "fifo.json": "it is not a file",
        "folder.json": "it is a folder",
        "large.json": "it is larger than 16 MiB",
        "loop.json": "Too many levels of symbolic links",
        "nowhere.json": "No such file or directory",
    }


def test_a_file_that_became_a_folder_changes_nothing_unless_that_is_a_cluster(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(whole(1, 2))
    reader = Reader(str(path), "n1")
    before, _ = reader.read()
    path.unlink()
    path.mkdir()
    after, problem = reader.read()
    assert after is before and "the folder has no net-conf.json" in problem
    fill(path, 3)
    assert names(reader.read()[0]) == ["n3"]


def test_an_error_that_nobody_foresaw_does_not_end_the_source(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as now:
        now.setattr(source_file, "parse", fail)
        put(tmp_path / "cluster.json", whole(1, 3))
        told.until("n1", "n2", trouble="ZeroDivisionError; what it said last stays true")
    put(tmp_path / "cluster.json", whole(1, 4))
    told.until("n1", "n4")


def test_files_that_did_not_change_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "nodes.d", *range(1, 21))
    old = time.time() - 60
    for each in (tmp_path / "nodes.d").iterdir():
        os.utime(each, (old, old))
    monkeypatch.setattr(source_file, "_FRESH", 0)
    reader = Reader(str(tmp_path / "nodes.d"), "n1")
    reader.read()
    seen: list[str] = []
    honest = files.follow

    def follow(path: str, most: int) -> bytes:
        seen.append(path)
        return honest(path, most)

    monkeypatch.setattr(files, "follow", follow)
    put(tmp_path / "nodes.d" / "n7.json", json.dumps(node(7, address="192.0.2.77")))
    reader.read()
    assert seen == [str(tmp_path / "nodes.d" / "n7.json")]


def test_a_file_changed_twice_within_one_tick_of_the_clock_is_read_both_times(tmp_path: Path) -> None:
    fill(tmp_path / "nodes.d", 1, 2)
    path = tmp_path / "nodes.d" / "n2.json"
    reader = Reader(str(tmp_path / "nodes.d"), "n1")
    for number in range(3, 9):
        path.write_text(json.dumps(node(number)))
        stamp = time.time_ns() // 10_000_000 * 10_000_000
        os.utime(path, ns=(stamp, stamp))
        assert names(reader.read()[0]) == ["n1", f"n{number}"]


@pytest.mark.parametrize("path", ["", "cluster.json", "/etc/\0"])
def test_a_path_that_cannot_be_one_is_refused(path: str) -> None:
    mailbox = Mailbox()
    with pytest.raises(CniError, match=r"^invalid source\.path .*: write the whole path") as caught:
        open_source({"type": "file", "path": path}, "n1", mailbox)
    assert caught.value.code == 7
    with pytest.raises(CniError, match=r"source\.Path 5"):
        open_source({"type": "file", "Path": 5}, "n1", mailbox)
    mailbox.close()


@pytest.mark.parametrize("told", ["cluster.json", "nodes.d"], indirect=True)
def test_each_way_to_write_is_followed(told: Told, tmp_path: Path) -> None:
    folder = tmp_path / "nodes.d"
    if folder.exists():
        put(folder / "n3.json", json.dumps(node(3)))
        told.until("n1", "n2", "n3")
        (folder / "n4.json").write_text(json.dumps(node(4)))
        told.until("n1", "n2", "n3", "n4")
        (folder / "n2.json").rename(tmp_path / "elsewhere.json")
        told.until("n1", "n3", "n4")
        os.link(tmp_path / "elsewhere.json", folder / "n2.json")
        told.until("n1", "n2", "n3", "n4")
        return
    path = tmp_path / "cluster.json"
    put(path, whole(1, 2, 3))
    told.until("n1", "n2", "n3")
    path.write_text(whole(1))
    told.until("n1")
    path.unlink()
    told.until("n1", trouble="No such file or directory; what it said last stays true")
    path.write_text(whole(1, 2))
    told.until("n1", "n2")
    path.chmod(0o600)
    os.truncate(path, 10)  # without open(2) nobody closes, and no event comes: so it is not asked to be seen
    put(path, whole(2))
    told.until("n2")


def test_a_config_map_that_is_swapped_by_a_link_is_followed(tmp_path: Path) -> None:
    """Kubernetes' AtomicWriter: n1.json -> ..data/n1.json, ..data -> ..2026_11_21, and ..data is renamed over."""
    mount = tmp_path / "mount"
    for version, numbers in (("..1", (1, 2)), ("..2", (1, 2, 3))):
        mount.mkdir(exist_ok=True)
        fill(mount / version, *numbers)
    (mount / "..data").symlink_to("..1")
    for each in ("net-conf.json", "n1.json", "n2.json"):
        (mount / each).symlink_to(f"..data/{each}")
    told = Told(mount)
    told.until("n1", "n2")
    (mount / "n3.json").symlink_to("..data/n3.json")
    (mount / "..data_tmp").symlink_to("..2")
    (mount / "..data_tmp").rename(mount / "..data")
    shutil.rmtree(mount / "..1")
    told.until("n1", "n2", "n3")
    told.close()


def test_one_file_of_a_config_map_is_followed(tmp_path: Path) -> None:
    for version, numbers in (("..1", (1,)), ("..2", (1, 2))):
        (tmp_path / version).mkdir()
        (tmp_path / version / "cluster.json").write_text(whole(*numbers))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "cluster.json").symlink_to("..data/cluster.json")
    told = Told(tmp_path / "cluster.json")
    told.until("n1")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    told.until("n1", "n2")
    told.close()


@pytest.mark.parametrize("told", ["nodes.d"], indirect=True)
def test_a_folder_that_is_removed_and_made_anew_is_found_again(told: Told, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "nodes.d")
    told.until("n1", "n2", trouble="No such file or directory")
    fill(tmp_path / "new.d", 1, 3)
    (tmp_path / "new.d").rename(tmp_path / "nodes.d")
    told.until("n1", "n3")
    (tmp_path / "nodes.d").rename(tmp_path / "old.d")
    told.until("n1", "n3", trouble="No such file or directory")
    fill(tmp_path / "old.d", 4)
    (tmp_path / "nodes.d").symlink_to("old.d")
    told.until("n1", "n3", "n4")
    put(tmp_path / "old.d" / "n5.json", json.dumps(node(5)))
    told.until("n1", "n3", "n4", "n5")


@pytest.mark.parametrize("told", ["nodes.d"], indirect=True)
def test_a_link_out_of_the_folder_is_followed(told: Told, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "three").write_text(json.dumps(node(3)))
    (tmp_path / "nodes.d" / "n3.json").symlink_to("../away/three")
    told.until("n1", "n2", "n3")
    put(tmp_path / "away" / "three", json.dumps(node(4)))
    told.until("n1", "n2", "n4")


def test_a_path_whose_folders_do_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "cluster.json"
    told = Told(path)
    until(lambda: "No such file" in told.trouble, "the path is missed", between=told.take)
    assert told.snapshot is None and told.trouble == f"{path}: No such file or directory"
    path.parent.mkdir(parents=True)
    path.write_text(whole(1))
    told.until("n1")
    told.close()


def test_each_change_is_told_and_that_of_many_events_once(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cluster.json"
    for number in range(3, 13):
        put(path, whole(1, number))
        told.until("n1", f"n{number}")
    before = told.count
    monkeypatch.setattr(source_file, "QUIET", 0.5)
    monkeypatch.setattr(source_file, "LONGEST", 30.0)
    for number in (20, 21, 22, 23):
        path.write_text("")
        put(path, whole(1, number))
    told.until("n1", "n23")
    assert told.count - before <= 2


def test_what_is_published_leaves_the_files_alone(told: Told, tmp_path: Path) -> None:
    before = {each: each.stat() for each in tmp_path.rglob("*")}
    told.source.publish(Announcement((), "vxlan", lambda _: {"vtepmac": "02:00:00:00:00:01"}))
    told.source.ready()
    assert {each: each.stat() for each in tmp_path.rglob("*")} == before


def test_without_inotify_the_files_are_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs may have used up what the kernel gives a user (fs.inotify.max_user_instances is 128)."""
    taken = True

    class Scarce(Inotify):
        def __init__(self) -> None:
            if taken:
                raise OSError(24, "Too many open files")
            super().__init__()

    monkeypatch.setattr(source_file, "Inotify", Scarce)
    monkeypatch.setattr(source_file, "PATROL", 0.05)
    path = tmp_path / "cluster.json"
    path.write_text(whole(1))
    told = Told(path)
    told.until("n1", trouble="raise fs.inotify.max_user_instances")
    put(path, whole(1, 2))
    told.until("n1", "n2", trouble="cannot be told of changes (Too many open files)")
    taken = False
    told.until("n1", "n2")
    told.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EINTR], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("call", ["open", "stat", "listdir"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_could_not_be_read_once_is_read_though_no_event_tells_that_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, call: str, code: int
) -> None:
    monkeypatch.setattr(source_file, "PATROL", 0.05)
    path = tmp_path / "nodes.d" if kind == "folder" else tmp_path / "cluster.json"

    def say(*numbers: int) -> None:
        fill(path, *numbers) if kind == "folder" else put(path, whole(*numbers))

    say(1)
    told = Told(path)
    told.until("n1")
    fail(monkeypatch, call, code, "n2.json" if kind == "folder" and call == "open" else path.name, times=1)
    say(1, 2)
    told.until("n1", "n2")
    told.close()


@pytest.mark.parametrize("name", ["n2.json", "net-conf.json"])
def test_a_node_whose_file_cannot_be_read_now_is_not_left_out_of_the_first_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An agent that starts anew would take its routes away."""
    folder = tmp_path / "nodes.d"
    fill(folder, 1, 2)
    reader = Reader(str(folder), "n1")
    with monkeypatch.context() as patch:
        fail(patch, "open", errno.EMFILE, name)
        assert reader.read() == (None, f"{folder}: Too many open files")
        assert reader.untold
    snapshot, _ = reader.read()
    assert snapshot is not None and names(snapshot) == ["n1", "n2"] and not reader.untold


def test_a_source_that_was_closed_has_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    import threading

    path = tmp_path / "cluster.json"
    path.write_text(whole(1))
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        Told(path).close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (before, threads)


STEPS = st.one_of(
    st.tuples(st.just("good"), st.sets(st.integers(1, 5), min_size=1)),
    st.tuples(st.sampled_from(["half", "empty", "bad address", "not text"]), st.just(set[int]())),
    st.tuples(st.sampled_from(["removed", "folder", "link to nowhere", "fifo"]), st.just(set[int]())),
)


def write(path: Path, kind: str, numbers: set[int]) -> None:
    """Replace, overwrite or remove, as the kind says; the number of bytes decides which way a good one is written."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif kind in ("removed", "folder", "link to nowhere", "fifo") or not path.is_file():
        path.unlink(missing_ok=True)
    if kind == "good" and len(numbers) % 2:
        put(path, whole(*numbers))
    elif kind == "good":
        path.write_text(whole(*numbers))
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to nowhere":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "removed":
        path.write_bytes(BROKEN[kind][0].encode(errors="surrogateescape"))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_after_any_writes_the_last_good_contents_that_stood_are_what_is_told(
    steps: list[tuple[str, set[int]]], waits: list[bool]
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.json"
        path.write_text(whole(1))
        with closing(Told(path)) as told:
            told.until("n1")
            good, sure = [{1}], True
            for (kind, numbers), wait in zip(steps, waits, strict=False):
                write(path, kind, numbers)
                good = [numbers] if kind == "good" and wait else [*good, numbers] if kind == "good" else good
                if wait and kind == "good":
                    told.until(*(f"n{each}" for each in sorted(numbers)))
                sure = kind == "good"
            allowed = [[f"n{each}" for each in sorted(numbers)] for numbers in good]
            if sure:  # what stands now is good
                told.until(*allowed[-1])
            else:  # the last good one that stood long enough to be seen, and never something in between
                told.until(*wait_for_trouble(told), trouble=str(path))
            assert names(told.snapshot) in allowed


def wait_for_trouble(told: Told) -> list[str]:
    def troubled() -> bool:
        told.take()
        return told.trouble != ""

    until(troubled, "there is trouble")
    return names(told.snapshot)


ACTIONS = st.sampled_from(["good", "other", "half", "bad address", "removed", "folder"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(2, 4), ACTIONS), max_size=12))
def test_each_node_of_a_folder_is_what_its_file_last_said_in_order(steps: list[tuple[int, str]]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, 1)
        reader = Reader(name, "n1")
        reader.read()
        good: dict[int, str] = {}
        for number, action in steps:
            path = folder / f"n{number}.json"
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if action in ("good", "other"):
                good[number] = f"192.0.2.{number + 100 * (action == 'other')}"
                path.write_text(json.dumps(node(number, address=good[number])))
            elif action == "removed":
                good.pop(number, None)
            elif action == "folder":
                path.mkdir()
            else:
                path.write_text(BROKEN[action][0])
            snapshot, problem = reader.read()
            assert snapshot is not None and problem == ""
            told = {each.name: str(each.addresses[0]) for each in snapshot.nodes}
            assert told == {"n1": "192.0.2.1", **{f"n{each}": address for each, address in good.items()}}
            assert len(snapshot.problems) == sum(not_good(folder / f"n{each}.json") for each in range(2, 5))


def not_good(path: Path) -> bool:
    return path.is_dir() or (path.exists() and "192.0.2.999" in path.read_text()) or (
        path.exists() and not path.read_text().endswith("}")
    )


KEYS = st.sampled_from([
    "name", "address", "ipv6Address", "podCIDRs", "backendData", "since", "nodes", "node", "localAddress",
    "network", "Network", "ipv6Network", "subnetLen", "subnetMin", "subnetMax", "enableIPv4", "backend", "type", "",
])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["10.244.0.0/16", "10.244.1.0/24", "192.0.2.1", "2001:db8::/32", "vxlan", "n1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=25,
)


@settings(deadline=None, max_examples=300)
@given(VALUES, st.sampled_from(["net-conf.json", "n2.json", "cni-conf.json"]))
def test_whatever_stands_in_a_file_is_understood_or_refused(value: object, name: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.json"
        path.write_text(json.dumps(value))
        snapshot, problem = Reader(str(path), "n1").read()
        assert (snapshot is None) == problem.startswith(f"{path}: ")
        path.unlink()
        fill(Path(folder), 1)
        (Path(folder) / name).write_text(json.dumps(value))
        snapshot, _ = Reader(folder, "n1").read()
        assert snapshot is None or "n1" in names(snapshot) or snapshot.problems


def test_after_a_change_of_one_among_5000_files_only_that_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "nodes.d")
    put(tmp_path / "nodes.d" / "net-conf.json", '{"Network": "10.0.0.0/8"}')
    for number in range(1, 5001):
        cidr, address = f"10.{number >> 8}.{number & 255}.0/24", f"172.16.{number >> 8}.{number & 255}"
        text = json.dumps({"name": f"n{number:04}", "address": address, "podCIDRs": [cidr]})
        (tmp_path / "nodes.d" / f"n{number:04}.json").write_text(text)
    time.sleep(0.2)
    reader = Reader(str(tmp_path / "nodes.d"), "n0001")
    assert len(names(reader.read()[0])) == 5000
    read, follow = [], files.follow

    def noted(path: str, most: int) -> bytes:
        read.append(Path(path).name)
        return follow(path, most)

    monkeypatch.setattr(files, "follow", noted)
    put(tmp_path / "nodes.d" / "n0007.json", '{"name": "x", "address": "192.0.2.1", "podCIDRs": ["10.200.0.0/24"]}')
    assert "x" in names(reader.read()[0])
    assert read == ["n0007.json"]

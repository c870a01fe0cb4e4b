"""Records: what an attachment owns survives on disk whole, void after a boot, and set aside when it cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from cni_plugin import decoding
from cni_plugin.attachment import Attachment
from cni_plugin.kernel.host import files
from cni_plugin.model.base import POD
from cni_plugin.model.host import Feature
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth
from cni_plugin.model.nft import Chain
from cni_plugin.plan.masquerade import Masquerade
from cni_plugin.store.records import Record, Records
from tests.unit.odd import put_odd

OBJECTS = (
    Veth("tl0", "br0", 1450, peer="eth0"), PodLink("eth0"), Up("eth0", POD), Addr("eth0", "10.22.0.5/24", POD),
    Route("0.0.0.0/0", "eth0", "10.22.0.1", POD, scope=0), Port("tl0", locked=True), PortVlan("tl0", 5), Bridge("br0"),
    Neigh("br0", "10.22.0.5", learned=True), Fdb("tl0", "0a:00:00:00:00:01"), Feature("br0", tx_checksum=True),
    Chain("c", "hook", ("accept",)),
)


def record(container: str = "c1", network: str = "pods", boot: str = "", ifname: str = "eth0") -> Record:
    return Record(
        network=network, container=container, ifname=ifname, boot=boot or files.boot_id(), netns="/run/netns/p",
        created=1.5, bridge="br0", gateway_dev="br0", mtu=1450, mac="0a:58:0a:16:00:05",
        ips=("10.22.0.5/24",), gateways=("10.22.0.1/24",),
        ipam="host-local", data_dir="/d", masquerade=True, objects=OBJECTS, conf=msgspec.Raw(b'{"name": "pods"}'),
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(f"{tmp_path}/run")


def paths(records: Records) -> list[str]:
    home = Path(records.run_dir)
    return sorted(str(each.relative_to(home)) for each in home.rglob("*") if each.is_file())


def test_a_record_is_found_again_as_it_was_with_every_kind_of_object(records: Records) -> None:
    records.put(record())
    found = records.find(Attachment("pods", "c1", "eth0"))
    assert found is not None
    assert found.objects == OBJECTS
    assert bytes(found.conf) == b'{"name": "pods"}'
    assert msgspec.json.encode(found) == msgspec.json.encode(record())


def test_a_record_can_be_found_by_a_person_too(records: Records) -> None:
    records.put(record())
    assert paths(records) == ["attachments/pods/c1:eth0"]


def test_what_was_never_written_is_not_found_and_its_removal_is_no_error(records: Records) -> None:
    assert records.find(Attachment("pods", "c1", "eth0")) is None
    assert list(records.all()) == []
    assert records.remove(Attachment("pods", "c1", "eth0"))


def test_the_last_record_of_a_network_takes_its_folder_along(records: Records) -> None:
    records.put(record("c1"))
    records.put(record("c2"))
    assert not records.remove(record("c1").attachment)
    assert records.remove(record("c2").attachment)
    assert not (Path(records.run_dir) / "attachments" / "pods").exists()


def test_records_are_listed_by_network(records: Records) -> None:
    for container, network in (("c1", "a"), ("c2", "a"), ("c3", "b")):
        records.put(record(container, network))
    assert [each.container for each in records.all()] == ["c1", "c2", "c3"]
    assert [each.container for each in records.all("b")] == ["c3"]
    assert list(records.all("no-such")) == []


def test_a_very_long_container_id_has_a_file_as_well(records: Records) -> None:
    long = record("c" * 300)
    records.put(long)
    assert records.find(long.attachment) is not None
    assert records.find(Attachment("pods", "c" * 301, "eth0")) is None
    records.remove(long.attachment)
    assert paths(records) == []


def test_failure_01_a_record_of_an_earlier_boot_is_void(records: Records) -> None:
    records.put(record(boot="another"))
    assert records.find(record().attachment) is None
    assert list(records.all()) == []


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"network": "pods"}', b"\xff\xfe", b"null"])
def test_failure_06_a_record_that_cannot_be_read_is_set_aside_and_not_lost(records: Records, junk: bytes) -> None:
    records.put(record())
    path = Path(records.run_dir) / "attachments" / "pods" / "c1:eth0"
    path.write_bytes(junk)
    assert records.find(record().attachment) is None
    assert not path.exists()
    (aside,) = path.parent.iterdir()
    assert aside.read_bytes() == junk
    assert list(records.all()) == []
    records.put(record())
    assert records.find(record().attachment) is not None


@pytest.mark.parametrize("name", ["c1:eth0.bak", "c1:eth1", "c2:eth0"])
def test_a_record_under_another_ones_name_is_set_aside(records: Records, name: str) -> None:
    """A copy that somebody made: no DEL would remove it, and its network would never end."""
    records.put(record("c1"))
    folder = Path(records.folder("pods"))
    (folder / name).write_bytes((folder / "c1:eth0").read_bytes())
    assert [each.container for each in records.all()] == ["c1"]
    assert records.remove(record("c1").attachment)


def test_what_was_set_aside_does_not_keep_a_network_alive(records: Records) -> None:
    records.put(record("c1"))
    (Path(records.run_dir) / "attachments" / "pods" / "c1:eth0").write_bytes(b"junk")
    assert records.find(record("c1").attachment) is None
    assert records.remove(record("c1").attachment)


def test_a_masquerade_is_noted_and_dropped(records: Records) -> None:
    wanted = Masquerade(("10.22.0.0/24",), ("10.0.0.0/8",))
    records.set_note("masquerade", "pods", wanted)
    assert records.noted("masquerade", Masquerade) == {"pods": wanted}
    assert records.drop_note("masquerade", "pods")
    assert not records.drop_note("masquerade", "pods")
    assert records.noted("masquerade", Masquerade) == {}


@pytest.mark.parametrize("junk", [b"junk", b'{"subnets": ["10.22.0.0/33"]}', b'{"subnets": [], "inside": ["x"]}'])
def test_a_note_that_cannot_be_read_or_names_no_network_is_none(records: Records, junk: bytes) -> None:
    records.set_note("masquerade", "pods", Masquerade(()))
    (Path(records.run_dir) / "networks" / "pods").write_bytes(junk)
    assert records.noted("masquerade", Masquerade) == {}


@pytest.mark.parametrize("raw", [b"5", b"null", b'{"subnets": ["x"]}'])
def test_a_claim_that_cannot_be_understood_is_none(raw: bytes) -> None:
    found = msgspec.structs.replace(record(), claims={"masquerade": msgspec.Raw(raw)})
    assert found.claim("masquerade", Masquerade) is None
    assert found.claim("another", Masquerade) is None


def test_files_are_for_root_alone(records: Records) -> None:
    with records.lock():
        records.put(record())
    home = Path(records.run_dir)
    for path in (home, home / "lock", home / "attachments" / "pods", home / "attachments" / "pods" / "c1:eth0"):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "socket", "huge", "deep", "noise"])
def test_what_is_no_record_stands_in_nobodys_way(records: Records, kind: str) -> None:
    records.put(record("c2"))
    path = Path(records.folder("pods")) / "c1:eth0"
    put_odd(path, kind)
    assert records.find(record().attachment) is None
    assert [each.container for each in records.all()] == ["c2"]
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".tmp.damaged.")] != []
    records.put(record())
    assert records.find(record().attachment) is not None
    put_odd(path, kind)
    assert not records.remove(record().attachment)
    assert records.remove(record("c2").attachment)
    assert files.names(records.folder("pods")) == []


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "socket", "huge", "deep", "noise"])
def test_what_is_no_folder_of_a_network_is_passed_over(records: Records, kind: str) -> None:
    put_odd(Path(records.folder("other")), kind)
    put_odd(Path(records.run_dir) / "networks" / "other", kind)
    put_odd(Path(records.run_dir) / "networks" / "pods", kind)
    put_odd(Path(records.run_dir) / "lock", kind)
    records.put(record())
    with records.lock():
        records.set_note("masquerade", "pods", Masquerade((), ()))
    assert [each.container for each in records.all()] == ["c1"]
    assert list(records.noted("masquerade", Masquerade)) == ["pods"]
    records.put(record(network="other"))
    assert {each.network for each in records.all()} == {"pods", "other"}


@pytest.mark.parametrize("kind", ["noise", "loop", "fifo"])
@pytest.mark.parametrize("place", ["attachments", "attachments/pods", "networks"])
def test_a_stray_in_the_place_of_a_folder_keeps_no_pod_from_its_end_and_none_from_its_beginning(
    records: Records, place: str, kind: str
) -> None:
    stray = Path(records.run_dir) / place
    put_odd(stray, kind)
    assert list(records.all()) == []
    assert records.find(record().attachment) is None
    assert records.remove(record().attachment)
    assert not records.drop_note("masquerade", "pods")
    assert os.path.lexists(stray)
    records.put(record())
    records.set_note("masquerade", "pods", Masquerade((), ()))
    assert records.find(record().attachment) is not None
    assert list(records.noted("masquerade", Masquerade)) == ["pods"]


@pytest.mark.parametrize("others", [1, 100])
def test_to_know_whether_anybody_has_a_pod_is_one_look_for_each_network(
    records: Records, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    for number in range(others):
        records.put(record(f"other{number}"))
    records.put(record("mine", network="more"))
    honest, seen = files.read, list[str]()

    def read(path: str) -> bytes | None:
        seen.append(path)
        return honest(path)

    monkeypatch.setattr(files, "read", read)
    assert not records.has("c1", "eth0")
    assert len([each for each in seen if "attachments" in each]) == 2
    assert records.has("mine", "eth0")
    assert not records.has("mine", "eth1")


def test_a_symbolic_link_is_not_followed(records: Records, tmp_path: Path) -> None:
    records.put(record())
    path = Path(records.run_dir) / "attachments" / "pods" / "c1:eth0"
    target = tmp_path / "elsewhere"
    path.rename(target)
    path.symlink_to(target)
    assert records.find(record().attachment) is None
    assert not path.is_symlink()


# Records of the release before, which had a flag in place of claims

BEFORE = (
    b'{"network":"pods","container":"c1","ifname":"eth0","boot":"%s","netns":"/run/netns/p","created":1.5,'
    b'"bridge":"br0","gateway_dev":"br0","mtu":1450,"mac":"0a:58:0a:16:00:05","ips":["10.22.0.5/24","fd00:22::5/64"],'
    b'"gateways":["10.22.0.1/24"],"ipam":"host-local","data_dir":"/d","masquerade":%s,'
    b'"objects":[{"object":"up","name":"eth0","ns":"pod"}],"conf":{"name":"pods"}}'
)


def stored(records: Records, masquerade: bytes) -> Record:
    folder = Path(records.run_dir) / "attachments" / "pods"
    folder.mkdir(parents=True)
    (folder / "c1:eth0").write_bytes(BEFORE % (files.boot_id().encode(), masquerade))
    found = records.find(Attachment("pods", "c1", "eth0"))
    assert found is not None
    return found


def test_a_record_of_the_release_before_is_read_and_its_flag_is_a_claim(records: Records) -> None:
    found = stored(records, b"true")
    assert (found.bridge, found.objects, found.before) == ("br0", (Up("eth0", POD),), ())
    assert decoding.decode_as(Masquerade, found.claims["masquerade"]) == Masquerade(("10.22.0.0/24", "fd00:22::/64"))


def test_a_record_of_the_release_before_without_the_flag_claims_nothing(records: Records) -> None:
    assert dict(stored(records, b"false").claims) == {}


def test_a_record_of_now_is_read_again_with_its_claims_and_what_stood_before(records: Records) -> None:
    claims = {"masquerade": msgspec.Raw(b'{"subnets":["10.22.0.0/24"]}'), "toy": msgspec.Raw(b"[1]")}
    records.put(msgspec.structs.replace(record(), claims=claims, before=(Up("eth0", POD),)))
    found = records.find(Attachment("pods", "c1", "eth0"))
    assert found is not None
    assert {name: bytes(each) for name, each in found.claims.items()} == {
        name: bytes(each) for name, each in claims.items()
    }
    assert found.before == (Up("eth0", POD),)


def test_the_release_before_finds_all_that_it_needs_in_a_record_of_now(records: Records) -> None:
    needed = set(json.loads(BEFORE % (b"x", b"true")))
    records.put(record())
    kept = json.loads((Path(records.run_dir) / "attachments" / "pods" / "c1:eth0").read_bytes())
    assert needed <= set(kept)
    assert kept["masquerade"] is True

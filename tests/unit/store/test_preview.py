"""Records that are only previewed: what is written is read again, and the disk is as it was."""

from __future__ import annotations

from pathlib import Path

from cni_plugin.attachment import Attachment
from cni_plugin.store.preview import Picture, PreviewedRecords
from tests.unit.support import Node


def test_what_is_put_is_found_and_what_is_removed_is_not(node: Node) -> None:
    assert node.call("ADD").exit == node.call("ADD", "b eth1").exit == 0
    files = {path: path.read_bytes() for path in node.home.rglob("*") if path.is_file()}
    records = PreviewedRecords(f"{node.home}/run")
    one, other = records.all("pods")
    with records.lock(), records.claim(one.attachment):
        assert not records.remove(one.attachment)
        assert records.find(one.attachment) is None
        assert [each.container for each in records.all()] == ["b"]
        assert records.remove(other.attachment)
        records.put(one)
    assert (records.find(one.attachment), records.networks()) == (one, ["pods"])
    assert {path: path.read_bytes() for path in node.home.rglob("*") if path.is_file()} == files
    assert len(list(node.records.all())) == 2


def test_where_nothing_is_a_preview_makes_no_folder(tmp_path: Path) -> None:
    records = PreviewedRecords(f"{tmp_path}/run")
    with records.lock(), records.claim(Attachment("pods", "a", "eth0")):
        assert list(records.all()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_what_was_written_below_it_and_not_what_was_removed(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("1")
    picture = Picture()
    picture.write(f"{tmp_path}/a/b", b"2")
    assert picture.names(str(tmp_path)) == ["a", "there"]
    assert (picture.names(f"{tmp_path}/a"), picture.read(f"{tmp_path}/a/b")) == (["b"], b"2")
    assert picture.remove(f"{tmp_path}/there")
    assert not picture.remove(f"{tmp_path}/there")
    assert (picture.names(str(tmp_path)), picture.note(f"{tmp_path}/there")) == (["a"], None)
    assert (tmp_path / "there").read_text() == "1"

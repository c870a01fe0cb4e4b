"""Files: whole or not at all, no symbolic link followed, no leftovers counted."""

from __future__ import annotations

import errno
import os
import re
from multiprocessing import get_context
from pathlib import Path

import pytest

from cni_plugin.kernel.host import files, locks


def test_a_file_is_written_whole_and_read_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    files.write(f"{tmp_path}/a", data)
    assert files.read(f"{tmp_path}/a") == data
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_no_file_is_none(tmp_path: Path) -> None:
    assert files.read(f"{tmp_path}/a") is None
    assert not files.remove(f"{tmp_path}/a")
    assert files.names(f"{tmp_path}/a") == []


@pytest.mark.parametrize("call", ["write", "rename", "open"])
def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    files.write(f"{tmp_path}/a", b"before")

    def full(*args: object, **keys: object) -> int:
        del args, keys
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            files.write(f"{tmp_path}/a", b"after")
    assert files.read(f"{tmp_path}/a") == b"before"
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_goes_on_where_the_kernel_took_only_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    files.write(f"{tmp_path}/a", b"one two three")
    assert files.read(f"{tmp_path}/a") == b"one two three"


def test_only_files_are_read_and_only_such_as_have_an_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, words in {"fifo": "not a file", "sparse": "larger than 64 MiB", "zero": "not a file", ".": "folder",
                        "a\0b": "NUL"}.items():
        with pytest.raises(OSError, match=words) as caught:
            files.follow(f"{tmp_path}/{name}")
        assert caught.value.errno in files.ODD
    with pytest.raises(OSError, match="larger than 1 KiB"):
        (tmp_path / "a").write_bytes(bytes(1025))
        files.follow(f"{tmp_path}/a", 1024)
    assert b"processor" in files.follow("/proc/cpuinfo")


def test_a_folder_where_a_file_belongs_is_set_aside_not_lost(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_text(str(number))
        files.write(f"{tmp_path}/a", b"ours")
        assert files.read(f"{tmp_path}/a") == b"ours"
        files.remove_with_leftover(f"{tmp_path}/a")
    assert sorted(each.read_text() for each in tmp_path.glob("*/x")) == ["1", "2"]
    assert files.remove_folder(str(tmp_path))


def test_reading_follows_no_link_but_what_the_operator_named_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ELOOP))):
        files.read(f"{tmp_path}/link")
    assert files.follow(f"{tmp_path}/link") == b"x"


def test_writing_over_a_link_replaces_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write(f"{tmp_path}/link", b"y")
    assert (tmp_path / "real").read_bytes() == b"x"
    assert not (tmp_path / "link").is_symlink()


def test_a_folder_is_made_with_those_above_it_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        files.make_folder(f"{tmp_path}/a/b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_not_taken_for_one(tmp_path: Path, kind: str) -> None:
    (tmp_path / "real").mkdir()
    if kind == "link":
        (tmp_path / "a").symlink_to(tmp_path / "real")
    else:
        (tmp_path / "a").write_bytes(b"")
    with pytest.raises(OSError, match="not a folder"):
        files.make_folder(f"{tmp_path}/a")


def test_an_empty_folder_goes_and_one_that_is_gone_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert files.remove_folder(f"{tmp_path}/a")
    assert files.remove_folder(f"{tmp_path}/a")


def test_a_folder_with_a_file_stays(tmp_path: Path) -> None:
    files.write(f"{tmp_path}/x", b"")
    assert not files.remove_folder(str(tmp_path))


def test_what_a_killed_writer_left_does_not_keep_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / ".tmp.x").write_bytes(b"half")
    assert files.names(str(folder)) == []
    assert files.remove_folder(str(folder))


def test_what_a_killed_writer_left_goes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / ".tmp.x").write_bytes(b"half")
    files.write(f"{tmp_path}/y", b"another's")
    assert not files.remove_with_leftover(f"{tmp_path}/x")
    assert os.listdir(tmp_path) == ["y"]


def test_names_come_in_order(tmp_path: Path) -> None:
    for name in "cab":
        files.write(f"{tmp_path}/{name}", b"")
    assert files.names(str(tmp_path)) == ["a", "b", "c"]


def test_somebodys_file_in_the_place_of_a_folder_of_ours_holds_nothing_and_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for each in (f"{tmp_path}/folder", f"{tmp_path}/link"):
        assert files.names(each) == []
        assert not files.remove_with_leftover(f"{each}/record")
        assert files.remove_folder(each)
        with pytest.raises(NotADirectoryError):
            files.listed(each)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


def test_what_is_set_aside_is_kept_under_a_name_that_nobody_reads(tmp_path: Path) -> None:
    files.write(f"{tmp_path}/a", b"junk")
    files.set_aside(f"{tmp_path}/a")
    assert files.names(str(tmp_path)) == []
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == b"junk"


def test_a_folder_that_is_not_there_is_as_writable_as_the_one_above(tmp_path: Path) -> None:
    assert files.writable(f"{tmp_path}/a/b/c")
    assert not files.writable("/proc/self/a/b")


def test_this_boot_has_one_name() -> None:
    assert files.boot_id() == files.boot_id() != ""


def _append(path: str) -> None:
    for _ in range(50):
        with locks.locked(f"{path}.lock"):
            number = int(files.read(path) or b"0")
            files.write(path, str(number + 1).encode())


def test_of_several_processes_one_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    children = [get_context("fork").Process(target=_append, args=(f"{tmp_path}/n",)) for _ in range(4)]
    for each in children:
        each.start()
    for each in children:
        each.join()
    assert files.read(f"{tmp_path}/n") == b"200"


def test_every_folder_that_is_made_on_the_way_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.make_folder(f"{tmp_path}/run/attachments/pods/")
    finally:
        os.umask(before)
    made = [tmp_path / each for each in ("run", "run/attachments", "run/attachments/pods")]
    assert [each.stat().st_mode & 0o777 for each in made] == [0o700] * 3


def test_a_folder_may_be_as_deep_as_the_kernel_has_paths(tmp_path: Path) -> None:
    deep = f"{tmp_path}{'/a' * 1500}"
    files.make_folder(deep)
    files.make_folder(deep)
    for _ in range(1500):  # what removes trees calls itself, too
        os.rmdir(deep)
        deep = os.path.dirname(deep)


@pytest.mark.parametrize("path", ["/proc/none", "/proc/none/run/attachments"])
def test_where_no_folder_can_be_is_told_and_not_tried_for_ever(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        files.make_folder(path)


def test_folders_are_made_below_a_link_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.make_folder(f"{tmp_path}/link/a/b")
    assert (tmp_path / "real" / "a" / "b").is_dir()


def test_a_folder_below_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        files.make_folder("run/attachments")

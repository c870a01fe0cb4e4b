"""Watched paths on the real kernel: what changes is told wherever it leads, what does not is not, nothing is lost."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.kernel.watch.inotify import Inotify


@pytest.fixture
def events() -> Iterator[Inotify]:
    made = Inotify()
    yield made
    made.close()


def readable(events: Inotify) -> bool:
    return bool(select.select([events], [], [], 0)[0])


def test_what_is_not_watched_any_more_is_not_told(events: Inotify, tmp_path: Path) -> None:
    one, two = (str(tmp_path / each) for each in ("one", "two"))
    events.watch([one, two])
    events.watch([two])
    Path(one).touch()
    assert events.drain() == set()
    Path(two).touch()
    assert readable(events) and events.drain() == {two}
    assert not readable(events)
    events.watch([])
    Path(two).unlink()
    events.drain()
    Path(two).touch()
    assert not readable(events), "nothing is left that could wake us up"


def test_paths_that_share_a_folder_or_a_file_are_told_each_for_itself(events: Inotify, tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to("file")
    events.watch([str(file), str(link), str(tmp_path)])
    file.write_text("x")
    assert events.drain() == {str(file), str(link), str(tmp_path)}
    link.unlink()
    assert events.drain() == {str(link), str(tmp_path)}
    file.write_text("y")
    assert events.drain() == {str(file), str(tmp_path)}


def test_a_path_is_followed_through_links_that_are_swapped_and_folders_that_are_moved(
    events: Inotify, tmp_path: Path
) -> None:
    for each in ("a", "b"):
        (tmp_path / each / "deep").mkdir(parents=True)
    (tmp_path / "to").symlink_to("a/../a")
    (tmp_path / "way").symlink_to(tmp_path / "to")
    path = str(tmp_path / "way" / "." / "deep" / "file")
    events.watch([path])
    (tmp_path / "b" / "deep" / "file").touch()
    assert events.drain() == set(), "it does not lead there yet"
    (tmp_path / "new").symlink_to("b")
    (tmp_path / "new").rename(tmp_path / "to")
    assert events.drain() == {path}
    (tmp_path / "b" / "deep" / "file").write_text("x")
    assert events.drain() == {path}
    (tmp_path / "b").rename(tmp_path / "c")
    assert events.drain() == {path}
    (tmp_path / "b" / "deep").mkdir(parents=True)
    assert events.drain() == {path}
    (tmp_path / "b" / "deep" / "file").touch()
    assert events.drain() == {path}


def test_links_in_a_circle_are_given_up_and_waited_for(events: Inotify, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    path = str(tmp_path / "one" / "file")
    events.watch([path])
    (tmp_path / "one").unlink()
    (tmp_path / "one").mkdir()
    assert events.drain() == {path}
    (tmp_path / "one" / "file").touch()
    assert events.drain() == {path}


def test_more_events_than_the_kernel_keeps_stand_for_every_path(events: Inotify, tmp_path: Path) -> None:
    for each in ("busy", "quiet"):
        (tmp_path / each).mkdir()
    paths = {str(tmp_path / each) for each in ("busy", "quiet")}
    events.watch(paths)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most // 2 + 10):
        os.close(os.open(tmp_path / "busy" / str(number), os.O_WRONLY | os.O_CREAT))
    assert events.drain() == paths
    (tmp_path / "quiet" / "file").touch()
    assert events.drain() == {str(tmp_path / "quiet")}


def test_a_relative_path_begins_at_the_working_directory(
    events: Inotify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    events.watch(["folder/file"])
    (tmp_path / "folder").mkdir()
    assert events.drain() == {"folder/file"}


def test_more_watches_than_a_user_may_have_are_an_error(
    events: Inotify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ctypes

    from cni_plugin.kernel.watch import inotify

    class Full:
        def inotify_add_watch(self, *_: object) -> int:
            ctypes.set_errno(28)
            return -1

    monkeypatch.setattr(inotify, "libc", Full)
    with pytest.raises(OSError, match="No space left on device"):
        events.watch([str(tmp_path)])
    monkeypatch.undo()

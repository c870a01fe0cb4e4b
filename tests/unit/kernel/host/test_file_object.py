"""A file that another program reads: ours by its folder or its first line, and whole; anybody else's is let be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import cast

import pytest

from cni_plugin.diff import Op
from cni_plugin.kernel.host.objects import file
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.model.base import Verb
from cni_plugin.model.host import File

NOTHING = None
MARKED = "# made by tulle\nprotocol bgp {}\n"


def turn(verb: Verb, each: File) -> None:
    file.turn(Op(verb, each), each, cast("Namespace", NOTHING))


def read(each: File) -> File | None:
    return file.read(each, cast("Lookup", NOTHING))


@pytest.fixture(params=["ours by its folder", "ours by its first line"])
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> File:
    if "folder" in request.param:
        return File(f"{tmp_path}/bird/bird.conf", "protocol bgp {}\n", 0o640, str(tmp_path))
    return File(f"{tmp_path}/bird/tulle.conf", MARKED, 0o640)


def test_it_stands_as_it_was_wanted_and_goes(ours: File) -> None:
    assert read(ours) is None
    turn("create", ours)
    assert read(ours) == ours
    assert stat.S_IMODE(os.stat(ours.path).st_mode) == 0o640

    turn("delete", ours)
    assert read(ours) is None
    turn("delete", ours)
    assert os.listdir(os.path.dirname(ours.path)) == []


def test_what_somebody_did_to_it_is_seen(ours: File) -> None:
    turn("create", ours)
    os.chmod(ours.path, 0o666)
    found = read(ours)
    assert found is not None
    assert found.mode == 0o666
    Path(ours.path).write_text(MARKED + "more\n")
    found = read(ours)
    assert found is not None
    assert found.content == MARKED + "more\n"
    turn("change", ours)
    assert read(ours) == ours


def test_one_that_is_not_ours_is_never_seen_replaced_or_removed(tmp_path: Path) -> None:
    theirs = tmp_path / "bird.conf"
    theirs.write_text("# by hand\n")
    ours = File(str(theirs), MARKED)

    assert read(ours) is None
    with pytest.raises(OSError, match="is there already and not ours") as caught:
        turn("create", ours)
    turn("delete", ours)

    assert caught.value.errno == errno.EEXIST
    assert theirs.read_text() == "# by hand\n"


def test_no_link_is_followed_out_of_where_it_is_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text(MARKED)
    os.symlink(theirs, tmp_path / "link")

    run = f"{tmp_path}/run"
    for each in (File(f"{tmp_path}/link", MARKED + "x"), File(f"{run}/../theirs", "x", place=run)):
        assert read(each) is None
        with pytest.raises(OSError, match="ours"):
            turn("create", each)
        turn("delete", each)

    assert theirs.read_text() == MARKED


def test_what_would_not_be_known_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it would not be known again"):
        turn("create", File(f"{tmp_path}/bird.conf", "protocol bgp {}\n"))

    assert os.listdir(tmp_path) == []

"""The CNI configuration that the agent writes: what is in it, when it is written, and who may see it half done."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cni_plugin.agent import conflist
from cni_plugin.errors import CniError
from cni_plugin.kernel.watch.inotify import Inotify
from tests.unit.support import bridged

WRITTEN_MOVED_OR_REMOVED = 0x8 | 0x40 | 0x200
"""inotify(7): IN_CLOSE_WRITE, IN_MOVED_FROM, IN_DELETE."""
CLUSTER = "/run/tulle/cluster.json"


def test_each_plugin_of_ours_is_told_the_clusters_file_and_others_are_left_alone() -> None:
    found = conflist.completed({"name": "pods", "plugins": [{"type": "tulle"}, {"type": "portmap"}]}, CLUSTER)
    assert found["plugins"] == [{"type": "tulle", "cluster": CLUSTER}, {"type": "portmap"}]


def test_a_cluster_that_the_template_names_is_kept() -> None:
    given = {"name": "pods", "plugins": [{"type": "tulle", "Cluster": "/etc/tulle/other.json"}]}
    assert conflist.completed(given, CLUSTER) == given


def test_what_is_written_without_a_template_is_a_configuration_that_the_plugin_takes() -> None:
    written = conflist.completed(conflist.DEFAULT, CLUSTER)
    (plugin,) = json.loads(json.dumps(written))["plugins"]
    parsed = bridged({**plugin, "name": written["name"], "cniVersion": written["cniVersion"]})
    assert (parsed.cluster, parsed.gateway, parsed.ipam.type) == (CLUSTER, True, "host-local")


def test_it_is_the_sample_that_a_person_would_install() -> None:
    sample = json.loads((Path(__file__).parents[3] / "conf" / "10-tulle-cluster.conflist").read_text())
    for each in sample["plugins"]:
        each.pop("cluster")
    assert sample == json.loads(json.dumps(conflist.DEFAULT))


def test_it_is_written_once_and_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "net.d" / "10-tulle.conflist"
    before = os.umask(0o077)
    try:
        assert conflist.put(str(path), conflist.DEFAULT)
        assert not conflist.put(str(path), conflist.DEFAULT)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads(path.read_text()) == json.loads(json.dumps(conflist.DEFAULT))


def test_a_changed_template_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = str(tmp_path / "10-tulle.conflist")
    conflist.put(path, conflist.DEFAULT)
    assert conflist.put(path, {**conflist.DEFAULT, "name": "pods"})
    assert json.loads(Path(path).read_text())["name"] == "pods"


def test_no_runtime_takes_a_half_written_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libcni takes *.conf, *.conflist and *.json."""

    def refuse(*_: str) -> None:
        names = [each.name for each in tmp_path.iterdir()]
        assert names and not any(each.endswith((".conf", ".conflist", ".json")) for each in names)
        raise OSError(errno.EIO, "power cut")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="power cut"):
        conflist.put(str(tmp_path / "10-tulle.conflist"), conflist.DEFAULT)
    assert list(tmp_path.iterdir()) == []


def test_those_who_watch_the_folder_are_told_of_the_file_when_it_is_there_and_of_no_other(tmp_path: Path) -> None:
    """containerd looks again when something was written, renamed away or removed, not when something was made."""
    events = Inotify()
    events.watch([str(tmp_path)])
    path = str(tmp_path / "10-tulle.conflist")
    for number in range(2):
        conflist.put(path, {**conflist.DEFAULT, "disableCheck": bool(number)})
        heeded = [name for _, mask, name in events._events() if mask & WRITTEN_MOVED_OR_REMOVED and "10-tulle" in name]
        assert (heeded, os.listdir(tmp_path)) == ([".10-tulle.conflist.d"], ["10-tulle.conflist"])
    events.close()


def test_a_writer_that_was_killed_before_anybody_was_told_is_made_up_for(tmp_path: Path) -> None:
    path = tmp_path / "10-tulle.conflist"
    conflist.put(str(path), conflist.DEFAULT)
    (tmp_path / ".10-tulle.conflist.d").mkdir()
    assert not conflist.put(str(path), conflist.DEFAULT)
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / ".10-tulle.conflist.d").mkdir()
    (tmp_path / ".10-tulle.conflist.d" / "10-tulle.conflist").write_text("{")
    assert conflist.put(str(path), {**conflist.DEFAULT, "name": "pods"})
    assert list(tmp_path.iterdir()) == [path] and '"name": "pods"' in path.read_text()


def test_a_template_that_is_not_there_is_none_and_a_broken_one_is_told(tmp_path: Path) -> None:
    assert conflist.template(str(tmp_path / "none.json")) is None
    broken = tmp_path / "cni-conf.json"
    broken.write_text("{")
    with pytest.raises(CniError, match=f"in {broken} is not valid JSON"):
        conflist.template(str(broken))


@pytest.mark.parametrize("plugins", [None, {}, ["tulle"]])
def test_a_template_without_a_list_of_plugins_is_refused(plugins: object) -> None:
    with pytest.raises(CniError, match="it must be a list of objects"):
        conflist.completed({"name": "pods", "plugins": plugins}, CLUSTER)


def test_a_template_without_a_name_is_refused() -> None:
    with pytest.raises(CniError, match="invalid name ''"):
        conflist.name_of({"plugins": []})

"""The first step of a pod that brings the agent along: a bundle is on the node, whole, before anything leads to it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cni_plugin.agent.install import install
from cni_plugin.errors import CniError


class Bundle:
    """A stand-in for a bundle, whose executables say which release they are of."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "bundle"
        self.root = folder / "host"
        (self.folder / "_internal").mkdir(parents=True)
        (self.folder / "_internal" / "library").write_text("library")
        (self.folder / "library").symlink_to("_internal/library")
        monkeypatch.setattr(sys, "_MEIPASS", str(self.folder / "_internal"), raising=False)

    def install(self, release: str) -> str:
        (self.folder / "release").write_text(f"{release}\n")
        (self.folder / "tulle").write_text(release)
        (self.folder / "tulle").chmod(0o755)
        return install(str(self.root))

    def releases(self) -> list[str]:
        found = (self.root / "opt/tulle").iterdir()
        return sorted(each.name for each in found if each.is_dir() and not each.is_symlink())

    def link(self, name: str) -> str:
        return os.readlink(self.root / "opt/tulle" / name)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    return Bundle(tmp_path, monkeypatch)


def test_the_plugin_leads_to_the_current_release_on_the_node(bundle: Bundle) -> None:
    assert bundle.install("1") == "1"
    assert os.readlink(bundle.root / "opt/cni/bin/tulle") == "/opt/tulle/current/tulle"
    plugin = bundle.root / "opt/tulle/current/tulle"
    assert (plugin.read_text(), os.access(plugin, os.X_OK)) == ("1", True)
    assert os.readlink(bundle.root / "opt/tulle/current/library") == "_internal/library"


def test_the_release_before_stays_and_older_ones_go(bundle: Bundle) -> None:
    for release in ("1", "2", "3"):
        bundle.install(release)
    assert (bundle.link("current"), bundle.link("previous"), bundle.releases()) == ("3", "2", ["2", "3"])


def test_installing_the_same_release_again_changes_nothing(bundle: Bundle) -> None:
    bundle.install("1")
    before = (bundle.root / "opt/tulle/1").stat()
    bundle.install("1")
    after = (bundle.root / "opt/tulle/1").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (bundle.root / "opt/tulle/previous").is_symlink()


def test_a_copy_that_was_cut_off_is_made_again(bundle: Bundle) -> None:
    half = bundle.root / "opt/tulle/.new"
    half.mkdir(parents=True)
    (half / "tulle").write_text("half of it")
    bundle.install("1")
    assert (bundle.root / "opt/tulle/current/tulle").read_text() == "1"
    assert not half.exists()


def test_nothing_leads_to_a_copy_that_failed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.install("1")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.install("2")
    assert (bundle.link("current"), bundle.releases()) == ("1", ["1"])


def test_folders_of_somebody_else_are_left_alone(bundle: Bundle) -> None:
    kept = bundle.root / "opt/tulle/mine"
    kept.mkdir(parents=True)
    for release in ("1", "2", "3"):
        bundle.install(release)
    assert kept.is_dir()


def test_only_a_bundle_can_be_installed(tmp_path: Path) -> None:
    with pytest.raises(CniError, match="scripts/build"):
        install(str(tmp_path))
    assert list(tmp_path.iterdir()) == []

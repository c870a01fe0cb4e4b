"""Every Python package that a script installs is one release with known digests, and satisfies pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.lib.pack import requirements
from scripts.lib.pack.requirements import Pin, locked, normalised

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
ALWAYS: list[str] = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]


def test_each_extra_has_its_list_and_each_list_its_extra() -> None:
    lists = {each.name for each in requirements.FOLDER.glob("requirements-*")}
    assert lists == {f"requirements-{each}.txt" for each in EXTRAS}


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_locked_releases_satisfy_what_the_project_asks_for(extra: str) -> None:
    pins = locked(extra)
    for each in map(Requirement, [*ALWAYS, *EXTRAS[extra]]):
        pin = pins.get(normalised(each.name))
        assert pin is not None, f"{each} is not locked: run scripts/lock"
        assert each.specifier.contains(pin.version), f"{each}, but {pin.version} is locked: run scripts/lock"


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_release_has_its_digests_and_nothing_says_where_to_fetch_it(extra: str) -> None:
    assert all(pin.digests for pin in locked(extra).values())
    assert "://" not in (requirements.FOLDER / f"requirements-{extra}.txt").read_text()


def test_two_lists_never_ask_for_two_releases_of_one_package() -> None:
    versions = {(name, pin.version) for extra in EXTRAS for name, pin in locked(extra).items()}
    assert len(versions) == len({name for name, _ in versions})


def test_scripts_install_by_the_lists_only() -> None:
    installs = [
        line
        for path in (ROOT / "scripts").rglob("*")
        if path.is_file() and path.suffix in ("", ".sh")
        for line in path.read_text(errors="replace").splitlines()
        if re.search(r"\bpip\d? install\b", line) and not line.lstrip().startswith("#")
    ]
    assert installs
    assert all("--require-hashes" in each or "--no-deps --no-build-isolation" in each for each in installs)


@pytest.mark.parametrize("line", ["a", "a>=1", "a==1 --hash=md5:0", "--index-url x", "a==1 --hash=sha256:12"])
def test_a_line_that_pins_nothing_is_no_list(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements-x.txt").write_text(line)
    monkeypatch.setattr(requirements, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="neither a release"):
        locked("x")


def test_a_release_is_read_with_its_marker_and_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = "sha256:" + "0" * 64
    lines = f"a-b==1.post1 ; os_name == 'nt' \\\n    --hash={digest} \\\n    --hash={digest}\nc==2 --hash={digest}\n"
    (tmp_path / "requirements-x.txt").write_text(lines)
    monkeypatch.setattr(requirements, "FOLDER", tmp_path)
    assert locked("x") == {"a-b": Pin("1.post1", "os_name == 'nt'", (digest,) * 2), "c": Pin("2", "", (digest,))}

"""Every file of the room of sources keeps the room's contract, whoever adds one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cni_plugin.agent.checking import LOOKS
from cni_plugin.agent.sources.contract import Module, Source, beside, check, find, names, open_source
from cni_plugin.errors import INVALID_CONFIG, CniError
from tests.unit.agent.sources.told import Told

PROMISED = [name for name in vars(Source) if not name.startswith("_")]
NO_SOURCE = ["consul", "contract", "kube", "lease", "File", "a.b", "../file", "", None, 7, ["file"]]


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(name: str) -> Module:
    return find(name)


def test_its_keys_are_a_struct_that_can_be_empty(source: Module) -> None:
    source.check(source.Conf())


def test_a_key_that_is_none_of_its_own_is_refused_by_name(name: str) -> None:
    check({"type": name})
    with pytest.raises(CniError, match=r"source\.colour: there is no such key") as refused:
        check({"type": name, "colour": "red"})
    assert refused.value.code == INVALID_CONFIG


def test_what_lies_beside_the_settings_for_its_sake_can_be_looked_at(name: str, source: Module) -> None:
    assert beside({"type": name}) == source.BESIDE
    assert set(source.BESIDE) <= set(LOOKS)


def test_it_begins_on_threads_of_its_own_though_nobody_answers_and_ends_when_it_is_told_to(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TULLE_RUN_DIR", str(tmp_path))
    before, told = set(threading.enumerate()), Told()
    opened = open_source({"type": name}, "n1", told.mailbox)
    try:
        begun = set(threading.enumerate()) - before
        assert begun and all(each.daemon for each in begun), "an agent ends though a source hangs"
        assert [each for each in PROMISED if not callable(getattr(opened, each))] == []
        opened.ready()
    finally:
        opened.close()
        told.mailbox.close()


@pytest.mark.parametrize("kind", NO_SOURCE)
def test_whoever_has_no_file_here_is_no_source_and_is_told_which_there_are(kind: object) -> None:
    assert beside({"type": kind}) == ()
    with pytest.raises(CniError, match=f"use one of {', '.join(names())}"):
        check({"type": kind})

"""One file makes a source: the agent follows it, `tulled --check` reads its keys, and no other file was touched."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.agent.checking import mistakes
from cni_plugin.agent.cluster.membership import Membership
from cni_plugin.agent.settings import Settings
from cni_plugin.agent.sources.contract import names
from cni_plugin.kernel.door import Uplink
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.watch.changed import EVERYTHING
from cni_plugin.model.layer3 import Route
from cni_plugin.node.contract import taken
from cni_plugin.node.site import Site
from cni_plugin.store.records import Records
from tests import toys
from tests.pace import PATIENCE
from tests.toy_source import lines


class Journal:
    def say(self, level: str, message: str, **_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(autouse=True)
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with toys.added(tmp_path_factory.mktemp("toys"), "agent.sources", "toy"):
        yield


class Member:
    """A node whose agent learns its cluster from the toy."""

    def __init__(self, folder: Path) -> None:
        self.lines = folder / "nodes"
        self.kernel = FakeKernel(uplink=Uplink("eth0", 1500, ("192.0.2.0/24",)), held={"192.0.2.1"})
        self.site = Site(self.kernel, Records(str(folder)))
        settings = Settings(node="n1", source={"type": "toy", "lines": str(self.lines)})
        self.member = Membership(self.kernel, Records(str(folder)), Journal(), settings)

    def hear(self, *numbers: int) -> set[str]:
        """These nodes are written down; the networks that the node then has ways to."""
        self.lines.write_text(lines(*numbers))
        (bell,) = self.member.filenos()
        assert select.select([bell], [], [], PATIENCE)[0]
        self.member.readable(bell)
        assert [each.problem for each in map(taken, self.member.looks(self.site, EVERYTHING)) if each.problem] == []
        return {each.dst for each in self.kernel.state.values() if isinstance(each, Route)}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Member]:
    made = Member(tmp_path)
    yield made
    made.member.close()


def test_it_is_one_of_the_sources() -> None:
    assert "toy" in names()


def test_an_agent_follows_it(node: Member) -> None:
    assert node.hear(1, 2, 3) == {"10.244.2.0/24", "10.244.3.0/24"}
    assert (node.member.reason, node.member.status()["source"]) == ("", "toy")
    assert node.lines.with_name("nodes.said").read_text() == "host-gw 192.0.2.1"
    assert node.hear(1, 3) == {"10.244.3.0/24"}


@pytest.mark.parametrize(("keys", "words"), [
    ({"lines": "/etc/nodes"}, ""), ({"lines": "nodes"}, "source.lines 'nodes': write the whole path of a file"),
    ({"lins": "/etc/nodes"}, "did you mean lines?"), ({"lines": 7}, "source.lines"),
])  # fmt: skip
def test_its_keys_are_checked_as_those_of_any_source(tmp_path: Path, keys: dict[str, object], words: str) -> None:
    (tmp_path / "agent.json").write_text(json.dumps({"source": {"type": "toy", **keys}}))
    told = mistakes(str(tmp_path / "agent.json"))
    assert words in "".join(told) and bool(told) == bool(words)


def test_what_it_keeps_beside_the_settings_is_checked_with_them(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text(json.dumps({"source": {"type": "toy"}}))
    (tmp_path / "net-conf.json").write_text('{"Network": "10.244.0.0"}')
    (told,) = mistakes(str(tmp_path / "agent.json"))
    assert "net-conf.json" in told

"""The contract of a topic, kept by every file in `ctl/doctor/`, and one that comes from elsewhere.

A new topic is held to the contract without a line here: it is found by its file.
"""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from cni_plugin.ctl import doctor
from cni_plugin.ctl.diagnosis import finding_names
from cni_plugin.ctl.doctor import contract
from cni_plugin.ctl.doctor.contract import Topic, topics
from cni_plugin.ctl.eyes import Eyes, Places
from cni_plugin.kernel.see.look import Link
from tests import toys
from tests.unit.ctl.tool import Around, Tool
from tests.unit.support import Node

TOPICS = topics()
CONTRACT = {contract.__name__}
every = pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS)
LAYERS = (
    contract.CONFIGURATION, contract.NODE, contract.PODS, contract.LINKS, contract.CLUSTER, contract.SURROUNDINGS,
)  # fmt: skip


def text(topic: Topic) -> str:
    return inspect.getsource(topic)  # type: ignore[arg-type]


# The contract


def test_the_topics_are_the_files() -> None:
    files = {each.stem for each in Path(doctor.__path__[0]).glob("*.py")} - {"__init__", "contract"}
    assert set(TOPICS) == files
    assert {"attachments", "configuration", "peers"} <= files


def test_topics_are_told_layer_by_layer() -> None:
    assert [each.LAYER for each in TOPICS.values()] == sorted(each.LAYER for each in TOPICS.values())


@every
def test_it_is_in_a_layer(topic: Topic) -> None:
    assert topic.LAYER in LAYERS


@every
def test_of_what_it_does_not_know_it_finds_nothing_but_that(topic: Topic) -> None:
    facts = topic.Facts()
    if "unknown" in topic.Facts.__struct_fields__:
        facts = topic.Facts(unknown={"configuration": "?", "agent": "?"})
    assert [each for find in topic.FINDINGS for each in find(facts)] == []


@every
def test_its_facts_are_plain_values_that_cannot_be_changed(topic: Topic) -> None:
    assert topic.Facts.__struct_config__.frozen
    assert msgspec.json.encode(topic.Facts())


@every
def test_it_gathers_facts_of_a_node_that_bears_nothing_and_sends_nothing(topic: Topic, node: Node) -> None:
    before = (dict(node.kernel.state), len(node.kernel.applied), node.left())
    eyes = Eyes(node.kernel, node.records, Places(f"{node.home}/data", f"{node.home}/net.d"), Around())
    assert type(topic.gather(eyes)) is topic.Facts
    assert eyes.unknown() == {}
    assert (node.kernel.state, len(node.kernel.applied), node.left()) == before


@every
def test_it_gathers_facts_where_nothing_can_be_looked_at(topic: Topic, node: Node) -> None:
    (node.home / "net.d").write_text("no folder")
    host = Around()
    host.broken = True
    eyes = Eyes(node.kernel, node.records, Places(f"{node.home}/data", f"{node.home}/net.d"), host)
    assert type(topic.gather(eyes)) is topic.Facts


@every
def test_the_names_of_its_findings_are_words_and_stand_in_it(topic: Topic) -> None:
    """And every name that it writes is one that it tells of."""
    told = {name for names in topic.FINDINGS.values() for name in names}
    assert told - {"not-known"}
    assert all(name.replace("-", "").isalnum() and name.islower() for name in told)
    written = {each.value for each in ast.walk(ast.parse(text(topic))) if isinstance(each, ast.Constant)}
    assert told <= written
    calls = (each for each in ast.walk(ast.parse(text(topic))) if isinstance(each, ast.Call))
    first = [each.args[0] for each in calls if ast.unparse(each.func) == "Finding"]
    assert first
    assert {each.value for each in first if isinstance(each, ast.Constant)} <= told


def test_a_name_is_one_topics_alone() -> None:
    owners = Counter(
        name for topic in TOPICS.values() for name in {each for names in topic.FINDINGS.values() for each in names}
    )
    assert [name for name, count in owners.items() if count > 1 and name != "not-known"] == []
    assert set(owners) == set(finding_names())


def test_no_topic_needs_another() -> None:
    for name, topic in TOPICS.items():
        rooms = [each.module for each in ast.walk(ast.parse(text(topic))) if isinstance(each, ast.ImportFrom)]
        assert {each for each in rooms if (each or "").startswith(doctor.__name__)} <= CONTRACT, name


# One from elsewhere

def test_one_file_is_a_topic(tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool(node, monkeypatch)
    tool.around(Around([Link("red", kind="kite")]))
    assert "kite" not in tool("doctor").out
    with toys.added(tmp_path / "toys", "ctl.doctor", "kites"):
        found = {each["name"]: each for each in tool("doctor", "--json").json}
        assert found["kite-caught"]["key"] == "red"
        assert "warning red: in the cables" in tool("doctor").out
        assert "kite-caught" in finding_names()


def test_a_topic_that_fails_is_not_known_and_all_others_go_on(
    tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = toys.example("ctl.doctor", "kites").replace("eyes.links", "eyes.weather")
    with toys.added(tmp_path / "toys", "ctl.doctor", "storms", blind):
        found = {each["name"]: each for each in Tool(node, monkeypatch)("doctor", "--json").json}
    assert found["not-known"]["key"] == "storms"
    assert "no-configuration" in found

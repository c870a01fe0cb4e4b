"""README and the pages of docs/ are true: no link leads nowhere, no finding is missing, no command is run by nobody.

`mkdocs build --strict`, which scripts/test runs, sees the same of links between pages; this sees those of README, too.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from cni_plugin import cluster, rooms
from cni_plugin.agent import settings
from cni_plugin.agent.sources import contract as sources
from cni_plugin.ctl.diagnosis import finding_names
from cni_plugin.ctl.doctor import contract
from tests.manual import COMMANDS, PAGES, REPO, Block, blocks

DOCS = REPO / "docs"
LANGUAGES = (*COMMANDS, "json", "text", "python")
EVERY_BLOCK = [block for page in PAGES for block in blocks(page)]
EXAMPLES = [block for block in EVERY_BLOCK if block.language == "python"]
"""Files that could be added to a room."""
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(r"`((?:[a-z_]+/)+[\w.*/-]*)(?: [^`]*)?`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ENTRY = re.compile(r"^\| `([a-z0-9-]+)` \| ([a-z ,]+) \|", re.MULTILINE)
TROUBLESHOOTING = DOCS / "troubleshooting.md"


def unfenced(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """Where its links lead, and its pictures; what stands as code is none."""
    return _LINK.findall(re.sub(r"`[^`\n]+`", "", unfenced(page)))


def headings(page: Path) -> list[str]:
    return _HEADING.findall(unfenced(page))


def at_github(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def in_mkdocs(heading: str) -> str:
    """The anchor that MkDocs gives to it (markdown.extensions.toc.slugify)."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def pages(items: list[Any]) -> Iterator[str]:
    """The pages of a `nav` of mkdocs.yml."""
    for each in items:
        for value in each.values():
            yield from pages(value) if isinstance(value, list) else (value,)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_each_link_leads_to_a_file_and_each_anchor_to_a_heading(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        if name.startswith("https://"):
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link} leads nowhere"
        assert not anchor or anchor in map(at_github, headings(target)), f"{link}: no such heading"
        assert page.parent == REPO or target.is_relative_to(DOCS), f"{link} leaves docs/, which MkDocs does not follow"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_each_file_of_ours_that_is_named_is_there(page: Path) -> None:
    """From the repository's root, or in CONTRIBUTING's short way from the product's or from `ctl/`."""
    roots = (REPO, REPO / "cni_plugin", REPO / "cni_plugin" / "ctl")
    named = [each for each in _FILE.findall(unfenced(page)) if not each.startswith(("dist/", "build/"))]
    assert [each for each in named if not any(list(root.glob(each.rstrip("/"))) for root in roots)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_a_heading_has_the_same_anchor_at_github_and_in_mkdocs(page: Path) -> None:
    assert [each for each in headings(page) if at_github(each) != in_mkdocs(each)] == []
    assert len(set(map(at_github, headings(page)))) == len(headings(page)), "two headings of one name"


def test_mkdocs_shows_every_page_and_is_strict() -> None:
    site = yaml.safe_load((REPO / "mkdocs.yml").read_text())
    assert sorted(pages(site["nav"])) == sorted(str(each.relative_to(DOCS)) for each in DOCS.rglob("*.md"))
    assert site["strict"] and set(site["validation"]["links"].values()) == {"warn"}


def test_every_page_is_reached_from_readme_and_from_the_manuals_first_page() -> None:
    for start in (REPO / "README.md", DOCS / "index.md"):
        linked = {(start.parent / each.partition("#")[0]).resolve() for each in links(start)}
        assert {*DOCS.rglob("*.md")} - linked <= {DOCS / "index.md"}, start


def test_readme_is_a_shop_window() -> None:
    readme = (REPO / "README.md").read_text()
    assert len(readme.splitlines()) <= 250
    contents = readme[: readme.index("\n## ")]
    assert set(map(at_github, headings(REPO / "README.md")[1:])) - {"licence"} <= {
        each.removeprefix("#") for each in _LINK.findall(contents)
    }


@pytest.mark.parametrize("block", EVERY_BLOCK, ids=str)
def test_each_block_of_commands_says_who_runs_it_or_why_nobody_does(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block} has a language that no test knows"
    if block.language not in COMMANDS:
        assert not block.mark.startswith(("tried", "not tried"))
        return
    where, test = block.tried
    assert test or block.why_not, f"{block}: say `<!-- tried WHERE by TEST -->` or `<!-- not tried: WHY -->` before it"
    assert not test or f'(__file__, "{where}")' in (REPO / test).read_text(), f"{block}: {test} tries nothing {where}"


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda each: each.mark)
def test_each_example_of_a_file_is_one_that_a_test_adds(block: Block) -> None:
    room, _, file = block.mark.rpartition("/")
    words = f'"{room.replace("/", ".")}", "{file.removesuffix(".py")}"'
    assert [each for each in (REPO / "tests").rglob("*.py") if words in each.read_text()] != []


@pytest.mark.parametrize("block", [each for each in EVERY_BLOCK if each.why_not.endswith(" has these lines")], ids=str)
def test_a_page_that_is_said_to_have_the_lines_has_them(block: Block) -> None:
    page = REPO / block.why_not.removesuffix(" has these lines")
    there = {bare(line) for each in blocks(page) for line in each.commands}
    assert {bare(line) for line in block.commands} <= there


def bare(line: str) -> str:
    """A command without what is said of it."""
    return line.partition("  #")[0].removeprefix("sudo ").strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_no_block_hides_from_that_by_being_indented(page: Path) -> None:
    assert re.findall(r"(?:^|\n)\n(?: {4}|\t)\S.*", unfenced(page)) == []


@pytest.mark.parametrize("block", [each for each in EVERY_BLOCK if each.language == "json"], ids=str)
def test_each_example_of_a_configuration_is_one_that_is_read(block: Block, tmp_path: Path) -> None:
    example = json.loads(block.text)
    if "nodes" in example:
        assert cluster.parse(example).nodes
    elif "source" in example:
        (tmp_path / "agent.json").write_text(block.text)
        assert settings.load(str(tmp_path / "agent.json")).source == example["source"]
        assert example["source"].keys() - {"type"} <= keys_of_source(example["source"]["type"], exact=True)
    else:
        assert keys_of_networks() | {"ipam"} >= {key.lower() for each in example["plugins"][:1] for key in each}


def keys(shape: type[msgspec.Struct], *more: str) -> set[str]:
    """What is read of a configuration, in lower case."""
    return {each.lower() for each in shape.__struct_encode_fields__} | set(more)


def keys_of_networks() -> set[str]:
    """Those of every wiring, and of every feature."""
    shapes = [each.wiring.KEYS for each in rooms.tenants("wirings")]
    return set().union(*map(keys, [*shapes, *(each.feature.KEYS for each in rooms.tenants("features"))]))


def keys_of_source(name: str, *, exact: bool = False) -> set[str]:
    shape = sources.find(name).Conf
    return set(map(camel, shape.__struct_fields__)) if exact else keys(shape)


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def named(page: str) -> set[str]:
    """All words of a page that stand as code in its lines, in lower case."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", unfenced(DOCS / page))).lower()))


def test_each_key_of_a_network_is_in_the_manual() -> None:
    runtimes = {"cniversion", "name", "type", "prevresult"}
    told = {each for each in keys_of_networks() - runtimes if not each.startswith("cni.dev")}
    assert sorted(told - named("configuration.md")) == []


def test_each_setting_of_the_agent_is_in_the_manual_and_no_other() -> None:
    text = (DOCS / "configuration.md").read_text()
    table = text[text.index("## The agent's settings") : text.index("## The backend")]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == sorted(settings.Settings.__struct_fields__)


@pytest.mark.parametrize("source", sources.names())
def test_each_source_of_nodes_has_a_page_with_its_keys(source: str) -> None:
    assert sorted(keys_of_source(source) - named(f"source-{source}.md")) == []


@pytest.mark.parametrize("backend", [each for each in rooms.tenants("backends") if hasattr(each, "Config")])
def test_each_backend_has_its_keys_in_the_manual(backend: Any) -> None:
    assert sorted(keys(backend.Config) - named("configuration.md")) == []


def gravities() -> dict[str, set[str]]:
    """How grave a finding may be, read from where it is made, as far as its name is written there."""
    found: dict[str, set[str]] = {}
    for path in (REPO / "cni_plugin" / "ctl" / "doctor").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Finding":
                for name in texts(call.args[0]):
                    found.setdefault(name, set()).update(words(call.args[1]))
    return found


def texts(node: ast.expr) -> set[str]:
    """The texts that an expression may come to."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def words(node: ast.expr) -> set[str]:
    """What it is called: "error", "warning", "hint", "not known"."""
    if isinstance(node, ast.IfExp):
        return words(node.body) | words(node.orelse)
    return {str(getattr(contract, ast.unparse(node)))}


def entries() -> dict[str, set[str]]:
    """The findings that the manual tells of."""
    return {name: set(grave.split(", ")) for name, grave in _ENTRY.findall(TROUBLESHOOTING.read_text())}


def test_every_finding_of_doctor_has_an_entry_in_the_manual() -> None:
    assert sorted({*finding_names()} - entries().keys()) == []


def test_the_manual_tells_of_no_finding_that_there_is_not() -> None:
    assert sorted(entries().keys() - {*finding_names()}) == []


def test_the_manual_says_of_each_finding_how_grave_it_is() -> None:
    there = gravities()
    assert len(there) > 50
    assert {name: grave for name, grave in entries().items() if not grave <= there.get(name, grave)} == {}

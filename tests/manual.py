"""The manual as tests read it: README and the pages of docs/, and who runs the commands in them.

A block of commands (```sh, or ```console with what they print) bears a comment, which no reader of the page sees:

    <!-- tried on a node by tests/netns/test_manual_in_lab.py -->     that test runs it, as it stands
    <!-- not tried: takes a cluster of flannel's -->                  nothing does, and why not

Who moves or adds a block need do no more: a test that is named takes all blocks that name it from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).parents[1]
PAGES = (REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md")))
COMMANDS = ("sh", "console")
"""The languages of blocks that somebody will type."""
_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_TRIED = re.compile(r"tried (?P<where>[\w ]+?) by (?P<test>tests/\S+\.py)(?: with .+)?")
_NOT_TRIED = re.compile(r"not tried: (?P<why>.+)")


class Block(NamedTuple):
    """A fenced block: where it stands, what is in it, and the comment before it ("" for none)."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPO)}:{self.line}"

    @property
    def tried(self) -> tuple[str, str]:
        """Where it is run, and by which test file; empty when by none."""
        found = _TRIED.fullmatch(self.mark)
        return (found["where"], found["test"]) if found else ("", "")

    @property
    def why_not(self) -> str:
        """Why it is not run, "" when it is."""
        found = _NOT_TRIED.fullmatch(self.mark)
        return found["why"] if found else ""

    @property
    def commands(self) -> list[str]:
        """Line by line what is typed."""
        lines = self.text.splitlines()
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return lines

    @property
    def printed(self) -> list[str]:
        """What the commands are shown to print."""
        return [line for line in self.text.splitlines() if self.language == "console" and not line.startswith("$ ")]


def blocks(page: Path) -> Iterator[Block]:
    """All of a page, in its order."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["text"], found["mark"] or "")


def tried_by(test: str | Path, where: str) -> list[Block]:
    """The blocks that say that this test file runs them there. Raises LookupError when there is none."""
    name = str(Path(test).relative_to(REPO))
    found = [each for page in PAGES for each in blocks(page) if each.tried == (where, name)]
    if not found:
        raise LookupError(f"no block says that {name} tries it {where}")
    return found


def script(blocks: list[Block]) -> str:
    """What is typed in all of them, one after the other."""
    return "\n".join("\n".join(each.commands) for each in blocks)

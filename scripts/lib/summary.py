#!/usr/bin/env python3
"""Adds up what several runs of pytest have left as JUnit files, for scripts/test: a line a stage, with what was slowest
in it, then the whole.

The last line has the form of pytest's own, so that whatever reads pytest's counts can read it. The exit code is 1
when a test failed or when no test ran at all.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}
ORDER = ("failed", "passed", "skipped", "error")
SLOWEST = 5


def count(path: Path) -> Counter[str]:
    """How many tests of one file passed, failed, were skipped, or broke in a fixture."""
    counts: Counter[str] = Counter()
    for case in ET.parse(path).iter("testcase"):
        found = [OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES]
        counts.update(found[:1] or ["passed"])
    return counts


def took(path: Path) -> list[tuple[float, str]]:
    """The seconds that each test of one file took with its fixtures, and its name; the slowest first."""
    cases = ET.parse(path).iter("testcase")
    named = [(float(each.get("time", 0)), f"{each.get('classname', '')}.{each.get('name')}") for each in cases]
    return sorted(named, reverse=True)


def wall(path: Path) -> float:
    """The seconds that the run took which left this file."""
    return sum(float(each.get("time", 0)) for each in ET.parse(path).iter("testsuite"))


def words(counts: Counter[str]) -> str:
    """As pytest says it: 1 failed, 20 passed."""
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ORDER if counts[outcome]) or "no tests ran"


def main(directory: Path, seconds: float) -> int:
    """Prints the summary of the files in `directory`."""
    total = Counter[str]()
    for path in sorted(directory.glob("*.xml"), key=lambda path: path.stat().st_mtime):
        counts = count(path)
        total += counts
        print(f"  {path.stem:12} {wall(path) / 60:5.1f} min  {words(counts)}")
        for each, name in took(path)[:SLOWEST]:
            print(f"  {'':12} {each:7.1f} s  {name}")
    print(f" {words(total)} in {seconds:.2f}s ".center(80, "="))
    return 1 if total["failed"] or total["error"] or not total.total() else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))

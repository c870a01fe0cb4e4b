#!/usr/bin/env python3
"""Adds up what several runs of pytest have left as JUnit files, for scripts/test: a line a stage, then the whole.

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


def count(path: Path) -> Counter[str]:
    """How many tests of one file passed, failed, were skipped, or broke in a fixture."""
    counts: Counter[str] = Counter()
    for case in ET.parse(path).iter("testcase"):
        found = [OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES]
        counts.update(found[:1] or ["passed"])
    return counts


def words(counts: Counter[str]) -> str:
    """As pytest says it: 1 failed, 20 passed."""
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ORDER if counts[outcome]) or "no tests ran"


def main(directory: Path, seconds: float) -> int:
    """Prints the summary of the files in `directory`."""
    stages = {path.stem: count(path) for path in sorted(directory.glob("*.xml"), key=lambda path: path.stat().st_mtime)}
    for name, counts in stages.items():
        print(f"  {name:14} {words(counts)}")
    total = sum(stages.values(), Counter[str]())
    print(f" {words(total)} in {seconds:.2f}s ".center(80, "="))
    return 1 if total["failed"] or total["error"] or not total.total() else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))

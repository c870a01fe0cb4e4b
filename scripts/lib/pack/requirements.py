"""What scripts/lock locked: the one release of each Python package that may be installed, and the digests of its files.

    altgraph==0.17.5 \\
        --hash=sha256:... \\
        --hash=sha256:...
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
_PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^\s;]+)(?: ; (?P<marker>.+))?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Pin(NamedTuple):
    """A package's release, where it is needed at all (an environment marker, "" for everywhere), and its digests."""

    version: str
    marker: str
    digests: tuple[str, ...]


def locked(extra: str) -> dict[str, Pin]:
    """What is locked for an extra, by normalised name. Raises ValueError for a line that is neither pin nor digest."""
    text = (FOLDER / f"requirements-{extra}.txt").read_text()
    return dict(map(_pin, filter(None, text.replace("\\\n", "").splitlines())))


def normalised(name: str) -> str:
    """A package's name as packages are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pin(line: str) -> tuple[str, Pin]:
    words, *digests = re.split(r"\s+--hash=", line)
    pin = _PIN.fullmatch(words)
    if pin is None or not all(map(_DIGEST.fullmatch, digests)):
        raise ValueError(f"neither a release nor its digests: {line[:100]}")
    return pin["name"], Pin(pin["version"], pin["marker"] or "", tuple(digests))

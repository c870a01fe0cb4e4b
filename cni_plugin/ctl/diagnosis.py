"""`tullectl doctor`: looks at everything that is known to go wrong, and explains what it finds.

A finding says what was seen (a key and its value), why it matters in a user's words, and what to do about it. "error":
pods cannot work; "warning": some of them, some time; "hint": good to know; "not known": it could not be looked at,
which is not the same as fine. New trouble is a file in `doctor/`, found by its name, which keeps the contract that
`Topic` states: what is looked at and what can be wrong with it stand together there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from cni_plugin.ctl import doctor
from cni_plugin.ctl.eyes import Eyes

ERROR, WARNING, HINT, UNKNOWN = "error", "warning", "hint", "not known"
ORDER = (ERROR, WARNING, UNKNOWN, HINT)
NOT_KNOWN = "not-known"
"""The name of the finding that something could not be looked at."""
CONFIGURATION, NODE, PODS, LINKS, CLUSTER, SURROUNDINGS = range(6)
"""The layers, in the order in which they are told of: who starts a pod meets them in this one."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be: what was seen, why it matters in a user's words, what to do."""

    name: str
    severity: str
    key: str
    value: str
    why: str
    remedy: str


class Topic(Protocol):
    """A file in `doctor/`. Its findings are pure functions over its facts, and change nothing.

    `FINDINGS` has each function, in the order in which they are told, with the names of all that it can find: they are
    stable, for documentation and programs go by them.
    """

    LAYER: int
    Facts: type[msgspec.Struct]
    FINDINGS: Mapping[Callable[[Any], Iterator[Finding]], tuple[str, ...]]

    def gather(self, eyes: Eyes) -> msgspec.Struct:
        """Its facts, gathered once, as plain values. What cannot be looked at goes to `eyes.notes`."""


def topics() -> dict[str, Topic]:
    """All topics by name, layer by layer."""
    found: dict[str, Topic] = {
        each.name: importlib.import_module(f"{doctor.__name__}.{each.name}")
        for each in pkgutil.iter_modules(doctor.__path__)
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].LAYER, item[0])))


def finding_names() -> list[str]:
    """The name of every finding that there can be, layer by layer."""
    told = (name for topic in topics().values() for names in topic.FINDINGS.values() for name in names)
    return list(dict.fromkeys([*told, NOT_KNOWN]))


def examine(eyes: Eyes) -> list[Finding]:
    """All findings of a node, the gravest first."""
    seen = {name: eyes.notes.one(name, partial(topic.gather, eyes)) for name, topic in topics().items()}
    return diagnose({name: facts for name, facts in seen.items() if facts is not None}, eyes.unknown())


def diagnose(facts: Mapping[str, msgspec.Struct], unknown: Mapping[str, str]) -> list[Finding]:
    """What the facts of these topics tell, the gravest first, and what is not known."""
    there = {name: topic for name, topic in topics().items() if name in facts}
    found = [each for name, topic in there.items() for find in topic.FINDINGS for each in find(facts[name])]
    return sorted([*found, *not_known(unknown)], key=lambda each: ORDER.index(each.severity))


def not_known(unknown: Mapping[str, str]) -> Iterator[Finding]:
    """What could not be looked at; what failed for one reason, together."""
    reasons: dict[str, list[str]] = {}
    for what, why in unknown.items():
        reasons.setdefault(why, []).append(what)
    for why, things in reasons.items():
        yield Finding(
            NOT_KNOWN, UNKNOWN, some(things), why,
            "whether this is as it should be could not be found out", "run tullectl as root on the node itself",
        )


def ill(findings: Sequence[Finding]) -> bool:
    """Whether it cannot be said that all is well, as an exit code tells it; a hint is no more than that."""
    return any(each.severity != HINT for each in findings)


def some(names: Iterable[str]) -> str:
    """Three of these, and how many more there are."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")

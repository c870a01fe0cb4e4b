"""`tullectl doctor`: looks at everything that is known to go wrong, and explains what it finds.

What is known to go wrong is in `doctor/`, a file a topic, each found by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import msgspec

from cni_plugin.ctl.doctor.contract import ERROR, HINT, UNKNOWN, WARNING, Finding, some, topics
from cni_plugin.ctl.eyes import Eyes

ORDER = (ERROR, WARNING, UNKNOWN, HINT)


def finding_names() -> list[str]:
    """The name of every finding that there can be, layer by layer."""
    told = (name for topic in topics().values() for names in topic.FINDINGS.values() for name in names)
    return list(dict.fromkeys([*told, "not-known"]))


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
            "not-known", UNKNOWN, some(things), why,
            "whether this is as it should be could not be found out", "run tullectl as root on the node itself",
        )


def ill(findings: Sequence[Finding]) -> bool:
    """Whether it cannot be said that all is well, as an exit code tells it; a hint is no more than that."""
    return any(each.severity != HINT for each in findings)

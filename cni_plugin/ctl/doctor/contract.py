"""What a topic of the doctor promises: what is looked at and what can be wrong with it, together in one file.

A finding says what was seen (a key and its value), why it matters in a user's words, and what to do about it. "error":
pods cannot work; "warning": some of them, some time; "hint": good to know; "not known": it could not be looked at,
which is not the same as fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import msgspec

from cni_plugin.ctl.eyes import Eyes
from cni_plugin.rooms import tenants

ERROR, WARNING, HINT, UNKNOWN = "error", "warning", "hint", "not known"
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
    found = {each.__name__.rpartition(".")[2]: cast(Topic, each) for each in tenants("ctl.doctor")}
    return dict(sorted(found.items(), key=lambda item: (item[1].LAYER, item[0])))


def some(names: Iterable[str]) -> str:
    """Three of these, and how many more there are."""
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")

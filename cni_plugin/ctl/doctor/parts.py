"""The parts of the node that are kept true: that they are what is on record, as `tullectl diff` tells in full."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.doctor.contract import NODE, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.describe import script
from cni_plugin.node.contract import ALL, WITHIN
from cni_plugin.node.repair import repair

LAYER = NODE


class Wrong(msgspec.Struct, frozen=True):
    """A thing that is not as it should be, and the lines that would put it right."""

    what: str
    lines: tuple[str, ...]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What differs on the node itself; what is inside of pods others may have changed on purpose."""

    wrong: tuple[Wrong, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """A look at each part, which changes nothing. What cannot be looked at is told by the topic that knows why."""
    return Facts(wrong=eyes.notes.many("what is on record", lambda: _wrong(eyes)))


def _wrong(eyes: Eyes) -> Iterator[Wrong]:
    for each in repair(eyes.kernel, eyes.records, dry_run=True, changed=ALL & ~WITHIN):
        if each.ops:
            yield Wrong(each.what, tuple(script(each.ops).splitlines()))


def not_as_recorded(facts: Facts) -> Iterator[Finding]:
    """Somebody changed what is ours on the node, and nobody has put it right yet."""
    for each in facts.wrong:
        more = f" and {len(each.lines) - 1} more" if len(each.lines) > 1 else ""
        yield Finding(
            "not-as-recorded", WARNING, each.what, f"lacks {each.lines[0]!r}{more}",
            "somebody changed what Tulle made on this node: pods may not reach each other, the node, or the world",
            "tullectl repair puts it right, and tullectl diff shows how; where it comes back, find out who changes it",
        )


FINDINGS = {not_as_recorded: ("not-as-recorded",)}

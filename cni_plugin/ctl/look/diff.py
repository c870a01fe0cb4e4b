"""What `tullectl diff` and `repair` tell of what they looked at, thing by thing."""

from __future__ import annotations

from collections.abc import Iterable

from cni_plugin.describe import script
from cni_plugin.node.contract import Repair


def is_wrong(each: Repair) -> bool:
    """Whether it was not as it should be, or could not be looked at."""
    return bool(each.ops or each.problem)


def rows(found: Iterable[Repair]) -> list[dict[str, object]]:
    """The same for JSON, with the lines that put it right."""
    return [{"what": each.what, "ops": script(each.ops).splitlines(), "problem": each.problem} for each in found]

"""`tullectl diff` and `repair`: everything on record, compared with the kernel, thing by thing."""

from __future__ import annotations

from collections.abc import Iterable

from cni_plugin.describe import script
from cni_plugin.kernel.door import Kernel
from cni_plugin.node.contract import Repair
from cni_plugin.node.repair import repair
from cni_plugin.store.records import Records


def walk(kernel: Kernel, records: Records, *, dry_run: bool) -> list[Repair]:
    """All that was looked at, put right unless `dry_run`. Raises OSError where the records cannot be read."""
    return repair(kernel, records, dry_run=dry_run)


def is_wrong(each: Repair) -> bool:
    """Whether it was not as it should be, or could not be looked at."""
    return bool(each.ops or each.problem)


def rows(found: Iterable[Repair]) -> list[dict[str, object]]:
    """The same for JSON, with the lines that put it right."""
    return [{"what": each.what, "ops": script(each.ops).splitlines(), "problem": each.problem} for each in found]

"""Put right what somebody broke: everything that is on record, compared with the kernel once more.

The same states that ADD applied, from the records alone; no configuration is needed. All parts of the node are made
anew and looked at in their order, also inside the pods' namespaces, which the agent's loop leaves alone.
"""

from __future__ import annotations

from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.watch.changed import Changed
from cni_plugin.node.contract import ALL, Part, Repair, taken
from cni_plugin.node.parts import in_turn, parts
from cni_plugin.node.site import Site
from cni_plugin.store.records import Records


def repair(kernel: Kernel, records: Records, *, dry_run: bool = False, changed: Changed = ALL) -> list[Repair]:
    """What came of a look at all that may have `changed`; with `dry_run` only a look. Raises OSError for records."""
    site = Site(kernel, records, dry_run=dry_run)
    site.attachments.refresh()
    found: dict[str, Repair] = {}

    def take(part: Part, concerned: Changed) -> bool:
        done = [taken(look) for look in part.looks(site, concerned)]
        for each in done:
            before = found.get(each.what, each._replace(ops=()))
            found[each.what] = each._replace(ops=before.ops + each.ops)
        return not dry_run and any(each.ops for each in done)

    in_turn(parts(), changed, take)
    return list(found.values())

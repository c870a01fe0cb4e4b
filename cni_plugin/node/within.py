"""What stands inside the pods' namespaces, where only a person has us look: others may have changed it on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from cni_plugin.diff import Op, diff, differences
from cni_plugin.kernel.watch.changed import Changed
from cni_plugin.model.base import state
from cni_plugin.model.links import Fdb
from cni_plugin.node.chained import shelves
from cni_plugin.node.contract import WITHIN, Inspection, Quiet
from cni_plugin.node.site import Site
from cni_plugin.plan.pod import lasting, links_on_node
from cni_plugin.store.records import Record


class Part(Quiet):
    """Every attachment on record, and what features made that are chained to one."""

    NAME = "attachments"
    ORDER = 70
    ON: Changed = WITHIN

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """One for each."""
        del changed
        for each in site.records.all():
            name = f"attachment {each.container} {each.ifname} in {each.network}"
            yield Inspection(name, partial(_put_right, site, each))
        for feature, records in shelves(site.records.run_dir):
            for each in records.all():
                name = f"{feature} of {each.container} {each.ifname} in {each.network}"
                yield Inspection(name, partial(_put_back, site, each))


def _put_right(site: Site, record: Record) -> Sequence[Op]:
    """A wire that is gone is made anew as it was; of one that stands only what nobody else may change is put back."""
    kernel = site.kernel
    kernel.enter(record.netns, allow_own=True)
    stands = all(kernel.link_index(each.name) for each in links_on_node(record.objects))
    want = state(lasting(record.objects) if stands else record.objects)
    have = kernel.read(want.values())
    if stands and any("master" in differences(each, have[key]) for key, each in want.items() if key in have):
        want |= state(each for each in record.objects if isinstance(each, Fdb))  # they went with the bridge
    ops = site.apply(diff(want, have))
    if not stands and not site.dry_run:
        kernel.announce(record.ifname, record.attachment.host_dev)
    return ops


def _put_back(site: Site, record: Record) -> Sequence[Op]:
    """What a chained feature made, as it made it: to change it is what the feature is for."""
    site.kernel.enter(record.netns, allow_own=True)
    want = state(record.objects)
    return site.apply(diff(want, site.kernel.read(want.values())))

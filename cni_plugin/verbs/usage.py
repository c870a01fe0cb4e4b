"""How full a network's ranges are, asked outside of any request: for who watches the node, and for the operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from cni_plugin.attachment import Attachment
from cni_plugin.ipams.contract import Ask, find
from cni_plugin.kernel.door import Kernel
from cni_plugin.plugins import parse
from cni_plugin.store.clusters import all_facts
from cni_plugin.store.records import Records
from cni_plugin.wirings.contract import stands
from ipam.allocator import Usage


def usage(kernel: Kernel, records: Records, raw: Mapping[str, object]) -> Sequence[Usage]:
    """The range sets of a network's configuration, in order; () for a foreign IPAM. Raises CniError, IpamError."""
    conf = parse(raw).conf
    facts = next((each for each in all_facts(records) if each.network == conf.name), None)
    ask = Ask(
        Attachment(conf.name, "", ""),
        conf.ipam,
        partial(stands, kernel),
        subnets=facts.pod_cidrs if facts else (),
        ranges=conf.runtime_config.ip_ranges,
    )
    return find(conf.ipam.type).leases(ask).usage()

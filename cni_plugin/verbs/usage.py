"""How full a network's ranges are, asked outside of any request: for who watches the node, and for the operator."""

from __future__ import annotations

from collections.abc import Mapping

from cni_plugin.conf import plugin
from cni_plugin.kernel.door import Kernel
from cni_plugin.meter import Meter
from cni_plugin.spec import Request
from cni_plugin.store.clusters import all_facts
from cni_plugin.store.records import Records
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.leases_local import LocalLeases
from ipam.allocator import Usage


def usage(kernel: Kernel, records: Records, raw: Mapping[str, object]) -> tuple[Usage, ...]:
    """The range sets of a network's configuration, in order; () for a foreign IPAM. Raises CniError, IpamError."""
    conf = plugin.parse(raw)
    if conf.ipam.type != plugin.HOST_LOCAL:
        return ()
    request = Request("STATUS", "", "", "", {}, (), netns_override=False)
    made = Context("tulle", request, {}, raw, b"", "1.1.0", conf, kernel, records, Meter())
    facts = next((each for each in all_facts(records) if each.network == conf.name), None)
    return LocalLeases(made, facts.pod_cidrs if facts else ()).usage()

"""STATUS: whether the next ADD would be served, and if not, why."""

from __future__ import annotations

from cni_plugin.errors import INVALID_CONFIG, NOT_AVAILABLE, TRY_AGAIN_LATER, CniError
from cni_plugin.kernel import files
from cni_plugin.kernel.door import MOST_PORTS
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.ensure import full_bridge
from cni_plugin.verbs.leases import leases
from cni_plugin.verbs.peers import ensure


def status(context: Context) -> bytes:
    """Raises CniError 50 with the reason; in a cluster it makes this node's part true, as ADD would."""
    if not files.writable(context.records.run_dir):
        raise CniError(
            NOT_AVAILABLE, f"the run folder {context.records.run_dir!r} cannot be written: mount it read-write"
        )
    try:
        facts = ensure(context.conf, context.kernel, context.records)
    except CniError as error:
        if error.code not in (INVALID_CONFIG, TRY_AGAIN_LATER):
            raise
        raise CniError(NOT_AVAILABLE, error.msg, error.details) from error
    if context.kernel.ports(context.bridge) >= MOST_PORTS:
        raise CniError(NOT_AVAILABLE, full_bridge(context.bridge))
    leases(context, facts.pod_cidrs if facts else ()).status()
    return b""

"""STATUS: whether the next ADD would be served, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.errors import INVALID_CONFIG, NOT_AVAILABLE, CniError
from cni_plugin.features import contract as features
from cni_plugin.ipams.contract import Leases, refuse_unwritable
from cni_plugin.kernel.errors import KernelError
from cni_plugin.marks import MOST_PORTS
from cni_plugin.model.host import Sysctl
from cni_plugin.node.cluster.ensure import ensure, tell_doubts
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.leases import leases
from cni_plugin.wirings.contract import Base


def status(context: Context) -> bytes:
    """Raises CniError 50 with the reason; in a cluster it makes this node's part true, as ADD would."""
    context.tell_doubts()
    refuse_unwritable("the run folder", context.records.run_dir)
    try:
        facts = ensure(context.conf, context.kernel, context.records, wary=True)
    except CniError as error:
        if error.code != INVALID_CONFIG:
            raise
        raise CniError(NOT_AVAILABLE, error.msg, error.details) from error
    except KernelError as error:
        raise CniError(NOT_AVAILABLE, f"the kernel refused this node's part of the cluster: {error}") from error
    if isinstance(context.conf.cluster, dict):
        tell_doubts(context.conf.name, context.conf.cluster)
    link = context.wiring.link(context.conf)
    full = context.wiring.full(link)
    if full and context.kernel.ports(link) >= MOST_PORTS:
        raise CniError(NOT_AVAILABLE, full)
    ipam = leases(context, facts.pod_cidrs if facts else ())
    ipam.status()
    refuse_unready(context)
    stuck = context.kernel.out_of_reach(_needed(context, ipam))
    if stuck:
        raise CniError(NOT_AVAILABLE, f"the next ADD would fail by {stuck[0]}", "\n".join(stuck))
    return b""


def refuse_unready(context: Context) -> None:
    """Raises CniError 50 with what a feature of the request says that it lacks."""
    for name, conf in context.plugin.features.items():
        why = features.called(name).status(conf)
        if why:
            raise CniError(NOT_AVAILABLE, why)


def _needed(context: Context, ipam: Leases) -> Iterator[Sysctl]:
    """The settings without which the bridge would not carry the next pod; one yet to be made gets the default ones."""
    conf, wiring = context.conf, context.wiring
    gateways = wiring.gateways(conf, wiring.completed(conf, ipam.preview()).ips)
    for each in wiring.host(Base(conf, wiring.link(conf), gateways)).values():
        if isinstance(each, Sysctl) and each.vital:
            made = not each.dev or context.kernel.link_index(each.dev)
            yield each if made else Sysctl(each.name.replace(f"/{each.dev}/", "/default/"), each.value)

"""What an ADD with a configuration would do, in order, without doing it: the same planning, nothing applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cni_plugin.conf.plugin import HOST_LOCAL
from cni_plugin.diff import Op, diff
from cni_plugin.plan import lease as plan
from cni_plugin.plan.masquerade import Masquerade, masquerade_chain
from cni_plugin.plan.node import adopt, bridge_state
from cni_plugin.plan.pod import Wire, derived_mac, pod_state
from cni_plugin.records import stem
from cni_plugin.spec import IPConfig, Result
from cni_plugin.verbs import ensure
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.leases_local import LocalLeases
from cni_plugin.verbs.mtu import fitting, wanted
from cni_plugin.verbs.peers import Facts, survey
from cni_plugin.wish import wish


class Step(NamedTuple):
    """Operations that belong together, with what they are for."""

    title: str
    ops: Sequence[Op]


def plan_add(context: Context) -> list[Step]:
    """The steps of ADD. Raises what ADD would raise for a bad configuration."""
    steps: list[Step] = []
    facts = None
    if context.conf.cluster is not None:
        facts, want, have = survey(context.conf.name, context.conf.cluster, context.kernel, context.records)
        title = f"this node's part of the cluster: {facts.peers} peers by {facts.backend}"
        steps.append(Step(title, ensure.steps(context.kernel, want, have)))
    lease = expected(context, facts)
    width = fitting(wanted(context.conf, facts, context.kernel), context.bridge, context.kernel)
    steps.append(_bridge(context, lease, width.pod))
    if context.conf.ip_masq and lease.ips:
        steps.append(_masquerade(context, lease, facts))
    mac = wish(context.conf, context.request.args).mac
    mac = mac or derived_mac(context.attachment, [each.address for each in lease.ips])
    wire = Wire(context.attachment, context.bridge, width.pod, mac, width.port)
    steps.append(Step("the pod", diff(pod_state(context.conf, wire, lease.ips, lease.routes), {})))
    return steps


def expected(context: Context, facts: Facts | None) -> Result:
    """The addresses that would be leased now; a foreign IPAM cannot be asked without leasing."""
    if context.conf.ipam.type != HOST_LOCAL:
        return Result()
    given = LocalLeases(context, facts.pod_cidrs if facts else ()).preview()
    ips = tuple(IPConfig(str(each.address), str(each.gateway or "")) for each in given)
    return plan.completed(context.conf, Result(ips=ips, routes=context.conf.ipam.routes))


def _bridge(context: Context, lease: Result, mtu: int) -> Step:
    gateways = plan.gateways(context.conf, lease.ips)
    want = bridge_state(context.conf, context.bridge, gateways, mtu)
    have = context.kernel.read(want.values())
    return Step(f"the bridge {context.bridge}", ensure.steps(context.kernel, adopt(want, have), have))


def _masquerade(context: Context, lease: Result, facts: Facts | None) -> Step:
    wanted = Masquerade(plan.subnets(lease.ips), facts.inside if facts else ())
    known = context.records.masquerades()
    name = stem(context.conf.name)
    before = known.get(name)
    chain = masquerade_chain({**known, name: before.joined(wanted) if before else wanted})
    return Step("masquerade", diff({chain.key: chain}, context.kernel.read([chain])))

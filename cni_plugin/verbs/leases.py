"""The addresses of a request: what an IPAM is asked, put together from what the verb was given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cni_plugin.ipams.contract import Ask, Ipam, Leases, Words, find
from cni_plugin.spec import Result
from cni_plugin.verbs.context import Context, MustWait
from cni_plugin.wirings.contract import stands
from cni_plugin.wish import wish


def leases(context: Context, pod_cidrs: Sequence[str] = ()) -> Leases:
    """Those of the configuration's IPAM; `pod_cidrs` are this node's subnets, used when no ranges are given.

    Raises MustWait for one that may have to wait for others, where that is not to be.
    """
    return leases_of(find(context.conf.ipam.type), context, pod_cidrs)


def leases_of(ipam: Ipam, context: Context, pod_cidrs: Sequence[str] = ()) -> Leases:
    """The same of this IPAM."""
    found = ipam.leases(_ask(context, pod_cidrs))
    if context.preview:
        return PreviewedLeases(found)
    if ipam.WAITS and not context.waits:
        raise MustWait
    return found


class PreviewedLeases(Leases):
    """What another IPAM would give, and nothing is taken or given back."""

    def __init__(self, ipam: Leases) -> None:
        self.data_dir = ipam.data_dir
        self._ipam = ipam

    def add(self) -> Result:
        """Raises what the other one raises."""
        return self._ipam.preview()


def _ask(context: Context, pod_cidrs: Sequence[str]) -> Ask:
    """What is wished for a pod is looked at only where it is to be given."""
    conf, request = context.conf, context.request
    return Ask(
        context.attachment,
        conf.ipam,
        partial(stands, context.kernel),
        subnets=pod_cidrs,
        ranges=conf.runtime_config.ip_ranges,
        wanted=wish(conf, request.args).ips if request.verb == "ADD" else (),
        words=Words(context.environ, context.stdin, context.version, request.path, conf.prev_result),
    )

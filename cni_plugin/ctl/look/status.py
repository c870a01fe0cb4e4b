"""`tullectl status`: networks, attachments, clusters and bridges of this node, as plain JSON-ready values.

How they look on a terminal is told in `cni_plugin.ctl.look.show`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cni_plugin.conf import reading
from cni_plugin.ctl.cluster.roster import Roster
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.kernel.see.look import Link
from cni_plugin.marks import MOST_PORTS
from cni_plugin.node.former import outside
from cni_plugin.plan.masquerade import Masquerade
from cni_plugin.plan.pod import links_on_node
from cni_plugin.store.clusters import ClusterFacts, all_facts
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs.usage import usage

FORMER = "former subnet"
"""The state of an attachment whose addresses are of a subnet that is not this node's any more."""
Row = dict[str, object]


def report(kernel: Kernel, records: Records) -> dict[str, list[Row]]:
    """Networks with their addresses, attachments, and clusters."""
    attachments = list(records.all())
    known = {each.network: each for each in all_facts(records)}
    return {
        "networks": list(_networks(kernel, records, attachments)),
        "attachments": [_attachment(kernel, each, known) for each in attachments],
        "clusters": [
            {
                "network": each.network,
                "node": each.node,
                "backend": each.backend,
                "device": each.device,
                "mtu": each.mtu,
                "peers": each.peers,
                "podCIDRs": list(each.pod_cidrs),
            }
            for each in known.values()
        ],
    }


def cluster(found: Sequence[Roster], agent: Mapping[str, object]) -> Row | None:
    """The cluster that the agent learns of, by its own word; without one the first that this node's files tell of."""
    told = agent.get("cluster")
    if isinstance(told, Mapping):
        return {str(key): each for key, each in told.items()}
    if not found:
        return None
    first = found[0]
    me = first.me
    return {
        "source": first.source,
        "network": first.network,
        "node": first.node,
        "ready": first.programmed and not first.trouble,
        "reason": first.trouble or ("" if first.programmed else "nothing is programmed yet: the first ADD does it"),
        "trouble": "",
        "problems": [],
        "nodes": len(first.members),
        "addresses": list(me.addresses) if me else [],
        "podCIDRs": list(me.subnets) if me else [],
        "backend": first.backend,
        "mtu": first.mtu,
    }


def bridges(links: Iterable[Link], records: Records) -> list[Row]:
    """The bridges that attachments are on, with their ports."""
    names = dict.fromkeys(each.bridge for each in records.all() if each.bridge)
    there = tuple(links)
    return [
        {
            "bridge": name,
            "mtu": next((each.mtu for each in there if each.name == name), None),
            "ports": sum(each.master == name for each in there),
            "of": MOST_PORTS,
        }
        for name in names
    ]


def inside(records: Records, record: Record) -> tuple[str, ...]:
    """Where an attachment's network is not masqueraded to: the rest of its cluster."""
    masquerade = records.note("masquerade", record.network, Masquerade)
    return (*masquerade.subnets, *masquerade.inside) if masquerade else ()


def alive(kernel: Kernel, record: Record) -> str:
    """Whether an attachment's two ends stand: "up", "unplugged" (its veth is gone) or "dead" (its namespace too).

    One that has no link on the node is up as long as its namespace is there.
    """
    wires = links_on_node(record.objects)
    if wires and all(kernel.link_index(each.name) for each in wires):
        return "up"
    try:
        kernel.enter(record.netns, allow_own=True)
    except NetnsError:
        return "dead"
    return "unplugged" if wires else "up"


def _networks(kernel: Kernel, records: Records, attachments: Sequence[Record]) -> Iterator[Row]:
    for name in sorted({each.network for each in attachments}):
        mine = [each for each in attachments if each.network == name]
        masquerade = records.note("masquerade", name, Masquerade)
        yield {
            "network": name,
            "attachments": len(mine),
            "masquerade": list(masquerade.subnets) if masquerade else [],
            **_usage(kernel, records, mine[0]),
        }


def _usage(kernel: Kernel, records: Records, record: Record) -> Row:
    """By the ranges of an attachment's own configuration; a foreign IPAM's are not ours to count."""
    if not record.data_dir:
        return {"used": None, "free": None, "of": record.ipam or "no addresses"}
    found = usage(kernel, records, reading.decode(bytes(record.conf)))
    return {
        "used": [each.used for each in found],
        "free": [each.free for each in found],
        "of": [each.size for each in found],
    }


def _attachment(kernel: Kernel, record: Record, known: Mapping[str, ClusterFacts]) -> Row:
    state, facts = alive(kernel, record), known.get(record.network)
    former = state == "up" and facts is not None and outside(record.ips, facts.pod_cidrs)
    return {
        "network": record.network,
        "container": record.container,
        "ifname": record.ifname,
        "ips": list(record.ips),
        "host": record.attachment.host_dev,
        "bridge": record.bridge,
        "netns": record.netns,
        "state": FORMER if former else state,
    }

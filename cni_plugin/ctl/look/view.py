"""What `tullectl` shows of a node, as plain JSON-ready values; how it looks on a terminal is `__main__`'s."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from cni_plugin import netconf
from cni_plugin.ctl.cluster.roster import Membership
from cni_plugin.diff import Op, diff
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.door import MOST_PORTS, Kernel
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.kernel.host import files
from cni_plugin.kernel.see.look import Link
from cni_plugin.marks import BRIDGE_ALIAS, TUNNEL_ALIAS
from cni_plugin.meter import Meter
from cni_plugin.model.base import State, state
from cni_plugin.model.links import Bridge, Vxlan
from cni_plugin.plan.guard import places
from cni_plugin.plan.masquerade import masquerade_chain
from cni_plugin.records import Record, Records
from cni_plugin.spec import Request
from cni_plugin.verbs import guard
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.ensure import apply
from cni_plugin.verbs.former import outside
from cni_plugin.verbs.peers import Facts, all_facts, forget
from cni_plugin.verbs.usage import usage

CONF_DIR = "/etc/cni/net.d"
FORMER = "former subnet"
"""The state of an attachment whose addresses are of a subnet that is not this node's any more."""
Row = dict[str, object]


def first_config() -> str:
    """The configuration that a runtime would use: the first in the folder. Raises CniError 7 without one."""
    folder = os.environ.get("NETCONFPATH") or CONF_DIR
    found = [name for name in files.names(folder) if name.endswith(netconf.ENDINGS)]
    if not found:
        raise CniError(INVALID_CONFIG, f"there is no network configuration in {folder}: name one, or install one there")
    return f"{folder}/{found[0]}"


def context(path: str, pod: tuple[str, str], kernel: Kernel, records: Records) -> Context:
    """The context of an ADD with the configuration in this file. Raises CniError 6 or 7."""
    raw = _plugin_of(path)
    container, ifname = pod
    request = Request("ADD", container, "", ifname, {}, (), netns_override=False)
    name = str(raw.get("type", "tulle"))
    return Context(
        name, request, {}, raw, msgspec.json.encode(raw), netconf.version_of(raw), netconf.parse(raw), kernel, records,
        Meter(),
    )


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


def cluster(found: Sequence[Membership], agent: Mapping[str, object]) -> Row | None:
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


def cleanup(kernel: Kernel, records: Records, *, really: bool) -> list[Op]:
    """What takes away all of ours on the node; done when `really`. Raises CniError 7 while pods are wired."""
    with records.lock():
        left = [each.container for each in records.all()]
        if left:
            raise CniError(
                INVALID_CONFIG, f"{len(left)} attachments are left ({', '.join(left[:5])}): let the runtime delete them"
            )
        ops = diff({}, _own_state(kernel))
        if really:
            apply(kernel, ops)
            for each in all_facts(records):
                forget(records, each.network)
    return ops


def inside(records: Records, record: Record) -> tuple[str, ...]:
    """Where an attachment's network is not masqueraded to: the rest of its cluster."""
    masquerade = records.masquerades().get(record.network)
    return (*masquerade.subnets, *masquerade.inside) if masquerade else ()


def alive(kernel: Kernel, record: Record) -> str:
    """Whether an attachment's two ends stand: "up", "unplugged" (its veth is gone) or "dead" (its namespace too)."""
    if kernel.link_index(record.attachment.host_dev):
        return "up"
    try:
        kernel.enter(record.netns, allow_own=True)
    except NetnsError:
        return "dead"
    return "unplugged"


def _plugin_of(path: str) -> Mapping[str, object]:
    """The configuration of our plugin in a file: of a list the entry of ours, with the list's name and version."""
    try:
        raw = netconf.decode(files.follow(path), f"in {path}")
    except OSError as error:
        raise CniError(INVALID_CONFIG, f"{path!r}: {error.strerror}; name a file that can be read") from error
    plugins = raw.get("plugins")
    if not isinstance(plugins, list):
        return raw
    ours = [each for each in plugins if isinstance(each, dict) and each.get("type") in ("tulle", "bridge")]
    if not ours:
        raise CniError(INVALID_CONFIG, f"{path!r}: no plugin of type tulle or bridge in its list")
    return {"name": raw.get("name"), "cniVersion": raw.get("cniVersion"), **ours[0]}


def _networks(kernel: Kernel, records: Records, attachments: Sequence[Record]) -> Iterator[Row]:
    masquerades = records.masquerades()
    for name in sorted({each.network for each in attachments}):
        mine = [each for each in attachments if each.network == name]
        masquerade = masquerades.get(name)
        yield {
            "network": name,
            "attachments": len(mine),
            "masquerade": list(masquerade.subnets) if masquerade else [],
            **_usage(kernel, records, mine[0]),
        }


def _usage(kernel: Kernel, records: Records, record: Record) -> Row:
    """By the ranges of an attachment's own configuration; a foreign IPAM's are not ours to count."""
    if record.ipam != netconf.HOST_LOCAL:
        return {"used": None, "free": None, "of": record.ipam or "no addresses"}
    found = usage(kernel, records, netconf.decode(bytes(record.conf)))
    return {
        "used": [each.used for each in found],
        "free": [each.free for each in found],
        "of": [each.size for each in found],
    }


def _attachment(kernel: Kernel, record: Record, known: Mapping[str, Facts]) -> Row:
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


def _own_state(kernel: Kernel) -> State:
    """Links and routes that bear our mark, and what is in our table."""
    links = kernel.own_links()
    bridges = [Bridge(each.name) for each in links if each.alias == BRIDGE_ALIAS and "." not in each.name]
    tunnels = [Vxlan(each.name, 0, 0, "", "") for each in links if each.alias == TUNNEL_ALIAS]
    owned: State = {}
    for each in tunnels:
        owned.update(guard.standing(kernel, {}, places(each.name.partition(".")[2])))
    for device in [each.name for each in tunnels] or [""]:
        owned.update(kernel.owned(device))
    return {**owned, **state([*bridges, *tunnels]), **kernel.read([masquerade_chain({})])}

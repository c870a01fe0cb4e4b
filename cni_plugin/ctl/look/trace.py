"""`tullectl trace`: everything that belongs to one pod, where it stands, and why it is there.

What ADD made is on record, so each object is compared with the kernel and told in the words of ip, bridge and nft;
beside it stands what others know of the pod: neighbours, bridges, firewalls. What cannot be looked at is told as such.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import msgspec

from cni_plugin import decoding
from cni_plugin.ctl.host import Host, Looker
from cni_plugin.ctl.look.addresses import held
from cni_plugin.ctl.look.status import alive
from cni_plugin.ctl.look.way import Ground, way
from cni_plugin.ctl.notes import Notes
from cni_plugin.describe import describe, script
from cni_plugin.diff import Op, diff
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.harmless import Censor
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.nft.ruleset import Rule, hooks, rules
from cni_plugin.kernel.see.look import named
from cni_plugin.marks import TABLE
from cni_plugin.model.base import Object, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Route
from cni_plugin.model.links import Fdb, PodLink, Port, PortVlan, Up, Veth
from cni_plugin.plan.pod import derived_mac, lasting
from cni_plugin.store.records import Record, Records

Trace = dict[str, object]


def find(records: Records, wanted: str) -> list[Record]:
    """The attachments of the one container that an address or the beginning of a container ID names.

    Raises CniError 7 when there is none, or more than one.
    """
    every = list(records.all())
    found = [each for each in every if wanted in (ip.partition("/")[0] for ip in each.ips)]
    found = found or [each for each in every if each.container == wanted]
    found = found or [each for each in every if wanted and each.container.startswith(wanted)]
    names = sorted({each.container for each in found})
    if len(names) > 1:
        raise CniError(INVALID_CONFIG, f"{wanted!r} is ambiguous: it may be {', '.join(names[:8])}; write more of it")
    if not found:
        raise CniError(
            INVALID_CONFIG, f"no attachment on record has {wanted!r} as address or container ID: see tullectl status"
        )
    return found


def trace(kernel: Kernel, record: Record, inside: Sequence[str], to: str, host: Host) -> Trace:
    """All about one attachment. `inside` are the networks that its network does not masquerade to."""
    notes = Notes()
    told: Trace = {
        "attachment": _attachment(kernel, record, notes),
        "leases": notes.one("leases", lambda: held(record)),
        "objects": notes.many("objects", lambda: _objects(kernel, record)),
    }
    with ExitStack() as stack:
        node = notes.one("the node", lambda: stack.enter_context(host.sight()))
        pod = notes.one("the pod's namespace", lambda: stack.enter_context(host.sight(record.netns)))
        text = notes.one("nftables", host.ruleset) or ""
        if node is not None:
            told["host"] = notes.one("host link", lambda: _host(node, record))
            told["neighbours"] = notes.many("neighbours", lambda: _neighbours(node, record))
            told["entries"] = notes.many("forwarding entries", lambda: _entries(node, record))
        if pod is not None:
            told["pod"] = notes.one("pod", lambda: _pod(pod, record))
        told["rules"] = notes.many("rules", lambda: _rules(text, record))
        if node is not None and pod is not None:
            ground = Ground(node, pod, record, tuple(hooks(text)), inside)
            gateways = [each.partition("/")[0] for each in record.gateways]
            told["way"] = {
                each: notes.many(f"the way to {each}", partial(way, ground, each))
                for each in dict.fromkeys([*gateways, *([to] if to else [])])
            }
    told["unknown"] = notes.unknown
    return told


def wrong(told: Trace) -> bool:
    """Whether something of it is not as ADD made it, or could not be looked at."""
    objects = told["objects"]
    assert isinstance(objects, tuple)
    return bool(told["unknown"]) or any(not each["stands"] for each in objects)


def _attachment(kernel: Kernel, record: Record, notes: Notes) -> dict[str, object]:
    conf = Censor().json(decoding.decode(record.conf))
    plugin = conf.get("type", "") if isinstance(conf, dict) else ""
    return {
        "network": record.network, "container": record.container, "ifname": record.ifname,
        "state": notes.one("state", lambda: alive(kernel, record)), "netns": record.netns,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created)), "plugin": plugin,
        "ips": list(record.ips), "gateways": list(record.gateways), "mac": record.mac, "mtu": record.mtu,
        "bridge": record.bridge, "host": record.attachment.host_dev, "ipam": record.ipam, "data_dir": record.data_dir,
        "masquerade": "masquerade" in record.claims, "configuration": conf,
    }


def _objects(kernel: Kernel, record: Record) -> Iterator[dict[str, object]]:
    """Each object that ADD made, whether it stands, and what would put it right.

    Plugins chained after ours may change what `lasting` leaves out; that is told as changed, and stands all the same.
    """
    kernel.enter(record.netns, allow_own=True)
    for each in record.objects:
        want = list(lasting([each]))
        missing = diff(state(want), kernel.read(want))
        changed = diff(state([each]), kernel.read([each]))
        yield {
            "line": describe(Op("create", each)), "why": _why(each, record), "stands": not missing,
            "changed": bool(changed) and not missing, "remedy": script(missing),
        }


def _why(each: Object, record: Record) -> str:
    match each:
        case Veth():
            return "the wire: this end on the bridge, the other one in the pod; its MAC is set, so that udev leaves it"
        case PodLink():
            derived = each.mac == derived_mac(record.attachment, record.ips)
            return "the pod's end; " + ("its MAC follows from its address" if derived else "its MAC was asked for")
        case Up():
            return "a link that is down carries nothing"
        case Addr():
            return f"the address that {record.ipam or 'the IPAM'} leased"
        case Route():
            return "the way out" if each.dst in ("0.0.0.0/0", "::/0") else "a route of the configuration or the IPAM"
        case Port():
            return "bridge port flags: hairpinMode, portIsolation, macspoofchk of the configuration"
        case PortVlan():
            return "vlan and vlanTrunk of the configuration"
        case Fdb():
            return "macspoofchk: only this MAC may send"
        case Sysctl():
            return _why_sysctl(each.name)
        case _:
            return ""


def _why_sysctl(name: str) -> str:
    reasons = {
        "accept_dad": "no second of waiting for duplicate address detection (enabledad is off)",
        "arp_notify": "neighbours are told the MAC when the link comes up",
        "ndisc_notify": "neighbours are told the MAC when the link comes up",
    }
    return reasons.get(name.rpartition("/")[2], "set for the pod")


def _host(host: Looker, record: Record) -> dict[str, object]:
    link = named(host.links(), record.attachment.host_dev)
    if link is None:
        return {"name": record.attachment.host_dev, "state": "gone"}
    shape: dict[str, object] = msgspec.to_builtins(link)
    return shape


def _pod(pod: Looker, record: Record) -> dict[str, object]:
    return {
        "link": msgspec.to_builtins(named(pod.links(), record.ifname)),
        "addresses": list(pod.addresses(record.ifname)),
        "routes": [describe(Op("create", each)) for each in pod.routes()],
        "neighbours": [msgspec.to_builtins(each) for each in pod.neighbours() if each.dev == record.ifname],
    }


def _neighbours(host: Looker, record: Record) -> Iterator[object]:
    ips = {each.partition("/")[0] for each in record.ips}
    found = (each for each in host.neighbours() if each.address in ips or each.mac == record.mac)
    yield from map(msgspec.to_builtins, found)


def _entries(host: Looker, record: Record) -> Iterator[object]:
    mine = (record.mac, record.attachment.host_dev)
    yield from (msgspec.to_builtins(each) for each in host.entries() if each.mac == mine[0] or each.dev == mine[1])


def _rules(text: str, record: Record) -> Iterator[object]:
    """Rules that name the pod's addresses or its link, and ours for its network."""
    names = [*(each.partition("/")[0] for each in record.ips), record.attachment.host_dev, record.container]
    pattern = re.compile("|".join(rf"(?<![\w.:-]){re.escape(each)}(?![\w.:-])" for each in names))
    comment = f'comment "network {record.network} '
    yield from (msgspec.to_builtins(each) for each in rules(text) if pattern.search(each.text) or _of(each, comment))


def _of(rule: Rule, comment: str) -> bool:
    return rule.table == TABLE and comment in rule.text



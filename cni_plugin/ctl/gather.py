"""Where the doctor's facts come from: the kernel, the records, the address folders, other programs' configuration.

Everything is looked at by itself: what fails is noted under its name in `Facts.unknown`, with the reason, and the rest
goes on. Nothing is changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from cni_plugin import backend as backends
from cni_plugin import decoding
from cni_plugin.client import VERSION
from cni_plugin.ctl import ask, configs
from cni_plugin.ctl.cluster import members
from cni_plugin.ctl.cluster.nodes import sources
from cni_plugin.ctl.cluster.roster import Membership
from cni_plugin.ctl.configs import Read
from cni_plugin.ctl.doctor import between, others
from cni_plugin.ctl.facts import Facts, Flaw, Limit, Pod, Pool, Probed, Stamp
from cni_plugin.ctl.host import Host
from cni_plugin.ctl.look import addresses
from cni_plugin.ctl.look.status import alive
from cni_plugin.ctl.notes import Notes
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.kernel.host import files
from cni_plugin.kernel.see.look import Link
from cni_plugin.kernel.see.probe import VLAN_FILTERING
from cni_plugin.model.host import Sysctl
from cni_plugin.model.links import PodLink, PortVlan, Vxlan
from cni_plugin.plan.node import FORWARDING, family
from cni_plugin.store.clusters import all_facts, programmed
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs.usage import usage

_SYSCTLS = (
    *FORWARDING.values(), "net/ipv4/conf/all/rp_filter",
    *(f"net/bridge/bridge-nf-call-{each}" for each in ("iptables", "ip6tables")),
    *(f"net/netfilter/nf_conntrack_{each}" for each in ("count", "max")),
)
_DAMAGED = ".tmp.damaged."
"""What the name of a record begins with that `files.set_aside` has renamed."""


class Places(NamedTuple):
    """Where to look: the IPAM's folder, the runtime's configurations, and what stands before /etc, /run and /usr."""

    data_dir: str
    conf_dir: str
    root: str = ""


def gather(kernel: Kernel, records: Records, places: Places, host: Host) -> Facts:
    """All that the findings need to know. Never raises for what cannot be looked at."""
    notes = Notes()
    recorded = notes.many("attachments", records.all)
    found = notes.many("configuration", lambda: configs.read(places.conf_dir, {each.network for each in recorded}))
    folders = _folders(places, recorded, found)
    links = notes.many("links", host.links)
    needs = notes.many("what is needed of the kernel", lambda: _needs(records, found, recorded))
    facts = Facts(
        version=VERSION,
        boot=files.boot_id(),
        now=time.time(),
        run_dir=records.run_dir,
        conf_dir=places.conf_dir,
        links=links,
        own=notes.many("our links", lambda: [each.name for each in kernel.own_links()]),
        limits=notes.many("uplink", lambda: _limits(records, links, host, recorded)),
        hooks=notes.many("nftables", host.hooks),
        services=notes.many("kube-proxy", host.services),
        legacy=notes.many("the old iptables", host.legacy),
        features=notes.one("kernel features", lambda: host.features(needs)) or {},
        pods=tuple(_pod(notes, kernel, each) for each in recorded),
        stamps=notes.many("boot stamps", lambda: _stamps(records, folders)),
        configs=tuple(each.config for each in found),
        pools=notes.many("addresses", lambda: _pools(kernel, records, recorded, found)),
        flaws=notes.many("leases", lambda: _flaws(kernel, records, folders)),
        link_files=notes.many("systemd's .link files", lambda: others.link_files(places.root)),
        networkd=notes.one("systemd-networkd", lambda: others.networkd(places.root)),
        managed=notes.many("NetworkManager", lambda: others.managed(places.root, links)),
        mount=notes.one("the run folder's mount", lambda: others.mount_of(records.run_dir)),
        agent=notes.one("agent", lambda: ask.present(records.run_dir)) or {},
        damaged=notes.many("damaged records", lambda: _damaged(records)),
        clusters=notes.many("clusters", lambda: members.memberships(kernel, records, places.conf_dir)),
    )
    names = [*_SYSCTLS, *(f"net/ipv4/conf/{dev}/rp_filter" for dev in _filtered(facts))]
    sysctls = {each: notes.one(each, partial(_sysctl, kernel, each)) for each in names}
    known = {key: value for key, value in sysctls.items() if value is not None}
    return msgspec.structs.replace(facts, sysctls=known, unknown=notes.unknown)


def probe(facts: Facts, kernel: Kernel, host: Host) -> Facts:
    """With what the peers of each cluster answer to real packets."""
    notes = Notes()
    notes.unknown.update(facts.unknown)
    found = [
        each
        for cluster in facts.clusters
        if cluster.peers and cluster.programmed and not cluster.trouble
        for each in notes.many(f"peers of {cluster.network}", partial(_probed, cluster, kernel, host))
    ]
    return msgspec.structs.replace(facts, probed=tuple(found), unknown=notes.unknown)


def _probed(cluster: Membership, kernel: Kernel, host: Host) -> tuple[Probed, ...]:
    own = sources(cluster, kernel.locally_held())
    with host.prober(own) as ask_all:
        return between.between(cluster, ask_all, own.keys() or {cluster.family})


def _filtered(facts: Facts) -> list[str]:
    uplinks = [name for each in facts.limits for name in (each.uplink, each.device) if name]
    return list(dict.fromkeys([*facts.bridges, *uplinks]))


def _sysctl(kernel: Kernel, name: str) -> str | None:
    found = kernel.read([Sysctl(name, "")]).get(Sysctl(name, "").key)
    return found.value if isinstance(found, Sysctl) else None


def _bare(record: Record) -> Pod:
    return Pod(
        record.network, record.container, record.ifname, record.attachment.host_dev, record.bridge, record.ips,
        record.gateways, record.netns, vlan=any(isinstance(each, PortVlan) for each in record.objects),
    )


def _pod(notes: Notes, kernel: Kernel, record: Record) -> Pod:
    state = notes.one(f"pod {record.container}", lambda: alive(kernel, record)) or ""
    mtu = notes.one(f"MTU of pod {record.container}", lambda: _pod_mtu(kernel, record)) if state == "up" else 0
    return msgspec.structs.replace(_bare(record), state=state, mtu=mtu or 0)


def _pod_mtu(kernel: Kernel, record: Record) -> int:
    want = PodLink(record.ifname)
    try:
        kernel.enter(record.netns, allow_own=True)
    except NetnsError:
        return 0
    found = kernel.read([want]).get(want.key)
    return found.mtu if isinstance(found, PodLink) else 0


def _limits(
    records: Records, links: Collection[Link], host: Host, recorded: Collection[Record]
) -> tuple[Limit, ...]:
    """For each network the link that its packets leave by, and what they lose there."""
    mtus = {each.name: each.mtu for each in links}
    found: list[Limit] = []
    for facts in all_facts(records):
        objects = programmed(records, facts.network).values()
        tunnel = next((each for each in objects if isinstance(each, Vxlan)), None)
        uplink = min(facts.uplinks, key=lambda each: mtus.get(each, 0), default="")
        overhead = backends.find(facts.backend).OVERHEAD[family(tunnel.local) if tunnel else 4]
        found.append(Limit(facts.network, uplink, mtus.get(uplink, 0), overhead, facts.device))
    uplink = host.uplink()
    alone = {each.network for each in recorded} - {each.network for each in found}
    return (*found, *(Limit(each, uplink, mtus.get(uplink, 0)) for each in sorted(alone) or ["-"]))


def _needs(records: Records, found: Collection[Read], recorded: Collection[Record]) -> list[str]:
    """What the kernel must be able to do for the configurations and attachments that are here."""
    ours = [each.config for each in found if each.config.ours]
    tunnels = any(each.backend == "vxlan" for each in all_facts(records)) or any(each.vxlan for each in ours)
    masquerades = bool(records.masquerades()) or any(each.masquerade for each in ours)
    vlans = any(each.vlan for each in ours) or any(_bare(each).vlan for each in recorded)
    wanted = {"vxlan": tunnels, "nf_tables": masquerades, "masquerade": masquerades, VLAN_FILTERING: vlans}
    return ["bridge", "veth", *(name for name, needed in wanted.items() if needed)]


def _folders(places: Places, recorded: Collection[Record], found: Collection[Read]) -> list[str]:
    mine = [each.data_dir for each in recorded if each.data_dir]
    told = [each.conf.ipam.folder for each in found if each.conf is not None and each.conf.ipam.folder]
    return list(dict.fromkeys([places.data_dir, *mine, *told]))


class _Written(msgspec.Struct):
    """What a record of any boot and release tells of its time."""

    boot: str = ""
    created: float = 0.0


def _stamps(records: Records, folders: Collection[str]) -> Iterator[Stamp]:
    base = f"{records.run_dir}/attachments"
    for network in files.names(base):
        for name in files.names(f"{base}/{network}"):
            try:
                written = decoding.decode_as(_Written, files.read(f"{base}/{network}/{name}") or b"{}")
            except msgspec.DecodeError:
                continue  # the records tell of it where they are read
            yield Stamp(f"record {network}/{name}", written.boot, written.created)
    for folder in folders:
        for network in files.names(folder):
            link = f"{folder}/{network}/.tulle/boot"
            if os.path.islink(link):
                yield Stamp(f"addresses {folder}/{network}", os.readlink(link))


def _damaged(records: Records) -> Iterator[str]:
    """Records that could not be read, and were set aside when somebody tried; and what is no network's folder."""
    base = f"{records.run_dir}/attachments"
    for network in files.names(base):
        if not os.path.isdir(f"{base}/{network}"):
            yield f"{base}/{network}"
            continue
        for name in sorted(os.listdir(f"{base}/{network}")):
            if name.startswith(_DAMAGED):
                yield f"{base}/{network}/{name}"


def _pools(
    kernel: Kernel, records: Records, recorded: Collection[Record], found: Collection[Read]
) -> Iterator[Pool]:
    """By the configurations in the runtime's folder, and by the attachments' own where those have none."""
    raws = {each.conf.name: each.raw for each in found if each.conf is not None}
    for record in recorded:
        raws.setdefault(record.network, decoding.decode(record.conf))
    for network, raw in raws.items():
        for each in usage(kernel, records, raw):
            yield Pool(network, f"range set {each.range_set}", each.used, each.size)


def _flaws(kernel: Kernel, records: Records, folders: Collection[str]) -> tuple[Flaw, ...]:
    rows = [row for folder in folders for row in addresses.check(kernel, folder, "", records)]
    found = (
        Flaw(*(str(row[key]) for key in ("network", "address", "container", "problem"))) for row in rows
    )
    return tuple(dict.fromkeys(found))

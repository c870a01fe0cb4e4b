"""What the doctor sees a node with: each thing looked at once, when the first topic asks for it.

Everything is looked at by itself: what fails is noted with its reason, and the rest goes on. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, partial
from typing import NamedTuple

import msgspec

from cni_plugin.backends import contract as backends
from cni_plugin.ctl import ask, configs
from cni_plugin.ctl.cluster import members
from cni_plugin.ctl.cluster.roster import Roster
from cni_plugin.ctl.configs import ConfigFile, Read
from cni_plugin.ctl.host import Host
from cni_plugin.ctl.look.status import alive
from cni_plugin.ctl.notes import Notes
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.kernel.see.look import Link
from cni_plugin.model.host import Sysctl
from cni_plugin.model.links import PodLink, PortVlan
from cni_plugin.plan.node import family
from cni_plugin.store.clusters import ClusterFacts, all_facts
from cni_plugin.store.records import Record, Records


class Places(NamedTuple):
    """Where to look: the IPAM's folder, the runtime's configurations, and what stands before /etc, /run and /usr."""

    data_dir: str
    conf_dir: str
    root: str = ""


class Pod(msgspec.Struct, frozen=True):
    """An attachment on record: `state` is "up", "unplugged" or "dead"; `mtu` that of the pod's end, 0: not known."""

    network: str
    container: str
    ifname: str
    host_dev: str
    bridge: str = ""
    ips: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    netns: str = ""
    state: str = "up"
    mtu: int = 0
    vlan: bool = False


class Limit(msgspec.Struct, frozen=True):
    """What a network's packets must fit through: the uplink's MTU less what a backend puts around them, in bytes."""

    network: str
    uplink: str
    mtu: int
    overhead: int = 0
    device: str = ""

    @property
    def most(self) -> int:
        """The largest MTU that fits."""
        return self.mtu - self.overhead


class Eyes:
    """A node as topics look at it. Raises nothing for what cannot be seen: that is in `notes`, and the rest is empty.

    `probing`: whether packets may be sent.
    """

    def __init__(self, kernel: Kernel, records: Records, places: Places, host: Host, *, probing: bool = False) -> None:
        self.kernel = kernel
        self.records = records
        self.places = places
        self.host = host
        self.probing = probing
        self.notes = Notes()

    def unknown(self) -> dict[str, str]:
        """What could not be looked at until now, and why."""
        return dict(self.notes.unknown)

    def sysctls(self, names: Iterable[str]) -> dict[str, str]:
        """Those of these that there are."""
        found = {each: self.notes.one(each, partial(_sysctl, self.kernel, each)) for each in names}
        return {key: value for key, value in found.items() if value is not None}

    @cached_property
    def recorded(self) -> tuple[Record, ...]:
        """The attachments on record."""
        return self.notes.many("attachments", self.records.all)

    @cached_property
    def read(self) -> tuple[Read, ...]:
        """The files in the runtime's folder, in order."""
        networks = {each.network for each in self.recorded}
        return self.notes.many("configuration", lambda: configs.read(self.places.conf_dir, networks))

    @cached_property
    def configs(self) -> tuple[ConfigFile, ...]:
        """The same, as findings look at them."""
        return tuple(each.config for each in self.read)

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Where addresses may be leased: as told, as attachments tell, as configurations do."""
        mine = [each.data_dir for each in self.recorded if each.data_dir]
        told = [each.conf.ipam.folder for each in self.read if each.conf is not None and each.conf.ipam.folder]
        return tuple(dict.fromkeys([self.places.data_dir, *mine, *told]))

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """All links."""
        return self.notes.many("links", self.host.links)

    @cached_property
    def own(self) -> tuple[str, ...]:
        """The names of those that bear our mark."""
        return self.notes.many("our links", lambda: [each.name for each in self.kernel.own_links()])

    @cached_property
    def attachments(self) -> tuple[Pod, ...]:
        """The pods as they are on record, without a look at them."""
        return tuple(map(_bare, self.recorded))

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        """The pods as they are."""
        pairs = zip(self.recorded, self.attachments, strict=True)
        return tuple(_seen(self.notes, self.kernel, record, pod) for record, pod in pairs)

    @cached_property
    def bridges(self) -> tuple[str, ...]:
        """The bridges that attachments are on, and those that bear our mark."""
        return bridges_of(self.links, self.own, self.pods)

    @cached_property
    def families(self) -> tuple[int, ...]:
        """The families (4, 6) that this node must route for its pods."""
        return families_of(self.pods, self.configs)

    @cached_property
    def programmed(self) -> tuple[ClusterFacts, ...]:
        """What was programmed of each cluster. Raises OSError, as all that asks for it is told."""
        return tuple(all_facts(self.records))

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """What each network must fit through."""
        return self.notes.many("uplink", lambda: _limits(self))

    @cached_property
    def clusters(self) -> tuple[Roster, ...]:
        """The clusters of this node."""
        conf_dir = self.places.conf_dir
        return self.notes.many("clusters", lambda: members.memberships(self.kernel, self.records, conf_dir))

    @cached_property
    def agent(self) -> dict[str, object]:
        """What the agent says of itself, {} when it is away."""
        return self.notes.one("agent", lambda: ask.present(self.records.run_dir)) or {}


def bridges_of(links: Collection[Link], own: Collection[str], pods: Collection[Pod]) -> tuple[str, ...]:
    """The bridges that these pods are on, and those of the links that are ours."""
    marked = (each.name for each in links if each.kind == "bridge" and each.name in own)
    return tuple(dict.fromkeys([*marked, *(each.bridge for each in pods if each.bridge)]))


def families_of(pods: Collection[Pod], configs: Collection[ConfigFile]) -> tuple[int, ...]:
    """The families of these pods' gateways, and those that our configurations route."""
    routed = {family(each) for pod in pods for each in pod.gateways}
    return tuple(sorted(routed.union(*(each.families for each in configs if each.ours))))


def number(text: str | None) -> int:
    """A sysctl's value, 0 for what is none."""
    return int(text) if text and text.lstrip("-").isdigit() else 0


def _sysctl(kernel: Kernel, name: str) -> str | None:
    found = kernel.read([Sysctl(name, "")]).get(Sysctl(name, "").key)
    return found.value if isinstance(found, Sysctl) else None


def _bare(record: Record) -> Pod:
    return Pod(
        record.network, record.container, record.ifname, record.attachment.host_dev, record.bridge, record.ips,
        record.gateways, record.netns, vlan=any(isinstance(each, PortVlan) for each in record.objects),
    )


def _seen(notes: Notes, kernel: Kernel, record: Record, pod: Pod) -> Pod:
    state = notes.one(f"pod {record.container}", lambda: alive(kernel, record)) or ""
    mtu = notes.one(f"MTU of pod {record.container}", lambda: _pod_mtu(kernel, record)) if state == "up" else 0
    return msgspec.structs.replace(pod, state=state, mtu=mtu or 0)


def _pod_mtu(kernel: Kernel, record: Record) -> int:
    want = PodLink(record.ifname)
    try:
        kernel.enter(record.netns, allow_own=True)
    except NetnsError:
        return 0
    found = kernel.read([want]).get(want.key)
    return found.mtu if isinstance(found, PodLink) else 0


def _limits(eyes: Eyes) -> Iterator[Limit]:
    """For each network the link that its packets leave by, and what they lose there."""
    mtus = {each.name: each.mtu for each in eyes.links}
    for facts in eyes.programmed:
        uplink = min(facts.uplinks, key=lambda each: mtus.get(each, 0), default="")
        overhead = backends.find(facts.backend).OVERHEAD[family(facts.underlay)]
        yield Limit(facts.network, uplink, mtus.get(uplink, 0), overhead, facts.device)
    uplink = eyes.host.uplink()
    alone = {each.network for each in eyes.recorded} - {each.network for each in eyes.programmed}
    for network in sorted(alone) or ["-"]:
        yield Limit(network, uplink, mtus.get(uplink, 0))

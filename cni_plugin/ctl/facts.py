"""What `tullectl doctor` knows of a node: gathered once, as plain values, so that each finding is a pure function.

What could not be looked at is not left at its default and taken for fine: `unknown` says what it was and why, and the
doctor reports it as "not known".
"""

from __future__ import annotations

import msgspec

from cni_plugin.ctl.cluster.roster import Membership
from cni_plugin.kernel.nft.ruleset import Hook
from cni_plugin.kernel.see.look import Link

ERROR, WARNING, HINT, UNKNOWN = "error", "warning", "hint", "not known"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be: what was seen, why it matters in a user's words, what to do."""

    name: str
    severity: str
    key: str
    value: str
    why: str
    remedy: str


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


class Stamp(msgspec.Struct, frozen=True):
    """When, by its own word, a record or an IPAM folder was written: in which boot, and at what time (0: not told)."""

    where: str
    boot: str
    at: float = 0.0


class Config(msgspec.Struct, frozen=True):
    """A file in the runtime's configuration folder; `ours`: one of its plugins is Tulle, of `network`."""

    path: str
    ours: bool = False
    plugins: tuple[str, ...] = ()
    agent: str = "auto"
    families: tuple[int, ...] = ()
    vlan: bool = False
    masquerade: bool = False
    vxlan: bool = False
    problem: str = ""
    network: str = ""
    ranges: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer answered through the overlay: to a small packet (`ms`), and to one of the pods' whole MTU (`whole`).

    `mtu` and `passes` in bytes; `passes` is the largest that got there where that was looked for, else 0. `excused`:
    the peer need not answer, for its bridge is not there yet.
    """

    network: str
    node: str
    address: str
    mtu: int
    ms: float | None = None
    whole: bool = True
    passes: int = 0
    excused: bool = False
    why: str = ""

    @property
    def silent(self) -> bool:
        """It should have answered."""
        return self.ms is None and not self.excused

    @property
    def hole(self) -> bool:
        """Small packets pass and large ones vanish."""
        return self.ms is not None and not self.whole


class Pool(msgspec.Struct, frozen=True):
    """The addresses of one range set."""

    network: str
    ranges: str
    used: int
    size: int


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


class Mount(msgspec.Struct, frozen=True):
    """What the run folder is on."""

    path: str
    kind: str
    writable: bool


class Flaw(msgspec.Struct, frozen=True):
    """A lease and an attachment that disagree, as `tullectl ipam check` tells it."""

    network: str
    address: str
    container: str
    problem: str


class File(msgspec.Struct, frozen=True):
    """A configuration file of another program, in the order in which that reads them."""

    path: str
    text: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `agent` is its own word (empty: away); `managed` are links that NetworkManager takes care of.

    `services`: whose rules lead to the backends of Services here, such as "kube-proxy with nftables".
    """

    version: str = ""
    boot: str = ""
    now: float = 0.0
    run_dir: str = "/run/tulle"
    conf_dir: str = "/etc/cni/net.d"
    sysctls: dict[str, str] = {}
    links: tuple[Link, ...] = ()
    own: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    hooks: tuple[Hook, ...] = ()
    legacy: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    features: dict[str, bool] = {}
    pods: tuple[Pod, ...] = ()
    stamps: tuple[Stamp, ...] = ()
    configs: tuple[Config, ...] = ()
    pools: tuple[Pool, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    link_files: tuple[File, ...] = ()
    networkd: tuple[File, ...] | None = None
    managed: tuple[str, ...] = ()
    mount: Mount | None = None
    agent: dict[str, object] = {}
    damaged: tuple[str, ...] = ()
    clusters: tuple[Membership, ...] = ()
    probed: tuple[Probed, ...] = ()
    unknown: dict[str, str] = {}

    @property
    def bridges(self) -> tuple[str, ...]:
        """The bridges that attachments are on, and those that bear our mark."""
        marked = (each.name for each in self.links if each.kind == "bridge" and each.name in self.own)
        return tuple(dict.fromkeys([*marked, *(each.bridge for each in self.pods if each.bridge)]))

    @property
    def families(self) -> tuple[int, ...]:
        """The families (4, 6) that this node must route for its pods."""
        pods = {6 if ":" in each else 4 for pod in self.pods for each in pod.gateways}
        return tuple(sorted(pods.union(*(each.families for each in self.configs if each.ours))))

    def link(self, name: str) -> Link | None:
        """The link of this name."""
        return next((each for each in self.links if each.name == name), None)

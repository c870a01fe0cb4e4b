"""What Kubernetes' objects say about the network: a Node object becomes a cluster's `Node`, a ConfigMap its conf.

    {"metadata": {"name": "n1", "annotations": {"tulle.network/public-ip-overwrite": "203.0.113.1", ...}},
     "spec": {"podCIDRs": ["10.244.1.0/24"]},
     "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}

Pure: bytes in, small frozen values out. Of an object of 10 kB only these fields are decoded, so what newer releases of
Kubernetes add does no harm. Rubbish in an annotation is ignored (`annotations`), elsewhere in a node it leaves out that
node; both are told with the node, the key, the value and a remedy, and neither concerns anybody else.

A node's address is, for each family, the first of these that there is: the one that an operator overwrites it with,
the one that the node's agent announced, or flannel for it, the kubelet's InternalIP. IPv4 goes before IPv6, whatever
the order of the pod CIDRs: tunnels use the first, and so all nodes choose the same family without a word.

An agent announces by its Lease (`kube.lease`). Agents of releases before did it by annotations of their Node, which are
understood as long as the node has no Lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from cni_plugin import decoding, flannel
from cni_plugin.agent import conflist
from cni_plugin.agent.sources.kube.annotations import ANNOUNCED, FLANNELS, OURS, Reader, Said
from cni_plugin.cluster import Node
from cni_plugin.conf.reading import decode
from cni_plugin.errors import CniError
from cni_plugin.network import Address, Network, NetworkConf

NETWORK, CNI = "net-conf.json", "cni-conf.json"
"""The keys of the ConfigMap."""


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""
    version: str = msgspec.field(default="", name="resourceVersion")
    created: datetime | None = msgspec.field(default=None, name="creationTimestamp")
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct, frozen=True):
    first: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")

    @property
    def subnets(self) -> tuple[str, list[str]]:
        """A key that has the pod CIDRs, and these: servers before 1.16 know of one."""
        return ("podCIDRs", self.pod_cidrs) if self.pod_cidrs else ("podCIDR", [self.first] if self.first else [])


class _NodeAddress(msgspec.Struct, frozen=True):
    type: str = ""
    address: str = ""


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, frozen=True):
    addresses: list[_NodeAddress] | None = None
    conditions: list[_Condition] | None = None

    @property
    def internal(self) -> list[str]:
        """The kubelet's InternalIPs."""
        return [each.address for each in self.addresses or () if each.type == "InternalIP"]


class _NodeObject(msgspec.Struct, frozen=True):
    meta: _Meta = msgspec.field(name="metadata")
    spec: _Spec = _Spec()
    status: _Status = _Status()


class _NameOnly(msgspec.Struct, frozen=True):
    meta: _Meta = msgspec.field(name="metadata")


class _ConfigObject(msgspec.Struct, frozen=True):
    data: dict[str, str] | None = None


class Lease(msgspec.Struct, frozen=True):
    """A Lease in our namespace that is named after its holder. `owner` is the UID of the Node that owns it.

    Of this very node's alone: `notes` are its annotations of ANNOUNCED and KEPT, `kept` what the latter say, `version`
    as in `Own`.
    """

    name: str
    owner: str
    said: Said
    notes: Mapping[str, str] = {}
    kept: Mapping[int, Address] = {}
    version: str = ""


class Own(msgspec.Struct, frozen=True):
    """The Node object of this very node: its subnets, all addresses that it is known by, and what was announced.

    `bare` is the node as its kubelet knows it. `asked` are the addresses that an operator set, which go before what
    the node says itself. `inherited` are those that flannel told for it and the API does not know it by: what
    --public-ip or --iface said, which we are not told; once there is a Lease they are what that says. `notes` are the
    annotations under our prefix and flannel's. `unavailable` is the status of its condition NetworkUnavailable, ""
    where it has none. `version` makes two readings differ, for what we put right may be undone between them.
    """

    bare: Node
    asked: Mapping[int, Address]
    notes: Mapping[str, str]
    inherited: Mapping[int, Address] = {}
    unavailable: str = ""
    version: str = ""
    uid: str = ""
    lease: Lease | None = None

    @property
    def overwritten(self) -> tuple[Address, ...]:
        """What goes before what the node says itself."""
        return tuple({**self.inherited, **self.asked}.values())

    @property
    def node(self) -> Node:
        """The node with all addresses that it is known by, those that go before first."""
        return msgspec.structs.replace(self.bare, addresses=(*self.overwritten, *self.bare.addresses))


class Frame(msgspec.Struct, frozen=True):
    """What a Node object says whatever the node announces. `usable`: it is whole; `noted`: it bears ANNOUNCED."""

    uid: str
    subnets: tuple[Network, ...]
    internal: tuple[Address, ...]
    overwritten: Mapping[int, Address]
    since: float
    usable: bool
    noted: bool
    problems: tuple[str, ...]


class Seen(msgspec.Struct, frozen=True):
    """What is kept of a Node object. `node` is None when it has no subnet yet, or cannot be reached and why.

    `backend` is the one that it announced; `flannels` says that flannel announced it, and nobody else; `leased` that
    its Lease did. `frame` is None for what could not be understood at all.
    """

    name: str
    node: Node | None = None
    backend: str = ""
    flannels: bool = False
    problems: tuple[str, ...] = ()
    own: Own | None = None
    leased: bool = False
    frame: Frame | None = None


class Configured(msgspec.Struct, frozen=True):
    """The network configuration as the ConfigMap has it, or last had it."""

    conf: NetworkConf | None = None
    cni: Mapping[str, object] | None = None
    problems: tuple[str, ...] = ()


def read_node(data: bytes | msgspec.Raw, this_node: str) -> Seen:
    """What a Node object says. Raises msgspec.MsgspecError for what is no object with a name."""
    try:
        found = decoding.decode_as(_NodeObject, data)
    except msgspec.ValidationError as error:
        name = decoding.decode_as(_NameOnly, data).meta.name
        return Seen(name, problems=(f"node {name} is left out: its object in the API cannot be understood: {error}",))
    return _seen(found, this_node)


def read_config(data: bytes | msgspec.Raw, before: Configured) -> Configured:
    """What the ConfigMap says; of a key that is broken, what it said before. Raises msgspec.MsgspecError."""
    keys = decoding.decode_as(_ConfigObject, data).data or {}
    problems: list[str] = []
    conf, cni = before.conf, None
    try:
        conf = flannel.parse(_decoded(keys, NETWORK))
        problems += [f"{NETWORK}: {each}" for each in conf.doubts]
    except CniError as error:
        remains = "the one before stays in force" if conf else "there is no network until it is right"
        problems.append(f"{NETWORK}: {error.msg}; {remains}")
    try:
        cni = conflist.ours(_decoded(keys, CNI)) if keys.get(CNI, "").strip() else None
    except CniError as error:
        cni = before.cni
        problems.append(f"{CNI}: {error.msg}; {'the one before stays in force' if cni else 'it is not used'}")
    return Configured(conf, cni, tuple(problems))


def _decoded(keys: Mapping[str, str], key: str) -> Mapping[str, object]:
    return decode(keys.get(key, "").encode(), f"in {key} of the ConfigMap")


def _seen(found: _NodeObject, this_node: str) -> Seen:
    notes = found.meta.annotations or {}
    frame = _frame(found, notes)
    reader = Reader(found.meta.name, notes)
    own = _own(found, frame, reader) if found.meta.name == this_node else None
    return put_together(found.meta.name, frame, reader.said(), own)


def _frame(found: _NodeObject, notes: Mapping[str, str]) -> Frame:
    reader = Reader(found.meta.name, notes)
    return Frame(
        uid=found.meta.uid,
        subnets=tuple(reader.subnets(*found.spec.subnets)),
        internal=tuple(reader.internal(found.status.internal)),
        overwritten=reader.overwritten(),
        since=found.meta.created.timestamp() if found.meta.created else 0.0,
        usable=reader.usable,
        noted=any(each in notes for each in ANNOUNCED),
        problems=tuple(reader.problems),
    )


def put_together(name: str, frame: Frame, said: Said, own: Own | None) -> Seen:
    """A node of both halves: its object, and what it announced."""
    kubelets: Mapping[int, Address] = {each.version: each for each in reversed(frame.internal)}
    chosen = {**(said.addresses or kubelets), **frame.overwritten}
    addresses = tuple(chosen[family] for family in sorted(chosen))  # IPv4 first
    problems = (*frame.problems, *said.problems)
    if frame.subnets and not addresses:
        problems += (
            f"node {name} is left out: it has no InternalIP in status.addresses and its agent announces no address: "
            "give its kubelet --node-ip, or wait for its cloud provider",
        )
    whole = frame.subnets and addresses and frame.usable
    node = Node(name, addresses, frame.subnets, said.data, frame.since) if whole else None
    return Seen(name, node, said.backend, said.prefix == FLANNELS, problems, own, frame=frame)


def _own(found: _NodeObject, frame: Frame, reader: Reader) -> Own:
    notes = {key: each for key, each in (found.meta.annotations or {}).items() if key.startswith((OURS, FLANNELS))}
    status = (each.status for each in found.status.conditions or () if each.type == "NetworkUnavailable")
    return Own(
        bare=Node(found.meta.name, frame.internal, frame.subnets, since=frame.since),
        asked={**reader.wished(), **frame.overwritten},
        notes=notes,
        inherited=reader.inherited(frame.internal),
        unavailable=next(status, ""),
        version=found.meta.version,
        uid=found.meta.uid,
    )

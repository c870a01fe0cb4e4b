"""The Lease by which a node's agent tells the others of its node, and what a node is with one. Pure.

    apiVersion: coordination.k8s.io/v1
    kind: Lease
    metadata:
      name: n1
      namespace: kube-tulle
      annotations:
        tulle.network/address: 192.0.2.1
        tulle.network/backend: TYPE
        tulle.network/backend-data: '{"vni":"1"}'
      ownerReferences: [{apiVersion: v1, kind: Node, name: n1, uid: ...}]
    spec: {holderIdentity: n1}

It is an object of ours because the right to write one Node's status is the right to write every Node's labels, owners,
addresses and conditions, with which nodes are deleted and drained. Promises: a Lease is believed of the node that it is
named after alone, and only while that very Node object owns it, so one of a node that was deleted and made anew says
nothing; whatever else it says is not read. The API server removes it after the Node (garbage collection).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import msgspec

from cni_plugin import decoding
from cni_plugin.agent.sources.kube.annotations import ANNOUNCED, KEPT, OURS, Reader
from cni_plugin.agent.sources.kube.objects import Lease, Own, Seen, put_together


class _Owner(msgspec.Struct, frozen=True):
    kind: str = ""
    name: str = ""
    uid: str = ""


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    version: str = msgspec.field(default="", name="resourceVersion")
    annotations: dict[str, str] | None = None
    owners: list[_Owner] | None = msgspec.field(default=None, name="ownerReferences")


class _Spec(msgspec.Struct, frozen=True):
    holder: str = msgspec.field(default="", name="holderIdentity")


class _LeaseObject(msgspec.Struct, frozen=True):
    meta: _Meta = msgspec.field(name="metadata")
    spec: _Spec = _Spec()


def read_lease(data: bytes | msgspec.Raw, this_node: str) -> Lease | None:
    """What a Lease says; None for one that is not an agent's, or cannot be understood."""
    try:
        found = decoding.decode_as(_LeaseObject, data)
    except msgspec.ValidationError:
        return None
    name = found.meta.name
    if not name or found.spec.holder != name:
        return None
    all_notes = found.meta.annotations or {}
    owners = (each.uid for each in found.meta.owners or () if (each.kind, each.name) == ("Node", name))
    notes = {key: all_notes[key] for key in ANNOUNCED if key in all_notes}
    lease = Lease(name, next(owners, ""), Reader(name, notes).said())
    if name != this_node:
        return lease
    kept = {key: all_notes[key] for key in KEPT.values() if key in all_notes}
    inherited = Reader(name, kept).overwritten()
    return msgspec.structs.replace(lease, notes=notes | kept, kept=inherited, version=found.meta.version)


def leased(seen: Seen, lease: Lease | None) -> Seen:
    """The node with what its Lease says in place of what its annotations do, if it is this Node's Lease."""
    own = msgspec.structs.replace(seen.own, lease=lease) if seen.own else None
    if seen.frame is None or not _is_of(lease, seen.frame.uid):
        return msgspec.structs.replace(seen, own=own) if own else seen
    own = msgspec.structs.replace(own, inherited=lease.kept) if own else None
    return msgspec.structs.replace(put_together(seen.name, seen.frame, lease.said, own), leased=True)


def says(own: Own, notes: Mapping[str, str]) -> bool:
    """Whether the node's Lease says this and nothing else."""
    return _is_of(own.lease, own.uid) and own.lease.notes == notes


def body(own: Own, notes: Mapping[str, str]) -> dict[str, object]:
    """The object that says it. It blocks no deletion of the Node, which would take a right on that."""
    name = own.node.name
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": own.uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "annotations": dict(notes),
            **({"ownerReferences": [owner]} if own.uid else {}),
        },
        "spec": {"holderIdentity": name},
    }


def leftovers(seen: tuple[Seen, ...]) -> str:
    """What to do about annotations of releases before, "" as long as some agent still announces by them."""
    noted = [each for each in seen if each.frame is not None and each.frame.noted]
    if not noted or not all(each.leased for each in noted):
        return ""
    keys = " ".join(f"{each}-" for each in ANNOUNCED)
    return (
        f"{len(noted)} nodes, {noted[0].name} among them, bear annotations {OURS}* of a release before, "
        f"which count no more: kubectl annotate node --all {keys}"
    )


def _is_of(lease: Lease | None, uid: str) -> TypeGuard[Lease]:
    return lease is not None and lease.owner == uid

"""What the API must show of this node: the notes of its Lease, flannel's annotations and a condition of its Node. Pure.

    tulle.network/address: 192.0.2.1                  flannel.alpha.coreos.com/public-ip: 192.0.2.1
    tulle.network/backend: TYPE                       flannel.alpha.coreos.com/backend-type: TYPE
    tulle.network/backend-data: {"vni":"1", ...}      flannel.alpha.coreos.com/backend-data: {"VNI":1,"VtepMAC":"..."}

The right column is written to the Node, and only in a cluster that flannel has not left yet, so that its nodes and ours
reach each other. What flannel told that the API does not know the node by (its --public-ip) is kept in the Lease, for
flannel's own annotations are ours to write from then on:

    flannel.alpha.coreos.com/public-ip: 203.0.113.1   ->   tulle.network/public-ip-overwrite: 203.0.113.1

A patch has only what differs from what the API shows; nothing differs, no patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from cni_plugin.agent.sources.contract import Announcement
from cni_plugin.agent.sources.kube.annotations import ANNOUNCED, FLANNELS, KEPT, MANAGED, PUBLIC
from cni_plugin.agent.sources.kube.objects import Own
from cni_plugin.backends.contract import in_flannels_words
from cni_plugin.network import Address


def notes(own: Own, said: Announcement) -> dict[str, str]:
    """What the Lease is to say."""
    first, second, *_ = (*(str(each) for _, each in sorted(_told(own, said).items())), "", "")
    data = said.data(own.node.pod_cidrs)
    values = (first, second, said.backend, _json(data) if data else "")
    kept = {KEPT[family]: str(each) for family, each in own.inherited.items() if each in own.overwritten}
    return {key: each for key, each in zip(ANNOUNCED, values, strict=True) if each} | kept


def flannels(own: Own, said: Announcement) -> dict[str, str]:
    """What is to be annotated for flannel's nodes."""
    told = _told(own, said)
    families = {each.version for each in own.node.pod_cidrs}
    keys = {4: "backend-data", 6: "backend-v6-data"}
    data = in_flannels_words(said.data(own.node.pod_cidrs), said.backend)
    body = _json(data) if data else "null"
    return {
        MANAGED: "true",
        f"{FLANNELS}backend-type": said.backend,
        **{f"{FLANNELS}{PUBLIC[family]}": str(each) for family, each in told.items() if family in families},
        **{f"{FLANNELS}{key}": body for family, key in keys.items() if family in families and family in told},
    }


def differing(own: Own, wanted: Mapping[str, str]) -> dict[str, str]:
    """Of these annotations of the Node, what the API does not show."""
    return {key: each for key, each in wanted.items() if own.notes.get(key) != each}


def patch(wanted: Mapping[str, str], *, up: bool) -> dict[str, object]:
    """The strategic merge patch for these annotations; `up`: also for the condition that the network is there."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "TulleIsUp",
        "message": "Tulle carries this node's pod network",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {
        **({"metadata": {"annotations": dict(wanted)}} if wanted else {}),
        **({"status": {"conditions": [condition]}} if up else {}),
    }


def _told(own: Own, said: Announcement) -> dict[int, Address]:
    return {each.version: each for each in (*reversed(said.addresses), *own.overwritten)}


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()

"""What this node's object in the API must say, and the patch that makes it so. Pure.

    tulle.network/address: 192.0.2.1                  flannel.alpha.coreos.com/public-ip: 192.0.2.1
    tulle.network/backend: vxlan                      flannel.alpha.coreos.com/backend-type: vxlan
    tulle.network/backend-data: {"vni":"1", ...}      flannel.alpha.coreos.com/backend-data: {"VNI":1,"VtepMAC":"..."}

The right column is written only in a cluster that flannel has not left yet, so that its nodes and ours reach each
other. What flannel told that the API does not know the node by (its --public-ip) is kept as an overwrite of ours, for
flannel's own annotations are ours to write from then on:

    flannel.alpha.coreos.com/public-ip: 203.0.113.1   ->   tulle.network/public-ip-overwrite: 203.0.113.1

A patch has only what differs from what the API shows; nothing differs, no patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from cni_plugin.agent.kube.objects import ADDRESSES, FLANNELS, MANAGED, OURS, PUBLIC, Own
from cni_plugin.agent.source import Announcement
from cni_plugin.network import Address

_NAMES = {"vni": "VNI", "vtepmac": "VtepMAC", "publickey": "PublicKey"}
"""As flannel writes them (pkg/backend/vxlan, wireguard)."""


def wanted(own: Own, said: Announcement, *, flannel: bool) -> dict[str, str | None]:
    """What is to be annotated, None for what must not be there. `flannel`: some other node is still flannel's."""
    told: dict[int, Address] = {each.version: each for each in (*reversed(said.addresses), *own.overwritten)}
    data = said.data(own.node.pod_cidrs)
    first, second, *_ = (*(str(told[family]) for family in sorted(told)), None, None)
    ours = {
        f"{OURS}{ADDRESSES[4]}": first,
        f"{OURS}{ADDRESSES[6]}": second,
        f"{OURS}backend": said.backend,
        f"{OURS}backend-data": _json(data) if data else None,
        **{f"{OURS}{PUBLIC[each.version]}-overwrite": str(each) for each in own.inherited if each in own.overwritten},
    }
    return {**ours, **_flannels(own, told, said.backend, data)} if flannel or MANAGED in own.notes else ours


def differing(own: Own, notes: Mapping[str, str | None]) -> dict[str, str | None]:
    """Of these, what the API does not show."""
    return {key: each for key, each in notes.items() if own.notes.get(key) != each}


def patch(notes: Mapping[str, str | None], *, up: bool) -> dict[str, object]:
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
        **({"metadata": {"annotations": dict(notes)}} if notes else {}),
        **({"status": {"conditions": [condition]}} if up else {}),
    }


def _flannels(own: Own, told: Mapping[int, Address], backend: str, data: Mapping[str, str]) -> dict[str, str | None]:
    families = {each.version for each in own.node.pod_cidrs}
    keys = {4: "backend-data", 6: "backend-v6-data"}
    body = _flannels_data(data)
    return {
        MANAGED: "true",
        f"{FLANNELS}backend-type": backend,
        **{f"{FLANNELS}{PUBLIC[family]}": str(each) for family, each in told.items() if family in families},
        **{f"{FLANNELS}{key}": body for family, key in keys.items() if family in families and family in told},
    }


def _flannels_data(data: Mapping[str, str]) -> str:
    """flannel's spelling; a number is a number there, and nothing at all is null."""
    found = {_NAMES.get(key.lower(), key): int(each) if key.lower() == "vni" else each for key, each in data.items()}
    return _json(found) if found else "null"


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()

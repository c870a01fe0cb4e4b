"""What was programmed of each cluster on this node, so that who comes next knows it, and undoes no other's.

    <run>/cluster.json            the list that an agent learned
    <run>/clusters/<network>      the digest of the list that was programmed, and what pods need to know of it
    <run>/programmed/<network>    the objects that came of it
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from cni_plugin import decoding
from cni_plugin.kernel.host import files
from cni_plugin.model.base import State, state
from cni_plugin.model.every import AnyObject
from cni_plugin.store.records import Records, stem

CLUSTER_FILE = "cluster.json"
"""The name in the run folder under which an agent keeps the list that it learned."""

Stamp: TypeAlias = tuple[int, ...]


class ClusterFacts(msgspec.Struct, frozen=True):
    """What was programmed, and what wiring a pod needs to know of it. `mtu` in bytes.

    `digest` is that of the list, `stamp` what its file looked like, () where that does not tell it from another;
    `unguarded`: why not only peers may speak through the tunnel; `offload`: checksums are left to the NIC; `addresses`:
    the node's own, the first where its tunnels end.
    """

    network: str
    digest: str
    boot: str
    device: str
    index: int
    mtu: int
    node: str
    backend: str
    pod_cidrs: tuple[str, ...]
    inside: tuple[str, ...]
    peers: int
    source: msgspec.Raw
    uplinks: tuple[str, ...] = ()
    stamp: Stamp = ()
    unguarded: str = ""
    offload: bool = False
    addresses: tuple[str, ...] = ()

    @property
    def underlay(self) -> str:
        """Where its tunnels end."""
        return next(iter(self.addresses), "")


def cluster_file(records: Records) -> str:
    """Where an agent keeps the list that it learned."""
    return f"{records.run_dir}/{CLUSTER_FILE}"


def load(records: Records, network: str) -> ClusterFacts | None:
    """What was programmed for a network in this boot. Raises OSError."""
    try:
        data = records.disk.note(f"{records.run_dir}/clusters/{stem(network)}")
        facts = decoding.decode_as(ClusterFacts, data) if data else None
    except msgspec.MsgspecError:
        return None
    return facts if facts is not None and facts.boot == files.boot_id() else None


def all_facts(records: Records) -> list[ClusterFacts]:
    """What was programmed for each network."""
    found = (load(records, name) for name in records.disk.names(f"{records.run_dir}/clusters"))
    return [each for each in found if each is not None]


def programmed(records: Records, network: str) -> State:
    """The objects that were programmed for a network. Raises OSError."""
    try:
        data = records.disk.note(f"{records.run_dir}/programmed/{stem(network)}")
        return state(decoding.decode_as(tuple[AnyObject, ...], data)) if data else {}
    except msgspec.MsgspecError:
        return {}


def forget(records: Records, network: str) -> None:
    """Drop what is noted of a network, so that the next ensure begins anew."""
    records.disk.remove(f"{records.run_dir}/clusters/{stem(network)}")
    records.disk.remove(f"{records.run_dir}/programmed/{stem(network)}")


def others(records: Records, but: str) -> State:
    """What other clusters' networks had programmed."""
    found: State = {}
    for name in records.disk.names(f"{records.run_dir}/programmed"):
        if name != stem(but):
            found.update(programmed(records, name))
    return found


def save(records: Records, facts: ClusterFacts, want: State) -> None:
    """Note what was programmed. Facts come last: by them the rest is believed. The caller holds the lock."""
    records.disk.make_own(records.run_dir, "programmed")
    records.disk.write(f"{records.run_dir}/programmed/{stem(facts.network)}", msgspec.json.encode(tuple(want.values())))
    note(records, facts)


def note(records: Records, facts: ClusterFacts) -> None:
    """Write facts alone. The caller holds the lock."""
    records.disk.make_own(records.run_dir, "clusters")
    records.disk.write(f"{records.run_dir}/clusters/{stem(facts.network)}", msgspec.json.encode(facts))

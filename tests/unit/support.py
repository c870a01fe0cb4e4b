"""What unit and golden tests share: nodes of clusters, and a node where every verb runs on a kernel in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NamedTuple

from cni_plugin.attachment import Attachment
from cni_plugin.backends.contract import Backend, Me
from cni_plugin.cluster import Node as ClusterNode
from cni_plugin.diff import Op
from cni_plugin.kernel.door import Uplink
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.base import Key, State
from cni_plugin.model.host import Sysctl
from cni_plugin.model.links import Veth
from cni_plugin.plan.cluster import Terms, plan
from cni_plugin.plugins import parse
from cni_plugin.store.records import Records
from cni_plugin.verbs.run import Agent, run
from cni_plugin.wirings import bridge

Json = dict[str, object]
DUAL = [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]]
"""Range sets that give a pod an address of each family."""
UPLINK = Uplink("eth0", 1500, ("192.0.2.0/24", "2001:db8::/64"))


def cluster_node(name: str, addresses: str, pod_cidrs: str) -> ClusterNode:
    """A node; addresses and subnets as words."""
    return ClusterNode(
        name, tuple(map(ip_address, addresses.split())), tuple(ip_network(each) for each in pod_cidrs.split())
    )


def node_state(me: Me, peers: Iterable[ClusterNode], backend: Backend, conf: object) -> State:
    """This node's part of a cluster, planned from nothing. Raises CniError 7 for a peer that cannot be reached."""
    made = plan(Terms(me, backend, conf), peers)
    if made.refused:
        raise made.refused[0]
    return made.want


def me(addresses: str, pod_cidrs: str, mtu: int = 1500) -> Me:
    """This node, on a link with 192.0.2.0/24 and 2001:db8::/64, which may leave checksums to its NIC."""
    return Me(cluster_node("me", addresses, pod_cidrs), UPLINK.name, mtu, UPLINK.prefixes, offload=True)


def net_conf(**keys: object) -> bridge.Conf:
    """A configuration of network `pods` with these keys."""
    return bridged({"cniVersion": "1.0.0", "name": "pods", "type": "tulle", **keys})


def bridged(raw: Mapping[str, object]) -> bridge.Conf:
    """A configuration of type `tulle`."""
    found = parse(raw).conf
    assert isinstance(found, bridge.Conf)
    return found


class Reply(NamedTuple):
    """An answer of the plugin: its exit code, and what it wrote on stdout (None: nothing)."""

    exit: int
    body: Json

    @property
    def code(self) -> int:
        """The error's code, 0 for success."""
        found = self.body.get("code", 0)
        assert isinstance(found, int)
        assert bool(found) == bool(self.exit)
        return found

    @property
    def said(self) -> str:
        """The error's message and details."""
        return f"{self.body.get('msg', '')}\n{self.body.get('details', '')}"

    @property
    def addresses(self) -> list[str]:
        """The addresses of a result."""
        ips = self.body["ips"]
        assert isinstance(ips, list)
        return [each["address"] for each in ips]


class Node:
    """A node: a kernel in memory, a run folder, an IPAM folder, and the configuration of a network `pods`."""

    def __init__(
        self, home: Path, kernel: FakeKernel | None = None, *, ipam: Mapping[str, object] | None = None
    ) -> None:
        self.home = home
        self.kernel = kernel or FakeKernel(uplink=UPLINK, held=("192.0.2.1",))
        self.conf: Json = {
            "cniVersion": "1.1.0", "name": "pods", "type": "tulle", "isDefaultGateway": True, "ipMasq": True,
            "ipam": {"type": "host-local", "subnet": "10.22.0.0/24", "dataDir": f"{home}/data", **(ipam or {})},
        }
        self.called = "tulle"
        self.agent: Agent | None = None

    @property
    def records(self) -> Records:
        """What is on record."""
        return Records(f"{self.home}/run")

    def call(self, verb: str, pod: str = "a eth0", /, stdin: bytes | None = None, **changes: str | None) -> Reply:
        """One request as a runtime makes it; `pod`: container and interface, `changes`: variables (None: unset)."""
        text = self.stdin if stdin is None else stdin
        stdout, code = run(self.called, self.environ(verb, pod, **changes), text, lambda: self.kernel, agent=self.agent)
        return Reply(code, json.loads(stdout) if stdout else {})

    def environ(self, verb: str, pod: str, **changes: str | None) -> dict[str, str]:
        """The environment of a request, with these variables changed (None: unset)."""
        container, ifname = pod.split()
        env: dict[str, str | None] = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname, "CNI_PATH": f"{self.home}/bin",
            "CNI_NETNS": f"/run/netns/{container}", "TULLE_RUN_DIR": f"{self.home}/run", **changes,
        }
        return {key: value for key, value in env.items() if value is not None}

    @property
    def stdin(self) -> bytes:
        """The configuration as a runtime sends it."""
        return json.dumps(self.conf).encode()

    def configured(self, **keys: object) -> Node:
        """The same node, kernel and folders under a configuration with these keys changed (None: without)."""
        other = Node(self.home, self.kernel)
        other.called = self.called
        other.conf = {key: each for key, each in {**self.conf, **keys}.items() if each is not None}
        return other

    def after(self, added: Reply) -> Node:
        """The same with the result of an ADD in the configuration, as a runtime gives it to CHECK and DEL."""
        return self.configured(prevResult=added.body)

    def unplug(self, pod: str) -> None:
        """Take a pod's wire away, as the end of its namespace does."""
        self.kernel.apply([Op("delete", Veth(Attachment("pods", *pod.split()).host_dev))])

    def leases(self) -> dict[str, str]:
        """The addresses on disk, and whose they are."""
        folder = self.home / "data" / "pods"
        files = folder.iterdir() if folder.is_dir() else iter(())
        return {each.name: each.read_bytes().decode() for each in files if each.name[0].isdigit() or ":" in each.name}

    def left(self) -> list[str]:
        """Every file but locks and what the IPAM remembers of the address it gave last."""
        kept = ("lock", "last_reserved_ip.")
        found = [path.relative_to(self.home) for path in self.home.rglob("*") if path.is_file()]
        return sorted(
            str(path)
            for path in found
            if not path.name.startswith(kept) and not {".tulle", "bin"} & set(path.parts)
        )

    def standing(self) -> State:
        """All kernel objects but the sysctls of the whole node, which are shared with everybody and stay."""
        return {key: each for key, each in self.kernel.state.items() if not (isinstance(each, Sysctl) and not each.dev)}


def executable(path: Path, text: str) -> None:
    """A plugin of one's own."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.chmod(path, 0o755)


def keys_of(state: State, kind: str) -> list[Key]:
    """The keys of one kind of object."""
    return [key for key in state if key[0] == kind]

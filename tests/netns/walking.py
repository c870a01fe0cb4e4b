"""A cluster that changes at random: nodes join, leave, move, get other subnets, another backend, lose their agents.

What a change means depends on where nodes learn of each other: in a list that people keep (`FileWalk`), in etcd, where
agents take their subnets themselves (`EtcdWalk`), or in Kubernetes (`KubernetesWalk`). What must hold after each change
does not: the kernel of every node equals a plan made afresh from what the test knows, and every pod answers every
other one at the first packet. The seed is printed at the beginning, and each step after it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import cast

from scripts.lib.lab import namespaces
from scripts.lib.lab.topology import Pod
from tests.cluster.control_plane import ControlPlane
from tests.cluster.etcd import PREFIX, Member
from tests.netns.members import Json, Members
from tests.pace import PATIENCE

BACKENDS: list[Json] = [
    {"type": "vxlan", "vni": 1, "port": 8472},
    {"type": "vxlan", "vni": 7, "port": 4789},
    {"type": "vxlan", "vni": 1, "directRouting": True},
    {"type": "host-gw"},
]
LEAST = 4
BRIDGE_GONE = "ip link del tulle0"
DAMAGES = (
    "ip route flush proto 84",
    "ip -6 route flush proto 84",
    "for each in $(ip -br link show type vxlan | cut -d' ' -f1); do ip link del $each; done",
    "for each in $(ip -br link show type vxlan | cut -d' ' -f1); do ip neigh flush dev $each nud permanent; done",
    BRIDGE_GONE,
    "sysctl -qw net.ipv4.ip_forward=0",
)
FEWEST = 2


class Walk:
    """A cluster on a walk, and what the test knows of it. The hooks are what differs from source to source."""

    def __init__(self, them: Members, seed: int) -> None:
        self.them = them
        self.random = random.Random(seed)
        self.dual = len(them.lab.spec.families) > 1
        self.on = {name for name in them.agents if name != "n4"}
        self.pods: dict[str, str] = {}
        self.taken: list[str] = []
        self.moves: list[Callable[[], str]] = [
            self.join, self.leave, self.readdress, self.resubnet, self.switch, self.lose_source, self.end_agent,
            self.damage, self.renew_pod,
        ]

    def tell(self) -> None:
        """Hook: make what the test knows known to the source."""
        raise NotImplementedError

    def expected(self) -> Json | None:
        """Hook: the cluster as all nodes must see it now; None while it cannot be so yet."""
        return self.them.cluster(*self.on)

    def enter(self, name: str) -> None:
        """Hook: a node that was outside, and is one of `on` again, comes."""
        self.tell()
        if not self.them.agents[name].alive():
            self.them.start(name)

    def depart(self, name: str) -> None:
        """Hook: a node that is none of `on` any more goes."""
        if self.random.random() < 0.5:
            self.them.agents[name].kill()
        self.tell()

    def give(self, name: str) -> str:
        """Hook: another subnet for a node; which."""
        number = int(name[1:]) + 10 * self.random.randrange(1, 20)
        cidrs = [f"10.244.{number}.0/24", *([f"fd00:10:244:{number:x}::/64"] if self.dual else [])]
        self.them.list[name]["podCIDRs"] = cidrs
        self.tell()
        return f"10.244.{number}.0/24"

    def lose(self) -> str:
        """Hook: the source is away from now on; how."""
        raise NotImplementedError

    def find(self) -> None:
        """Hook: it is back."""
        raise NotImplementedError

    def begin(self) -> None:
        """The first nodes, their agents, and a pod on each."""
        self.tell()
        self.them.join(*sorted(self.on))
        self.settle("the beginning")

    def step(self) -> None:
        """One change, and all that must hold after it."""
        move = self.random.choice(self.moves)
        what = move()
        self.taken.append(what)
        print(f"  {len(self.taken)}. {what}", file=sys.stderr, flush=True)
        self.settle(what)

    def join(self) -> str:
        outside = sorted(self.them.agents.keys() - self.on)
        if not outside:
            return self.leave()
        name = self.random.choice(outside)
        self.on.add(name)
        self.enter(name)
        return f"{name} joins"

    def leave(self) -> str:
        if len(self.on) <= FEWEST:
            return self.join()
        name = self.one()
        self.on.remove(name)
        self.depart(name)
        return f"{name} leaves{'' if self.them.agents[name].alive() else ', and its agent with it'}"

    def readdress(self) -> str:
        """Another address on the same link, as DHCP gives it: the old one goes first, and all routes with it.

        The source may know of it before it is so, or after.
        """
        name = self.one()
        number = int(name[1:]) + 10 * self.random.randrange(20)
        addresses = {"address": f"192.0.2.{number}"}
        if self.dual:
            addresses["ipv6Address"] = f"2001:db8:1::{number:x}"
        first = self.random.random() < 0.5
        if first:
            self.them.list[name] |= addresses
            self.tell()
        run = self.them.lab.run
        run(name, "ip", "addr", "flush", "dev", "eth0", "scope", "global")
        run(name, "ip", "addr", "add", f"{addresses['address']}/24", "dev", "eth0")
        if self.dual:
            run(name, "ip", "addr", "add", f"{addresses['ipv6Address']}/64", "dev", "eth0", "nodad")
        if not first:
            self.them.list[name] |= addresses
            self.tell()
        return f"{name} moves to {addresses['address']}{', after it was told so' if first else ''}"

    def resubnet(self) -> str:
        """Another subnet; its pod is made anew, for addresses cannot move."""
        name = self.one()
        subnet = self.give(name)
        self.await_plan("the subnet")
        self.remove_pod(name)
        return f"{name} has {subnet} now"

    def switch(self) -> str:
        self.them.conf["backend"] = self.random.choice([each for each in BACKENDS if each != self.them.conf["backend"]])
        self.tell()
        return f"the backend is {self.them.conf['backend']}"

    def lose_source(self) -> str:
        """The source is away, and meanwhile something happens; later it is back, and another thing happens at once."""
        how = self.lose()
        what = self.random.choice([self.end_agent, self.damage, self.renew_pod, self.rest])()
        self.settle(f"{how}: {what}")
        self.find()
        after = self.random.choice([self.switch, self.leave, self.join, self.readdress])()
        return f"{how}, and {what}; then it is back, and {after}"

    def end_agent(self) -> str:
        """As the kernel ends it; it comes back, at once or after a while."""
        name = self.one()
        agent = self.them.agents[name]
        agent.kill() if self.random.random() < 0.7 else agent.stop()
        # of a bridge that went unseen nobody knows the MAC, which pods hold in their tables for a while
        damage = self.random.choice([*(each for each in DAMAGES if each != BRIDGE_GONE), "", "", ""])
        if damage:
            self.them.lab.run(name, "sh", "-c", damage)
        agent.start()
        return f"{name}'s agent ends and is back{f', and meanwhile: {damage}' if damage else ''}"

    def damage(self) -> str:
        name, damage = self.one(), self.random.choice(DAMAGES)
        self.them.lab.run(name, "sh", "-c", damage)
        return f"somebody on {name}: {damage}"

    def renew_pod(self) -> str:
        name = self.one()
        self.remove_pod(name)
        return f"{name}'s pod ends, and another one comes"

    def rest(self) -> str:
        return "nothing happens"

    def one(self) -> str:
        return self.random.choice(sorted(self.on))

    def remove_pod(self, name: str) -> None:
        if name in self.pods:
            self.them.lab.delete(self.pods.pop(name))

    def settle(self, what: str) -> None:
        """Wait for the plan, give a pod to each node that has none, and let every one ask every other one."""
        self.await_plan(what)
        for name in sorted(self.on - self.pods.keys()):
            self.them.until(self.them.conflist(name).exists, f"{name} is ready")
            self.pods[name] = self.them.lab.add(name, f"p{len(self.taken)}").path
        self.await_plan(f"{what}, and pods came")
        silent = self.silent()
        assert silent == [], self.words(f"{what}: no answer to {silent}")

    def await_plan(self, what: str) -> None:
        """Wait for the source to say what the test knows, and for every node to be as a plan made afresh says."""
        deadline = time.monotonic() + PATIENCE
        while (cluster := self.expected()) is None:
            assert time.monotonic() < deadline, self.words(f"{what}: the source does not say what it should")
            time.sleep(0.02)
        for name in sorted(self.on):
            while off := self.them.off(name, cluster):
                assert time.monotonic() < deadline, self.words(f"{what}: {name} is not as planned:\n" + "\n".join(off))
                cluster = self.expected() or cluster

    def silent(self) -> list[str]:
        """Which pods do not answer which, all asked at once with one packet."""
        pods = [self.them.lab.pod(path) for name, path in sorted(self.pods.items()) if name in self.on]
        asked = {
            f"{one.path} -> {other.path} {address}": ping(one, address)
            for one in pods for other in pods if one != other for address in other.addresses
        }
        return [what for what, each in asked.items() if each.wait(timeout=PATIENCE) != 0]

    def words(self, what: str) -> str:
        logs = "\n".join(f"--- {name}\n{self.them.agents[name].log()}" for name in sorted(self.on))
        return f"{what}\nthe steps:\n" + "\n".join(self.taken) + f"\n{logs}"


def ping(pod: Pod, address: str) -> subprocess.Popen[bytes]:
    words = [*namespaces.inside(pod.netns), "ping", "-n", "-c1", "-W2", address]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class FileWalk(Walk):
    """The list is a file that all agents watch."""

    def tell(self) -> None:
        self.them.save(*self.on)

    def lose(self) -> str:
        file = self.them.file
        how = self.random.choice(["half", "removed", "a folder", "another's"])
        if how == "half":
            file.write_bytes(file.read_bytes()[:-50])
        elif how == "another's":
            file.write_text('{"some": "thing"}')
        else:
            file.unlink()
            if how == "a folder":
                file.mkdir()
        return f"the list is {how}"

    def find(self) -> None:
        if self.them.file.is_dir():
            self.them.file.rmdir()
        self.tell()


class EtcdWalk(Walk):
    """Agents take their subnets themselves; a node that leaves does so as if its lease had ended."""

    def __init__(self, them: Members, seed: int, etcd: Member) -> None:
        super().__init__(them, seed)
        self.etcd = etcd
        self._known: Json | None = None
        self._away = False

    def tell(self) -> None:
        conf = {**self.them.conf, "EnableIPv4": True, "EnableIPv6": True}
        if self.etcd.ctl("get", "--print-value-only", f"{PREFIX}/config").strip() != json.dumps(conf):
            self.etcd.put("config", conf)

    def expected(self) -> Json | None:
        if not self._away:
            nodes = [_node_in_etcd(key, value) for key, value in self.etcd.subnets().items()]
            found = {str(each["name"]): each["address"] for each in nodes}
            if found != {name: self.them.list[name]["address"] for name in self.on}:
                return None
            self._known = {**self.them.conf, "nodes": nodes}
        return self._known

    def enter(self, name: str) -> None:
        self.them.start(name)
        if self._away:
            return
        self.await_subnet(name, "")
        if name in self.pods and self.subnet(name) != self.pod_subnet(name):  # somebody else has it by now
            self.remove_pod(name)

    def depart(self, name: str) -> None:
        self.them.agents[name].kill()
        self.etcd.remove(f"subnets/{self.key(name)}")

    def give(self, name: str) -> str:
        """Its subnet is somebody else's when it comes back."""
        before = self.key(name)
        self.them.agents[name].kill()
        self.etcd.put(f"subnets/{before}", {"PublicIP": "192.0.2.250", "Node": "stranger"})
        self.them.start(name)
        self.await_subnet(name, before)
        self.etcd.remove(f"subnets/{before}")
        return self.key(name)

    def lose(self) -> str:
        assert self.expected() is not None
        how = self.random.choice(["stopped", "killed"])
        self.etcd.stop() if how == "stopped" else self.etcd.kill()
        self._away = True
        return f"etcd is {how}"

    def find(self) -> None:
        self.etcd.start()
        self._away = False

    def key(self, name: str) -> str:
        """What the node's subnet is called in etcd, "" while it has none."""
        return next((key for key, value in self.etcd.subnets().items() if value.get("Node") == name), "")

    def subnet(self, name: str) -> str:
        return self.key(name).split("&")[0].replace("-", "/")

    def pod_subnet(self, name: str) -> str:
        return str(ip_network(f"{self.them.lab.pod(self.pods[name]).address(4)}/24", strict=False))

    def await_subnet(self, name: str, before: str) -> None:
        self.them.until(lambda: self.key(name) not in ("", before), f"{name} has a subnet, not {before or 'none'}")


def _node_in_etcd(key: str, value: Json) -> Json:
    """An entry of a list from flannel's schema."""
    return {
        "name": str(value["Node"]), "address": value["PublicIP"], "ipv6Address": value["PublicIPv6"],
        "podCIDRs": [each.replace("-", "/") for each in key.split("&")],
    }


class KubernetesWalk(Walk):
    """Node objects come and go, and are made anew for another subnet, which cannot be changed in one."""

    MAP = "/api/v1/namespaces/kube-tulle/configmaps"

    def __init__(self, them: Members, seed: int, plane: ControlPlane) -> None:
        super().__init__(them, seed)
        self.plane = plane
        self._objects: dict[str, Json] = {}
        self._conf: Json = {}
        self._away: Callable[[], None] | None = None
        self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "kube-tulle"}})
        self.ask("POST", self.MAP, {"metadata": {"name": "tulle-config"}, "data": {}})

    def tell(self) -> None:
        if self._conf != self.them.conf:
            self._conf = dict(self.them.conf)
            self.ask("PATCH", f"{self.MAP}/tulle-config", {"data": {"net-conf.json": json.dumps(self._conf)}})
        wanted = {name: dict(self.them.list[name]) for name in self.on}
        for name, known in list(self._objects.items()):
            if name not in wanted or known["podCIDRs"] != wanted[name]["podCIDRs"]:
                self.ask("DELETE", f"/api/v1/nodes/{name}")
                del self._objects[name]
        for name, each in wanted.items():
            if name not in self._objects:
                cidrs = cast(list[str], each["podCIDRs"])
                spec = {"podCIDR": cidrs[0], "podCIDRs": cidrs}
                self.ask("POST", "/api/v1/nodes", {"metadata": {"name": name}, "spec": spec, "status": _status(each)})
            elif self._objects[name] != each:
                self.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": _status(each)})
        self._objects = wanted

    def lose(self) -> str:
        how = self.random.choice(["killed", "silent"])
        if how == "killed":
            self.plane.kill("kube-apiserver")
            self._away = self.revive
        else:
            self.plane.pause("kube-apiserver")
            self._away = lambda: self.plane.go_on("kube-apiserver")
        return f"the API server is {how}"

    def find(self) -> None:
        """Agents ask a server that is away less and less often, so that it may take them half a minute to notice."""
        assert self._away is not None
        self._away()
        self.them.until(self.is_heard, "all agents hear the API server again", patience=60)

    def is_heard(self) -> bool:
        return all(self.them.status(name)["trouble"] == "" for name in self.on)

    def revive(self) -> None:
        self.plane.start("kube-apiserver")
        with self.plane.inside():
            self.plane.wait_ready()

    def ask(self, method: str, path: str, body: Json | None = None) -> None:
        with self.plane.inside():
            self.plane.request(method, path, body)


def _status(entry: Json) -> Json:
    """What a kubelet says of its node's addresses."""
    addresses = [entry[key] for key in ("address", "ipv6Address") if key in entry]
    return {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]}


def walk(walking: Walk, seed: int, seconds: float) -> None:
    """Go for so long, and some steps at least."""
    end = time.monotonic() + seconds
    try:
        walking.begin()
        while time.monotonic() < end or len(walking.taken) < LEAST:
            walking.step()
    except BaseException as error:
        error.add_note(f"take this walk again: TULLE_WALK_SEED={seed}")
        raise
    print(f"{len(walking.taken)} steps in {seconds:g} s", file=sys.stderr)

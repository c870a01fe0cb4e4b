"""Failures of clusters whose nodes are learned from a source: early readiness, stale peers, moved nodes, lost devices.

The numbers are those of the list of forty failures that the design names; issues of other projects are in the texts.
What the same failures are without a source stands in test_failures_cluster.py and test_failures_agent*.py. The next
look at everything is an hour away, so that only what kernel and source tell can be the reason for what is put right.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from cni_plugin.kernel.watch.inotify import Inotify
from scripts.lib.lab import namespaces
from scripts.lib.lab.runtime import VERSIONS, Network, PluginError
from tests.cluster.etcd import CONF, PREFIX, Member, running
from tests.conformance.clients import find_cnitool, results
from tests.netns.agents import in_node
from tests.netns.conftest import MakeLab
from tests.netns.members import DEVICE, Json, Members, members
from tests.pace import PATIENCE

METRICS = "127.0.0.1:9472"


def joined(them: Members, *names: str) -> None:
    """These nodes (all) on the list, their agents ready, and a pod on each."""
    chosen = names or tuple(them.agents)
    them.save(*chosen)
    them.join(*chosen)
    for each in chosen:
        them.lab.add(each, "p1")
    assert both_ways(them)


def both_ways(them: Members, timeout: float = 1.0) -> bool:
    return them.reaches("n1/p1", "n2/p1", timeout) and them.reaches("n2/p1", "n1/p1", timeout)


def back(them: Members, what: str) -> None:
    """Wait until n1's and n2's pods reach each other."""
    them.until(lambda: both_ways(them, 0.2), f"{what}: pods reach each other")


class Seen:
    """How often something was put at a path, by the kernel's word."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._events = Inotify()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._events.watch([str(path.parent)])

    def times(self) -> int:
        """Since it was last asked; every event that concerns the name counts: creation, writing, renaming, removal."""
        return sum(name == self._name for _, _, name in self._events._events())

    def close(self) -> None:
        self._events.close()


@contextmanager
def seen(path: Path) -> Iterator[Seen]:
    made = Seen(path)
    try:
        yield made
    finally:
        made.close()


def ready(them: Members, name: str) -> tuple[int, str]:
    """What /readyz answers on a node."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{METRICS}/readyz", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    code, text = in_node(f"{namespaces.NETNS_DIR / them.lab.node(name).netns}", ask)
    return code, text


def status_code(them: Members, name: str, conf: Json) -> int:
    """STATUS, by a runtime that has this configuration list; 0 when the network says that it is ready."""
    try:
        them.lab.runtime(name).status(Network.parse(conf))
    except PluginError as error:
        return error.code
    return 0


def promised(them: Members, name: str) -> Json:
    """The configuration that the agent will write, as a runtime with its own copy has it already."""
    state = them.lab.node(name).state
    conf: Json = json.loads((state / "template.json").read_text())
    for each in cast(list[Json], conf["plugins"]):
        each["cluster"] = str(state / "run" / "cluster.json")
    return conf


def test_failure_27_the_cni_configuration_appears_once_when_all_stands_and_is_never_taken_away(
    lab: MakeLab, plugin: Path
) -> None:
    """kubernetes#43014, cilium#32168, rke2#10360: pods were started on half a network, or on the wrong one."""
    made = lab(nodes=2)
    with members(made, plugin, metrics=METRICS) as them, seen(them.conflist("n1")) as file:
        them.start()
        conf = promised(them, "n1")
        them.until(lambda: "No such file" in str(them.status("n1")["trouble"]), "the source is dead, and it is said")
        code, text = ready(them, "n1")
        assert code == 503 and "the source has not answered yet" in text and str(them.file) in text
        assert status_code(them, "n1", conf) == 50
        time.sleep(0.5)
        assert file.times() == 0 and not them.conflist("n1").exists()
        them.save()
        them.until(them.conflist("n1").exists, "n1 is ready")
        assert DEVICE in made.run("n1", "ip", "-br", "link") and them.off("n1") == [], "all stands before it is written"
        assert ready(them, "n1")[0] == 200 and status_code(them, "n1", conf) == 0
        assert json.loads(them.conflist("n1").read_text()) == conf
        assert os.stat(them.conflist("n1")).st_mode & 0o777 == 0o644
        assert file.times() == 1, "by one rename"
        them.until(them.conflist("n2").exists, "n2 is ready")
        made.add("n1", "p1")
        made.add("n2", "p1")
        assert both_ways(them)
        for end in (them.agents["n1"].stop, them.agents["n1"].kill):
            end()
            them.start("n1")
            them.until(lambda: them.status("n1")["ready"], "n1 is ready again")
        them.agents["n1"].stop()
        them.file.write_text("{")
        them.start("n1")
        assert "the source has not answered yet" in str(them.status("n1")["problem"])
        assert file.times() == 0, "an upgrade, a crash and a dead source leave it alone"
        assert both_ways(them), "what worked goes on working"


def test_failure_27_no_part_of_the_network_that_is_missing_lets_the_configuration_appear(
    lab: MakeLab, plugin: Path
) -> None:
    made = lab(nodes=2)
    with members(made, plugin) as them:
        them.save("n2")
        them.start("n1")
        them.until(lambda: "no subnet" in str(them.status("n1")["reason"]), "n1 is not on the list")
        uplink = made.node("n1").addresses
        made.run("n1", "ip", "addr", "flush", "dev", "eth0", "scope", "global")
        them.save()
        time.sleep(0.5)
        assert not them.conflist("n1").exists(), "no address"
        assert them.status("n1")["ready"] is False
        made.run("n1", "ip", "addr", "add", f"{uplink[0]}/24", "dev", "eth0")
        made.run("n1", "ip", "addr", "add", f"{uplink[1]}/64", "dev", "eth0", "nodad")
        them.until(them.conflist("n1").exists, "n1 is ready")
        assert them.off("n1") == []


def test_a_mistake_that_was_put_right_is_no_reason_any_more_whoever_is_asked(lab: MakeLab, plugin: Path) -> None:
    """/readyz went on saying 503 until a restart, and a rolling update takes away all agents that are not ready."""
    made = lab(nodes=2)
    with members(made, plugin, metrics=METRICS) as them:
        joined(them)
        right = dict(them.conf)
        for backend, words in (({"type": "vxlan", "vni": 1 << 30}, "vni"), ({"type": "wirguard"}, "wirguard")):
            them.conf["backend"] = cast(Json, backend)
            them.save()
            them.until(lambda: ready(them, "n1")[0] == 503, "n1 is not ready")
            assert words in ready(them, "n1")[1] and words in str(them.status("n1")["reason"])
            assert both_ways(them), "what worked goes on working"
            them.conf.update(right)
            them.save()
            them.until(lambda: them.status("n1")["ready"], "n1 is ready again")
            assert ready(them, "n1") == (200, "ok\n") and them.status("n1")["problem"] == ""


def test_failure_31_each_version_of_the_specification_works_with_a_cluster_that_the_agent_learned(
    lab: MakeLab, plugin: Path
) -> None:
    """weave and containerd 1.6: a client's library changed, and the plugin failed. The client here is cnitool."""
    made = lab(nodes=2)
    with members(made, plugin) as them:
        joined(them)
        tool = find_cnitool()
        for version in VERSIONS:
            template = made.node("n1").state / "template.json"
            template.write_text(json.dumps({**json.loads(template.read_text()), "cniVersion": version}))
            them.agents["n1"].stop()
            them.start("n1")
            them.until(partial(lists, them, version), f"a list of {version}")
            assert drive(them, tool, version), version


def lists(them: Members, version: str) -> bool:
    """Whether n1's CNI configuration is of this version."""
    return bool(json.loads(them.conflist("n1").read_text())["cniVersion"] == version)


def drive(them: Members, tool: str, version: str) -> bool:
    """ADD, CHECK where there is one, packets to a pod of the other node, and DEL, by cnitool on n1."""
    node = them.lab.node("n1")
    pod = f"{node.netns}-c{version.replace('.', '')}"
    namespaces.create(pod)
    folder = node.state / "cnitool"

    def run(verb: str) -> subprocess.CompletedProcess[str]:
        environ = {**node.env, "NETCONFPATH": str(node.state / "net.d"), "CNI_PATH": str(Path(node.spec.plugin).parent)}
        command = f"exec {shlex.quote(str(tool))} {verb} pods /run/netns/{pod}"
        hidden = f"mkdir -p '{folder}'; mount --bind '{folder}' /var/lib; {command}"
        words = ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", hidden]
        return namespaces.attempt([*words], netns=node.netns, env=environ)

    added = run("add")
    assert added.returncode == 0, added.stdout + added.stderr
    result = results(added.stdout)
    assert result.get("cniVersion", "0.1.0") == version
    if version >= "0.4.0":
        assert run("check").returncode == 0
    reached = all(namespaces.ping(pod, each) for each in them.lab.pod("n2/p1").addresses)
    deleted = run("del")
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    namespaces.delete(pod)
    return reached


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_failure_32_what_left_while_the_agent_was_away_is_gone_when_it_is_back_and_others_routes_stay(
    lab: MakeLab, plugin: Path, backend: str, end: str
) -> None:
    """flannel#2554, calico#7281: a deletion missed while down left routes and entries that led its address nowhere."""
    made = lab(nodes=3, backend=backend)
    with members(made, plugin) as them:
        joined(them)
        getattr(them.agents["n1"], end)()
        foreign = ("198.18.0.0/15 via 192.0.2.3", "198.51.100.0/24 via 192.0.2.2", "10.244.77.0/24 via 192.0.2.3")
        for each in foreign:
            made.run("n1", "ip", "route", "add", *each.split(), "dev", "eth0", "proto", "static")
        neighbour = "192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent"
        made.run("n1", "ip", "neigh", "add", *neighbour.split())
        made.run("n1", "ip", "route", "add", "10.244.99.0/24", "via", "192.0.2.3", "dev", "eth0", "proto", "84")
        them.save("n1", "n2")
        them.until(lambda: not them.holds("n2", "n3"), "n2 follows")
        assert them.holds("n1", "n3") and both_ways(them), "nobody is there to follow, and nothing breaks"
        them.start("n1")
        them.until(lambda: not them.holds("n1", "n3"), "nothing of n3 is left")
        assert them.off("n1", them.cluster("n1", "n2")) == []
        routes = made.run("n1", "ip", "route")
        assert [each for each in foreign if each not in routes] == []
        assert "10.244.99.0/24" not in routes, "of our own mark, and nobody's"
        assert "02:00:00:00:00:77" in made.run("n1", "ip", "neigh")
        assert both_ways(them)


def leaves_by(them: Members, address: str) -> bool:
    """Whether n1's tunnel begins at this address."""
    shown = namespaces.attempt(["ip", "-d", "link", "show", DEVICE], netns=them.lab.node("n1").netns)
    return f"local {address} " in shown.stdout


def readdress(them: Members, addresses: tuple[str, ...], *, dev: str = "eth0", gone: str = "eth0") -> None:
    """n1's uplink addresses, as DHCP changes them: the old ones go, all routes with them; then the new ones come."""
    run = them.lab.run
    run("n1", "ip", "addr", "flush", "dev", gone, "scope", "global")
    for each in addresses:
        run("n1", "ip", "addr", "add", f"{each}/{64 if ':' in each else 24}", "dev", dev, *(["nodad"] * (":" in each)))
    for each in ("192.0.2.254", "2001:db8:1::fe"):
        if (":" in each) in {":" in address for address in addresses}:
            with suppress(namespaces.CommandError):
                run("n1", "ip", "route", "add", "default", "via", each, "dev", dev)


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_33_a_node_that_got_another_address_is_reached_there(lab: MakeLab, plugin: Path, backend: str) -> None:
    """flannel#712, #1978, #2247: "if the address changes flannel must be restarted". Nothing is restarted here."""
    made = lab(nodes=3, backend=backend)
    with members(made, plugin) as them:
        joined(them)
        for four, six in (("192.0.2.101", "2001:db8:1::101"), ("192.0.2.1", "2001:db8:1::1")):
            readdress(them, (four, six))
            if backend == "vxlan":
                them.until(partial(leaves_by, them, four), f"n1 chose {four}")
            them.list["n1"] |= {"address": four, "ipv6Address": six}
            them.save()
            back(them, f"{backend}, {four}: from the move to the ping, there and back")
            them.until(lambda: not any(them.off(each) for each in them.agents), "all is as a fresh plan says")
            assert them.reaches("n3/p1", "n1/p1")


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_33_the_list_may_be_written_before_the_address_moves(lab: MakeLab, plugin: Path, backend: str) -> None:
    made = lab(nodes=2, backend=backend, family="4")
    with members(made, plugin) as them:
        joined(them)
        them.list["n1"]["address"] = "192.0.2.101"
        them.save()
        them.until(lambda: them.holds("n2", "n1"), "n2 follows")
        readdress(them, ("192.0.2.101",))
        back(them, f"{backend}: the list was first")
        assert [them.off(each) for each in them.agents] == [[], []]


@pytest.mark.parametrize(("backend", "family"), [("vxlan", "dual"), ("vxlan", "6"), ("host-gw", "dual")])
def test_failure_33_an_address_that_moves_to_another_interface_is_followed(
    lab: MakeLab, plugin: Path, backend: str, family: str
) -> None:
    made = lab(nodes=2, backend=backend, family=family)
    with members(made, plugin) as them:
        joined(them)
        node = made.node("n1")
        words = f"link add n1b mtu 1400 type veth peer name eth1 mtu 1400 netns {node.netns}"
        namespaces.ip(made.spec.wire, words, "link set n1b master link1 up")
        made.run("n1", "ip", "link", "set", "eth1", "up")
        readdress(them, node.addresses, dev="eth1")
        made.run("n1", "ip", "link", "set", "eth0", "down")
        back(them, f"{backend}, {family}: to another interface")
        them.until(lambda: not any(them.off(each) for each in them.agents), "all is as a fresh plan says")
        assert both_ways(them)
        overhead = {("vxlan", "6"): 70, ("vxlan", "dual"): 50}.get((backend, family), 0)
        (link,) = json.loads(made.run("n1/p1", "ip", "-j", "link", "show", "eth0"))
        assert link["mtu"] == 1400 - overhead, "and so is its MTU, also by pods that live already"


def test_failure_33_a_node_that_got_another_address_tells_it_through_etcd_and_goes_on_hearing(
    lab: MakeLab, plugin: Path, tmp_path: Path
) -> None:
    """Its connections to etcd began at the old address, and nobody answers there any more."""
    if shutil.which("etcd") is None:
        pytest.skip("no etcd: apt-get install etcd-server etcd-client")
    made = lab(nodes=3, family="4")
    etcd = Member(made.spec.wire, tmp_path / "etcd", "192.0.2.254")
    source = {"type": "etcd", "endpoints": [etcd.url], "prefix": PREFIX}
    with running(etcd), members(made, plugin, source=source) as them:
        etcd.put("config", CONF)
        them.join()
        for each in them.agents:
            made.add(each, "p1")
        them.until(lambda: both_ways(them), "pods reach each other")
        for address in ("192.0.2.101", "192.0.2.111"):
            readdress(them, (address,))
            them.until(lambda: both_ways(them, 0.2), "pods reach each other")
        them.agents["n3"].kill()
        (gone,) = [key for key, value in etcd.subnets().items() if value["Node"] == "n3"]
        etcd.remove(f"subnets/{gone}")
        route = gone.replace("-", "/")
        them.until(lambda: route not in made.run("n1", "ip", "route"), "n1 hears that n3 has left")


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_34_a_lost_device_or_uplink_is_put_right_by_an_agent_with_a_source(
    lab: MakeLab, plugin: Path, backend: str
) -> None:
    """flannel#2247: the device was made again, but not its routes, neighbours and forwarding entries."""
    made = lab(nodes=2, backend=backend)
    with members(made, plugin) as them:
        joined(them)
        six = made.node("n1").addresses[1]
        up = f"ip link set eth0 up; ip addr replace {six}/64 dev eth0 nodad"
        breaking = {"the uplink down and up": f"ip link set eth0 down; {up}"}
        if backend == "vxlan":
            breaking["the device deleted"] = f"ip link del {DEVICE}"
        for what, command in breaking.items():
            made.run("n1", "sh", "-c", command)
            them.until(lambda: them.off("n1") == [], f"{what}: as a fresh plan says")
            back(them, f"{backend}, {what}")
        made.run("n1", "ip", "link", "set", "eth0", "down")
        time.sleep(2)  # it is tried, in vain, less and less often
        made.run("n1", "sh", "-c", up)
        back(them, f"{backend}, the uplink up after 2 s")
        assert them.off("n1") == []


def test_failure_34_a_bridge_on_which_all_pods_are_new_gets_back_the_mac_that_they_know(
    lab: MakeLab, plugin: Path
) -> None:
    """A bridge outlives its last pod, and the next one causes no look at it; its MAC must be known all the same."""
    made = lab(nodes=2)
    with members(made, plugin) as them:
        joined(them)
        made.delete("n1/p1")
        time.sleep(0.5)  # until the looks that this causes are over
        made.add("n1", "p2")
        assert them.reaches("n1/p2", "n2/p1")
        (before,) = json.loads(made.run("n1", "ip", "-j", "link", "show", "tulle0"))
        made.run("n1", "ip", "link", "del", "tulle0")
        them.until(lambda: them.off("n1") == [], "as a fresh plan says")
        (after,) = json.loads(made.run("n1", "ip", "-j", "link", "show", "tulle0"))
        assert after["address"] == before["address"] and after["ifindex"] != before["ifindex"]
        assert them.reaches("n1/p2", "n2/p1") and them.reaches("n2/p1", "n1/p2")


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_34_an_uplink_that_is_taken_out_and_put_back_is_used_again(
    lab: MakeLab, plugin: Path, backend: str
) -> None:
    made = lab(nodes=2, backend=backend, family="4")
    with members(made, plugin) as them:
        joined(them)
        node = made.node("n1")
        made.run("n1", "ip", "link", "del", "eth0")
        them.until(lambda: not them.reaches("n1/p1", "n2/p1", 0.2), "nothing is reached")
        words = f"link add n1 mtu 1500 type veth peer name eth0 mtu 1500 netns {node.netns}"
        namespaces.ip(made.spec.wire, words, "link set n1 master link1 up")
        made.run("n1", "ip", "link", "set", "eth0", "up")
        made.run("n1", "ip", "addr", "add", f"{node.addresses[0]}/24", "dev", "eth0")
        back(them, f"{backend}, another NIC")
        assert them.off("n1") == []


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_35_flushed_routes_are_back_at_once_with_a_source_too(lab: MakeLab, plugin: Path, backend: str) -> None:
    """kube-router#509, #1151, #1815: systemd-networkd, or an interface that bounced, took the routes away."""
    made = lab(nodes=3, backend=backend)
    with members(made, plugin) as them:
        joined(them)
        for command in ("ip route flush proto 84", "ip -6 route flush proto 84", "ip route del 10.244.2.0/24"):
            made.run("n1", *command.split())
            them.until(lambda: them.off("n1") == [], f"{command}: as a fresh plan says")
        assert both_ways(them)
        made.run("n1", "ip", "route", "flush", "proto", "84")
        them.save("n1", "n2")
        them.until(lambda: them.off("n1", them.cluster("n1", "n2")) == [], "both at once")
        assert not them.holds("n1", "n3") and both_ways(them)

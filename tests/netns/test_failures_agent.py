"""Failures of a node's daemon: a pool that forgets, locks, half-ready starts, a dead daemon. Each cannot happen here.

The numbers are those of the list of forty failures that the design names; issues of other projects are in the texts.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeAlias

import pytest

from cni_plugin import wire
from tests.conformance.nodes import Call, Json, Node, Reply, ping_all
from tests.netns.agents import Agent, Asker, Mortal, in_node, receive
from tests.netns.failing_engine import enter, serve
from tests.netns.failure_nodes import address, conf, status
from tests.netns.test_agent import at_once, calls, interfaces, recent
from tests.netns.test_agent_kill import AgentWorld, world_with
from tests.pace import PATIENCE, until


@pytest.fixture
def world(plugin: Path, tmp_path: Path) -> Iterator[AgentWorld]:
    with world_with(AgentWorld, plugin, tmp_path) as made:
        ipam = {"type": "host-local", "dataDir": str(made.node.data_dir), "ranges": [[{"subnet": "10.60.0.0/21"}]]}
        made.configuration["ipam"] = ipam
        yield made


def addresses_of_pods(node: Node) -> list[str]:
    """Every IPv4 address on an interface of a pod."""
    found = []
    for pod in node.pods.values():
        for link in pod.json("ip", "-j", "-4", "addr"):
            infos = link["addr_info"]
            assert isinstance(infos, list)
            found += [str(each["local"]) for each in infos if link["ifname"] != "lo"]
    return found


def test_failure_04_no_address_is_given_twice_after_the_agent_was_killed(world: AgentWorld, plugin: Path) -> None:
    """amazon-vpc-cni-k8s#711: the pool was made anew from what the daemon remembered, and it had missed a pod.

    The agent is killed between every two steps of an ADD, each time of another pod, and nobody cleans up.
    """
    node = world.node
    given = [address(world.ask("ADD", "other").ok())]
    for target in itertools.count(1):
        agent = Mortal(node, target)
        added = world.ask("ADD", f"lost{target}")
        agent.end()
        if added.exit == 0:
            given.append(address(added.ok()))
            break
    assert target > 20
    attachments = [(f"more{number}", netns, ifname) for number, netns, ifname in interfaces(node, 200)]
    with Agent(node, plugin):
        answers = at_once(Asker(node, world.configuration), calls("ADD", attachments))
        assert [answer for code, answer in answers if code] == []
        given += [address(answer) for _, answer in answers]
        held = addresses_of_pods(node)
        assert set(given) <= set(held)
        assert len(held) == len(set(held)) > len(given), "some of the lost ones came so far as to have theirs"
        alive = [("other", "eth0"), (f"lost{target}", "eth0"), *((name, ifname) for name, _, ifname in attachments)]
        valid = [{"containerID": container, "ifname": ifname} for container, ifname in alive]
        assert world.ask("GC", more={"cni.dev/valid-attachments": valid}).exit == 0
        assert set(node.leases()) == set(given), "those of the lost ones are free again"


PROCESSES, EACH = 16, 32
Answers: TypeAlias = "multiprocessing.SimpleQueue[tuple[str, float]]"


def _adds(world: AgentWorld, number: int, everybody: Barrier, answers: Answers) -> None:
    """One of those who ADD side by side: every second one by the agent, the others as engines of their own."""
    pod = f"pod{number}"
    asker = Asker(world.node, world.configuration)
    if number % 2:
        enter(world.node.path)
    everybody.wait(timeout=100)
    for index in range(EACH):
        call = Call(command="ADD", container=pod, netns=f"/run/netns/{world.node.name}-{pod}", ifname=f"if{index}")
        start = time.monotonic()
        if number % 2:
            code, result = asker(call)
        else:
            environ = call.environ(world.node.plugins, world.node.run_dir)
            outcome = serve(world.node.path, environ, json.dumps(world.configuration).encode())
            code, result = outcome.code, json.loads(outcome.reply.split("\n")[0])
        answers.put((f"error {result}" if code else address(result), time.monotonic() - start))


def test_failure_07_an_agent_and_engines_on_one_store_give_no_address_twice(
    world: AgentWorld, plugin: Path
) -> None:
    """whereabouts#110, #313: duplicates, and minutes for a few hundred pods, for the lock was the whole cluster's."""
    context = multiprocessing.get_context("fork")
    everybody, answers = context.Barrier(PROCESSES), context.SimpleQueue()
    for number in range(PROCESSES):
        world.node.pod(f"pod{number}")
    with Agent(world.node, plugin):
        workers = [
            context.Process(target=_adds, args=(world, number, everybody, answers), daemon=True)
            for number in range(PROCESSES)
        ]
        for each in workers:
            each.start()
        found = [answers.get() for _ in range(PROCESSES * EACH)]
        for each in workers:
            each.join(timeout=60)
    given = [each for each, _ in found]
    assert [each for each in given if each.startswith("error")] == []
    assert len(set(given)) == len(given) == 512
    assert sorted(addresses_of_pods(world.node)) == sorted(given)
    assert set(world.node.leases()) == set(given)
    seconds = sorted(each for _, each in found)
    p50, p99 = (seconds[int(len(seconds) * part)] for part in (0.5, 0.99))
    print(f"\n512 ADDs by an agent and 8 engines at once: median {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")


HOLD_LOCK = """
mkdir -p {fake}/netns
mount --rbind /run/netns {fake}/netns
mount --rbind {fake} /run
exec 9>/run/xtables.lock
flock --exclusive 9
echo ready
exec sleep infinity
"""


@contextmanager
def xtables_locked(folder: Path) -> Iterator[str]:
    """A mount namespace in which somebody holds /run/xtables.lock, which is not the machine's; its file."""
    script = HOLD_LOCK.format(fake=folder / "run-with-lock")
    words = ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", script]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert holder.stdout is not None
    try:
        said = holder.stdout.readline()
        assert said == "ready\n", said + holder.stdout.read()
        yield f"/proc/{holder.pid}/ns/mnt"
    finally:
        holder.kill()
        holder.communicate()


def test_failure_20_adds_do_not_wait_for_who_holds_the_lock_of_iptables(
    world: AgentWorld, plugin: Path, tmp_path: Path
) -> None:
    """plugins#510, antrea#1499: an ADD took the lock six times and more; behind 200,000 rules that took minutes."""
    node = world.node
    attachments = interfaces(node, 200)
    engine = node.pod("engine").path
    with xtables_locked(tmp_path) as mounts:
        with Agent(node, plugin, mounts=mounts):
            answers = at_once(Asker(node, world.configuration), calls("ADD", attachments))
            assert [answer for code, answer in answers if code] == []
            assert len({address(answer) for _, answer in answers}) == 200
        call = Call(command="ADD", container="engine", netns=engine)
        beside = subprocess.run(
            ["/usr/bin/nsenter", f"--net={node.path}", f"--mount={mounts}", str(plugin)],
            env=call.environ(node.plugins, node.run_dir), input=json.dumps(world.configuration),
            capture_output=True, text=True, timeout=60, check=False,
        )
        assert beside.returncode == 0, beside.stdout
        attempt = ["nsenter", f"--mount={mounts}", "flock", "--nonblock", "/run/xtables.lock", "true"]
        assert subprocess.run(attempt, check=False).returncode == 1, "somebody held the lock all the time"
    assert "10.60.0.0/21" in node.run("nft", "list", "table", "inet", "tulle").stdout, "the masquerade was made"


def _generation() -> int:
    """How many transactions nftables has seen in this namespace: NFT_MSG_GETGEN, NFTA_GEN_ID (uapi nf_tables.h)."""
    netlink_netfilter, nftables, get = 12, 10, 16
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_netfilter) as channel:
        channel.send(struct.pack("=IHHIIBBH", 20, nftables << 8 | get, 1, 1, 0, 0, 0, 0))
        return int(struct.unpack_from(">I", channel.recv(4096), 24)[0])  # headers of 20 bytes, the attribute's of 4


def test_failure_20_a_pod_that_comes_and_goes_makes_no_nft_transaction_where_the_masquerade_stands(
    world: AgentWorld, plugin: Path
) -> None:
    with Agent(world.node, plugin):
        before = in_node(world.node.path, _generation)
        assert world.ask("ADD", "other").exit == 0
        after = in_node(world.node.path, _generation)
        assert after == before + 1, "the first pod's masquerade, in one transaction"
        assert world.ask("ADD").exit == 0
        assert world.ask("DEL").exit == 0
        assert in_node(world.node.path, _generation) == after


def test_failure_20_no_verb_starts_a_program(world: AgentWorld, plugin: Path, tmp_path: Path) -> None:
    """kube-router#962: one exec an item; here the agent executes nothing at all."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "strace"
    with Agent(world.node, plugin) as agent:
        traced = "trace=execve,execveat,fork,vfork,sendto,sendmsg"
        strace = subprocess.Popen(
            ["strace", "-f", "-e", traced, "-o", str(log), "-p", str(agent.pid)],
            stderr=subprocess.PIPE, text=True,
        )
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            strace.wait(timeout=PATIENCE)
            pytest.skip(f"this machine does not let strace trace: {said}")
        try:
            added = world.ask("ADD").ok()
            replies = [world.ask("CHECK", more={"prevResult": added})]
            replies += [world.ask(verb) for verb in ("STATUS", "GC", "DEL")]
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait(timeout=PATIENCE)
        assert [each.exit for each in replies] == [0] * 4, replies
    calls_seen = log.read_text()
    assert "send" in calls_seen, "it was seen at work"
    assert "exec" not in calls_seen and "fork" not in calls_seen


def _greeting(node: Node, seconds: float) -> str:
    """What the agent says to a new client within so many seconds."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(node.run_dir / wire.SOCKET))
        channel.settimeout(seconds)
        try:
            return receive(channel, len(wire.GREETING)).decode("latin-1")
        except TimeoutError:
            return ""


def test_failure_27_nobody_is_served_before_the_node_is_as_it_should_be(node: Node, plugin: Path) -> None:
    """kubernetes#43014: pods were wired by half a network. The first look at the node is held up by a lock here."""
    node.add(conf(node)).ok()
    rules = node.run("nft", "-s", "list", "table", "inet", "tulle").stdout
    node.run("nft", "delete", "table", "inet", "tulle")
    agent = Agent(node, plugin)
    with (node.run_dir / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with closing(agent.begin()) as ready:
            try:
                _await_socket(node)
                assert in_node(node.path, lambda: _greeting(node, 1.0)) == "", "it can be reached, and says nothing"
                assert not ready.said()
                fcntl.flock(lock, fcntl.LOCK_UN)
                assert in_node(node.path, lambda: _greeting(node, 20.0)).encode("latin-1") == wire.GREETING
                assert node.run("nft", "-s", "list", "table", "inet", "tulle").stdout == rules
                assert ready.said()
            finally:
                agent.kill()


def _await_socket(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as channel:
        path = str(node.run_dir / wire.SOCKET)
        until(lambda: channel.connect_ex(path) == 0, "somebody listens there")


def test_failure_27_status_tells_why_no_pod_should_come_until_it_is_mended(node: Node, plugin: Path) -> None:
    file = node.state / "cluster.json"
    good = {
        "network": "10.244.0.0/16", "backend": {"type": "vxlan"}, "node": "n1",
        "nodes": [
            {"name": "n1", "address": "198.51.100.1", "podCIDRs": ["10.244.1.0/24"]},
            {"name": "n2", "address": "198.51.100.2", "podCIDRs": ["10.244.2.0/24"]},
        ],
    }
    network = conf(node, cluster=str(file), ipam={"type": "host-local", "dataDir": str(node.data_dir)})
    with Agent(node, plugin):
        for text in ('{"network": "10.2', "{}"):
            file.write_text(text)
            broken = status(node, network)
            assert (broken.exit, broken.code) == (1, 50), broken
            assert "cluster" in broken.message
            assert node.add(network).exit == 1, "and no pod is half wired"
            assert node.leases() == {}
        file.write_text(json.dumps(good))
        assert status(node, network).exit == 0
        assert address(node.add(network).ok()).startswith("10.244.1.")
        served = [(each["verb"], each["code"]) for each in recent(Asker(node, network))]
        assert [code for verb, code in served if verb == "STATUS"] == [50, 50, 0]


def _verdicts(node: Node, configuration: Mapping[str, object], result: Json) -> dict[str, int]:
    """The code of each verb for a pod that lives, or that comes now; DEL last."""
    new = node.add(configuration, "new")
    replies: Sequence[tuple[str, Reply]] = (
        ("STATUS", status(node, dict(configuration))),
        ("ADD", new),
        ("CHECK", node.check({**configuration, "prevResult": result}, "pod1")),
        ("DEL", node.delete(configuration, "new")),
    )
    return {verb: each.code for verb, each in replies}


def test_failure_29_a_required_agent_that_is_away_is_try_again_later_and_the_data_path_passes(
    node: Node, plugin: Path
) -> None:
    """cilium#20956: was the pod broken, or the daemon away? Here CHECK says 11, which means the second."""
    required = conf(node, agent="required")
    with Agent(node, plugin) as agent:
        result = node.add(required, "pod1").ok()
        target = address(node.add(required, "pod2").ok())
        assert _verdicts(node, required, result) == {"STATUS": 0, "ADD": 0, "CHECK": 0, "DEL": 0}
        agent.stop()
        assert _verdicts(node, required, result) == {"STATUS": 50, "ADD": 11, "CHECK": 11, "DEL": 0}
        assert ping_all([(node.pod("pod1"), target), (node.pod("pod1"), "10.60.0.1")]) == [True, True]
        assert _verdicts(node, conf(node), result) == {"STATUS": 0, "ADD": 0, "CHECK": 0, "DEL": 0}
        agent.start()
        assert _verdicts(node, required, result) == {"STATUS": 0, "ADD": 0, "CHECK": 0, "DEL": 0}


def test_failure_30_pods_come_and_go_when_the_agent_is_dead_or_hangs(node: Node, plugin: Path) -> None:
    """AWS, weave: "connection refused 127.0.0.1:6784" for every pod of the node until somebody restarted the daemon."""
    network = conf(node)
    with Agent(node, plugin) as agent:
        first = address(node.add(network, "pod1").ok())
        agent.kill()
        assert (node.run_dir / wire.SOCKET).is_socket(), "nobody listens there any more"
        second = address(node.add(network, "pod2").ok())
        assert first != second
        assert ping_all([(node.pod("pod1"), second)]) == [True]
        assert node.delete(network, "pod1").exit == 0
        agent.start()
        os.kill(agent.pid, signal.SIGSTOP)  # neither greets nor hangs up
        start = time.monotonic()
        assert node.delete(network, "pod2").exit == 0
        assert time.monotonic() - start > 4, "the client's patience"
        assert node.leases() == {}

"""The agent under load, among bad neighbours and through restarts: everybody is served in turn, nobody is held up.

A node of its own with real pods. Many requests go over the socket directly, from a process in the node's namespace;
what concerns the executable goes through the executable.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest

from cni_plugin import wire
from tests import soak
from tests.conformance.nodes import Call, Json, Namespace, Node
from tests.netns.agents import Agent, Asker, in_node, receive, replied
from tests.netns.failure_nodes import address, conf
from tests.netns.test_agent_kill import AgentWorld, world_with
from tests.pace import PATIENCE, cheaper, until

WIDE: dict[str, object] = {"ranges": [[{"subnet": "10.60.0.0/20"}]]}


@pytest.fixture
def agent(node: Node, plugin: Path) -> Iterator[Agent]:
    with Agent(node, plugin) as agent:
        yield agent


@pytest.fixture
def asker(node: Node) -> Asker:
    ipam = {"type": "host-local", "dataDir": str(node.data_dir), **WIDE}
    return Asker(node, conf(node, ipam=ipam))


def interfaces(node: Node, count: int, each: int = 25) -> list[tuple[str, str, str]]:
    """So many attachments: container, namespace and interface; `each` share a pod."""
    pods = [node.pod(f"pod{number}") for number in range(-(-count // each))]
    return [(f"{number}", pods[number // each].path, f"if{number % each}") for number in range(count)]


def calls(command: str, attachments: Sequence[tuple[str, str, str]]) -> list[Call]:
    return [
        Call(command=command, container=container, netns=netns, ifname=ifname)
        for container, netns, ifname in attachments
    ]


def at_once(asker: Asker, wanted: Sequence[Call], held: Agent | None = None) -> list[tuple[int, Json]]:
    """All of these at the same time, one connection each; `held`: an agent that stands still until all are sent."""

    def work() -> list[tuple[int, Json]]:
        channels = [asker.connect() for _ in wanted]
        if held:
            os.kill(held.pid, signal.SIGSTOP)
        for channel, call in zip(channels, wanted, strict=True):
            asker.send(channel, call)
        if held:
            os.kill(held.pid, signal.SIGCONT)
        answers = [replied(channel) for channel in channels]
        for channel in channels:
            channel.close()
        return answers

    return [(code, answer) for code, answer in in_node(asker.node.path, work)]


def recent(asker: Asker) -> list[dict[str, object]]:
    """The last requests that the agent served, oldest first."""
    found = in_node(asker.node.path, lambda: asker.question("requests"))
    assert isinstance(found, list)
    return found


def test_500_requests_at_once_are_served_in_the_order_of_their_arrival(
    node: Node, agent: Agent, asker: Asker
) -> None:
    attachments = interfaces(node, 500)
    before = agent.memory()
    answers = at_once(asker, calls("ADD", attachments), agent)
    assert [answer for code, answer in answers if code] == []
    given = [address(answer) for _, answer in answers]
    assert len(set(given)) == len(given) == 500
    numbers = [int(each.rpartition(".")[2]) + 256 * int(each.split(".")[2]) for each in given]
    assert numbers == sorted(numbers), "who came first got the first address"
    served = recent(asker)
    assert [each["container"] for each in served] == [str(number) for number in range(450, 500)]
    assert agent.memory("VmHWM") - before < 40, "500 requests wait in a few MiB"
    assert [answer for code, answer in at_once(asker, calls("DEL", attachments), agent) if code] == []
    assert node.leases() == {}


def test_each_of_50_dels_at_once_is_cheaper_than_one_alone(node: Node, agent: Agent, asker: Asker) -> None:
    """What the kernel does once for a deletion, however many links it is of, is shared by all that wait together."""
    alone, together = [], []
    for _ in range(3):
        attachments = interfaces(node, 55)
        assert {code for code, _ in at_once(asker, calls("ADD", attachments))} == {0}
        for call in calls("DEL", attachments[:5]):
            start = time.monotonic()
            assert at_once(asker, [call]) == [(0, {})]
            alone.append(time.monotonic() - start)
        start = time.monotonic()
        assert {code for code, _ in at_once(asker, calls("DEL", attachments[5:]), agent)} == {0}
        together.append(time.monotonic() - start)
    print(f"\n50 DELs at once: {min(together) * 1000:.0f} ms; one alone: {median(alone) * 1000:.0f} ms")
    links = [each["ifname"] for each in node.json("ip", "-j", "link")]
    assert [each for each in links if str(each).startswith("tl")] == [], "an answer means that the link is gone"
    cheaper(min(together) / 50, median(alone))


def _silent(asker: Asker) -> socket.socket:
    return asker.connect()


def _half_a_header(asker: Asker) -> socket.socket:
    channel = asker.connect()
    channel.sendall(b"T\x01\x01")
    return channel


def _half_a_frame(asker: Asker) -> socket.socket:
    channel = asker.connect()
    frame = asker.frame(Call(command="ADD", container="half"))
    channel.sendall(frame[:-5])
    return channel


def _a_huge_length(asker: Asker) -> socket.socket:
    channel = asker.connect()
    channel.sendall(struct.pack("<sBBxIII", b"T", 1, 1, 5, 1 << 31, 1 << 31))
    return channel


def _garbage(asker: Asker) -> socket.socket:
    channel = asker.connect()
    channel.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    return channel


def _a_hundred_descriptors(asker: Asker) -> socket.socket:
    channel = asker.connect()
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    frame = asker.frame(Call(command="STATUS", container=None, ifname=None))
    socket.send_fds(channel, [frame[:20]], files)
    for each in files:
        os.close(each)
    return channel


def _a_reply_that_nobody_reads(asker: Asker) -> socket.socket:
    channel = asker.connect()
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    channel.sendall(wire.request(wire.ASK, "requests"))
    return channel


BAD: list[Callable[[Asker], socket.socket]] = [
    _silent, _half_a_header, _half_a_frame, _a_huge_length, _garbage, _a_hundred_descriptors,
    _a_reply_that_nobody_reads,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda each: str(each.__name__).strip("_"))
def test_a_bad_client_holds_nobody_up_and_leaves_nothing_open(
    node: Node, agent: Agent, asker: Asker, bad: Callable[[Asker], socket.socket]
) -> None:
    """20 of them, while a pod comes and goes beside them as without them, and not only when they are given up."""
    pod = node.pod("pod1").path
    add, delete = (Call(command=verb, container="good", netns=pod) for verb in ("ADD", "DEL"))
    padding = "x" * 60_000  # so that the list of recent requests, which nobody reads, fills the socket

    def rounds() -> float:
        took = []
        for _ in range(5):
            start = time.monotonic()
            assert asker(add, padding=padding)[0] == 0
            took.append(time.monotonic() - start)
            assert asker(delete)[0] == 0
        return min(took)

    def work() -> tuple[float, float, int]:
        alone = rounds()
        before = agent.descriptors()
        clients = [bad(asker) for _ in range(20)]
        for _ in range(3):
            asker.question("status")
        during = len(agent.descriptors())
        beside = rounds()
        for each in clients:
            each.close()
        for _ in range(3):  # each is a turn of the agent's loop, which comes after those that were closed
            asker.question("status")
        # a deletion holds its socket until the kernel has freed the link
        until(lambda: more_than(before) == [], "no file is left open", why=lambda: more_than(before))
        return alone, beside, during - len(before)

    def more_than(before: list[str]) -> list[str]:
        after = agent.descriptors()
        return [each for each in after if after.count(each) > before.count(each)]

    alone, beside, held = in_node(node.path, work)
    print(f"\nADD alone {alone * 1000:.1f} ms, beside 20 such clients {beside * 1000:.1f} ms, who held {held} files")
    assert held <= 20 * 2 + 2, "a connection, and the one descriptor that a request may have"
    cheaper(beside, 10 * alone)


def test_a_request_whose_client_goes_away_is_finished_or_never_begun(plugin: Path, tmp_path: Path) -> None:
    """Whenever it went: DEL succeeds afterwards and leaves nothing; an ADD nobody waits for is not begun at all,

    and one that was begun is undone unless its reply was taken.
    """
    with world_with(AgentWorld, plugin, tmp_path) as world, Agent(world.node, plugin) as agent:
        _gone_clients(world, agent)


def _gone_clients(world: AgentWorld, agent: Agent) -> None:
    node = world.node
    asker = Asker(node, world.configuration)
    add = Call(command="ADD", container="pod1", netns=node.pod("pod1").path)

    def leave(seconds: float) -> int:
        """Send, wait so long, go; the number of leases when whatever was begun is done."""
        channel = asker.connect()
        if seconds < 0:
            os.kill(agent.pid, signal.SIGSTOP)
        asker.send(channel, add)
        if seconds > 0:
            time.sleep(seconds)
        channel.close()
        os.kill(agent.pid, signal.SIGCONT)
        asker.question("status")
        return len(node.leases())

    assert world.ask("ADD", "other").exit == 0
    before = world.state()
    for step in range(-1, 12):
        assert in_node(node.path, lambda seconds=step / 1000: leave(seconds)) in (2, 4)  # type: ignore[misc]
        if step < 0:
            assert world.state() == before, "it was gone before its turn, so nothing was begun"
        assert world.ask("DEL").exit == 0
        assert world.state() == before, f"gone after {step} ms"


def _as_uid(uid: int, mode: int, node: Node) -> str:
    """What a process of another user gets from the socket: its greeting, or the error."""
    socket_path = node.run_dir / wire.SOCKET
    os.chmod(node.run_dir, 0o755)
    os.chmod(socket_path, mode)
    os.chdir(node.run_dir)  # the folders above it are nobody else's business
    os.setgid(uid)
    os.setuid(uid)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(PATIENCE)
        try:
            channel.connect(wire.SOCKET)
        except OSError as error:
            return type(error).__name__
        return receive(channel, len(wire.GREETING)).decode("latin-1")


def test_another_user_is_refused_by_the_file_system_and_by_the_agent(node: Node, agent: Agent) -> None:
    assert (node.run_dir / wire.SOCKET).stat().st_mode & 0o777 == 0o600
    assert in_node(node.path, lambda: _as_uid(65534, 0o600, node)) == "PermissionError"
    assert in_node(node.path, lambda: _as_uid(65534, 0o666, node)) == "", "not even a greeting"
    assert in_node(node.path, lambda: _as_uid(0, 0o600, node)).encode("latin-1") == wire.GREETING
    assert agent.alive()


def test_a_client_of_another_network_namespace_is_refused_before_the_greeting(node: Node, agent: Agent) -> None:
    """Its pods belong to another node; its client serves them by itself, there."""
    def greeting() -> str:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(PATIENCE)
            channel.connect(str(node.run_dir / wire.SOCKET))
            return receive(channel, len(wire.GREETING)).decode("latin-1")

    assert in_node(node.world.path, greeting) == ""
    assert in_node(node.path, greeting).encode("latin-1") == wire.GREETING
    assert agent.alive()


def test_there_is_one_agent_for_a_run_folder(node: Node, agent: Agent, plugin: Path) -> None:
    """The second says so and goes; the first goes on."""
    second = Agent(node, plugin)
    ready = second.begin()
    with contextlib.closing(ready):
        assert os.waitstatus_to_exitcode(os.waitpid(second.pid, 0)[1]) == 1
        assert not ready.said()
    assert "another agent is running" in agent.log()
    assert node.add(conf(node)).exit == 0
    assert [each["verb"] for each in recent(Asker(node, {}))] == ["ADD"]


def test_a_namespace_that_only_the_client_can_see_is_wired_by_the_agent(
    node: Node, agent: Agent, asker: Asker, tmp_path: Path
) -> None:
    """A mount in the client's own mount namespace, as podman's: the client hands it on as an open file."""
    pod, hidden = node.pod("pod1"), tmp_path / "hidden"
    hidden.touch()
    script = f'mount --bind {pod.path} {hidden} && exec "$0"'
    results = []
    for command in ("ADD", "DEL"):
        call = Call(command=command, netns=str(hidden))
        results.append(subprocess.run(
            ["/usr/bin/nsenter", f"--net={node.path}", "unshare", "--mount", "--propagation", "private", "sh", "-c",
             script, str(node.plugins.directory / "tulle")],
            env=call.environ(node.plugins, node.run_dir), input=json.dumps(asker.configuration),
            capture_output=True, text=True, timeout=60, check=False,
        ))
        assert results[-1].returncode == 0, results[-1]
        links = [each["ifname"] for each in pod.json("ip", "-j", "link")]
        assert links == (["lo", "eth0"] if command == "ADD" else ["lo"])
    assert hidden.read_bytes() == b"", "nobody else sees a namespace there"
    assert [(each["verb"], each["code"]) for each in recent(asker)] == [("ADD", 0), ("DEL", 0)]
    assert agent.alive()
    assert node.leases() == {}


def test_no_packet_between_pods_is_lost_while_the_agent_is_restarted_and_killed(node: Node, plugin: Path) -> None:
    agent = Agent(node, plugin)
    agent.start()
    try:
        one, two = node.pod("pod1"), node.pod("pod2")
        node.add(conf(node), "pod1").ok()
        target = address(node.add(conf(node), "pod2").ok())
        ping = one.start("ping", "-n", "-q", "-i", "0.01", target)
        for end in (agent.stop, agent.kill) * 5:
            end()
            agent.start()
        ping.send_signal(signal.SIGINT)
        said, _ = ping.communicate(timeout=PATIENCE)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
        assert found is not None, said
        assert int(found[1]) == int(found[2]) > 50, said
        assert [node.delete(conf(node), each).exit for each in ("pod1", "pod2")] == [0, 0]
        assert [each["ifname"] for each in two.json("ip", "-j", "link")] == ["lo"]
    finally:
        agent.kill()


def test_no_request_fails_while_the_agent_is_stopped_in_order_and_started(plugin: Path, tmp_path: Path) -> None:
    """What is under way is finished, and who is not served by the agent any more is served by the engine."""
    with world_with(AgentWorld, plugin, tmp_path) as world, Agent(world.node, plugin) as agent:
        pods = [f"pod{number}" for number in range(4)]
        for pod in pods:
            world.node.pod(pod)
        over = threading.Event()
        replies: list[tuple[str, str, int, str]] = []
        restarts = 0

        def cycle(pod: str) -> None:
            while not over.is_set():
                for verb in ("ADD", "DEL"):
                    reply = world.ask(verb, pod)
                    replies.append((verb, pod, reply.exit, reply.stdout if reply.exit else ""))

        threads = [threading.Thread(target=cycle, args=(pod,)) for pod in pods]
        for each in threads:
            each.start()
        try:
            while len(replies) <= 20 or restarts < 5:
                agent.stop()
                agent.start()
                restarts += 1
                time.sleep(0.1)
        finally:
            over.set()
            for each in threads:
                each.join()
        assert [each for each in replies if each[2]] == []
        assert world.node.leases() == {}


FIRST, MORE, THREADS = 1_600, 3_200, 16


def _remaining(pod: Namespace) -> list[str]:
    return [str(each["ifname"]) for each in pod.json("ip", "-j", "link") if each["ifname"] != "lo"]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_thousands_of_adds_and_dels_leave_everything_where_it_was(plugin: Path, tmp_path: Path) -> None:
    """Memory, descriptors, links, files and ruleset; one in a hundred goes through the real client."""
    with world_with(AgentWorld, plugin, tmp_path) as world, Agent(world.node, plugin) as agent:
        for number in range(THREADS):
            world.node.pod(f"soak{number}")
        assert world.ask("ADD", "other").exit == 0
        _pairs(world, FIRST)
        before, memory, files = world.state(), agent.memory(), agent.descriptors()
        start = time.monotonic()
        turns = 0
        for _ in soak.turns("adds and dels"):
            _pairs(world, MORE)
            turns += 1
        rate = turns * MORE / (time.monotonic() - start)
        grown = agent.memory() - memory
        print(f"\n{rate:.0f} pairs a second; {memory:.1f} MiB at pair {FIRST}, {grown:+.1f} MiB since")
        assert world.state() == before
        assert agent.descriptors() == files
        assert grown < 4
        assert all(_remaining(world.node.pod(f"soak{number}")) == [] for number in range(THREADS))


def _pairs(world: AgentWorld, count: int) -> None:
    asker = Asker(world.node, world.configuration)

    def thread(number: int, wrong: list[str]) -> None:
        name = f"soak{number}"
        pod = world.node.pods[name].path
        for turn in range(count // THREADS):
            if turn % 100 == 99:
                replies = [world.ask(verb, name) for verb in ("ADD", "DEL")]
                wrong += [str(each) for each in replies if each.exit]
                continue
            for verb in ("ADD", "DEL"):
                code, answer = asker(Call(command=verb, container=name, netns=pod))
                if code:
                    wrong.append(f"{verb}: {answer}")

    def work() -> list[str]:
        wrong: list[str] = []
        threads = [threading.Thread(target=thread, args=(number, wrong)) for number in range(THREADS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return wrong

    assert in_node(world.node.path, work) == []

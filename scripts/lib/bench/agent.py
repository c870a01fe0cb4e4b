"""Nodes with a warm agent on them, and one pod alone on such a node, beside the reference on nodes of its own.

Each side has a network namespace to itself: an agent watches its node, so what another implementation does on the same
one would cost both of them. The agent is the `tulled` of the bundle that is measured; it is ended by its process ID,
and by the kernel should the bench itself be killed. A request's processor time is the client's and the agent's.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple, cast

from cni_plugin import wire
from scripts.lib.bench.report import Goal, compare, timed
from scripts.lib.bench.spawn import Cost, Side, interleave
from scripts.lib.bench.world import REPO, Bench, BenchError, attachment, inside, network
from scripts.lib.lab import namespaces
from scripts.lib.lab.runtime import Attachment, Json

STEPS = ("queue", "ipam", "records", "netlink", "nft", "other")
TULLE, MASQ, PLAIN = "tulle", "reference, ipMasq", "reference"
UNIT = REPO / "conf/systemd/tulled.service"
START_SECONDS = 30
RESIDENTS = 8
"""The first pods, one for each side, stay while others come and go: a node's first pod makes the bridge, and its last
one removes rules."""

_serial = count()


class Served(NamedTuple):
    """A request as the agent saw it: milliseconds from its arrival to its reply, and by step."""

    ms: float
    steps: Mapping[str, float]


class Agent(NamedTuple):
    """A running agent: its process, the node it is on, where it keeps its records, and where it writes its log."""

    pid: int
    netns: str
    run_dir: str
    log: Path

    def ask(self, question: str) -> object:
        """The answer to a question, asked on its node as tullectl would: it hears nobody else. Raises OSError."""
        with inside(self.netns), socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(START_SECONDS)
            channel.connect(f"{self.run_dir}/agent.sock")
            _receive(channel, len(wire.GREETING))
            channel.sendall(wire.request(wire.ASK, question))
            _, length = wire.parse_reply_header(_receive(channel, wire.REPLY_HEADER))
            answer: object = json.loads(_receive(channel, length))
            return answer

    def last(self) -> Served:
        """The last request that it served. Raises OSError."""
        found = cast(list[Json], self.ask("requests"))[-1]
        steps = cast(dict[str, float], found["steps"])
        return Served(cast(float, found["seconds"]) * 1000, {name: each * 1000 for name, each in steps.items()})

    def cpu(self) -> float:
        """Milliseconds of processor time so far, of all threads, of those too that have ended."""
        return time.clock_gettime_ns(_cpu_clock(self.pid)) / 1e6

    def memory(self, what: str) -> float:
        """MiB that are `Rss` (resident) or `Pss` (resident, what is shared with others divided by their number)."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{what}:")).split()[1]) / 1024


class Place(NamedTuple):
    """One implementation on a node of its own, with its agent if it has one."""

    side: Side
    netns: str
    agent: Agent | None = None

    def add(self, who: Attachment) -> Cost:
        """What an ADD cost. Raises PluginError."""
        return self._cost(self.side.add, who)

    def delete(self, who: Attachment) -> Cost:
        """What a DEL cost. Raises PluginError."""
        return self._cost(self.side.delete, who)

    def both(self, who: Attachment) -> tuple[Cost, Cost]:
        """What an ADD and the DEL after it cost. Raises PluginError."""
        return self.add(who), self.delete(who)

    def _cost(self, verb: Callable[[Attachment], Cost], who: Attachment) -> Cost:
        before = self.agent.cpu() if self.agent else 0.0
        with inside(self.netns):
            cost = verb(who)
        return cost._replace(cpu=cost.cpu + (self.agent.cpu() - before if self.agent else 0.0))


def node() -> str:
    """A network namespace that is a node."""
    name = f"node{next(_serial)}"
    namespaces.create(name)
    return name


@contextmanager
def agent(bench: Bench, netns: str, **settings: object) -> Iterator[Agent]:
    """A warm agent on a node while the block runs. Raises BenchError with its words when it does not come up."""
    run_dir, conf, log = f"/run/{netns}", bench.state / f"{netns}.json", bench.state / f"{netns}.log"
    conf.write_text(json.dumps(settings))
    engine = str(bench.plugin.with_name("tulled"))
    leash = ["setpriv", "--pdeathsig", "KILL", "nice", "-n", niceness()]
    argv = [*leash, engine, "--run-dir", run_dir, "--conf", str(conf)]
    with inside(netns), log.open("w") as stderr:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=stderr)
    try:
        with inside(netns):
            _await_greeting(process, run_dir, log)
        yield Agent(process.pid, netns, run_dir, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def niceness() -> str:
    """The priority that systemd gives to the agent."""
    return next(line for line in UNIT.read_text().splitlines() if line.startswith("Nice=")).partition("=")[2]


def ours(bench: Bench, stack: ExitStack, name: str, subnet: str, **settings: object) -> Place:
    """Tulle with ipMasq and a warm agent on a new node; the agent goes with the stack."""
    netns = node()
    running = stack.enter_context(agent(bench, netns, **settings))
    side = bench.side(network(bench, name, [subnet], ipMasq=True), run_dir=running.run_dir)
    return Place(side, netns, running)


def references(bench: Bench, section: str) -> dict[str, Place]:
    """The reference without masquerade and with it, each on a new node, as far as they are there."""
    if not bench.reference:
        return {}
    made = {PLAIN: network(bench, f"{section}-r", ["10.82.0.0/16"], reference=True)}
    if shutil.which("iptables"):
        made[MASQ] = network(bench, f"{section}-rm", ["10.83.0.0/16"], reference=True, ipMasq=True)
    else:
        bench.report.skipped.append((section, "the reference with ipMasq: there is no iptables"))
    return {name: Place(bench.side(each, reference=True), node()) for name, each in made.items()}


def alone(bench: Bench) -> None:
    """ADD and DEL of one pod on a node that has another already, by the agent."""
    who = attachment(bench, RESIDENTS)
    with ExitStack() as stack:
        places = {TULLE: ours(bench, stack, "agent-t", "10.81.0.0/16"), **references(bench, "agent")}
        for number, place in enumerate(places.values()):
            place.add(attachment(bench, number))
            stack.callback(place.delete, attachment(bench, number))
        turns = {name: _turn(place, who) for name, place in places.items()}
        found = interleave(turns, bench.rounds)
    for index, verb in enumerate(("ADD", "DEL")):
        for name, pairs in found.items():
            costs = [pair[index] for pair in pairs]
            bench.report.add(timed("agent", f"{verb}: {name}", costs, f"{verb}: {MASQ}"))
    for verb, against, limit in (("ADD", MASQ, 0.6), ("ADD", PLAIN, 1.5), ("DEL", MASQ, 0.4), ("DEL", PLAIN, 1.3)):
        pair = (f"{verb}: {TULLE}", f"{verb}: {against}")
        text = f"{verb} alone against the {against}{'' if against == MASQ else ' without masquerade'}"
        compare(bench.report, Goal("agent", text, 0, limit, pair=pair))
    bench.report.remarks.append(("agent", "tulle with ipMasq always; its cpu is the client's and the agent's together"))


def _turn(place: Place, who: Attachment) -> Callable[[], tuple[Cost, Cost]]:
    return lambda: place.both(who)


def _cpu_clock(pid: int) -> int:
    """What clock_getcpuclockid(3) answers: CPUCLOCK_SCHED of a process (include/linux/posix-timers.h)."""
    return (~pid << 3) | 2


def _await_greeting(process: subprocess.Popen[bytes], run_dir: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(START_SECONDS)
                channel.connect(f"{run_dir}/agent.sock")
                if _receive(channel, 5) == b"TULLE":
                    return
        except OSError:
            time.sleep(0.02)
    raise BenchError(f"the agent did not come up: {log.read_text()[-2000:] or 'without a word'}")


def _receive(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise ConnectionResetError("the agent hung up")
        data += more
    return data

"""A system call of the agent fails while it looks: no false conclusion comes of it.

A fault says nothing of pod or node. So CHECK calls neither a healthy pod broken nor a broken one healthy, GC takes no
list that it could not read for an empty one, STATUS answers with the codes that it has, and VERSION always.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from cni_plugin.errors import CHECK_FAILED, LIMITED_CONNECTIVITY, NOT_AVAILABLE
from tests import soak
from tests.conformance.nodes import Json, Reply
from tests.netns.failure_nodes import DEFAULTS, RANGES
from tests.netns.faulty_agent import CODES, KINDS, OF_FILES, Faults, FaultyAgent
from tests.netns.test_agent_kill import AgentWorld, world_with

PODS = ("healthy", "broken")
MOST_CALLS = 100


class How(NamedTuple):
    """Which calls fail: some of a kind, or `each` of them with every code."""

    kind: str
    each: bool


class LookedAt(AgentWorld):
    """A node of a cluster with a pod that is as ADD made it, and one that lost its default route."""

    results: dict[str, Json]

    def populate(self) -> None:
        """Reads all that a configuration can name."""
        state = self.node.state
        (state / "resolv").write_text("nameserver 192.0.2.53\n")
        me = {"name": "me", "address": "198.51.100.1", "podCIDRs": ["10.60.0.0/24"]}
        (state / "list.json").write_text(json.dumps({"backend": {"type": "host-gw"}, "nodes": [me]}))
        ipam = {
            "type": "host-local", "dataDir": str(self.node.data_dir), "ranges": RANGES["dual"],
            "routes": DEFAULTS["dual"], "resolvConf": str(state / "resolv"),
        }
        self.configuration = {**self.configuration, "ipam": ipam, "cluster": str(state / "list.json")}
        self.results = {pod: self.ask("ADD", pod).ok() for pod in PODS}
        self.node.pod("broken").run("ip", "route", "del", "default")

    def standing(self) -> tuple[object, ...]:
        """What GC could take away."""
        records = sorted((self.node.run_dir / "attachments").glob("*/*"))
        links = [each["ifname"] for each in self.node.json("ip", "-j", "link")]
        return self.node.leases(), records, links


LIBRARY = Counter(["socket:[N]"])
"""To the process of libnftables: it is started by who first needs it, as one whose own question has failed does."""


@pytest.fixture
def world(plugin: Path, tmp_path: Path) -> Iterator[LookedAt]:
    with world_with(LookedAt, plugin, tmp_path) as made:
        made.populate()
        yield made


def calls(kind: str, *, each: bool) -> Iterator[tuple[int, int]]:
    """The first call of the kind with every code and then one call after the other, or each with every code as long as
    a soak has time.

    The caller ends it, or what is left of a code, when there was no such call.
    """
    codes = CODES if kind in OF_FILES else (errno.EINVAL, *CODES)
    if each:
        for nth, _ in zip(range(1, MOST_CALLS), soak.turns("calls that fail"), strict=False):
            yield from ((code, nth) for code in codes)
        return
    yield from ((code, 1) for code in codes)
    yield from zip(itertools.cycle(codes), range(2, MOST_CALLS), strict=False)


def told(world: LookedAt, how: How, ask: Callable[[], Reply]) -> Iterator[tuple[str, Reply]]:
    """What is answered when one call fails, for each call in turn; the agent lives, and the code is a known one."""
    fault, over, kind = Faults(), set[int](), how.kind
    with FaultyAgent(world.node, fault) as agent:
        ask()
        before, held = world.state(), agent.descriptors()
        for code, nth in calls(kind, each=how.each):
            if code in over:
                continue
            fault.arm(kind, code, nth)
            reply = ask()
            if not fault.disarm():
                over.add(code)
            when = f"{errno.errorcode[code]} at the {nth}th"
            assert agent.alive(), (when, agent.log())
            assert reply.exit == 0 or 0 < reply.code < 900, (when, reply)
            yield when, reply
        assert world.state() == before
        assert agent.descriptors() - held - LIBRARY == {}, "none is left open"


kinds = pytest.mark.parametrize("how", [
    pytest.param(How(kind, each), id=f"{kind.replace(' ', '_')}{'_each' * each}", marks=[pytest.mark.soak] * each)
    for kind in KINDS
    for each in (False, True)
])


@pytest.mark.timeout(600)
@kinds
def test_check_tells_a_fault_from_a_broken_pod(world: LookedAt, how: How) -> None:
    def check(pod: str) -> Reply:
        return world.ask("CHECK", pod, {"prevResult": world.results[pod]})

    for when, reply in told(world, how, lambda: check("healthy")):
        assert reply.exit == 0 or reply.code != CHECK_FAILED, (when, reply)
    for when, reply in told(world, how, lambda: check("broken")):
        assert reply.exit != 0, (when, reply)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("listed", ["listed", "without a list"])
@kinds
def test_gc_takes_nothing_valid_away_because_of_a_fault(world: LookedAt, how: How, listed: str) -> None:
    valid = [{"containerID": each, "ifname": "eth0"} for each in PODS]
    more: Mapping[str, object] = {"cni.dev/valid-attachments": valid} if listed == "listed" else {}
    standing = world.standing()
    for when, reply in told(world, how, lambda: world.ask("GC", more=more)):
        assert world.standing() == standing, (when, reply)


@pytest.mark.timeout(600)
@kinds
def test_status_answers_a_fault_with_a_code_of_its_own(world: LookedAt, how: How) -> None:
    for when, reply in told(world, how, lambda: world.ask("STATUS")):
        assert reply.exit == 0 or reply.code in (NOT_AVAILABLE, LIMITED_CONNECTIVITY), (when, reply)


@pytest.mark.timeout(600)
@kinds
def test_version_answers_whatever_fails(world: LookedAt, how: How) -> None:
    for when, reply in told(world, how, lambda: world.ask("VERSION")):
        assert reply.exit == 0, (when, reply)

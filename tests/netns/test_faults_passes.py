"""A system call fails while the agent looks after its node by itself: that costs a pass at most, and nobody a wire.

What was broken is put right, what the source said is made true, and nobody who lives is collected. No event tells that
a fault is over, so the agent itself must come back to what it could not do.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.nodes import NODE4, WORLD4
from tests.netns.faulty_agent import CODES, KINDS, Faults, FaultyAgent
from tests.netns.test_agent_kill import AgentWorld, world_with
from tests.pace import until

LATER = (1, 2, 5, 13, 34)
"""Which call of its kind fails, with one code after the other."""
NETWORK = {"Network": "10.60.0.0/15", "Backend": {"Type": "host-gw"}}


class Tended(AgentWorld):
    """A node whose agent follows a folder with nodes; one of its pods has lost its wire, and lives."""

    def populate(self) -> None:
        """With a look at everything each second, and no time of grace for who seems to be dead."""
        self.folder = self.node.state / "nodes.d"
        self.folder.mkdir()
        (self.folder / "net-conf.json").write_text(json.dumps(NETWORK))
        self.write("me", NODE4, "10.60.0.0/24")
        self.write("n2", WORLD4, "10.61.2.0/24")
        source = {"type": "file", "path": str(self.folder)}
        settings = {"interval": 1, "grace": 0, "node": "me", "network": "cluster", "source": source}
        (self.node.state / "agent.json").write_text(json.dumps(settings))
        self.port = self.wired("pod1")
        self.node.run("ip", "link", "del", self.wired("unwired"))

    def write(self, name: str, address: str, cidr: str) -> None:
        """A node's file, as editors write it."""
        temporary = self.folder / f".{name}"
        temporary.write_text(json.dumps({"name": name, "address": address, "podCIDRs": [cidr]}))
        temporary.replace(self.folder / f"{name}.json")

    def wired(self, pod: str) -> str:
        """Add a pod; the host's end of its wire."""
        interfaces = self.ask("ADD", pod).ok()["interfaces"]
        assert isinstance(interfaces, list)
        return next(str(each["name"]) for each in interfaces if str(each["name"]).startswith("tl"))

    def wrong(self) -> list[str]:
        """What is not as it should be."""
        rules = self.node.run("nft", "list", "table", "inet", "tulle", check=False).stdout
        said = {
            "address": self.node.run("ip", "addr", "show", "tulle0").stdout.count("10.60.0.1/24"),
            "port": self.node.run("ip", "link", "show", self.port).stdout.count("master tulle0"),
            "masquerade": rules.count("masquerade"),
            "peer": self.node.run("ip", "route").stdout.count("10.61.2.0/24"),
            "joined": self.node.run("ip", "route").stdout.count("10.61.3.0/24") == (self.folder / "n3.json").exists(),
        }
        return [what for what, count in said.items() if not count]

    def damage(self) -> None:
        """Another one joins or leaves, and what stands is broken."""
        self.node.run("ip", "addr", "del", "10.60.0.1/24", "dev", "tulle0")
        self.node.run("ip", "link", "set", self.port, "nomaster")
        self.node.run("ip", "route", "del", "10.61.2.0/24")
        self.node.run("nft", "delete", "table", "inet", "tulle")
        if (self.folder / "n3.json").exists():
            (self.folder / "n3.json").unlink()
        else:
            self.write("n3", WORLD4.rpartition(".")[0] + ".77", "10.61.3.0/24")

    def kept(self) -> tuple[object, ...]:
        """What the agent would collect of the dead."""
        return self.node.leases(), sorted((self.node.run_dir / "attachments").glob("*/*"))


@pytest.fixture
def world(plugin: Path, tmp_path: Path) -> Iterator[Tended]:
    with world_with(Tended, plugin, tmp_path) as made:
        made.populate()
        yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind).replace(" ", "_"))
def test_a_pass_in_which_a_call_fails_is_made_up_for_and_nobody_who_lives_is_collected(
    world: Tended, kind: str
) -> None:
    fault, kept = Faults(), world.kept()
    with FaultyAgent(world.node, fault) as agent:
        until(lambda: not world.wrong(), "all stands", why=lambda: (world.wrong(), agent.log()))
        world.damage()  # what is opened once is open then
        until(lambda: not world.wrong(), "all stands again", why=lambda: (world.wrong(), agent.log()))
        held = agent.descriptors()
        for code, nth in zip(CODES, LATER, strict=False):
            when = f"{errno.errorcode[code]} at the {nth}th"
            fault.arm(kind, code, nth)
            world.damage()
            until(lambda: not world.wrong(), f"all stands after {when}", why=lambda: (world.wrong(), agent.log()))
            fault.disarm()
            assert agent.alive(), (when, agent.log())
            assert world.kept() == kept, when
        until(lambda: not agent.descriptors() - held, "none is left open", why=lambda: agent.descriptors() - held)

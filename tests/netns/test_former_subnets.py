"""A node that joins anew has another subnet: what is left of the one that it had hides nobody's pods, and is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni_plugin.ctl.look.status import FORMER, report
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.node.repair import repair
from cni_plugin.store.records import Records
from tests.netns.agents import in_node
from tests.netns.conftest import MakeLab
from tests.netns.members import Members, members

FOREIGN = {"10.99.0.1/24", "10.244.2.77/32"}
"""What an administrator put on a bridge of their own, in the cluster's network though it is."""


def on_bridge(them: Members, bridge: str = "tulle0") -> set[str]:
    """The addresses of n2's bridge, link-local ones left out."""
    (found,) = json.loads(them.lab.run("n2", "ip", "-j", "addr", "show", "dev", bridge))
    return {f"{each['local']}/{each['prefixlen']}" for each in found["addr_info"] if each["scope"] == "global"}


def states(them: Members) -> set[str]:
    """What `tullectl status` says of n2's pods."""
    node = them.agents["n2"].node
    records = Records(str(node.run_dir))

    def look() -> list[str]:
        with LinuxKernel() as kernel:
            rows = report(kernel, records)["attachments"]
            return [str(each["state"]) for each in rows]

    return set(in_node(node.path, look))


def given_away(them: Members) -> None:
    """n2's subnet becomes n3's, and n2 gets another one."""
    them.list["n2"]["podCIDRs"], them.list["n3"]["podCIDRs"] = ["10.244.7.0/24"], them.list["n2"]["podCIDRs"]
    them.save()
    them.join("n3")
    them.until(lambda: them.status("n2")["podCIDRs"] == ["10.244.7.0/24"], "n2 knows its new subnet")
    them.lab.add("n3", "p3")


def begin(them: Members, *pods: str) -> None:
    them.save("n1", "n2")
    them.join("n1", "n2")
    for each in pods:
        them.lab.add("n2", each)


def test_a_former_subnets_gateway_goes_at_once_when_no_pod_needs_it(lab: MakeLab, plugin: Path) -> None:
    with members(lab(nodes=3, family="4"), plugin) as them:
        begin(them, "old")
        them.lab.run("n2", "ip", "link", "add", "theirs", "type", "bridge")
        for each in FOREIGN:
            them.lab.run("n2", "ip", "addr", "add", each, "dev", "theirs")
        them.lab.delete("n2/old")
        assert on_bridge(them) == {"10.244.2.1/24"}, "the subnet is the node's: the next pod needs it"
        given_away(them)
        them.until(lambda: on_bridge(them) == set(), "the gateway is gone")
        them.lab.add("n2", "new")
        them.until(lambda: them.reaches("n2/new", "n3/p3", 0.2), "n2 reaches the pods of its former subnet")
        them.until(lambda: them.off("n2") == [], "as a fresh plan says")
        assert on_bridge(them, "theirs") == FOREIGN


def test_pods_of_a_former_subnet_are_told_of_and_when_the_last_has_ended_it_is_reached(
    lab: MakeLab, plugin: Path
) -> None:
    with members(lab(nodes=3, family="4"), plugin) as them:
        begin(them, "a", "b")
        given_away(them)
        them.lab.add("n2", "new")
        them.until(lambda: "10.244.2.0/24" in str(them.status("n2")["problem"]), "who lives there is told")
        assert "2 live with addresses of" in str(them.status("n2")["problem"])
        assert "kubectl delete pod" in str(them.status("n2")["problem"]) and FORMER in states(them)
        assert on_bridge(them) == {"10.244.2.1/24", "10.244.7.1/24"} and them.reaches("n2/a", "n2/new")
        them.lab.delete("n2/a")
        them.until(lambda: "1 live" in str(them.status("n2")["problem"]), "one is left")
        assert on_bridge(them) == {"10.244.2.1/24", "10.244.7.1/24"}
        them.lab.delete("n2/b")
        them.until(lambda: them.reaches("n2/new", "n3/p3", 0.2), "n2 reaches the pods of its former subnet")
        them.until(lambda: them.status("n2")["problem"] == "", "nothing is left to tell")
        assert on_bridge(them) == {"10.244.7.1/24"} and states(them) == {"up"}


@pytest.mark.parametrize("by", ["the DEL of the last pod", "repair"])
def test_without_an_agent_it_is_gone_too(lab: MakeLab, plugin: Path, by: str) -> None:
    with members(lab(nodes=3, family="4"), plugin) as them:
        begin(them, "old")
        given_away(them)
        if by == "repair":
            them.lab.add("n2", "new")
        for each in them.agents.values():
            each.kill()
        them.lab.delete("n2/old")
        node = them.agents["n2"].node
        if by == "repair":
            assert on_bridge(them) == {"10.244.2.1/24", "10.244.7.1/24"}

            def mend() -> list[str]:
                with LinuxKernel() as kernel:
                    return [each.problem for each in repair(kernel, Records(str(node.run_dir))) if each.problem]

            assert in_node(node.path, mend) == []
        assert on_bridge(them) == ({"10.244.7.1/24"} if by == "repair" else set())
        if by == "repair":
            assert them.reaches("n2/new", "n3/p3")

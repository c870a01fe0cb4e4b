"""Agents that learn their cluster from a file: who is written into it joins, who is crossed out leaves, at once.

Real agents, kernels and packets. Their next look at everything is an hour away: what comes is by the kernel's word.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from scripts.lib.lab import labs, namespaces
from tests.netns.conftest import MakeLab
from tests.netns.members import Json, Members, members
from tests.pace import PATIENCE


def silent(them: Members) -> list[tuple[str, str]]:
    """Which pods do not answer which; [] when everyone reaches everyone at the first packet."""
    pods = list(them.lab.pods)
    return [(one, other) for one in pods for other in pods if one != other and not them.reaches(one, other)]


def members_with_pods(them: Members, *names: str) -> None:
    """Start the agents of these nodes, which are on the list, with a pod each."""
    them.save(*names)
    them.join(*names)
    for each in names:
        them.lab.add(each, "p1")
    assert silent(them) == []


@pytest.mark.parametrize(("backend", "family"), [("vxlan", "dual"), ("host-gw", "dual"), ("vxlan", "6")])
def test_a_node_that_is_written_down_joins_and_one_that_is_crossed_out_leaves(
    lab: MakeLab, plugin: Path, backend: str, family: str
) -> None:
    made = lab(nodes=3, backend=backend, family=family)
    with members(made, plugin) as them:
        members_with_pods(them, "n1", "n2")
        them.start("n3")
        assert not them.holds("n1", "n3") and not them.conflist("n3").exists()
        assert "no subnet for the node n3" in str(them.status("n3")["reason"])
        for turn in range(2):
            them.save()
            them.until(lambda: all(them.holds(each, "n3") for each in ("n1", "n2")), "n3 is in all tables")
            them.until(them.conflist("n3").exists, "n3 has its CNI configuration")
            if turn:
                for each in ("n1/p1", "n2/p1"):
                    them.answered(each, "n3/p1")
            else:
                made.add("n3", "p1")
            assert silent(them) == [], "at the first packet"
            assert [them.off(each) for each in them.agents] == [[], [], []]
            them.save("n1", "n2")
            them.until(lambda: not any(them.holds(each, "n3") for each in ("n1", "n2")), "n3 is in no table")
            assert them.reaches("n1/p1", "n2/p1") and not them.reaches("n1/p1", "n3/p1")
            assert [them.off(each, them.cluster("n1", "n2")) for each in ("n1", "n2")] == [[], []]


def test_what_is_written_wrong_changes_nothing_and_is_said(lab: MakeLab, plugin: Path) -> None:
    made = lab(nodes=2)
    with members(made, plugin, metrics="127.0.0.1:9472") as them:
        members_with_pods(them, "n1", "n2")
        before = them.programmed("n1")
        twice = them.file.read_text().replace("192.0.2.2", "192.0.2.1")
        with Pinging(made, "n1/p1", made.pod("n2/p1").addresses[0]) as lost:
            for text, words in (
                ("", "there is no network configuration in the file"),
                ("{", "is not valid JSON"),
                ('{"nodes": []}', "invalid cluster.nodes []: list every node with name, address and podCIDRs"),
                (twice, "invalid cluster.nodes '192.0.2.1': n2 has the same address as n1"),
            ):
                them.file.write_text(text)
                them.until(lambda words=words: words in str(them.status("n1")["trouble"]), words)  # type: ignore[misc]
                said = str(them.status("n1")["trouble"])
                assert said.startswith(f"{them.file}: ") and said.endswith("; what it said last stays true")
                assert them.status("n1")["ready"] is True
            them.file.unlink()
            them.until(lambda: "No such file" in str(them.status("n1")["trouble"]), "the loss is told")
            them.file.mkdir()
            them.until(lambda: "no net-conf.json" in str(them.status("n1")["trouble"]), "the folder is told")
            assert them.programmed("n1") == before and them.off("n1") == []
            made.add("n1", "p2")
            assert them.reaches("n1/p2", "n2/p1"), "nor is anything in the way of new pods"
            them.file.rmdir()
            them.save()
            them.until(lambda: not them.status("n1")["trouble"], "it is over")
        assert lost() == 0


class Pinging:
    """A stream of packets, 50 a second, while a block runs; how many of them went without an answer."""

    def __init__(self, made: labs.Lab, source: str, target: str) -> None:
        words = [*namespaces.inside(made.pod(source).netns), "ping", "-n", "-i", "0.02", "-W", "1", target]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> Pinging:
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.1)  # for the answer to the last one
        self._process.send_signal(2)
        self.output = self._process.communicate(timeout=PATIENCE)[0]

    def __call__(self) -> int:
        found = re.search(r"(\d+) packets transmitted, (\d+) received", self.output)
        assert found is not None, self.output
        sent, received = (int(each) for each in found.groups())
        assert sent > 5, self.output
        return sent - received


def test_a_folder_with_a_file_a_node_is_followed(lab: MakeLab, plugin: Path) -> None:
    made = lab(nodes=3)
    folder = made.state / "nodes.d"
    with members(made, plugin, source={"type": "file", "path": str(folder)}) as them:
        folder.mkdir()
        labs.write_json(folder / "net-conf.json", {**them.conf, "enableIPv6": True})
        for name in ("n1", "n2"):
            labs.write_json(folder / f"{name}.json", them.list[name])
        them.join("n1", "n2")
        for name in ("n1", "n2"):
            made.add(name, "p1")
        assert silent(them) == []
        labs.write_json(folder / "another.json", them.list["n3"])
        them.until(lambda: all(them.holds(each, "n3") for each in ("n1", "n2")), "n3 is in all tables")
        them.join("n3")
        made.add("n3", "p1")
        assert silent(them) == []
        (folder / "n2.json").write_text('{"name": "n2", "addr')
        them.until(lambda: them.status("n1")["problems"], "the problem is told")
        assert str(folder / "n2.json") in str(them.status("n1")["problems"])
        shutil.rmtree(folder)
        them.until(lambda: them.status("n1")["trouble"], "the trouble is told")
        assert silent(them) == [], "what they said last stays true"
        assert [them.off(each) for each in them.agents] == [[], [], []]
        folder.mkdir()
        for name in ("n1", "n2"):
            labs.write_json(folder / f"{name}.json", them.list[name])
        time.sleep(0.3)
        assert them.holds("n1", "n3"), "a folder without the network's configuration is being filled"
        labs.write_json(folder / "net-conf.json", {**them.conf, "enableIPv6": True})
        them.until(lambda: not them.holds("n1", "n3"), "n3 is in no table")


def test_another_backend_is_followed_by_all_nodes_and_nothing_of_the_first_stays(lab: MakeLab, plugin: Path) -> None:
    made = lab(nodes=2)
    with members(made, plugin) as them:
        members_with_pods(them, "n1", "n2")
        for backend in ({"type": "host-gw"}, {"type": "vxlan", "vni": 1}, {"type": "vxlan", "vni": 7, "port": 4789}):
            them.conf["backend"] = backend
            them.save()
            them.until(lambda: not any(them.off(each) for each in them.agents), f"all is as {backend} wants it")
            for one, other in (("n1/p1", "n2/p1"), ("n2/p1", "n1/p1")):
                them.answered(one, other)
            there = made.run("n1", "ip", "-br", "link")
            assert ("tulle.1@" in there or "tulle.1 " in there) == (backend.get("vni") == 1), there
        mtu: list[Json] = json.loads(made.run("n1/p1", "ip", "-j", "link", "show", "eth0"))
        assert mtu[0]["mtu"] == 1450

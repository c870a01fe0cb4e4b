"""ADD made to fail, and killed, at every operation it consists of; and 500 of them at once.

On a real node with real pods. Where ADD fails, the node is afterwards as it was before: ruleset, links, addresses,
routes, neighbours and files. Where it is killed, the next DEL, or the next GC, makes it so.
"""

from __future__ import annotations

import ipaddress
import json
import multiprocessing
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.conformance.nodes import Call, Json, Node, Plugins, unique_name
from tests.conformance.observe import addresses, snapshot
from tests.netns.failing_engine import Mode, Outcome, serve
from tests.netns.failure_nodes import conf

BOOKKEEPING = ("lock", "last_reserved_ip.0", "last_reserved_ip.1")
"""Files that belong to a pool or a folder and not to a pod; so do `.tulle/used`, `boot`, `index` and the spare ones."""


EMPTY: Mapping[str, object] = {}


class World:
    """A node on which one pod lives already, or none, and requests for another one."""

    def __init__(self, node: Node, configuration: Json) -> None:
        self.node = node
        self.configuration = configuration

    def request(
        self, command: str, pod: str, mode: Mode = "count", target: int = 0, *, more: Mapping[str, object] = EMPTY
    ) -> Outcome:
        """One request, to fail or to be killed at its `target`-th operation."""
        whole = command != "GC"
        call = Call(
            command=command,
            container=pod if whole else None,
            netns=self.node.pod(pod).path if whole else None,
            ifname="eth0" if whole else None,
        )
        environ = call.environ(self.node.plugins, self.node.run_dir)
        return serve(self.node.path, environ, json.dumps({**self.configuration, **more}).encode(), mode, target)

    def state(self) -> Json:
        """All of the node that could be changed, and the pod's links."""
        whole = snapshot(self.node)
        links = [str(each["ifname"]) for each in self.node.json("ip", "-j", "link")]
        whole["addresses"] = {link: addresses(self.node, link) for link in links}
        whole["pod"] = self.node.pod("pod1").run("ip", "addr").stdout
        whole["files"] = sorted(str(each.relative_to(self.node.state)) for each in _files(self.node.state))
        return whole


def _files(state: Path) -> Iterator[Path]:
    for folder in ("run", "ipam"):
        for each in (state / folder).rglob("*"):
            own = each.name in BOOKKEEPING or each.parent.name == "used" or each.name in ("boot", "index")
            if not each.is_dir() and not own and not each.name.startswith("spare."):
                yield each


CONFIGURATIONS: dict[str, Mapping[str, object]] = {
    "dual stack with masquerade": {},
    "mac spoof check, hairpin and two routes": {"macspoofchk": True, "hairpinMode": True, "ipMasq": False},
}


@pytest.fixture(params=CONFIGURATIONS, ids=lambda name: str(name).replace(" ", "_"))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    node = Node(unique_name("roll"), Plugins("tulle", tmp_path), tmp_path)
    try:
        yield World(node, conf(node, "dual", **CONFIGURATIONS[request.param]))
    finally:
        node.remove()


def _operations(world: World) -> list[str]:
    """What an ADD consists of, by name; the pod is gone again afterwards."""
    counted = world.request("ADD", "pod1")
    assert counted.code == 0, counted.reply
    assert world.request("DEL", "pod1").code == 0
    names = counted.reply.split("\n")[1:]
    assert counted.operations == len(names) >= 25, "every change is seen"
    assert {"netlink request", "write", "reply"} <= set(names)
    return names


@pytest.mark.parametrize("pods", ["first", "second"])
def test_an_add_that_fails_at_any_operation_leaves_the_node_as_it_was(world: World, pods: str) -> None:
    """On a fresh node the bridge goes again as well; beside another pod, nothing of that pod is touched."""
    if pods == "second":
        assert world.request("ADD", "other").code == 0
    world.node.pod("pod1")
    before = world.state()
    names = _operations(world) if pods == "second" else None
    target, failed = 1, 0
    left: dict[str, Json] = {}
    while names is None or target <= len(names):
        outcome = world.request("ADD", "pod1", "fail", target)
        if outcome.code == 0:
            # Some operations may fail without harm (a sysctl, a hint of the IPAM); the last of all ends the walk.
            assert world.request("DEL", "pod1").code == 0
            if outcome.operations < target:
                break
            if pods == "first":
                world.node.run("ip", "link", "del", "tulle0")
        else:
            failed += 1
            assert json.loads(outcome.reply.split("\n")[0])["code"] > 0
            before = _note(left, world.state(), before, f"failed at {target}")
        target += 1
    assert left == {}
    assert failed >= 15, "most operations cannot be done without"


@pytest.mark.parametrize("cleaner", ["DEL", "GC", "ADD"])
def test_an_add_that_is_killed_at_any_operation_is_cleaned_up_by_the_next(world: World, cleaner: str) -> None:
    """SIGKILL, as from a runtime's time limit. `ADD`: tried again without a DEL between, then taken down."""
    assert world.request("ADD", "other").code == 0
    world.node.pod("pod1")
    before = world.state()
    names = _operations(world)
    left: dict[str, Json] = {}
    before = _note(left, world.state(), before, "after an ADD and a DEL")
    for target in range(1, len(names) + 1):
        killed = world.request("ADD", "pod1", "kill", target)
        assert killed.code == -9 or killed.operations < target, "with a file of a lease to write anew it takes fewer"
        _clean(world, cleaner)
        before = _note(left, world.state(), before, f"killed at {target}: {names[target - 1]}, then {cleaner}")
    assert left == {}
    assert world.request("DEL", "other").code == 0


def _clean(world: World, cleaner: str) -> None:
    if cleaner == "GC":
        valid = [{"containerID": "other", "ifname": "eth0"}]
        collected = world.request("GC", "pod1", more={"cni.dev/valid-attachments": valid})
        assert collected.code == 0, collected.reply
        return
    if cleaner == "ADD":
        again = world.request("ADD", "pod1")
        # What the killed ADD left in the pod's own namespace, ADD must not take away (specification).
        assert again.code == 0 or "exists" in again.reply or "(DEL)" in again.reply, again.reply
    deleted = world.request("DEL", "pod1")
    assert deleted.code == 0, deleted.reply


def test_a_del_that_is_killed_at_any_operation_is_finished_by_the_next(world: World) -> None:
    assert world.request("ADD", "other").code == 0
    world.node.pod("pod1")
    before = world.state()
    _operations(world)
    target = 0
    left: dict[str, Json] = {}
    while True:
        target += 1
        assert world.request("ADD", "pod1").code == 0
        killed = world.request("DEL", "pod1", "kill", target)
        assert world.request("DEL", "pod1").code == 0
        before = _note(left, world.state(), before, f"DEL killed at {target}")
        if killed.code == 0:
            break
    assert left == {}
    assert target > 8, "a DEL has more operations than that"


def _note(left: dict[str, Json], found: Json, before: Json, when: str) -> Json:
    """Note in `left` what is not as it was, and when that was seen. Returns what to compare with from now on."""
    differing: Json = {key: {"was": before[key], "is": found[key]} for key in before if before[key] != found[key]}
    if differing:
        left[when] = differing
    return found


CHANGING = (
    "sendto,sendmsg,write,pwrite64,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,symlinkat,"
    "utimensat,ftruncate,ioctl,setns"
)
"""The system calls by which the executable changes anything."""


def _traced(world: World, plugin: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """An ADD by the executable itself under strace."""
    call = Call(command="ADD", container="pod1", netns=world.node.pod("pod1").path)
    strace = ["strace", "-f", "-e", f"trace={CHANGING}", *options]
    return subprocess.run(
        ["/usr/bin/nsenter", f"--net={world.node.path}", *strace, str(plugin)],
        env=call.environ(world.node.plugins, world.node.run_dir), input=json.dumps(world.configuration),
        capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.mark.soak
def test_the_executable_killed_at_any_system_call_is_cleaned_up_by_the_next_del(
    world: World, plugin: Path, tmp_path: Path
) -> None:
    """Once more from outside: the bundle itself, killed by strace as it enters each call that changes anything."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    assert world.request("ADD", "other").code == 0
    log = tmp_path / "strace"
    for _ in range(2):  # the first leaves files of leases to be written anew, which takes other calls
        if _traced(world, plugin, "-o", str(log)).returncode:
            pytest.skip("this machine does not let strace trace: " + log.read_text()[-200:])
        assert world.request("DEL", "pod1").code == 0
    calls = _calls(log.read_text())
    before = world.state()
    left: dict[str, Json] = {}
    unharmed = 0
    for name, nth in calls:
        killed = _traced(world, plugin, "-o", "/dev/null", "-e", f"inject={name}:signal=KILL:when={nth}")
        unharmed += killed.returncode == 0
        assert world.request("DEL", "pod1").code == 0
        before = _note(left, world.state(), before, f"killed at {name} number {nth}")
    assert left == {}
    assert len(calls) > 40, "the executable makes more calls than that"
    assert unharmed <= 2, "a run may need a call less than the one before it, but nearly all were killed"


def _calls(log: str) -> list[tuple[str, int]]:
    """Each traced call of the executable itself, as strace counts them: by name, from 1, for each process anew.

    That its child for nftables is killed is not noticed: it is replaced.
    """
    counts: dict[str, int] = {}
    found: list[tuple[str, int]] = []
    first = log.split(maxsplit=1)[0]
    for name in re.findall(rf"^{first} +(\w+)\(", log, re.MULTILINE):
        counts[name] = counts.get(name, 0) + 1
        found.append((name, counts[name]))
    return found


PROCESSES, PODS_EACH = 16, 32
Answers: TypeAlias = "multiprocessing.SimpleQueue[tuple[str, str]]"


def _worker(world: World, number: int, everybody: Barrier, answers: Answers) -> None:
    """ADD many, wait for the others, DEL all: attachments of one pod with many interfaces."""
    pod = f"pod{number}"
    for verb in ("ADD", "DEL"):
        everybody.wait(timeout=250)
        for index in range(PODS_EACH):
            call = Call(command=verb, container=pod, netns=f"/run/netns/{world.node.name}-{pod}", ifname=f"if{index}")
            environ = call.environ(world.node.plugins, world.node.run_dir)
            outcome = serve(world.node.path, environ, json.dumps(world.configuration).encode())
            answers.put((verb, outcome.reply.split("\n")[0] if outcome.code == 0 else f"error {outcome}"))
        everybody.wait(timeout=250)
        everybody.wait(timeout=250)  # the test looks at the node between the two


def test_512_adds_and_dels_from_16_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    node = Node(unique_name("many"), Plugins("tulle", tmp_path), tmp_path)
    subnet = ipaddress.ip_network("10.60.0.0/22")
    ipam = {"type": "host-local", "dataDir": str(node.data_dir), "ranges": [[{"subnet": str(subnet)}]]}
    world = World(node, conf(node, ipam=ipam))
    try:
        for number in range(PROCESSES):
            node.pod(f"pod{number}")
        before = snapshot(node)
        _run_all(world)
        after = snapshot(node)
        for what in ("ruleset", "neighbours", "leases", "records"):
            assert after[what] == before[what], f"{what} left behind"
        links = after["links"]
        assert isinstance(links, list) and [each for each in links if each.startswith("tl")] == []
        for number in range(PROCESSES):
            assert [each["ifname"] for each in node.pod(f"pod{number}").json("ip", "-j", "link")] == ["lo"]
    finally:
        node.remove()


def _run_all(world: World) -> None:
    context = multiprocessing.get_context("fork")
    everybody = context.Barrier(PROCESSES + 1)
    answers: Answers = context.SimpleQueue()
    workers = [
        context.Process(target=_worker, args=(world, number, everybody, answers), daemon=True)
        for number in range(PROCESSES)
    ]
    for each in workers:
        each.start()
    total = PROCESSES * PODS_EACH
    for verb in ("ADD", "DEL"):
        everybody.wait(timeout=250)
        replies = [answers.get() for _ in range(total)]
        everybody.wait(timeout=250)
        assert [reply for reply in replies if reply[0] != verb or reply[1].startswith("error")] == []
        if verb == "ADD":
            _all_are_there(world.node, [json.loads(reply)["ips"][0]["address"] for _, reply in replies])
        everybody.wait(timeout=250)
    for each in workers:
        each.join(timeout=60)


def _all_are_there(node: Node, given: list[str]) -> None:
    """Every address was given once, is on disk, and is on an interface."""
    plain = [each.partition("/")[0] for each in given]
    assert len(set(plain)) == len(plain) == PROCESSES * PODS_EACH
    assert set(node.leases()) == set(plain)
    held: list[str] = []
    for number in range(PROCESSES):
        for link in node.pod(f"pod{number}").json("ip", "-j", "-4", "addr"):
            infos = link["addr_info"]
            assert isinstance(infos, list)
            held += [str(each["local"]) for each in infos if link["ifname"] != "lo"]
    assert sorted(held) == sorted(plain)

"""Start-up, one pod, many pods at once, memory: ours beside the reference bridge plugin with its host-local."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from scripts.lib.bench.agent import MASQ, RESIDENTS, TULLE, Place, niceness, node, ours, references
from scripts.lib.bench.report import Goal, Series, compare, number, ratio, timed
from scripts.lib.bench.rush import AT_ONCE, Crowd, Rushed, harness
from scripts.lib.bench.spawn import Cost, Side, conf_bytes, expect, interleave, run
from scripts.lib.bench.world import VERSION, Bench, BenchError, attachment, network
from scripts.lib.lab.runtime import Attachment

BURST = 200
VERBS = ("ADD", "DEL")
PR_SET_CHILD_SUBREAPER = 36
WITHOUT = "tulle without agent"
PYTHON = "/usr/bin/python3"
CLIENT_LIMIT = 12 / 7
"""The issue's figure: 12 ms where a bare interpreter takes 7. As a ratio it holds on any machine."""


def start(bench: Bench) -> None:
    """How long each executable takes to come up, do nothing, and go."""
    plugin, engine = str(bench.plugin), str(bench.plugin.with_name("tulled"))
    conf, version = conf_bytes({"cniVersion": VERSION}), {**os.environ, "CNI_COMMAND": "VERSION"}
    bare, client = "bare python3 -I -S", "tulle without a request: the client alone"
    sides = {
        bare: _starter([PYTHON, "-I", "-S", "-c", "pass"], os.environ),
        client: _starter([plugin], os.environ),
        "tulled --version: the engine's interpreter": _starter([engine, "--version"], os.environ),
        "VERSION by tulle: client and engine": _starter([plugin], version, conf),
    }
    if bench.reference:
        sides["VERSION by the reference bridge"] = _starter([str(bench.reference / "bridge")], version, conf)
    found = interleave(sides, 3 * bench.rounds)
    series = {name: bench.report.add(timed("start", name, costs, bare)) for name, costs in found.items()}
    times = ratio(series[client], series[bare])
    bench.report.goals.append(Goal("start", "the client against a bare python3", times, CLIENT_LIMIT, now=True))


def _starter(argv: Sequence[str], env: Mapping[str, str], stdin: bytes = b"") -> Callable[[], Cost]:
    return lambda: expect(run(argv, env=env, stdin=stdin), argv[0])


def _networks(bench: Bench, section: str) -> dict[str, Side]:
    """Both implementations with and without masquerade, as far as they are there; a resident pod on each."""
    sides = {
        "tulle": bench.side(network(bench, f"{section}-t", ["10.80.0.0/16"])),
        "tulle, ipMasq": bench.side(network(bench, f"{section}-tm", ["10.81.0.0/16"], ipMasq=True)),
    }
    if bench.reference:
        plain = network(bench, f"{section}-r", ["10.82.0.0/16"], reference=True)
        sides["reference"] = bench.side(plain, reference=True)
        if shutil.which("iptables"):
            masq = network(bench, f"{section}-rm", ["10.83.0.0/16"], reference=True, ipMasq=True)
            sides["reference, ipMasq"] = bench.side(masq, reference=True)
        else:
            bench.report.skipped.append((section, "the reference with ipMasq: there is no iptables"))
    return sides


def _settle(bench: Bench, sides: Mapping[str, Side]) -> None:
    for index, side in enumerate(sides.values()):
        side.add(attachment(bench, index))


def _clear(bench: Bench, sides: Mapping[str, Side]) -> None:
    for index, side in enumerate(sides.values()):
        side.delete(attachment(bench, index))


def pod(bench: Bench) -> None:
    """ADD and DEL of one pod on a node that has another already; one family and two."""
    sides = _networks(bench, "pod")
    sides["tulle, two families"] = bench.side(network(bench, "pod-t2", ["10.84.0.0/16", "fd00:84::/64"]))
    _settle(bench, sides)
    only = attachment(bench, RESIDENTS)
    found = interleave({name: _pair(side, only) for name, side in sides.items()}, bench.rounds)
    series: dict[str, Series] = {}
    for index, verb in enumerate(("ADD", "DEL")):
        for name, pairs in found.items():
            costs = [pair[index] for pair in pairs]
            row = timed("pod", f"{verb}: {name}", costs, f"{verb}: {_counterpart(name)}")
            series[row.name] = bench.report.add(row)
    _clear(bench, sides)
    slowest = max((series["ADD: tulle"], series["ADD: tulle, ipMasq"]), key=lambda row: row.median)
    busy = f"{median(slowest.cpu):.0f} ms of it on the processor"
    two = ratio(series["ADD: tulle, two families"], series["ADD: tulle"])
    bench.report.goals += [
        Goal("pod", "ADD without an agent", slowest.median, 250, "ms", now=True, strictly=True, note=busy),
        Goal("pod", "ADD of two families against one", two, 1.2),
    ]
    if bench.reference:
        why = "two families are not compared: there the reference waits 1 to 2 s for duplicate address detection"
        bench.report.remarks.append(("pod", why))


def _pair(side: Side, who: Attachment) -> Callable[[], tuple[Cost, Cost]]:
    return lambda: side.add_and_delete(who)


def _counterpart(name: str) -> str:
    if name == "tulle, two families":
        return "tulle"
    return name.replace("tulle", "reference") if name.startswith("tulle") else ""


def burst(bench: Bench) -> None:
    """As many pods as a node has after a reboot, all wanted at once."""
    many, fewer = (48, 32) if bench.quick else (BURST, 48)
    bench.pod(RESIDENTS + many)
    with ExitStack() as stack:
        warm = ours(bench, stack, "burst-t", "10.81.0.0/16")
        cold = Place(bench.side(network(bench, "burst-tc", ["10.80.0.0/16"], ipMasq=True), run_dir="/run/cold"), node())
        places = {TULLE: warm, **references(bench, "burst"), WITHOUT: cold}
        for index, place in enumerate(places.values()):
            place.add(attachment(bench, index))
        pods = [attachment(bench, RESIDENTS + index) for index in range(many)]
        sizes = {name: pods[:fewer] if name == WITHOUT else pods for name in places}
        crowds = {name: Crowd(each, sizes[name], Path("/run/crowd", name)) for name, each in places.items()}
        turns = {name: _tide(each) for name, each in crowds.items()}
        slow = {WITHOUT: turns.pop(WITHOUT)}
        found = interleave(turns, 2 if bench.quick else 3) | interleave(slow, 1, warm_up=False)
        for index, place in enumerate(places.values()):
            place.delete(attachment(bench, index))
    for index, verb in enumerate(VERBS):
        for name, pairs in found.items():
            rates, cpu = tuple(pair[index].rate for pair in pairs), tuple(pair[index].cpu for pair in pairs)
            against = "" if name == MASQ else f"{verb}: {MASQ}"
            bench.report.add(Series("burst", f"{verb}: {name}", "/s", rates, against, cpu))
    for verb, limit in (("ADD", 4), ("DEL", 6)):
        text = f"{many} pods, {AT_ONCE} at a time: {verb} a second against the {MASQ}"
        compare(bench.report, Goal("burst", text, 0, limit, least=True, pair=(f"{verb}: {TULLE}", f"{verb}: {MASQ}")))
    own = [median(pair[index].agent for pair in found[TULLE]) for index in range(len(VERBS))]
    shares = [f"{verb} {number(each)}" for verb, each in zip(VERBS, own, strict=True)]
    nothing = harness(many, Path("/run/crowd/true"))
    bench.report.remarks += [
        ("burst", f"{many} pods, {AT_ONCE} at a time; without agent {fewer}, one round, after the others"),
        ("burst", f"the agent has the priority that its systemd unit gives it: nice {niceness()}"),
        ("burst", f"cpu is the mean of one; of Tulle's the agent's: {' and '.join(shares)} ms"),
        ("burst", f"the bench alone, by /bin/true: {nothing.rate:.0f} /s, {1000 / nothing.rate:.2f} ms each"),
    ]


def _tide(crowd: Crowd) -> Callable[[], tuple[Rushed, Rushed]]:
    return lambda: (crowd.add(), crowd.delete())


def memory(bench: Bench) -> None:
    """The peak resident memory of the largest process that one ADD needed."""
    sides = {name: side for name, side in _networks(bench, "memory").items() if "ipMasq" in name}
    _settle(bench, sides)
    only = attachment(bench, RESIDENTS)
    found = interleave({name: _weigher(side, only) for name, side in sides.items()}, 5)
    _clear(bench, sides)
    for name, sizes in found.items():
        bench.report.add(Series("memory", f"ADD: {name}", "MiB", tuple(sizes), f"ADD: {_counterpart(name)}"))
    bench.report.remarks.append(("memory", "the largest process of the call, not their sum"))


def _weigher(side: Side, who: Attachment) -> Callable[[], float]:
    plugin = dict(side.network.plugins[0])
    conf = conf_bytes({**plugin, "name": side.network.name, "cniVersion": side.network.version})
    argv, env = [str(side.runtime.find(str(plugin["type"])))], side.runtime.environment("ADD", who)

    def weigh() -> float:
        size = peak(argv, env, conf)
        side.delete(who)
        return size

    return weigh


def peak(argv: Sequence[str], env: Mapping[str, str], stdin: bytes) -> float:
    """The most memory in MiB that a program, or one that it waited for, held at any time. Raises BenchError.

    wait4(2) counts what a process held before its exec, and spawned from here that is an interpreter. So a shell of
    1 MiB starts it, ends, and leaves us to wait for it."""
    shell = ["/bin/sh", "-c", 'exec 3<&0; "$@" <&3 3<&- >/dev/null &', "sh", *argv]
    _adopt_orphans(True)
    try:
        if (ran := run(shell, env=env, stdin=stdin)).reply.code != 0:
            raise BenchError(f"cannot start {argv[0]}: {ran.reply.stderr}")
        _, status, usage = os.wait4(-1, 0)
    finally:
        _adopt_orphans(False)
    if status != 0:
        raise BenchError(f"{argv[0]} failed with status {os.waitstatus_to_exitcode(status)} while it was weighed")
    return usage.ru_maxrss / 1024


def _adopt_orphans(on: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

"""The benchmark can be believed: its arithmetic, its verdicts, its turns, and what it reads in other tools' output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin.agent.sources.file import Reader
from cni_plugin.agent.sources.kube.objects import read_node
from scripts.lib.bench.agent import Agent, Served
from scripts.lib.bench.cluster import PODS, UNDERLAY, cluster, nodes
from scripts.lib.bench.converge_sources import InFile, node_object
from scripts.lib.bench.ipam import addresses, copy, fill
from scripts.lib.bench.page import markdown, svg, write
from scripts.lib.bench.profile import by_package, events, imports, phases
from scripts.lib.bench.report import (
    Goal,
    Report,
    Series,
    as_json,
    compare,
    number,
    ratio,
    section_table,
    timed,
    verdict,
)
from scripts.lib.bench.rush import Call, rush
from scripts.lib.bench.spawn import Cost, Side, TimedRuntime, expect, interleave, run
from scripts.lib.bench.steps import Round, client_events, describe
from scripts.lib.bench.world import BenchError
from scripts.lib.lab.runtime import Attachment, Network, PluginError

BENCH = Path(__file__).resolve().parents[3] / "scripts" / "bench"
FAST = Series("pod", "reference", "ms", (4.0, 2.0, 3.0))
SLOW = Series("pod", "tulle", "ms", (5.0, 6.0, 90.0), "reference", (1.0, 2.0, 3.0))


def report(**keys: object) -> Report:
    made = Report({"kernel": "Linux"}, {"pod": "one pod"}, series=[FAST, SLOW])
    for key, value in keys.items():
        setattr(made, key, value)
    return made


def test_one_slow_sample_does_not_move_the_figure() -> None:
    assert SLOW.median == 6.0
    assert ratio(SLOW, FAST) == 2.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(samples: list[float], percent: int) -> None:
    found = Series("pod", "x", "ms", tuple(samples)).percentile(percent)
    assert found in samples
    assert sum(each <= found for each in samples) >= percent / 100 * len(samples)
    assert sum(each < found for each in samples) < percent / 100 * len(samples)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"), (99.96, "100.0"), (12.34, "12.3"), (0.123, "0.12"), (0.0432, "0.043"), (0.0, "0.00"),
        (float("inf"), "-"),
    ],
)
def test_numbers_have_three_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


def test_a_ratio_to_nothing_is_infinite_and_misses_its_goal() -> None:
    nothing = Series("pod", "zero", "ms", (0.0,))
    assert not Goal("pod", "x", ratio(SLOW, nothing), 1e9).met


def test_at_most_includes_the_limit_and_less_than_does_not() -> None:
    assert Goal("pod", "x", 250, 250).met
    assert not Goal("pod", "x", 250, 250, strictly=True).met


def test_at_least_is_met_by_the_limit_and_by_more_but_not_by_less() -> None:
    assert [Goal("burst", "x", value, 4, least=True).met for value in (3.9, 4, 5)] == [False, True, True]
    assert "x >= 4.00 x: 3.90 x, MISSED" in section_table(
        Report({}, {"burst": "many"}, goals=[Goal("burst", "x", 3.9, 4, least=True)]), "burst"
    )


def test_a_goal_is_held_to_the_ratio_of_its_pair_and_left_out_when_one_was_not_measured() -> None:
    made = report()
    compare(made, Goal("pod", "ADD", 0, 2.5, pair=("tulle", "reference")))
    compare(made, Goal("pod", "ADD", 0, 2.5, pair=("tulle", "nobody")))
    assert [(goal.value, goal.met) for goal in made.goals] == [(2.0, True)]


def test_only_a_figure_expected_now_counts_as_missed() -> None:
    aim, due = Goal("pod", "an aim", 2, 1), Goal("pod", "due now", 2, 1, now=True)
    assert report(goals=[aim, due]).missed() == [due]
    assert verdict(report(goals=[aim, due])) == (
        "0 of 1 figures expected now are met, 0 of 1 further goals\n  missed: due now"
    )
    assert verdict(report(goals=[Goal("pod", "due now", 1, 1, now=True)])) == "1 of 1 figures expected now are met"


def test_the_table_says_the_median_the_spread_the_processor_time_and_the_ratio() -> None:
    _, reference, tulle = section_table(report(), "pod").splitlines()
    assert tulle.split() == ["tulle", "6.00", "ms", "5.00", "90.0", "2.00", "3", "2.00", "x", "reference"]
    assert reference.split() == ["reference", "3.00", "ms", "2.00", "4.00", "3"]


def test_what_was_left_out_or_went_wrong_is_named_in_its_section() -> None:
    text = section_table(report(skipped=[("pod", "no iptables")], failed=[("pod", "code 7"), ("other", "no")]), "pod")
    assert "skipped: no iptables" in text
    assert "FAILED: code 7" in text
    assert "no\n" not in text


def test_a_missed_goal_is_shouted() -> None:
    text = section_table(report(goals=[Goal("pod", "ADD", 300, 250, "ms", now=True, strictly=True)]), "pod")
    assert "expected now: ADD < 250 ms: 300 ms, MISSED" in text


def test_nothing_is_compared_with_what_was_not_measured() -> None:
    alone = Report({}, {"pod": "one pod"}, series=[SLOW])
    assert " x " not in section_table(alone, "pod")


def test_json_has_every_sample() -> None:
    written = json.loads(json.dumps(as_json(report(goals=[Goal("pod", "x", 1, 2)]))))
    assert [each["samples"] for each in written["series"]] == [[4.0, 2.0, 3.0], [5.0, 6.0, 90.0]]
    assert written["goals"][0]["met"] is True


def test_a_timed_series_keeps_clock_and_processor_apart() -> None:
    row = timed("pod", "tulle", [Cost(9.0, 1.0), Cost(7.0, 2.0)], against="tulle")
    assert (row.samples, row.cpu, row.against) == ((9.0, 7.0), (1.0, 2.0), "")


def test_sides_take_turns_and_nobody_always_goes_first() -> None:
    order: list[str] = []
    found = interleave({name: lambda name=name: order.append(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_first_round_is_not_counted() -> None:
    values = iter([999, 1, 2])
    assert interleave({"a": lambda: next(values)}, 2) == {"a": [1, 2]}


def test_a_program_gets_its_input_and_its_output_comes_back_with_the_time_it_took() -> None:
    script = "import sys, time; time.sleep(0.05); print(sys.stdin.read()); sys.exit(3)"
    ran = run([sys.executable, "-c", script], env=os.environ, stdin=b"hello")
    assert (ran.reply.code, ran.reply.stdout) == (3, b"hello\n")
    assert ran.cost.wall > 50 and 0 < ran.cost.cpu < ran.cost.wall, "it slept meanwhile"
    with pytest.raises(PluginError, match="start by it"):
        expect(ran, "it")


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(TimeoutError, match="did not end within"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], env=os.environ, timeout=0.2)


def test_the_timed_runtime_calls_a_plugin_as_the_labs_runtime_does(tmp_path: Path) -> None:
    plugin = tmp_path / "echo"
    plugin.write_text(
        "#!/usr/bin/python3 -IS\nimport json, os, sys\nconf = json.load(sys.stdin)\n"
        "print(json.dumps({'verb': os.environ['CNI_COMMAND'], 'who': os.environ['CNI_CONTAINERID'],"
        " 'name': conf['name'], 'dir': os.environ['TULLE_RUN_DIR']}))\n"
    )
    plugin.chmod(0o755)
    runtime = TimedRuntime(path=(tmp_path,), cache=tmp_path / "cache", env={"TULLE_RUN_DIR": "/x"})
    side = Side(runtime, Network("pods", "1.0.0", ({"type": "echo"},)))
    took, _ = side.add_and_delete(Attachment("c1", "/run/netns/p"))
    answer = runtime.execute("ADD", "echo", {"name": "pods"}, Attachment("c1", "/run/netns/p")).json()
    assert answer == {"verb": "ADD", "who": "c1", "name": "pods", "dir": "/x"}
    assert took.wall > 0
    assert len(runtime.costs) == 3


def test_pools_are_spread_always_the_same_and_leave_the_reserved_addresses_free() -> None:
    used = addresses(10_000)
    assert used == addresses(10_000)
    assert len(set(used)) == 10_000
    assert not {"10.77.0.0", "10.77.0.1", "10.77.255.255"} & set(used)
    assert len({each.rpartition(".")[0] for each in used}) > 200


def test_both_sides_find_the_same_leases_in_the_references_format(tmp_path: Path) -> None:
    fill(tmp_path / "ours", ["10.77.0.2", "10.77.0.9"])
    copy(tmp_path / "ours", tmp_path / "reference")
    for side in ("ours", "reference"):
        container, _, ifname = (tmp_path / side / "10.77.0.9").read_bytes().partition(b"\r\n")
        assert (len(container), ifname) == (64, b"eth0")


def test_peers_have_addresses_and_subnets_of_their_own() -> None:
    found = nodes(1000)
    own = [ip_network(cast(list[str], each["podCIDRs"])[0]) for each in found]
    assert len(found) == 1001
    assert len(set(own)) == len({each["address"] for each in found}) == 1001
    assert all(ip_address(str(each["address"])) in UNDERLAY for each in found)
    assert all(each.subnet_of(PODS) for each in own)  # type: ignore[arg-type]


def test_the_cluster_is_one_that_tulle_takes() -> None:
    from cni_plugin.cluster import parse

    assert len(parse(cluster("vxlan", 1000)).nodes) == 1001


TRACE = """\
700  10.000000 execve("/x/tulle", ["/x/tulle"], 0x1 /* 9 vars */) = 0
700  10.002000 execve("/x/tulle", ["/x/tulle"], 0x1 /* 9 vars */) = 0
700  10.010000 execve("/x/tulled", ["/x/tulled"], 0x1 /* 9 vars */) = 0
700  10.013000 execve("/x/tulled", ["/x/tulled"], 0x1 /* 9 vars */) = 0
700  10.050000 socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 5
700  10.060000 sendto(5, [{nlmsg_len=40}], 40, 0, NULL, 0) = 40
700  10.080000 sendto(5, [{nlmsg_len=40}], 40, 0, NULL, 0) = 40
700  10.090000 exit_group(0)             = ?
700  10.091000 +++ exited with 0 +++
"""


def test_a_trace_becomes_a_timeline_without_gaps() -> None:
    rows = phases(events(TRACE))
    times = [(round(start), round(ms)) for start, ms, _ in rows]
    assert times == [(0, 2), (2, 8), (10, 3), (13, 37), (50, 30), (80, 10)]
    assert rows[0][2] == "exec tulle"
    assert rows[-1][2].startswith("last of 2 messages")


def test_an_empty_trace_is_an_empty_timeline() -> None:
    assert phases(events("strace: cannot attach\n")) == []


def test_import_times_are_summed_by_package_with_the_standard_library_as_one() -> None:
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:      1500 |       1500 |   os\nimport time:       500 |       2000 | json.decoder\n"
        "import time:      4000 |       6000 | pyroute2.netlink\nsomething else\n"
    )
    assert imports(text) == [("os", 1.5), ("json.decoder", 0.5), ("pyroute2.netlink", 4.0)]
    assert by_package(imports(text)) == [("pyroute2", 4.0, 1), ("the standard library", 2.0, 2)]


def calls(folder: Path, many: int, script: str) -> list[Call]:
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (folder / "stdin").write_text("conf")
    stdin = str(folder / "stdin")
    return [
        Call(str(program), {**os.environ, "ME": str(each)}, stdin, str(folder / f"out{each}"), "/dev/null")
        for each in range(many)
    ]


def test_a_rush_runs_everybody_once_with_its_own_environment_and_its_own_stdin(tmp_path: Path) -> None:
    rushed = rush(calls(tmp_path, 20, 'read -r line; echo "$line $ME"'), at_once=4)
    assert {(tmp_path / f"out{each}").read_text() for each in range(20)} == {f"conf {each}\n" for each in range(20)}
    assert rushed.rate > 0


def test_a_rush_never_has_more_at_a_time_than_it_was_told(tmp_path: Path) -> None:
    here = tmp_path / "in"
    here.mkdir()
    script = f"touch {here}/$ME; ls {here} | wc -l; sleep 0.02; rm {here}/$ME"
    rush(calls(tmp_path, 12, script), at_once=3)
    seen = [int((tmp_path / f"out{each}").read_text()) for each in range(12)]
    assert max(seen) <= 3
    assert max(seen) > 1


def test_a_rush_tells_whose_pod_failed_and_what_was_said(tmp_path: Path) -> None:
    script = '[ "$ME" != 3 ] || { echo \'{"code": 11, "msg": "no port"}\'; exit 1; }'
    with pytest.raises(PluginError, match="no port"):
        rush(calls(tmp_path, 5, script))


CLIENT = """\
700  10.000000 execve("/x/tulle", ["/x/tulle"], 0x1 /* 9 vars */) = 0
700  10.002000 execve("/x/tulle", ["/x/tulle"], 0x1 /* 9 vars */) = 0
700  10.010000 connect(3, {sa_family=AF_UNIX, sun_path="/run/tulle/agent.sock"}, 24) = 0
700  10.010500 recvfrom(3, "TULLE\\1\\1\\n", 8, 0, NULL, NULL) = 8
700  10.011000 sendmsg(3, {msg_name=NULL}, 0) = 2221
700  10.014000 write(1, "{}", 2) = 2
700  10.015000 exit_group(0) = ?
"""
SERVED = Round(Cost(17.0, 9.0), Served(2.5, {"netlink": 1.5, "ipam": 1.0}))


def test_the_clients_time_is_told_without_gaps_with_the_agents_steps_inside() -> None:
    lines = describe(client_events(CLIENT), 17.0, SERVED)
    assert [line.split()[2] for line in lines if " ms  " in line and "agent" not in line] == [
        "2.0", "8.0", "1.0", "3.0", "1.0", "2.0"
    ]
    waits = next(number_ for number_, line in enumerate(lines) if "reply awaited" in line)
    assert "the agent's 2.50 ms of it" in lines[waits + 1]
    assert "ipam 1.00" in lines[waits + 1]


def test_a_reply_of_no_bytes_is_followed_by_the_end() -> None:
    silent = "\n".join(line for line in CLIENT.splitlines() if "write(" not in line)
    assert len(describe(client_events(silent), 17.0, SERVED)) == len(describe(client_events(CLIENT), 17.0, SERVED)) - 1


def test_a_client_that_asked_no_agent_is_not_told_as_if_it_had() -> None:
    with pytest.raises(BenchError, match="did not ask the agent"):
        describe(client_events(TRACE), 17.0, SERVED)


def measured() -> Report:
    made = Report({"date": "today", "kernel": "Linux <6>"}, {"agent": "one pod"})
    made.series = [
        Series("agent", "ADD: tulle", "ms", (12.5,)), Series("agent", "ADD: reference, ipMasq", "ms", (25.0,))
    ]
    pair = ("ADD: tulle", "ADD: reference, ipMasq")
    compare(made, Goal("agent", "ADD alone", 0, 0.6, pair=pair))
    made.goals.append(Goal("agent", "memory", 90.0, 80, "MiB"))
    made.skipped.append(("agent", "no iptables"))
    return made


def test_the_page_has_both_figures_their_ratio_the_goal_and_the_verdict() -> None:
    page = markdown(measured())
    assert "| ADD alone | 12.5 ms | 25.0 ms | 0.50 | <= 0.60 x | yes |" in page
    assert "| memory | 90.0 MiB |  |  | <= 80.0 MiB | no |" in page
    assert "not measured: one pod: no iptables" in page
    assert "date: today" in page


def test_the_plot_is_xml_whose_bars_are_as_long_as_their_figures() -> None:
    root = ElementTree.fromstring(svg(measured()))
    bars = [float(each.attrib["width"]) for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars[1] == pytest.approx(2 * bars[0], rel=0.01)
    words = " ".join("".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "12.5 ms" in words
    assert "Linux <6>" in words


def test_nothing_measured_is_an_empty_plot_and_both_files_are_written(tmp_path: Path) -> None:
    write(Report({}, {}), tmp_path / "new")
    assert {each.name for each in (tmp_path / "new").iterdir()} == {"report.md", "report.svg"}
    ElementTree.fromstring((tmp_path / "new" / "report.svg").read_text())


def test_help_names_every_section_and_an_unknown_one_is_refused() -> None:
    told = subprocess.run([sys.executable, BENCH, "--help"], capture_output=True, text=True, check=True).stdout
    for section in ("start", "agent", "pod", "burst", "density", "resident", "ipam", "memory", "cluster"):
        assert f"\n  {section} " in told
    refused = subprocess.run([sys.executable, BENCH, "--only", "all"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2


def test_without_an_executable_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCH, "--plugin", tmp_path / "tulle"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "scripts/build" in done.stderr or "root" in done.stderr


BUSY_THREAD = """
import sys, threading, time
def burn():
    while time.thread_time() < 0.1:
        pass
thread = threading.Thread(target=burn)
thread.start()
thread.join()
print("done", flush=True)
sys.stdin.read()
"""


def test_the_processor_time_of_an_agents_threads_counts_when_they_have_ended() -> None:
    argv = [sys.executable, "-I", "-S", "-c", BUSY_THREAD]
    begun = time.monotonic()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        milliseconds = Agent(process.pid, "node", "/run", Path("log")).cpu()
        assert 100 <= milliseconds <= (time.monotonic() - begun) * 1000, "one thread at a time"
        process.communicate("")


def test_the_nodes_of_a_simulated_cluster_are_as_the_sources_read_them(tmp_path: Path) -> None:
    simulated = InFile(tmp_path)
    simulated.put(40)
    reader = Reader(str(simulated.source["path"]), "node0")
    sizes = []
    for change in (None, simulated.join, simulated.leave):
        if change is not None:
            change()
        snapshot, wrong = reader.read()
        assert (snapshot is not None, wrong) == (True, "")
        sizes.append(len(snapshot.nodes) if snapshot else 0)
    assert sizes == [40, 41, 40]
    for each in nodes(3):
        seen = read_node(json.dumps(node_object(each)).encode(), "node0")
        assert seen.node is not None
        assert (seen.problems, list(map(str, seen.node.pod_cidrs))) == ((), each["podCIDRs"])

"""tullectl's diff, doctor, trace, top, replay and bundle: what they print, and with which exit code they end."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.client import VERSION
from cni_plugin.ctl.look import top
from cni_plugin.ctl.support import bundle
from cni_plugin.ctl.support.bundle import Member
from cni_plugin.harmless import LEFT_OUT
from cni_plugin.histogram import Histogram
from cni_plugin.kernel.see.look import Entry, Link, Way
from cni_plugin.model.base import POD
from tests.unit.ctl.tool import Around, Glasses, Tool, View, agent, configure
from tests.unit.support import Node, Reply

HOST = Attachment("pods", "a", "eth0").host_dev
STATUS = {"version": "0.1.0", "pid": 7, "started": 1.0, "queue": 2, "served": 9, "ready": True}


@pytest.fixture
def tool(node: Node, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """tullectl on this node."""
    return Tool(node, monkeypatch)


def served(node: Node, verb: str = "ADD", pod: str = "a eth0", **changes: Any) -> dict[str, Any]:
    """A request that is served on the node, as the agent remembers it."""
    container, ifname = pod.split()
    reply: Reply = node.call(verb, pod)
    environ = {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": ifname, "CNI_NETNS": f"/run/netns/{container}",
        "CNI_PATH": "/opt/cni/bin",
    }
    return {
        "verb": verb, "name": "tulle", "network": "pods", "container": container, "ifname": ifname, "code": reply.code,
        "message": "", "at": 1000.0, "seconds": 0.0042, "steps": {"ipam": 0.001}, "environ": environ,
        "stdin": json.dumps(node.conf), "stdout": json.dumps(reply.body) if reply.body else "", **changes,
    }  # fmt: skip


# diff


def test_diff_of_a_node_that_is_right_says_so_and_ends_with_0(node: Node, tool: Tool) -> None:
    node.call("ADD")
    said = tool("diff")
    assert (said.exit, said.out) == (0, "all is as it should be\n")
    assert tool("diff", "--json").json == []


def test_diff_prints_the_lines_that_would_put_it_right_does_nothing_and_ends_with_1(node: Node, tool: Tool) -> None:
    node.call("ADD")
    del node.kernel.state["addr", POD, "eth0", "10.22.0.2/24"]
    broken = dict(node.kernel.state)
    said = tool("diff")
    assert said.exit == 1
    assert said.out == "# attachment a eth0 in pods\nip -n POD addr add 10.22.0.2/24 dev eth0\n"
    (wrong,) = tool("diff", "--json").json
    assert wrong["ops"] == ["ip -n POD addr add 10.22.0.2/24 dev eth0"]
    assert node.kernel.state == broken


# doctor


def test_doctor_of_a_node_that_is_right_ends_with_0(node: Node, tool: Tool) -> None:
    configure(node)
    node.call("ADD")
    tool.around(Around([Link("tulle0", 2, "bridge", 1500, assigned=3)]))
    with agent(node, {"status": {**STATUS, "version": VERSION}}):
        said = tool("doctor", "--json", "--data-dir", f"{node.home}/data")
    left = [each for each in said.json if each["name"] != "run-dir-not-tmpfs"]
    assert left == []


def test_doctor_explains_what_it_finds_and_ends_with_1(node: Node, tool: Tool) -> None:
    configure(node, agent="required")
    node.call("ADD")
    node.unplug("a eth0")
    said = tool("doctor", "--data-dir", f"{node.home}/data")
    assert said.exit == 1
    assert f"error attachment a eth0 in pods: {HOST} is gone" in said.out
    assert "the pod runs and has no network" in said.out
    assert "tullectl repair" in said.out
    assert "no pod can be started until the agent is back" in " ".join(said.out.split())
    assert "2 errors" in said.out


def test_doctor_never_calls_fine_what_it_could_not_see(node: Node, tool: Tool) -> None:
    configure(node)
    machine = Around()
    machine.broken = True
    tool.around(machine)
    said = tool("doctor", "--data-dir", f"{node.home}/data")
    assert said.exit == 1
    assert "not known links: Operation not permitted" in said.out


# trace


def eyes() -> Glasses:
    """A node and its pod `a` as they stand after ADD."""
    host = View(
        [Link(HOST, 7, "veth", 1500, "0e:ab:00:00:00:01", "tulle:pods/a/eth0", "tulle0", port="forwarding",
              counters={"rx_packets": 12})],
        addresses={"tulle0": ("10.22.0.1/24",)},
        ways={"10.22.0.2>203.0.113.9": Way("unicast", "up0", "198.51.100.2"), "203.0.113.9": Way("unicast", "up0")},
        neighbours=[Entry("tulle0", "0a:58:0a:16:00:02", "10.22.0.2", "reachable"), Entry("up0", "02::", "192.0.2.9")],
        entries=[Entry(HOST, "0a:58:0a:16:00:02"), Entry("tl-other", "0a:58:0a:16:00:77")],
    )  # fmt: skip
    ways = {"10.22.0.1": Way("unicast", "eth0"), "203.0.113.9": Way("unicast", "eth0", "10.22.0.1")}
    inside = View([Link("eth0", 2, "veth", 1500)], addresses={"eth0": ("10.22.0.2/24",)}, ways=ways)
    rules = (
        "table ip filter {\n\tchain FORWARD {\n\t\tip saddr 10.22.0.2 drop\n\t\tip saddr 10.22.0.20 drop\n\t}\n}\n"
        'table inet tulle {\n\tchain postrouting {\n\t\tmasquerade comment "network pods 1"\n\t}\n}\n'
    )
    return Glasses({"": host, "/run/netns/a": inside}, rules)


def test_trace_tells_everything_of_a_pod_and_why(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(eyes())
    said = tool("trace", "a", "--to", "203.0.113.9")
    assert said.exit == 0, said.out
    for each in (
        "attachment a eth0 in pods: up", "ip -n POD addr add 10.22.0.2/24 dev eth0", f"{HOST}, index 7",
        "# the address that host-local leased", "10.22.0.2 is 0a:58:0a:16:00:02 on tulle0 (reachable)",
        "0e:ab:00:00:00:01", "rx_packets 12",
        f"0a:58:0a:16:00:02 behind {HOST}", "ip filter FORWARD: ip saddr 10.22.0.2 drop", "masquerade comment",
        "the way to 10.22.0.1", "tulle0 of this node has 10.22.0.1", "the way to 203.0.113.9", "masqueraded",
    ):  # fmt: skip
        assert each in said.out, f"{each}\n\n{said.out}"
    for each in ("10.22.0.20", "tl-other", "up0 (", "WRONG"):
        assert each not in said.out, each


@pytest.mark.parametrize("words", ["abcdef", "abc", "10.22.0.2"])
def test_trace_finds_a_pod_by_its_id_by_the_beginning_of_it_and_by_its_address(
    node: Node, tool: Tool, words: str
) -> None:
    node.call("ADD", "abcdef eth0")
    node.call("ADD", "xyz eth1")
    tool.around(Glasses({}))
    (told,) = tool("trace", words, "--json").json
    assert told["attachment"]["container"] == "abcdef"


def test_trace_of_an_ambiguous_beginning_names_the_pods_it_may_be(node: Node, tool: Tool) -> None:
    for pod in ("abc1 eth0", "abc2 eth1"):
        node.call("ADD", pod)
    said = tool("trace", "abc")
    assert said.exit == 1
    assert "it may be abc1, abc2" in said.err


def test_trace_of_nobody_says_so(tool: Tool) -> None:
    said = tool("trace", "192.0.2.1")
    assert said.exit == 1
    assert "no attachment on record has '192.0.2.1'" in said.err


def test_trace_to_what_is_no_address_is_a_wrong_command_line(node: Node, tool: Tool) -> None:
    node.call("ADD")
    assert tool("trace", "a", "--to", "there").exit == 2


def test_trace_shows_what_is_wrong_with_the_line_that_puts_it_right(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(eyes())
    del node.kernel.state["addr", POD, "eth0", "10.22.0.2/24"]
    said = tool("trace", "a")
    assert said.exit == 1
    assert "WRONG ip -n POD addr add 10.22.0.2/24 dev eth0" in said.out


def test_trace_of_a_pod_whose_namespace_is_gone_tells_the_rest(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(Glasses({"": View()}))
    said = tool("trace", "a")
    assert said.exit == 1
    assert "not known" in said.out
    assert "the pod's namespace: CNI_NETNS '/run/netns/a' names nothing" in said.out
    assert "10.22.0.2" in said.out


# the agent, away


@pytest.mark.parametrize("words", [("top", "--once"), ("top", "--json"), ("replay",), ("replay", "1")])
def test_what_needs_the_agent_says_that_it_is_away_and_ends_with_1(tool: Tool, words: tuple[str, ...]) -> None:
    said = tool(*words)
    assert said.exit == 1
    assert "no agent answers" in said.err
    assert "systemctl start tulled" in said.err


def test_an_agent_of_another_protocol_is_as_good_as_away(node: Node, tool: Tool) -> None:
    with agent(node, {}, greeting=b"TULLE\x63\x64\n"):
        said = tool("top", "--once")
    assert said.exit == 1
    assert "does not understand" in said.err


def test_a_question_that_the_agent_does_not_know_is_told_in_its_words(node: Node, tool: Tool) -> None:
    with agent(node, {}):
        said = tool("replay")
    assert said.exit == 1
    assert "unknown question" in said.err


def test_status_shows_the_agent_and_the_bridges_ports(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(Around([Link("tulle0", 2, "bridge", 1500), Link(HOST, 3, "veth", 1500, master="tulle0")]))
    assert "Agent: away" in tool("status").out
    with agent(node, {"status": STATUS}):
        report = tool("status", "--json").json
        text = tool("status").out
    assert isinstance(report, dict)
    assert report["agent"] == STATUS
    assert report["bridges"] == [{"bridge": "tulle0", "mtu": 1500, "ports": 1, "of": 1023}]
    assert "pid 7" in text
    assert "2 waiting, 9 served" in text


# top


def counted(*seconds: float, codes: dict[str, int]) -> dict[str, object]:
    """A verb's counters as the agent tells them."""
    histogram, ipam = Histogram(), Histogram()
    for each in seconds:
        histogram.observe(each)
        ipam.observe(each / 10)
    return {**histogram.snapshot(), "codes": codes, "steps": {"ipam": ipam.snapshot()}}


def metrics(at: float, **verbs: object) -> dict[str, object]:
    return {"started": 100.0, "at": at, "total": 1, "verbs": verbs, "repairs": {"masquerade": {"count": 3}}}


def test_top_shows_counts_rates_latencies_and_errors_by_verb_and_step(node: Node, tool: Tool) -> None:
    with agent(node, {"metrics": metrics(110.0, ADD=counted(*[0.004] * 19, 0.2, codes={"0": 19, "11": 1}))}):
        told = tool("top", "--json").json
        text = tool("top", "--once").out
    assert isinstance(told, dict)
    add, ipam = told["rows"]
    assert (add["verb"], add["step"], add["count"], add["rate"], add["errors"]) == ("ADD", "", 20, 2.0, 1)
    assert 3 < add["p50"] <= 5 < 100 < add["p99"] <= 250
    assert (ipam["verb"], ipam["step"], ipam["count"]) == ("ADD", "ipam", 20)
    assert "ADD" in text
    assert "masquerade 3 times" in text


def test_top_draws_until_somebody_ends_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    read, write = os.pipe()
    with os.fdopen(read) as stdin, agent(node, {"metrics": metrics(110.0, ADD=counted(0.004, codes={"0": 1}))}):
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr(top, "INTERVAL", 0.01)

        def draw(rows: Sequence[top.Row], now: top.Look, seconds: float) -> None:
            del now, seconds
            seen.append(len(rows))
            if len(seen) == 3:
                os.close(write)

        top.live(f"{node.home}/run", draw)
    assert seen == [2, 2, 2]


def look(at: float, **verbs: object) -> top.Look:
    import msgspec

    return msgspec.convert(metrics(at, **verbs), top.Look)


def test_top_between_two_looks_counts_only_what_happened_between_them() -> None:
    before = look(110.0, ADD=counted(0.2, 0.2, codes={"0": 1, "11": 1}))
    now = look(112.0, ADD=counted(0.2, 0.2, *[0.001] * 4, codes={"0": 5, "11": 1}), DEL=counted(0.02, codes={"0": 1}))
    rows = {(each.verb, each.step): each for each in top.rows(now, before)}
    assert (rows["ADD", ""].count, rows["ADD", ""].rate, rows["ADD", ""].errors) == (4, 2.0, 0)
    assert rows["ADD", ""].p99 <= 1.0
    assert rows["ADD", ""].mean == pytest.approx(1.0)
    assert rows["DEL", ""].count == 1


def test_top_of_an_agent_that_was_started_again_begins_anew() -> None:
    import msgspec

    before = msgspec.structs.replace(look(110.0, ADD=counted(*[0.1] * 50, codes={"0": 50})), started=5.0)
    (row, _) = top.rows(look(112.0, ADD=counted(0.1, codes={"0": 1})), before)
    assert row.count == 1


# replay


def test_replay_lists_the_requests_the_last_one_last(node: Node, tool: Tool) -> None:
    requests = [served(node), served(node, "DEL", message="")]
    with agent(node, {"requests": requests}):
        said = tool("replay")
        told = tool("replay", "--json").json
    assert said.exit == 0
    first, last = said.out.splitlines()[-2:]
    assert first.split()[0::2][:2] == ["2", "ADD"]
    assert last.split()[0::2][:2] == ["1", "DEL"]
    assert isinstance(told, list)
    assert [each["verb"] for each in told] == ["ADD", "DEL"]


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL", "STATUS"])
def test_replay_serves_a_request_again_and_touches_nothing(
    node: Node, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    added = served(node)
    if verb == "CHECK":
        node = node.after(Reply(0, json.loads(added["stdout"])))
    request = added if verb == "ADD" else served(node, verb)
    before = (dict(node.kernel.state), len(node.kernel.applied), node.left(), node.leases())
    with agent(node, {"requests": [request]}):
        said = tool("replay", "1")
        told = tool("replay", "1", "--json").json
    assert said.exit == 0, said.out + said.err
    assert isinstance(told, dict)
    assert told["same"]
    expected = {"ADD": "ip -n POD addr add 10.22.0.2/24 dev eth0", "DEL": f"ip link del {HOST}"}
    assert expected.get(verb, "# nothing was changed") in said.out
    assert (dict(node.kernel.state), len(node.kernel.applied), node.left(), node.leases()) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_replay_asks_for_the_addresses_that_were_given(node: Node, tool: Tool) -> None:
    node.call("ADD", "first eth7")
    request = served(node, "ADD", "second eth0")
    assert "10.22.0.3" in request["stdout"]
    with agent(node, {"requests": [request]}):
        assert "ip -n POD addr add 10.22.0.3/24 dev eth0" in tool("replay", "1").out


def test_replay_of_a_cluster_reads_its_node_list_and_programs_a_kernel_in_memory(
    node: Node, tool: Tool, tmp_path: Path
) -> None:
    nodes = [
        {"name": f"n{each}", "address": f"192.0.2.{each}", "podCIDRs": [f"10.244.{each}.0/24"]} for each in (1, 2)
    ]
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"node": "n1", "nodes": nodes}))
    member = node.configured(cluster=str(path), ipam={"type": "host-local", "dataDir": f"{node.home}/data"})
    with agent(node, {"requests": [served(member)]}):
        said = tool("replay", "1")
    assert said.exit == 0, said.out + said.err
    assert "ip route add 10.244.2.0/24 via 10.244.2.0 dev tulle.1 proto 84 onlink" in said.out


def test_replay_of_a_failure_fails_again_and_of_one_that_does_not_ends_with_1(node: Node, tool: Tool) -> None:
    bad = node.configured(mtu=1)
    with agent(node, {"requests": [served(bad)]}):
        assert tool("replay", "1").exit == 0
    with agent(node, {"requests": [served(node, code=11, stdout='{"code": 11}')]}):
        said = tool("replay", "1")
    assert said.exit == 1
    assert "another outcome" in said.out


def test_replay_of_a_delegated_ipam_is_refused_with_the_reason(node: Node, tool: Tool) -> None:
    request = served(node, stdin=json.dumps({**node.conf, "ipam": {"type": "dhcp"}}))
    with agent(node, {"requests": [request]}):
        said = tool("replay", "1")
    assert said.exit == 1
    assert "'dhcp', another program" in said.err


def test_replay_of_a_request_that_is_not_there_names_those_that_are(node: Node, tool: Tool) -> None:
    with agent(node, {"requests": [served(node)]}):
        said = tool("replay", "2")
    assert said.exit == 1
    assert "1 (the last) to 1" in said.err


# bundle


def members(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {each.name.partition("/")[2]: _text(archive, each) for each in archive}


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    assert isinstance(file, io.BufferedReader)
    return file.read().decode()


def test_bundle_holds_what_a_report_needs_and_says_so(node: Node, tool: Tool) -> None:
    configure(node)
    requests = [served(node)]
    path = node.home / "b.tar.gz"
    with agent(node, {"status": STATUS, "requests": requests, "metrics": metrics(110.0)}):
        said = tool("bundle", str(path), "--data-dir", f"{node.home}/data")
    assert said.exit == 0, said.err
    found = members(path)
    for each in (
        "versions.json", "status.json", "diff.json", "doctor.json", "leases.json", "agent.json", "requests.json",
        "metrics.json", "records/pods/a:eth0", "configurations/10-tulle.conflist", "node/sysctls.txt",
        "node/os-release.txt", "missing.json",
    ):  # fmt: skip
        assert each in found
        assert each in said.out
    assert json.loads(found["requests.json"])[0]["container"] == "a"
    assert json.loads(found["leases.json"])[0]["address"] == "10.22.0.2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_bundle_on_stdout_is_the_archive_and_nothing_else(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    bundle.write("-", [Member("a.json", "{}")])
    with tarfile.open(fileobj=io.BytesIO(capsysbinary.readouterr().out)) as archive:
        assert [Path(each).name for each in archive.getnames()] == ["a.json"]


def test_bundle_holds_the_node_list_of_a_cluster_without_its_secrets(node: Node, tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    nodes = [{"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}]
    path.write_text(json.dumps({"node": "n1", "nodes": nodes}))
    ipam = {"type": "host-local", "dataDir": f"{node.home}/data"}
    assert node.configured(cluster=str(path), ipam=ipam).call("ADD").exit == 0
    path.write_text(json.dumps({"node": "n1", "nodes": nodes, "token": "hunter2-hunter2"}))
    assert tool("bundle", str(node.home / "b.tar.gz")).exit == 0
    listed = json.loads(members(node.home / "b.tar.gz")["clusters/pods-nodes.json"])
    assert listed == {"node": "n1", "nodes": nodes, "token": LEFT_OUT}


def test_bundle_without_an_agent_tells_what_is_missing(node: Node, tool: Tool) -> None:
    said = tool("bundle", str(node.home / "b.tar.gz"), "--json")
    assert said.exit == 0
    told = said.json
    assert isinstance(told, dict)
    assert "no agent answers" in told["missing"]["agent"]
    assert "requests.json" not in told["members"]


def test_bundle_holds_no_secret_wherever_it_stood(
    node: Node, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from-the-environment")
    secret = "hunter2-hunter2"
    inner = {"token": secret, "client-key-data": "S0VZS0VZS0VZ"}
    odd: dict[str, Any] = {
        "kubernetes": inner, "apiKey": "key-of-the-api", "pw": f"{secret}-1", "dsn": f"postgres://u:{secret}@db/x",
        "headers": [{"name": "X-Auth", "value": secret}], "env": [{"name": "DB", "value": secret}],
        "command": [f"--token={secret}"], "url": f"https://u:{secret}@host/{secret}", secret: {secret: secret},
    }
    configure(node, args={"cni": {"ips": []}}, **odd)
    (node.home / "net.d" / "99-plain.conf").write_text(f"password = {secret}")
    request = served(node)
    request["stdin"] = json.dumps({**node.conf, **odd})
    request["stdout"] = json.dumps({"code": 7, "msg": f"no such token {secret}"})
    request["message"] = f"no such token {secret}"
    request["environ"] |= {"CNI_ARGS": f"K8S_POD_NAME=web-0;API_TOKEN={secret};ODD=other-value", "HOME": "/root/home"}
    path = node.home / "b.tar.gz"
    source = {"type": "etcd", "endpoints": [f"http://root:{secret}@192.0.2.9:2379"], "password": secret}
    status = {**STATUS, "settings": {"source": source}, "problem": f"http://root:{secret}@192.0.2.9:2379 is away"}
    with agent(node, {"status": status, "requests": [request], "metrics": {}}):
        assert tool("bundle", str(path)).exit == 0
    whole = "".join(members(path).values())
    for each in (secret, "S0VZS0VZS0VZ", "key-of-the-api", "from-the-environment", "other-value", "/root/home"):
        assert each not in whole, each
    assert "K8S_POD_NAME=web-0" in whole
    assert "http://192.0.2.9:2379" in whole
    assert LEFT_OUT in whole


def test_a_bundle_can_be_replayed_elsewhere(node: Node, tool: Tool) -> None:
    path = node.home / "b.tar.gz"
    request = served(node)
    request["environ"]["CNI_ARGS"] = "IgnoreUnknown=1;K8S_POD_NAME=x;ODD=y"
    with agent(node, {"status": STATUS, "requests": [request], "metrics": {}}):
        assert tool("bundle", str(path)).exit == 0
    said = tool("replay", "1", "--from", str(path))
    assert said.exit == 0, said.err
    assert "ip -n POD addr add 10.22.0.2/24 dev eth0" in said.out


@pytest.mark.parametrize(("data", "says"), [
    (b"", "holds no requests"), (b"\x1f\x8bnonsense", "no bundle"), (b'{"a": 1}', "no list of requests"),
])  # fmt: skip
def test_what_is_no_bundle_is_not_replayed(node: Node, tool: Tool, data: bytes, says: str) -> None:
    path = node.home / "b.tar.gz"
    path.write_bytes(data)
    said = tool("replay", "--from", str(path))
    assert said.exit == 1
    assert says in said.err


def test_times_are_those_of_the_node(node: Node, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    node.call("ADD")
    tool.around(Glasses({}))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    (record,) = node.records.all()
    (told,) = tool("trace", "a", "--json").json
    assert told["attachment"]["created"] == time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(record.created))


@pytest.mark.parametrize("words", ["diff", "doctor", "trace", "top", "replay", "bundle"])
def test_every_new_command_has_help_and_refuses_a_wrong_word(tool: Tool, words: str) -> None:
    assert "Usage:" in tool(words, "--help").out
    assert tool(words, "--frob").exit == 2


def test_nothing_is_coloured_where_nobody_looks(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(Glasses({}))
    for words in (("doctor",), ("status",), ("trace", "a"), ("diff",)):
        assert "\x1b" not in tool(*words).out



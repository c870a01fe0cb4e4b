"""The node agent under the real systemd, put there by scripts/install: socket, watchdog, restarts, sandbox."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.systemd_machine import Machine, lacks
from tests.pace import PATIENCE, until

REPO = Path(__file__).resolve().parents[2]
NET_ADMIN, NET_RAW, SYS_ADMIN = 1 << 12, 1 << 13, 1 << 21

pytestmark = [
    pytest.mark.skipif(bool(lacks()), reason=f"no machine with systemd: {lacks()}"),
    pytest.mark.skipif(not (REPO / "dist" / "tulle").exists(), reason="dist/tulle is not built: run scripts/build"),
]

CONF: dict[str, object] = {
    "cniVersion": "1.1.0",
    "name": "pods",
    "type": "tulle",
    "isGateway": True,
    "ipMasq": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.60.0.0/24"}], [{"subnet": "fd00:60::/64"}]]},
}
SLOW_IPAM = """#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
touch /run/tulle/slow; sleep 1.5
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.61.0.9/24"}]}'
"""
SLOW_CONF: dict[str, object] = {"cniVersion": "1.1.0", "name": "slow", "type": "tulle", "ipam": {"type": "slow"}}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With the bundle installed, from a checkout of its own."""
    made = Machine(tmp_path_factory.mktemp("systemd"))
    try:
        made.put(REPO, ("scripts", "conf", "pyproject.toml", "dist/tulle"), "/srv/tulle")
        made.sh("/srv/tulle/scripts/install --no-conf")
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def clean(machine: Machine) -> Iterator[None]:
    """Each test begins with the agent as installed, and leaves no pod and no drop-in."""
    machine.sh("systemctl start tulled.service")
    yield
    machine.sh("rm -rf /etc/tulle/agent.json /run/systemd/system/tulled.service.d; systemctl daemon-reload")
    machine.sh("systemctl restart tulled.service")
    machine.sh("for pod in $(ip netns list | cut -d ' ' -f 1); do ip netns del $pod; done")
    machine.sh(cni("GC", "", {**CONF, "cni.dev/valid-attachments": []}))


def cni(verb: str, pod: str, conf: dict[str, object] | None = None) -> str:
    """The command of a runtime for this pod."""
    env = f"CNI_COMMAND={verb} CNI_CONTAINERID={pod} CNI_NETNS=/run/netns/{pod} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin"
    return f"echo {shlex.quote(json.dumps(conf or CONF))} | env {env} /opt/cni/bin/tulle"


def add(machine: Machine, pod: str, conf: dict[str, object] | None = None) -> dict[str, object]:
    """A new pod; the result."""
    return dict(json.loads(machine.sh(f"ip netns add {pod}; {cni('ADD', pod, conf)}")))


def address(result: dict[str, object]) -> str:
    """Its first address."""
    ips = result["ips"]
    assert isinstance(ips, list)
    return str(ips[0]["address"]).split("/")[0]


def drop_in(machine: Machine, text: str) -> None:
    """Change the unit for one test."""
    machine.sh(
        "mkdir -p /run/systemd/system/tulled.service.d; "
        f"printf '[Service]\\n%s\\n' {shlex.quote(text)} >/run/systemd/system/tulled.service.d/test.conf; "
        "systemctl daemon-reload; systemctl restart tulled.service"
    )


@contextlib.contextmanager
def pinging(machine: Machine) -> Iterator[None]:
    """A pod pings another one every 10 ms meanwhile, and not one packet is lost."""
    add(machine, "from")
    target = address(add(machine, "to"))
    ping = machine.start(f"exec ip netns exec from ping -i 0.01 -W 2 -q {target}")
    try:
        machine.sh(f"ip netns exec from ping -c 1 -W 2 {target}")
        yield
    finally:
        machine.sh("pkill -INT -x ping")
        told = ping.communicate(timeout=PATIENCE)[0]
    counted = re.search(r"(\d+) packets transmitted, (\d+) received", told)
    assert counted and int(counted[1]) == int(counted[2]) > 50, told


def add_all(machine: Machine, pods: list[str], meanwhile: str) -> list[dict[str, object]]:
    """ADD of many pods over a second while something is done to the agent; what each was told."""
    machine.sh("".join(f"ip netns add {each}; " for each in pods))
    adds = (f"(sleep 0.{index % 10}; {cni('ADD', pod)} >/run/{pod}.out || true) & " for index, pod in enumerate(pods))
    machine.sh(f"{' '.join(adds)} sleep 0.3; {meanwhile}; wait")
    return [json.loads(machine.sh(f"cat /run/{pod}.out")) for pod in pods]


def test_the_units_are_what_systemd_understands(machine: Machine) -> None:
    assert machine.sh("systemd-analyze verify tulled.socket tulled.service 2>&1").strip() == ""
    said = machine.sh("systemd-analyze security --no-pager tulled.service | tail -1").strip()
    print(said)
    assert float(said.split("service: ")[1].split()[0]) <= 3.0


def test_systemd_is_told_when_the_agent_is_ready(machine: Machine) -> None:
    assert machine.show("tulled.service", "ActiveState", "StatusText") == [
        "active", "serving /run/tulle/agent.sock, ready"
    ]
    assert machine.sh("stat -c '%a %U %F' /run/tulle/agent.sock /run/tulle").splitlines() == [
        "600 root socket", "700 root directory"]


def test_a_pod_is_wired_through_the_sandbox(machine: Machine) -> None:
    first, second = add(machine, "p1"), add(machine, "p2")
    machine.sh(f"ip netns exec p1 ping -c 1 -W 2 {address(second)}; ip netns exec p1 ping -c 1 -W 2 fd00:60::1")
    machine.sh(cni("CHECK", "p1", {**CONF, "prevResult": first}))
    assert "masquerade" in machine.sh("nft list table inet tulle")
    machine.sh("".join(f"{cni('DEL', pod)}; " for pod in ("p1", "p2")))
    assert machine.sh("ip -o link show type veth; find /run/tulle/attachments -type f") == ""
    log = machine.log()
    assert all(f"verb={verb} network=pods container=p1 " in log for verb in ("ADD", "CHECK", "DEL")), log


def test_the_log_bears_levels_that_the_journal_understands(machine: Machine) -> None:
    add(machine, "p1")
    machine.sh(f"{cni('CHECK', 'p1')} || true; {cni('DEL', 'p1')}; journalctl --sync")
    rows = [json.loads(line) for line in machine.sh("journalctl --no-pager -o json -u tulled.service").splitlines()]
    levels = {row["MESSAGE"].split()[0]: row["PRIORITY"] for row in rows if row["MESSAGE"].startswith("level=")}
    assert levels.items() >= {"level=info": "6", "level=error": "3"}.items()


def test_the_agent_has_three_capabilities_and_needs_two_for_pods(machine: Machine) -> None:
    status = dict(line.split(":\t") for line in machine.sh(f"cat /proc/{machine.pid()}/status").splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == NET_ADMIN | NET_RAW | SYS_ADMIN
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for index, kept in enumerate(("CAP_NET_ADMIN", "CAP_SYS_ADMIN")):
        drop_in(machine, f"CapabilityBoundingSet=\nCapabilityBoundingSet={kept}")
        told = machine.sh(f"ip netns add p{index}; {cni('ADD', f'p{index}')} || true")
        assert "code" in json.loads(told), f"{kept} alone would do"


def test_a_namespace_that_comes_later_is_seen_in_the_sandbox(machine: Machine) -> None:
    machine.sh("ip netns add early")
    machine.sh("systemctl restart tulled.service; ip netns add late")
    seen = machine.sh(f"nsenter -m -t {machine.pid()} stat -f -c %T /run/netns/early /run/netns/late")
    assert seen.split() == ["nsfs", "nsfs"]
    machine.sh("ip netns del early")
    assert "early" not in machine.sh("ls /run/netns"), "nor does the sandbox hold on to one that goes"


def test_an_agent_that_is_down_comes_up_for_a_request(machine: Machine) -> None:
    machine.sh("systemctl stop tulled.service 2>&1")
    assert machine.pid() == 0
    add(machine, "p1")
    assert machine.pid() > 0 and "container=p1" in machine.log().rpartition("Starting tulled")[2]


def test_no_request_is_lost_when_the_agent_is_killed(machine: Machine) -> None:
    """Who waited in the queue of the socket is served; who was being served is told to try again, and may."""
    pods = [f"k{index}" for index in range(30)]
    before = int(machine.show("tulled.service", "NRestarts")[0])
    kill = "systemctl kill -s KILL tulled.service"
    told = add_all(machine, pods, f"{kill}; sleep 0.2; {kill}")
    again = [pod for pod, each in zip(pods, told, strict=True) if each.get("code") == 11]
    assert all("ips" in each or each["code"] == 11 for each in told), told
    for pod in again:
        machine.sh(f"{cni('DEL', pod)}; {cni('ADD', pod)}")
    assert int(machine.show("tulled.service", "NRestarts")[0]) > before
    assert len(machine.sh("ls /run/tulle/attachments/pods").split()) == len(pods)
    machine.sh("".join(f"{cni('DEL', pod)}; " for pod in pods))
    assert machine.sh("ip -o link show type veth; find /run/tulle/attachments -type f") == ""


def test_an_upgrade_under_load_loses_no_packet_and_no_request(machine: Machine) -> None:
    machine.sh("echo 9.9-test >/srv/tulle/dist/tulle/release")
    was = machine.pid()
    with pinging(machine):
        told = add_all(machine, [f"u{index}" for index in range(20)], "/srv/tulle/scripts/install --no-conf 2>&1")
    assert all("ips" in each for each in told), told
    log = machine.log()
    assert all(f"container=u{index} ifname=eth0 code=0 " in log for index in range(20)), "one came past the agent"
    assert machine.pid() not in (0, was)
    assert machine.sh(f"readlink /proc/{machine.pid()}/exe").strip() == "/opt/tulle/9.9-test/tulled"


def test_what_is_under_way_when_the_agent_is_stopped_is_finished(machine: Machine) -> None:
    machine.sh(f"printf %s {shlex.quote(SLOW_IPAM)} >/opt/cni/bin/slow; chmod +x /opt/cni/bin/slow; ip netns add p1")
    request = machine.start(cni("ADD", "p1", SLOW_CONF))
    until(lambda: machine.sh("ls /run/tulle/slow || true", check=False), "its IPAM is asked")
    was = machine.pid()
    machine.sh("systemctl stop tulled.service 2>&1")
    assert machine.pid() != was and machine.show("tulled.service", "Result") == ["success"]
    out = request.communicate(timeout=PATIENCE)[0]
    assert address(json.loads(out)) == "10.61.0.9"
    machine.sh(cni("DEL", "p1", SLOW_CONF))


def test_an_agent_that_hangs_is_replaced(machine: Machine) -> None:
    drop_in(machine, "WatchdogSec=4s\nTimeoutAbortSec=1s")
    was = machine.pid()
    time.sleep(9)
    assert machine.pid() == was, "while its loop turns nobody touches it"
    machine.sh(f"kill -STOP {was}")
    until(lambda: machine.pid() not in (0, was), "another one is started")
    assert "atchdog timeout" in machine.log()
    add(machine, "p1")


def test_an_agent_that_cannot_start_is_in_nobodys_way(machine: Machine) -> None:
    machine.sh("""mkdir -p /etc/tulle; echo '{"log": "loud"}' >/etc/tulle/agent.json""")
    machine.sh("systemctl restart tulled.service || true")
    add(machine, "p1")
    assert "/etc/tulle/agent.json: invalid log" in machine.log()
    machine.sh("rm /etc/tulle/agent.json")
    until(lambda: machine.show("tulled.service", "ActiveState") == ["active"], "it is put right, and starts")
    machine.sh(cni("DEL", "p1"))


def test_metrics_are_served_from_the_sandbox_when_switched_on(machine: Machine) -> None:
    machine.sh("""mkdir -p /etc/tulle; echo '{"metrics": "127.0.0.1:9472"}' >/etc/tulle/agent.json""")
    machine.sh("systemctl restart tulled.service")
    add(machine, "p1")
    program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    fetch = f"python3 -c {shlex.quote(program)} http://127.0.0.1:9472"
    page = machine.sh(f"{fetch}/metrics")
    assert 'tulle_cni_requests_total{code="0",verb="ADD"} 1.0' in page
    assert 'tulle_attachments{network="pods"} 1.0' in page and 'tulle_bridge_ports{bridge="tulle0"} 1.0' in page
    assert 'tulle_ipam_addresses{network="pods",range_set="0",state="used"} 1.0' in page
    assert machine.sh(f"{fetch}/readyz; {fetch}/healthz").split() == ["ok", "ok"]
    machine.sh(cni("DEL", "p1"))


def test_uninstalling_takes_the_agent_away(machine: Machine) -> None:
    try:
        machine.sh("/srv/tulle/scripts/install --uninstall 2>&1")
        assert machine.sh("systemctl list-unit-files 'tulled*' --no-legend || true") == ""
        assert machine.sh("ls -d /run/tulle /opt/tulle 2>/dev/null || true") == ""
        assert machine.sh("pgrep -x tulled || true") == ""
    finally:
        machine.sh("/srv/tulle/scripts/install --no-conf 2>&1")


def test_an_agent_with_a_source_writes_the_cni_configuration_from_its_sandbox(machine: Machine) -> None:
    nodes = {
        "network": "10.60.0.0/16", "backend": {"type": "host-gw"},
        "nodes": [{"name": "me", "address": "192.0.2.1", "podCIDRs": ["10.60.1.0/24"]}],
    }
    conflist = "/etc/cni/net.d/10-tulle.conflist"
    settings = {"node": "me", "source": {"type": "file", "path": "/etc/tulle/nodes.json"}, "cni": {"path": conflist}}
    machine.sh("ip link add up0 type veth peer name up1; ip link set up1 up; ip link set up0 up")
    machine.sh("ip addr add 192.0.2.1/24 dev up0; mkdir -p /etc/tulle")
    machine.sh(f"echo {shlex.quote(json.dumps(nodes))} >/etc/tulle/nodes.json")
    machine.sh(f"echo {shlex.quote(json.dumps(settings))} >/etc/tulle/agent.json; systemctl restart tulled.service")
    try:
        until(lambda: machine.sh(f"ls {conflist} 2>&1 || true") == f"{conflist}\n", "the configuration is written")
        written = json.loads(machine.sh(f"cat {conflist}"))
        assert written["plugins"][0]["cluster"] == "/run/tulle/cluster.json"
        assert machine.sh(f"stat -c %a {conflist}").strip() == "644"
        added = add(machine, "p7", {**written["plugins"][0], **named(written)})
        assert address(added).startswith("10.60.1.")
        machine.sh(cni("DEL", "p7", {**written["plugins"][0], **named(written)}))
    finally:
        machine.sh(f"rm -f {conflist}; ip link del up0")


def named(conflist: dict[str, object]) -> dict[str, object]:
    """What a runtime tells each plugin of a list."""
    return {"name": conflist["name"], "cniVersion": conflist["cniVersion"]}

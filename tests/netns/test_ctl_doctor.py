"""tullectl on a real kernel: what somebody broke in a namespace is found, explained, traced, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.modules import VLAN_FILTERING
from cni_plugin.kernel.see.probe import features
from scripts.lib.lab.topology import REPO
from tests.conformance.nodes import SYSTEM_PATH, UPLINK, WORLD4, Call, Json, Node
from tests.netns.conftest import MakeLab, unique
from tests.netns.failure_nodes import conf, node_with
from tests.pace import PATIENCE

OF_THE_MACHINE = {"manage-foreign-routes", "network-manager", "mac-policy", "br-netfilter", "agent-away"}
"""What the machine that runs the tests may have or lack, whatever a test does."""


class Site(NamedTuple):
    """A node with one pod wired, and the folder of its runtime's configurations."""

    node: Node
    conf: Json
    plugin: Path

    @property
    def configs(self) -> Path:
        return self.node.state / "net.d"

    def link(self) -> str:
        """The host's end of the pod's veth."""
        (found,) = (each for each in self.node.json("ip", "-j", "link") if str(each["ifname"]).startswith("tl"))
        return str(found["ifname"])

    def configure(self, **keys: object) -> None:
        """Put the node's configuration, with these keys, where the runtime looks."""
        self.configs.mkdir(exist_ok=True)
        whole = {**self.conf, **keys}
        plugin = {key: each for key, each in whole.items() if key not in ("name", "cniVersion")}
        text = json.dumps({"name": whole["name"], "cniVersion": "1.1.0", "plugins": [plugin]})
        (self.configs / "10-tulle.conflist").write_text(text)

    def tool(self, *words: str, before: str = "true") -> subprocess.CompletedProcess[str]:
        """tullectl on the node, /sys showing it; `before` is done first, in a mount namespace that goes at once."""
        return tullectl(self.plugin, self.node.path, self.node.run_dir, *words, before=before, configs=self.configs)

    def findings(self, before: str = "true") -> dict[str, Any]:
        """What the doctor finds, by name; the exit code must agree."""
        done = self.tool("doctor", "--json", "--data-dir", str(self.node.data_dir), before=before)
        assert done.returncode in (0, 1), done.stderr
        found = json.loads(done.stdout)
        assert done.returncode == any(each["severity"] != "hint" for each in found), done.stdout
        return {each["name"]: each for each in found}


def tullectl(
    plugin: Path, netns: str, run_dir: Path, *words: str, before: str = "true", configs: Path = Path("/nowhere")
) -> subprocess.CompletedProcess[str]:
    """The tool of the build under test, in a network namespace whose own /sys it sees."""
    built = plugin.parent / "tullectl"
    command = [str(built)] if built.exists() else [sys.executable, "-m", "cni_plugin.ctl"]
    script = f'mount -t sysfs sysfs /sys && {{ {before}; }} && exec "$@"'
    environ = {"PATH": SYSTEM_PATH, "PYTHONPATH": str(REPO), "TULLE_RUN_DIR": str(run_dir), "NETCONFPATH": str(configs)}
    return subprocess.run(
        ["nsenter", f"--net={netns}", "unshare", "--mount", "sh", "-ec", script, "sh", *command, *words],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder on a tmpfs, as a node's run folder is."""
    path = Path(f"/dev/shm/tulle-test-{unique()}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


@contextmanager
def wired(plugin: Path, state: Path, **keys: object) -> Iterator[Site]:
    """A node with one pod."""
    with node_with(plugin, state) as node:
        site = Site(node, conf(node, "4", **keys), plugin)
        site.configure()
        node.add(site.conf).ok()
        yield site


@pytest.fixture
def site(plugin: Path, state: Path) -> Iterator[Site]:
    """A node with one pod, on which all is well."""
    with wired(plugin, state) as made:
        yield made


def test_a_node_on_which_a_pod_runs_well_has_no_finding(site: Site) -> None:
    assert site.findings().keys() <= OF_THE_MACHINE
    assert site.tool("diff").stdout == "all is as it should be\n"


def sysctl(key: str, value: int) -> Callable[[Site], None]:
    return lambda site: void(site.node.run("sysctl", "-qw", f"{key}={value}"))


def ip(*words: str) -> Callable[[Site], None]:
    return lambda site: void(site.node.run("ip", *(site.link() if each == "WIRE" else each for each in words)))


def void(_: object) -> None:
    """Only what was done counts."""


def firewall(site: Site) -> None:
    site.node.run("nft", "-f", "-", stdin="table ip filter { chain FORWARD { "
                                          "type filter hook forward priority filter; policy drop; }; }")


def ghost(site: Site) -> None:
    """A veth of ours whose record is gone, made by somebody who set no MAC."""
    site.node.run("ip", "link", "add", "tl0123456789a", "type", "veth", "peer", "x0")
    site.node.run("ip", "link", "set", "tl0123456789a", "alias", "tulle:net/ghost/eth0")


def end_of_the_pod(site: Site) -> None:
    site.node.pod("pod1").remove()


def torn_lease(site: Site) -> None:
    (site.node.data_dir / "net" / "10.60.0.2").write_bytes(b"")


def lost_record(site: Site) -> None:
    for path in (site.node.run_dir / "attachments" / "net").iterdir():
        path.unlink()


def another_boot(site: Site) -> None:
    for path in (site.node.run_dir / "attachments" / "net").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "earlier"}))


def a_copied_record(site: Site) -> None:
    """Two attachments with one address: what a pool that was emptied by hand leads to."""
    (path,) = (site.node.run_dir / "attachments" / "net").iterdir()
    (path.parent / "other:eth0").write_text(json.dumps({**json.loads(path.read_text()), "container": "other"}))


def reference_first(site: Site) -> None:
    (site.configs / "05-bridge.conf").write_text('{"cniVersion": "1.0.0", "name": "x", "type": "bridge"}')


def no_configuration(site: Site) -> None:
    (site.configs / "10-tulle.conflist").unlink()


def full_bridge(site: Site) -> None:
    numbers = range(450)
    made = "".join(f"link add a{each} master tulle0 type veth peer b{each}\n" for each in numbers)
    other = "".join(f"link set b{each} master tulle0\n" for each in numbers)
    site.node.run("ip", "-batch", "-", stdin=made + other)


def required_agent(site: Site) -> None:
    site.configure(agent="required")


HARM: dict[str, tuple[Callable[[Site], None], str, str]] = {
    # what is found: (what somebody does, severity, what is seen)
    "forwarding-off": (sysctl("net.ipv4.ip_forward", 0), "error", "0"),
    "strict-rp-filter": (sysctl(f"net.ipv4.conf.{UPLINK}.rp_filter", 1), "warning", "1 (all: 0)"),
    "foreign-drop": (firewall, "warning", "policy drop"),
    "mtu-too-large": (ip("link", "set", UPLINK, "mtu", "1400"), "warning", f"1500; {UPLINK} has 1400"),
    "mtu-differs": (ip("link", "set", "WIRE", "mtu", "1300"), "warning", "1300"),
    "unplugged": (ip("link", "del", "WIRE"), "error", "is gone"),
    "bridge-down": (ip("link", "set", "tulle0", "down"), "error", "down"),
    "orphan": (ghost, "warning", "tulle:net/ghost/eth0"),
    "mac-not-set": (ghost, "warning", "1"),
    "dead-attachment": (end_of_the_pod, "warning", "is gone"),
    "leaked-address": (lost_record, "warning", "leaked: no attachment has it"),
    "damaged-lease": (torn_lease, "warning", "damaged"),
    "missing-lease": (torn_lease, "error", "in use without a lease"),
    "other-boot": (another_boot, "hint", "earlier"),
    "duplicate-address": (a_copied_record, "error", "other eth0 in net"),
    "shadowed-configuration": (reference_first, "error", "bridge"),
    "no-configuration": (no_configuration, "error", "nothing"),
    "many-ports": (full_bridge, "warning", "901 of 1023"),
}


CURED = ("forwarding-off", "strict-rp-filter", "foreign-drop", "mac-not-set", "bridge-down")
"""Whose remedy is one command, as it stands."""


def follow(site: Site, remedy: str) -> None:
    """Do what the doctor says, as far as it is commands."""
    words = remedy.partition(", and ")[0].partition(" (or ")[0]
    if words.startswith("tullectl "):
        assert site.tool(*words.split()[1:]).returncode == 0
    else:
        site.node.run("sh", "-ec", words)


@pytest.mark.parametrize("name", HARM)
def test_what_somebody_broke_is_found_and_the_remedy_puts_it_right(site: Site, name: str) -> None:
    harm, severity, seen = HARM[name]
    assert name not in site.findings()
    harm(site)
    found = site.findings()
    assert name in found
    assert found[name]["severity"] == severity
    assert seen in found[name]["value"]
    if name in CURED:
        follow(site, found[name]["remedy"])
        assert name not in site.findings()
        assert site.node.pod("pod1").run("ping", "-c1", "-W2", WORLD4, check=False).returncode == 0


def test_a_required_agent_that_is_away_is_an_error(site: Site) -> None:
    assert site.findings()["agent-away"]["severity"] == "hint"
    required_agent(site)
    assert site.findings()["agent-away"]["severity"] == "error"


def test_a_pool_without_a_free_address_is_found(plugin: Path, state: Path) -> None:
    ipam = {"type": "host-local", "dataDir": f"{state}/ipam", "ranges": [[{"subnet": "10.60.0.0/30"}]]}
    with wired(plugin, state, ipam=ipam) as site:
        assert site.findings()["pool-exhausted"]["value"] == "1 of 1 in use"


def test_a_run_folder_that_cannot_be_written_is_found(site: Site) -> None:
    run = site.node.run_dir
    found = site.findings(before=f"mount --bind {run} {run} && mount -o remount,ro,bind {run}")
    assert found["run-dir-read-only"]["severity"] == "error"


def test_a_run_folder_on_a_disk_is_found(plugin: Path, tmp_path: Path) -> None:
    if os.stat(tmp_path).st_dev == os.stat("/dev/shm").st_dev:
        pytest.skip("the tests' folder is on a tmpfs")
    with wired(plugin, tmp_path) as site:
        assert site.findings()["run-dir-not-tmpfs"]["severity"] == "warning"


def test_other_programs_that_would_meddle_are_found(site: Site) -> None:
    """systemd-networkd and NetworkManager run here by their files alone, in a mount namespace of their own."""
    index = site.node.json("ip", "-j", "link", "show", "tulle0")[0]["ifindex"]
    found = site.findings(before=(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/units /run/NetworkManager/devices && "
        "ln -s 0 /run/systemd/units/invocation:systemd-networkd.service && "
        f"printf '[device]\\nmanaged=true\\n' >/run/NetworkManager/devices/{index}"
    ))  # fmt: skip
    assert found["network-manager"]["value"] == "tulle0"
    assert found["manage-foreign-routes"]["value"] == "yes, the default"


def test_the_old_iptables_that_drop_are_found(site: Site) -> None:
    if site.node.run("iptables-legacy", "-P", "FORWARD", "DROP", check=False).returncode:
        pytest.skip("this kernel or machine has no iptables-legacy")
    found = site.findings()["legacy-iptables"]
    assert (found["severity"], found["value"]) == ("warning", "FORWARD policy DROP")


def test_a_kernel_that_lacks_what_a_configuration_asks_for_is_found(site: Site) -> None:
    lacks = site.node.run("ip", "link", "add", "try0", "type", "bridge", "vlan_filtering", "1", check=False).returncode
    site.configure(vlan=7)
    assert ("missing-feature" in site.findings()) == bool(lacks)


def test_asking_the_kernel_what_it_can_do_leaves_us_where_we_are_and_nothing_behind() -> None:
    def inside() -> tuple[str, str]:
        links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
        return os.readlink("/proc/thread-self/ns/net"), links

    before = inside()
    found = features(("bridge", "veth", "vxlan", "nf_tables", "masquerade", VLAN_FILTERING))
    assert all(found[each] for each in ("bridge", "veth", "vxlan", "nf_tables", "masquerade"))
    with LinuxKernel() as kernel:
        assert kernel.lacks(("bridge", "carrier-pigeon", "vxlan")) == ("carrier-pigeon",)
    assert inside() == before


# trace


def test_trace_of_a_pod_tells_its_way_out_and_that_all_stands(site: Site) -> None:
    site.node.pod("pod1").run("ping", "-c1", "-W2", WORLD4)
    done = site.tool("trace", "10.60.0.2", "--to", WORLD4, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = json.loads(done.stdout)
    assert told["unknown"] == {}
    assert told["leases"] == ["10.60.0.2"]
    assert told["host"]["name"] == site.link()
    assert told["host"]["counters"]["rx_packets"] > 0
    assert told["host"]["port"] == "forwarding"
    assert told["pod"]["addresses"][0] == "10.60.0.2/24"
    assert "ip -n POD route add 0.0.0.0/0 via 10.60.0.1 dev eth0" in told["pod"]["routes"]
    assert any(each["address"] == "10.60.0.2" for each in told["neighbours"])
    assert any(each["dev"] == site.link() for each in told["entries"])
    assert any("masquerade" in each["text"] for each in told["rules"])
    assert told["way"]["10.60.0.1"][-1] == "tulle0 of this node has 10.60.0.1"
    assert told["way"][WORLD4][-2:] == [
        f"tulle0 -> {UPLINK}, on the link", "masqueraded: it leaves with the node's address 198.51.100.1",
    ]


def test_trace_of_a_pod_that_lost_its_address_says_so(site: Site) -> None:
    site.node.pod("pod1").run("ip", "addr", "del", "10.60.0.2/24", "dev", "eth0")
    done = site.tool("trace", "pod1")
    assert done.returncode == 1
    assert "WRONG ip -n POD addr add 10.60.0.2/24 dev eth0" in done.stdout


def test_in_a_cluster_all_is_well_a_narrower_wire_is_found_and_trace_leads_through_the_tunnel(
    lab: MakeLab, plugin: Path
) -> None:
    made = lab(nodes=2, backend="vxlan")
    one, two = (made.add(each, "p1") for each in ("n1", "n2"))
    node = made.node("n1")
    mine, there = (str(each.addresses[0]).partition("/")[0] for each in (one, two))

    def tool(*words: str) -> Any:
        path = f"/run/netns/{node.netns}"
        return json.loads(tullectl(plugin, path, node.state / "run", *words, configs=node.state / "net.d").stdout)

    def findings() -> set[str]:
        return {each["name"] for each in tool("doctor", "--json", "--data-dir", str(node.state / "ipam"))}

    assert findings() <= OF_THE_MACHINE | {"run-dir-not-tmpfs"}
    (told,) = tool("trace", mine, "--to", there, "--json")
    *_, hop, tunnel = told["way"][there]
    assert hop.startswith("tulle0 -> tulle.1 by way of ")
    assert tunnel.startswith("VXLAN: to node ")
    subprocess.run(["ip", "-n", node.netns, "link", "set", "eth0", "mtu", "1400"], check=True)
    assert "mtu-too-large" in findings()


# the agent


@contextmanager
def running_agent(site: Site) -> Iterator[None]:
    """The agent of the build under test on the node, from READY=1 on until told to end."""
    built = site.plugin.parent / "tulled"
    command = [str(built)] if built.exists() else [sys.executable, "-m", "cni_plugin.agent"]
    environ = {"PATH": SYSTEM_PATH, "PYTHONPATH": str(REPO), "TULLE_RUN_DIR": str(site.node.run_dir)}
    agent = subprocess.Popen(
        ["nsenter", f"--net={site.node.path}", "--", *command], env=environ, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(50):
            if site.tool("top", "--once").returncode == 0:
                break
        yield
    finally:
        agent.terminate()
        assert agent.wait(PATIENCE) == 0


def test_top_replay_and_bundle_tell_of_what_the_agent_served(site: Site, tmp_path: Path) -> None:
    with running_agent(site):
        call = Call(command="ADD", container="pod2", netns=site.node.pod("pod2").path)
        site.node.invoke(site.conf, call).ok()
        rows = json.loads(site.tool("top", "--json").stdout)["rows"]
        assert [(each["verb"], each["count"], each["errors"]) for each in rows if not each["step"]] == [("ADD", 1, 0)]
        replayed = site.tool("replay", "1", "--json")
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        assert "ip -n POD addr add 10.60.0.3/24 dev eth0" in json.loads(replayed.stdout)["ops"]
        packed = site.tool("bundle", str(tmp_path / "b.tar.gz"), "--json", "--data-dir", str(site.node.data_dir))
        assert packed.returncode == 0, packed.stderr
        told = json.loads(packed.stdout)
        assert {"requests.json", "metrics.json", "node/ip-link.txt", "node/nft-ruleset.txt"} <= set(told["members"])
        assert told["missing"] == {}
        report = json.loads(site.tool("status", "--json").stdout)
        assert report["agent"]["ready"] is True
    again = site.tool("replay", "1", "--from", str(tmp_path / "b.tar.gz"))
    assert again.returncode == 0, again.stderr

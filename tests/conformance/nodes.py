"""A node as a network namespace, pods as others, and a CNI plugin run in them the way a runtime runs one.

Why: to compare two plugins each needs a node of its own that starts out exactly like the other's. What is
promised: everything made here bears `PREFIX`, lives in namespaces of its own and is gone after `remove()`;
the machine's own links, routes, rules and sysctls are never touched.

    ip netns add cf1a2b-ref            the node, with an uplink `up0` to cf1a2b-ref-out, "the rest of the world"
    ip netns add cf1a2b-ref-p1         a pod
    nsenter --net=/run/netns/cf1a2b-ref /usr/lib/cni/bridge <config.json
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.pace import until

PREFIX = "cf"
NETNS_DIR = Path("/run/netns")
UPLINK = "up0"
NODE4, WORLD4 = "198.51.100.1", "198.51.100.2"
NODE6, WORLD6 = "2001:db8:ff::1", "2001:db8:ff::2"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
RESOLV = "domain example.org\nsearch a.example.org b.example.org\nnameserver 10.60.0.1\noptions ndots:2 edns0\n"

Json = dict[str, object]


class CommandFailed(AssertionError):
    """A command of the test's own (never the plugin's) did not succeed."""


def run(*argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the test's own; raises `CommandFailed` with all it said unless `check` is off."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise CommandFailed(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@dataclass(frozen=True)
class Reply:
    """What a plugin answered: exit code, and stdout both raw and decoded ({} when it printed nothing)."""

    exit: int
    stdout: str
    stderr: str

    @property
    def result(self) -> Json:
        decoded = json.loads(self.stdout) if self.stdout.strip() else {}
        assert isinstance(decoded, dict), f"not a JSON object: {self.stdout!r}"
        return decoded

    @property
    def code(self) -> int:
        """The CNI error code, 0 for success."""
        code = self.result.get("code", 0)
        assert isinstance(code, int), f"an error code must be a number: {self.stdout!r}"
        return code if self.exit else 0

    @property
    def message(self) -> str:
        return f"{self.result.get('msg', '')} {self.result.get('details', '')}"

    def ok(self) -> Json:
        """The result; fails the test with everything the plugin said when it reported an error."""
        assert self.exit == 0, f"exit {self.exit}\n{self.stdout}\n{self.stderr}"
        return self.result


class Namespace:
    """A network namespace with a name; `remove()` may be called twice."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def path(self) -> str:
        return str(NETNS_DIR / self.name)

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        # nsenter, not `ip netns exec`: the latter mounts a new /sys, which hides the cgroups from podman.
        return run("nsenter", f"--net={self.path}", *argv, stdin=stdin, check=check)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command here and leave it running; the caller ends it."""
        return subprocess.Popen(
            ["nsenter", f"--net={self.path}", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def json(self, *argv: str) -> list[Json]:
        """The output of `ip -j`, `bridge -j` and their like."""
        decoded = json.loads(self.run(*argv).stdout or "[]")
        assert isinstance(decoded, list)
        return [each for each in decoded if each]

    def sysctl(self, key: str) -> str:
        # /proc/sys/net shows the namespace of whoever opens it, so it is read from inside.
        return self.run("cat", f"/proc/sys/{key}").stdout.strip()

    def remove(self) -> None:
        if Path(self.path).exists():
            run("ip", "netns", "del", self.name)


@dataclass(frozen=True)
class Plugins:
    """One side of a comparison: where its executables are."""

    side: str
    directory: Path
    path: str = ""
    """CNI_PATH for delegates; the directory itself when empty."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """The CNI variables of one call. `None` leaves a variable out."""

    command: str
    container: str | None = "pod1"
    netns: str | None = None
    ifname: str | None = "eth0"
    args: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def environ(self, plugins: Plugins, run_dir: Path) -> dict[str, str]:
        named = {
            "CNI_COMMAND": self.command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": self.args,
        }
        present = {key: value for key, value in named.items() if value is not None}
        own = {
            "PATH": SYSTEM_PATH,
            "CNI_PATH": plugins.path or str(plugins.directory),
            "TULLE_RUN_DIR": str(run_dir),
        }
        return own | present | dict(self.extra)


class Node(Namespace):
    """A node: an uplink to a namespace that stands for the world, a state directory, one side's plugins."""

    def __init__(self, name: str, plugins: Plugins, state: Path) -> None:
        super().__init__(name)
        self.plugins = plugins
        self.state = state
        self.run_dir = state / "run"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        (state / "resolv.conf").write_text(RESOLV)
        self.pods: dict[str, Namespace] = {}
        self.world = Namespace(f"{name}-out")
        self._connect()

    def _connect(self) -> None:
        for each in (self, self.world):
            # Else the first neighbour solicitation waits until the uplink's link-local address was probed.
            each.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        run("ip", "-n", self.name, "link", "add", UPLINK, "type", "veth", "peer", UPLINK, "netns", self.world.name)
        for each, four, six in ((self, NODE4, NODE6), (self.world, WORLD4, WORLD6)):
            each.run("ip", "link", "set", UPLINK, "up")
            each.run("ip", "addr", "add", f"{four}/24", "dev", UPLINK)
            each.run("ip", "addr", "add", f"{six}/64", "dev", UPLINK, "nodad")
        for each, four, six in ((self, WORLD4, WORLD6), (self.world, NODE4, NODE6)):
            each.run("ip", "route", "add", "default", "via", four)
            each.run("ip", "-6", "route", "add", "default", "via", six)

    @property
    def data_dir(self) -> Path:
        return self.state / "ipam"

    def pod(self, name: str) -> Namespace:
        """The pod of that name, made when it is asked for the first time."""
        if name not in self.pods:
            self.pods[name] = Namespace(f"{self.name}-{name}")
        return self.pods[name]

    def remove_pod(self, name: str) -> None:
        """End a pod's namespace; returns when its links are gone from the node, a little later."""
        pod = self.pods.pop(name)
        ports = {each["link_index"] for each in pod.json("ip", "-j", "link") if "link_index" in each}
        pod.remove()
        until(lambda: not ports & {each["ifindex"] for each in self.json("ip", "-j", "link")}, f"links of {name} go")

    def invoke(self, conf: Mapping[str, object] | str, call: Call) -> Reply:
        """Run the plugin that the configuration's `type` names (a string is handed over as it is)."""
        text = conf if isinstance(conf, str) else json.dumps(conf)
        kind = "bridge" if isinstance(conf, str) else str(conf["type"])
        done = subprocess.run(
            ["/usr/bin/nsenter", f"--net={self.path}", str(self.plugins.directory / kind)],
            input=text,
            capture_output=True,
            text=True,
            env=call.environ(self.plugins, self.run_dir),
            timeout=60,
            check=False,
        )
        return Reply(done.returncode, done.stdout, done.stderr)

    def add(self, conf: Mapping[str, object], pod: str = "pod1", *, args: str | None = None) -> Reply:
        return self._verb("ADD", conf, pod, args)

    def delete(self, conf: Mapping[str, object], pod: str = "pod1", *, args: str | None = None) -> Reply:
        return self._verb("DEL", conf, pod, args)

    def check(self, conf: Mapping[str, object], pod: str = "pod1", *, args: str | None = None) -> Reply:
        return self._verb("CHECK", conf, pod, args)

    def _verb(self, command: str, conf: Mapping[str, object], pod: str, args: str | None) -> Reply:
        return self.invoke(conf, Call(command=command, container=pod, netns=self.pod(pod).path, args=args))

    def leases(self) -> dict[str, str]:
        """Address -> owner, as the reference's files say; bookkeeping (`lock`, cursors, hidden) left out."""
        files = [each for each in self.data_dir.glob("*/*") if each.is_file()]
        return {
            each.name: each.read_bytes().decode()
            for each in files
            if each.name != "lock" and not each.name.startswith(("last_reserved_ip", "."))
        }

    def remove(self) -> None:
        for each in (*self.pods.values(), self.world):
            each.remove()
        super().remove()


def unique_name(tag: str) -> str:
    """A namespace name nobody else on the machine has."""
    return f"{PREFIX}{secrets.token_hex(3)}-{tag}"


def ping_all(flights: Sequence[tuple[Namespace, str]], *, wait: int = 1) -> list[bool]:
    """Send one echo request a flight, all at once; which of them were answered within `wait` seconds."""
    started = [source.start("ping", "-n", "-c1", f"-W{wait}", address) for source, address in flights]
    for each in started:
        each.communicate(timeout=wait + 20)
    return [each.returncode == 0 for each in started]


def is_root() -> bool:
    return os.geteuid() == 0


def kernel_filters_vlans() -> bool:
    """Whether this kernel was built with CONFIG_BRIDGE_VLAN_FILTERING."""
    ns = Namespace(unique_name("vlan"))
    try:
        made = ns.run("ip", "link", "add", "probe0", "type", "bridge", "vlan_filtering", "1", check=False)
        return made.returncode == 0
    finally:
        ns.remove()

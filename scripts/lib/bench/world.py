"""Where the benchmark runs: namespaces of its own, which the kernel removes with the last process in them.

The measuring process is started in a new network namespace and a new mount namespace, with a /run and a /sys of its
own: pods and nodes are ordinary named namespaces, yet invisible outside and gone however the run ends. Only IPAM
state is on a real disk (a temporary directory), as it is on a real node. Whoever started the run removes that.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.lib.bench.report import Report
from scripts.lib.bench.spawn import Side, TimedRuntime
from scripts.lib.lab import namespaces
from scripts.lib.lab.runtime import Attachment, Json, Network

REPO = Path(__file__).resolve().parents[3]
REFERENCE_DIR = Path("/usr/lib/cni")
VERSION = "1.0.0"  # the newest that Debian 12's reference plugins speak
CLONE_NEWNET = 0x40000000


class BenchError(Exception):
    """Why no figure can be had and what to do about it, in words for the person who typed the command."""


@dataclass
class Bench:
    """One run: what is measured, how often, and where it may write. `reference` is None when it is not there."""

    plugin: Path
    bin: Path
    reference: Path | None
    python: Path
    state: Path
    rounds: int
    quick: bool
    report: Report
    pods: list[str] = field(default_factory=list)

    def pod(self, number: int) -> str:
        """The path of the namespace of pod `number`; made on first use, used again by every side."""
        if number >= len(self.pods):
            more = [f"pod{each}" for each in range(len(self.pods), number + 1)]
            namespaces.create(*more)
            self.pods += more
        return str(namespaces.NETNS_DIR / self.pods[number])

    def side(self, network: Network, *, reference: bool = False, run_dir: str = "/run/tulle") -> Side:
        """Ours or the reference's executable on this network; `run_dir` is where a node of ours keeps its records."""
        path = self.reference if reference else self.bin
        if path is None:
            raise BenchError("the reference plugins are not there")
        runtime = TimedRuntime(path=(path,), cache=Path("/run/cache"), env={"TULLE_RUN_DIR": run_dir})
        return Side(runtime, network)


def prepare(plugin: Path, state: Path) -> tuple[Path, Path]:
    """Make this process's mount namespace fit, and a copy of the bundle; the plugin in it and a CNI directory.

    A copy, for somebody may build while this runs. Raises CommandError."""
    namespaces.run(["mount", "-t", "tmpfs", "tulle-bench", "/run"])
    namespaces.run(["mount", "-t", "sysfs", "tulle-bench", "/sys"])
    namespaces.NETNS_DIR.mkdir()
    namespaces.run(["ip", "link", "set", "lo", "up"])
    if (plugin.parent / "_internal").is_dir():
        shutil.copytree(plugin.parent, state / "bundle", symlinks=True)
        plugin = state / "bundle" / plugin.name
    directory = state / "bin"
    directory.mkdir()
    for name in (plugin.name, "host-local"):
        (directory / name).symlink_to(plugin)
    return plugin, directory


def network(bench: Bench, name: str, subnets: Sequence[str], *, reference: bool = False, **keys: object) -> Network:
    """A bridge network with a host-local pool; the same keys for either side but the type."""
    plugin: Json = {
        "type": "bridge" if reference else bench.plugin.name,
        "bridge": f"br-{name}",
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(bench.state / "ipam"),
            "ranges": [[{"subnet": each}] for each in subnets],
            "routes": [{"dst": "::/0" if ":" in each else "0.0.0.0/0"} for each in subnets],
        },
        **keys,
    }
    return Network(name, VERSION, (plugin,))


def attachment(bench: Bench, number: int) -> Attachment:
    """Pod `number`, by a container ID as long as containerd's."""
    return Attachment(f"{number:064x}", bench.pod(number))


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """This thread, and what it starts, is in a named namespace while the block runs. Raises OSError."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(namespaces.NETNS_DIR / netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(before)
    finally:
        os.close(before)


def _setns(descriptor: int) -> None:
    """os.setns comes with Python 3.12 only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

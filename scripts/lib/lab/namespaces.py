"""Network namespaces, and commands run inside them, for the lab and the tests.

Each function is one thing a person would type (`ip netns add`, `nsenter --net=... CMD`), so that whatever the
lab does can be repeated by hand. Everything is a namespace of /run/netns; nothing here touches the links,
routes or sysctls of the namespace it was called in. Commands that fail raise CommandError with the command
line, the exit code and both outputs.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NETNS_DIR = Path("/run/netns")


class CommandError(Exception):
    """A command ended with another exit code than 0."""

    def __init__(self, argv: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
        self.returncode = done.returncode
        output = "\n".join(text.strip() for text in (done.stdout, done.stderr) if text.strip())
        super().__init__(f"exit code {done.returncode} from: {shlex.join(argv)}\n{output[:4000]}".rstrip())


def inside(netns: str | None) -> tuple[str, ...]:
    """The words that put a command into a namespace: none for our own.

    `nsenter` and not `ip netns exec`: the latter mounts another /sys and so hides /sys/fs/cgroup."""
    return ("nsenter", f"--net={NETNS_DIR / netns}", "--") if netns else ()


def attempt(
    argv: Sequence[str], *, netns: str | None = None, stdin: str = "",
    env: Mapping[str, str] | None = None, timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns what became of it. Raises only subprocess.TimeoutExpired and OSError."""
    return subprocess.run(
        [*inside(netns), *argv], input=stdin, text=True, errors="replace", capture_output=True,
        env=os.environ | (env or {}), timeout=timeout, check=False,
    )


def run(argv: Sequence[str], *, netns: str | None = None, stdin: str = "", timeout: float = 60.0) -> str:
    """Runs a command, returns its standard output. Raises CommandError."""
    done = attempt(argv, netns=netns, stdin=stdin, timeout=timeout)
    if done.returncode != 0:
        raise CommandError([*inside(netns), *argv], done)
    return done.stdout


def ip(netns: str, *commands: str) -> None:
    """Runs `ip` commands in a namespace, in one process, up to the first that fails. Raises CommandError."""
    run(["ip", "-n", netns, "-batch", "-"], stdin="\n".join(commands) + "\n")


def create(*names: str) -> None:
    """Makes namespaces with their loopback up. Raises CommandError when one exists."""
    run(["ip", "-batch", "-"], stdin="".join(f"netns add {name}\n" for name in names))
    for name in names:
        ip(name, "link set lo up")


def sysctl(netns: str, **values: int) -> None:
    """Sets `net.*` sysctls of a namespace; two underscores stand for a slash: ipv4__ip_forward=1."""
    lines = [f"echo {value} > /proc/sys/net/{key.replace('__', '/')}" for key, value in values.items()]
    run(["sh", "-e"], netns=netns, stdin="\n".join(lines))


def existing(prefix: str) -> list[str]:
    """The names of the namespaces that begin with `prefix`."""
    return sorted(path.name for path in NETNS_DIR.glob(f"{prefix}*"))


def delete(*names: str) -> None:
    """Removes namespaces with everything in them, processes too. What is already gone is success.

    A namespace lives as long as a process does inside: one forgotten `tcpdump` would keep its links."""
    for pid in processes(*names):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for name in names:
        # `ip netns add` that was killed leaves a plain file: `ip netns del` removes that as well.
        if (NETNS_DIR / name).exists():
            run(["ip", "netns", "del", name])


def processes(*names: str) -> list[int]:
    """The processes that live in one of the namespaces."""
    ours = {_identity(NETNS_DIR / name) for name in names} - {None}
    every = Path("/proc").glob("[0-9]*") if ours else ()
    return sorted(int(proc.name) for proc in every if _identity(proc / "ns" / "net") in ours)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:  # the process ended, or the namespace is gone
        return None
    return stat.st_dev, stat.st_ino


@dataclass(frozen=True)
class Ping:
    """One echo reply: its TTL tells how many routers it passed, `ms` how long it took there and back."""

    ttl: int
    ms: float


def ping(netns: str, address: str, *, size: int | None = None, timeout: float = 1.0) -> Ping | None:
    """Sends one echo request; None when no reply came within `timeout` seconds.

    With a `size` (bytes of the whole IP packet) the packet may not be fragmented on its way."""
    headers = 48 if ":" in address else 28
    whole = [] if size is None else ["-M", "do", "-s", str(size - headers)]
    done = attempt(["ping", "-n", "-c1", f"-W{timeout}", *whole, address], netns=netns, timeout=timeout + 10)
    match = re.search(r"ttl=(\d+) time=([\d.]+) ms", done.stdout)
    return Ping(ttl=int(match[1]), ms=float(match[2])) if match and done.returncode == 0 else None

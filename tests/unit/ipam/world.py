"""What the IPAM's tests speak in: a network's directory, and system calls that fail or kill on demand."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import ipam.hints
import ipam.index
import ipam.own
import ipam.spares
import ipam.store
from ipam.allocator import Allocator
from ipam.hints import CLEAN
from ipam.own import DAMAGED
from ipam.ranges import IP, parse
from ipam.store import Owner

SMALL = {"subnet": "10.1.0.0/28"}
"""10.1.0.1 is the gateway: 13 addresses for pods, from 10.1.0.2."""

DUAL = {"ranges": [[{"subnet": "10.1.0.0/28"}], [{"subnet": "fd00:1::/64"}]]}


def pod(name: object, ifname: str = "eth0") -> Owner:
    """The owner that a pod's interface is."""
    return Owner(str(name), ifname)


def ips(*texts: str) -> tuple[IP, ...]:
    """Addresses."""
    return tuple(map(ip_address, texts))


class Network:
    """A network called `pods` under a data directory, its allocator, and what is on its disk."""

    def __init__(self, data_dir: Path, ipam: dict[str, object] | None = None) -> None:
        self.data_dir, self.path = data_dir, data_dir / "pods"
        self.ipam: dict[str, object] = ipam or dict(SMALL)

    def allocator(self, boot: str = "boot-1", is_alive: Callable[[Owner], bool] | None = None) -> Allocator:
        return Allocator(str(self.data_dir), "pods", parse(self.ipam), boot_id=boot, is_alive=is_alive)

    def add(self, *names: object) -> list[str]:
        """ADD of each pod; its addresses as text."""
        return [str(lease.address.ip) for name in names for lease in self.allocator().allocate(pod(name))]

    def lease_files(self) -> dict[str, str]:
        """The truth: every lease file and its text."""
        if not self.path.is_dir():
            return {}
        return {f.name: f.read_bytes().decode() for f in self.path.iterdir() if _is_ip(f.name)}

    def write_lease(self, ip: str, text: str | bytes, *, age: float = 0) -> None:
        """What another program does: a lease file out of nowhere, written `age` seconds ago."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / ip).write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(self.path / ip, (time.time() - age, time.time() - age))

    def write_spare(self, place: int, text: str) -> Path:
        """A file that was kept when its lease was given back."""
        spare = self.path / f".tulle/spare.{place}"
        spare.write_text(text)
        spare.chmod(0o600)
        os.utime(spare.parent, ns=(CLEAN, CLEAN))
        return spare

    def owners(self) -> dict[str, Owner]:
        """The truth, understood."""
        return {ip: Owner(*(text.split("\r\n") + [""])[:2]) for ip, text in self.lease_files().items()}

    @property
    def clean(self) -> bool:
        return self.path.stat().st_mtime_ns == CLEAN

    def check_hints(self) -> None:
        """If the directory claims that its hints are right, they are; and no temporary file is left."""
        assert self.clean, "an operation that ended well leaves the directory clean"
        by_owner: dict[str, set[str]] = {}
        for ip, owner in self.owners().items():
            by_owner.setdefault(f"{owner.container}:{owner.ifname}", set()).add(ip)
        assert {name: set(text.split(",")) for name, text in self.index().items()} == by_owner
        assert set(self.bits()) == set(self.lease_files())
        private = sorted(f.name for f in (self.path / ".tulle").iterdir() if not f.name.startswith(("spare.", DAMAGED)))
        assert private == ["boot", "index", "used"]
        spare = [f for f in (self.path / ".tulle").glob("spare.*") if f.is_file()]
        assert {f.read_bytes()[:1] for f in spare} <= {b"-"}, "it says whose it was"

    def index(self) -> dict[str, str]:
        """What the index says: the addresses of each owner."""
        with opened_index(self.path) as index:
            return index.entries()

    def set_index(self, name: str, text: str) -> None:
        """What no operation does: an entry out of nowhere."""
        with opened_index(self.path) as index:
            index.set(name, text)

    def bits(self) -> Iterator[str]:
        """The addresses whose bits are set in the bitmap."""
        for block in (self.path / ".tulle/used").glob("[46].*"):
            family, _, number = block.name.partition(".")
            left = int.from_bytes(block.read_bytes(), "little")
            while left:
                value = (int(number, 16) << 16) + (left & -left).bit_length() - 1
                yield str(ip_address(value.to_bytes(4 if family == "4" else 16, "big")))
                left &= left - 1


@contextmanager
def opened_index(path: Path) -> Iterator[ipam.index.Index]:
    """The index of a network's directory. Takes the lock, and leaves the directory's time as it was."""
    before = path.stat().st_mtime_ns
    store = ipam.store.Store.open(str(path), create=False)
    assert store is not None
    index = ipam.index.Index(store)
    try:
        yield index
    finally:
        index.close()
        store.close()
        os.utime(path, ns=(before, before))


def _is_ip(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


class Killed(BaseException):
    """A SIGKILL, played within one process: after it, no system call of the victim has any effect."""


class Calls:
    """Stands for the `os` module in the IPAM and shows each system call to `before(n, name, arguments)` first."""

    WATCHED = frozenset([
        "open", "read", "pread", "write", "pwrite", "link", "unlink", "rename", "symlink", "readlink", "mkdir",
        "utime", "ftruncate", "stat", "fstat", "listdir"])

    def __init__(self, before: Callable[[int, str, tuple[object, ...], dict[str, object]], None]) -> None:
        self.count = 0
        self._before = before

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in self.WATCHED:
            return real

        def call(*args: object, **kwargs: object) -> object:
            self.count += 1
            self._before(self.count, name, args, kwargs)
            return real(*args, **kwargs)

        return call


@contextmanager
def watching(calls: Calls) -> Iterator[Calls]:
    """The IPAM's system calls go through `calls`."""
    modules = (ipam.store, ipam.own, ipam.index, ipam.hints, ipam.spares)
    for module in modules:
        module.os = calls  # type: ignore[attr-defined]
    try:
        yield calls
    finally:
        for module in modules:
            module.os = os  # type: ignore[attr-defined]


def count_calls(operation: Callable[[], object]) -> int:
    """How many system calls an operation makes."""
    with watching(Calls(lambda *_: None)) as calls:
        operation()
    return calls.count


def sigkill_at(nth: int, operation: Callable[[], object]) -> bool:
    """Runs the operation in a child that dies by SIGKILL right before its nth system call. Whether it did die."""
    child = os.fork()
    if child == 0:
        try:
            with watching(_dying_at(nth, lambda: os.kill(os.getpid(), signal.SIGKILL))):
                operation()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def killed_at(nth: int, operation: Callable[[], object]) -> bool:
    """The same within this process: from the nth on no system call has any effect (closing is the kernel's)."""
    def die() -> None:
        raise Killed

    try:
        with watching(_dying_at(nth, die)):
            operation()
    except Killed:
        return True
    return False


def _dying_at(nth: int, die: Callable[[], None]) -> Calls:
    def before(n: int, name: str, args: tuple[object, ...], _: dict[str, object]) -> None:
        if n == nth and name in ("write", "pwrite"):  # Half of it gets written.
            whole = bytes(args[1])  # type: ignore[call-overload]
            getattr(os, name)(args[0], whole[: len(whole) // 2], *args[2:])
        if n >= nth:
            die()
    return Calls(before)


def failing_at(nth: int, code: int = errno.ENOSPC, *, once: bool = False) -> Calls:
    """A disk that is full from the nth system call on (or at that one only): what needs space then fails."""
    def before(n: int, name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if (n == nth if once else n >= nth) and _needs_space(name, args, kwargs):
            raise OSError(code, os.strerror(code))
    return Calls(before)


def _needs_space(name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
    if name == "open":
        if not int(args[1]) & os.O_CREAT:  # type: ignore[call-overload]
            return False
        try:
            os.stat(args[0], dir_fd=kwargs.get("dir_fd"), follow_symlinks=False)  # type: ignore[arg-type]
        except FileNotFoundError:
            return True
        return False
    return name in ("write", "pwrite", "link", "rename", "symlink", "mkdir")

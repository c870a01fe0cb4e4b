"""The floor of a request: the kernel's own part of it, for the interpreter that has Tulle's dependencies.

    python -P floor_worker.py REPO RUN_DIR CONF NETNS CONTAINER ROUNDS

Serves ADD and DEL by turns in this process, on a kernel that stays open as in the agent, with a stopwatch around each
call that enters the kernel: what remains of the whole is ours. Prints milliseconds by verb and kind as JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cni_plugin.kernel.linux import LinuxKernel

NETFILTER = 12
FILES = (
    "open", "close", "read", "write", "pread", "rename", "replace", "link", "unlink", "stat", "lstat", "fstat", "mkdir",
    "rmdir", "listdir", "scandir", "readlink", "dup", "fsync", "fdatasync", "utime", "access", "symlink", "lseek",
)
WHOLE = "whole"
spent: defaultdict[str, float] = defaultdict(float)


def main(arguments: list[str]) -> int:
    repo, run_dir, conf, netns, container, rounds = arguments
    sys.path.insert(0, repo)
    _watch()
    from cni_plugin.kernel.linux import LinuxKernel

    environ = {"CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere",
               "TULLE_RUN_DIR": run_dir}
    stdin = Path(conf).read_bytes()
    found: dict[str, list[dict[str, float]]] = {"ADD": [], "DEL": []}
    with LinuxKernel() as kernel:
        for turn in range(int(rounds) + 3):
            for verb, rows in found.items():
                took = _request({**environ, "CNI_COMMAND": verb}, stdin, kernel)
                if turn >= 3:  # the first ones import and open what stays
                    rows.append(took)
    json.dump(found, sys.stdout)
    return 0


def _request(environ: dict[str, str], stdin: bytes, kernel: LinuxKernel) -> dict[str, float]:
    from cni_plugin.meter import Meter
    from cni_plugin.verbs.run import Agent, run

    @contextmanager
    def staying() -> Iterator[LinuxKernel]:
        try:
            yield kernel
        finally:
            kernel.leave()

    spent.clear()
    begin = time.perf_counter()
    reply = run("tulle", environ, stdin, staying, agent=Agent(Meter()))
    whole = time.perf_counter() - begin
    if reply.code:
        raise SystemExit(f"{environ['CNI_COMMAND']} failed: {reply.stdout.decode()}")
    return {name: seconds * 1000 for name, seconds in {**spent, WHOLE: whole}.items()}


def _watch() -> None:
    """A stopwatch on every way into the kernel that a request takes."""
    for name in FILES:
        setattr(os, name, _timed("files", getattr(os, name)))
    for name in ("flock", "ioctl"):
        setattr(fcntl, name, _timed("files", getattr(fcntl, name)))
    socket.socket = _Timed  # type: ignore[misc]
    from cni_plugin.kernel.host import netns
    from cni_plugin.kernel.nft import nft_process

    netns.enter_namespace = _timed("namespaces", netns.enter_namespace)  # type: ignore[attr-defined]
    nft_process.NftProcess.run = _timed("nft", nft_process.NftProcess.run)  # type: ignore[method-assign]


def _timed(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: object, **named: object) -> object:
        begin = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            spent[kind] += time.perf_counter() - begin

    return timed


class _Timed(socket.socket):
    """Any socket; what it is for tells its family and protocol."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        begin = time.perf_counter()
        super().__init__(*arguments, **named)
        self.kind = "packets"
        if self.family == socket.AF_NETLINK:
            self.kind = "nft" if self.proto == NETFILTER else "netlink"
        spent[self.kind] += time.perf_counter() - begin


def _method(name: str) -> Callable[..., Any]:
    def method(self: _Timed, *arguments: object) -> object:
        begin = time.perf_counter()
        try:
            return getattr(super(_Timed, self), name)(*arguments)
        finally:
            spent[self.kind] += time.perf_counter() - begin

    return method


for each in ("send", "sendto", "sendmsg", "sendall", "recv", "recv_into", "recvmsg", "bind", "setsockopt", "close"):
    setattr(_Timed, each, _method(each))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

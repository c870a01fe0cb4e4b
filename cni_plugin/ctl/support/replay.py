"""`tullectl replay`: a request that was served once, served again where it can do no harm.

The very engine runs it on a kernel in memory, with the run folder and the addresses in a folder of its own that is
gone afterwards. What it needs to have happened before (the ADD of a DEL or CHECK) happens first, out of sight. A
delegated IPAM is another program, which would touch the node, so such a request is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_interface
from typing import NamedTuple

import msgspec

from cni_plugin import cluster as clusters
from cni_plugin import decoding
from cni_plugin.conf import reading
from cni_plugin.ctl.support.served import Served
from cni_plugin.describe import describe
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.harmless import LEFT_OUT
from cni_plugin.ipams.host_local import NAMES
from cni_plugin.kernel.door import Uplink
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.host import files
from cni_plugin.meter import Meter
from cni_plugin.verbs.run import Agent, Reply, run

UPLINK = "uplink0"
MTU = 1500
_AFTER_ADD = ("DEL", "CHECK")


class Replay(NamedTuple):
    """What came of it: each operation in the operator's words, and the reply."""

    lines: list[str]
    reply: Reply


def replay(request: Served, held: frozenset[str] = frozenset()) -> Replay:
    """Serve it again. `held` are addresses of the node, by which a cluster's list may know it.

    Raises CniError 7 for what cannot be served without the node, OSError when there is no room for its files.
    """
    with _folder() as home:
        raw, kernel = _prepared(request, home, held)
        environ = _environ(request, home)
        if request.verb in _AFTER_ADD:
            _serve(request.name, {**environ, "CNI_COMMAND": "ADD"}, _without_result(raw), kernel)
            kernel.pod = ""
        before = len(kernel.applied)
        reply = _serve(request.name, environ, raw, kernel)
        return Replay([describe(op) for op in kernel.applied[before:]], reply)


def same(request: Served, reply: Reply) -> bool:
    """Whether the reply is as the recorded one was, by its code: MACs of a kernel in memory are others."""
    return _code(reply.stdout) == request.code if reply.code else request.code == 0


def _serve(name: str, environ: Mapping[str, str], raw: Mapping[str, object], kernel: FakeKernel) -> Reply:
    return run(name, environ, msgspec.json.encode(raw), lambda: kernel, agent=Agent(Meter()))


def _prepared(request: Served, home: str, held: frozenset[str]) -> tuple[dict[str, object], FakeKernel]:
    """The configuration, led away from the node, and a kernel that can serve it."""
    if request.verb == "VERSION" or not request.stdin.strip():
        return {}, FakeKernel()
    raw = dict(reading.decode(request.stdin.encode(), "of this request"))
    ipam = _key(raw, "ipam")
    if ipam:
        raw[ipam] = _local_ipam(raw[ipam], home)
    _ask_again(raw, request)
    cluster = _key(raw, "cluster")
    if not cluster:
        return raw, FakeKernel(uplink=Uplink(UPLINK, MTU, ()), held=held)
    raw[cluster], node = _cluster(raw[cluster], held)
    addresses = [str(each) for each in node.addresses]
    prefixes = tuple(str(ip_interface(f"{each}/{64 if ':' in each else 24}").network) for each in addresses)
    return raw, FakeKernel(uplink=Uplink(UPLINK, MTU, prefixes), held=addresses)


def _key(raw: Mapping[str, object], name: str) -> str:
    """The key as it was written; "" when it is not there."""
    return next((key for key, each in raw.items() if key.lower() == name and each), "")


def _local_ipam(ipam: object, home: str) -> dict[str, object]:
    kind = ipam.get(_key(ipam, "type")) if isinstance(ipam, dict) else None
    if not isinstance(ipam, dict) or kind not in (None, *NAMES):
        raise CniError(
            INVALID_CONFIG,
            f"its addresses come from {kind!r}, another program, which would give out real ones: only requests with "
            f"{NAMES[0]} can be replayed",
        )
    return {**{key: each for key, each in ipam.items() if key.lower() != "datadir"}, "dataDir": f"{home}/ipam"}


def _ask_again(raw: dict[str, object], request: Served) -> None:
    """Have the addresses that were given given again: the folder here is empty, and would begin at the first one."""
    told = reading.decode(request.stdout.encode()) if request.stdout.strip() and not request.code else {}
    before = raw.get(_key(raw, "prevresult")) or told
    ips = before.get("ips") if isinstance(before, dict) else None
    given = [each["address"] for each in ips or () if isinstance(each, dict) and isinstance(each.get("address"), str)]
    runtime = raw.get(_key(raw, "runtimeconfig"))
    known = dict(runtime) if isinstance(runtime, dict) else {}
    if given and not _key(known, "ips") and _key(raw, "ipam"):
        raw.pop(_key(raw, "runtimeconfig"), None)
        raw["runtimeConfig"] = {**known, "ips": given}


def _cluster(source: object, held: frozenset[str]) -> tuple[dict[str, object], clusters.Node]:
    """The node list itself in place of its path, with this node named in it."""
    if isinstance(source, str):
        try:
            source = decoding.decode(files.follow(source))
        except (OSError, msgspec.MsgspecError) as error:
            raise CniError(INVALID_CONFIG, f"its node list {source!r} cannot be read here: {error}") from error
    parsed = clusters.parse(source)
    assert isinstance(source, dict)
    try:
        node = parsed.me(held, os.uname().nodename)
    except CniError:  # a bundle from another machine: any node shows what would be done
        node = parsed.nodes[0]
    return {**{key: each for key, each in source.items() if key.lower() != "node"}, "node": node.name}, node


def _environ(request: Served, home: str) -> dict[str, str]:
    environ = {key: each for key, each in request.environ.items() if key.startswith("CNI_")}
    if "CNI_ARGS" in environ:
        pairs = environ["CNI_ARGS"].split(";")
        environ["CNI_ARGS"] = ";".join(each for each in pairs if not each.endswith(f"={LEFT_OUT}"))
    return {**environ, "CNI_PATH": f"{home}/bin", "TULLE_RUN_DIR": f"{home}/run"}


def _without_result(raw: Mapping[str, object]) -> dict[str, object]:
    return {key: each for key, each in raw.items() if key.lower() != "prevresult"}


def _code(stdout: bytes) -> int:
    try:
        found = decoding.decode(stdout)
    except msgspec.MsgspecError:
        return -1
    return int(found.get("code", 0)) if isinstance(found, dict) else -1


@contextmanager
def _folder() -> Iterator[str]:
    """A folder that is ours alone, and gone afterwards. Raises OSError."""
    import shutil  # 5 ms, and only here

    home = f"{os.environ.get('TMPDIR') or '/tmp'}/tullectl-replay-{os.urandom(6).hex()}"
    os.mkdir(home, 0o700)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)

"""One request from its raw parts to its raw reply: the only place where errors of all kinds become the specification's.

run("tulle", {"CNI_COMMAND": "ADD", ...}, b'{"cniVersion": ...}', open_kernel)  ->  Reply(b'{"ips": ...}', 0)
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache, lru_cache
from typing import NamedTuple, TypeAlias

import msgspec

from cni_plugin import decoding, plugins, spec
from cni_plugin.conf import reading
from cni_plugin.conf.plugin import NetConf, located
from cni_plugin.errors import (
    ADDRESS_UNAVAILABLE,
    BUG,
    GC_INCOMPLETE,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    INVALID_NETNS,
    IO_FAILURE,
    KERNEL_REFUSED,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CniError,
)
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import PASSING, KernelError, NetnsError
from cni_plugin.kernel.host import files
from cni_plugin.meter import Meter
from cni_plugin.plugins import Plugin
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records
from cni_plugin.verbs.context import Context, MustWait
from cni_plugin.verbs.teardown import Takedown, together

OpenKernel: TypeAlias = Callable[[], AbstractContextManager[Kernel]]
Run: TypeAlias = Callable[[Context], bytes | Takedown[bytes]]
_SHORT = "the node is short of it just now, so try again; if it lasts, look at its free memory and its open files"
_IN_THE_WAY = (IO_FAILURE, TRY_AGAIN_LATER, KERNEL_REFUSED)
_REMEMBERED = 64 << 10
"""Bytes of a configuration that is remembered in case it comes again."""


class Reply(NamedTuple):
    """What goes to stdout, and the exit code."""

    stdout: bytes
    code: int


ELSEWHERE = Reply(b"", -1)
"""No answer yet: the request must wait for another program, and was served where it may not."""


class Agent(NamedTuple):
    """The resident host of a request, where there is one: the meter that it reads afterwards.

    `waits`: whether the request may wait for other programs where it is served.
    """

    meter: Meter
    waits: bool = True


class Call(NamedTuple):
    """One request in its raw parts; `name` is what the plugin was called by.

    `folder` is where the caller stands, "" when that folder is gone; None: where we do.
    """

    name: str
    environ: Mapping[str, str]
    stdin: bytes
    folder: str | None = None


def run(
    name: str, environ: Mapping[str, str], stdin: bytes, open_kernel: OpenKernel, *, agent: Agent | None = None
) -> Reply:
    """Serve one request. Never raises: an error is a reply."""
    (reply,) = run_together([Call(name, environ, stdin)], open_kernel, agent=agent)
    return reply


def run_together(calls: Sequence[Call], open_kernel: OpenKernel, *, agent: Agent | None = None) -> list[Reply]:
    """Serve requests side by side, the links of all DELs among them deleted at once; their replies in order.

    `agent` is given where a resident one serves them: without it we are the fallback. ELSEWHERE is the reply to who
    would have had to wait and may not here.
    """
    with ExitStack() as stack:
        kernel = cache(lambda: stack.enter_context(open_kernel()))
        replies = together(kernel, [_serve(each, kernel, agent) for each in calls])
    return [refusal(each) if isinstance(each, Exception) else each for each in replies]


def may_wait(name: str, verb: str, stdin: bytes) -> bool:
    """Whether a request may have to wait for others, as those say of themselves who take part in it."""
    if verb == "VERSION":
        return False
    try:
        return _parser(stdin)(name, stdin).waits
    except Exception:  # what is wrong with it is told when it is served
        return False


def _serve(call: Call, kernel: Callable[[], Kernel], agent: Agent | None) -> Takedown[Reply]:
    version = ""
    try:
        folder = files.here() if call.folder is None else call.folder
        request = spec.parse_request(call.environ, folder)
        if request.verb == "VERSION":
            return Reply(spec.render_version(_version_or_newest(call.stdin)), 0)
        raw = _read(request.verb, call.stdin)
        version = reading.version_of(raw)
        verb = spec.VERBS[request.verb]
        spec.check_version(version, verb.since, request.verb)
        plugin = _parse(call, request.verb, raw, folder)
        if agent is None:
            _refuse_without_agent(request.verb, plugin.conf)
        records = Records(call.environ.get("TULLE_RUN_DIR") or DEFAULT_RUN_DIR)
        meter = agent.meter if agent else Meter()
        context = Context(
            call.name, request, call.environ, raw, call.stdin, version, plugin, kernel(), records, meter,
            waits=agent is None or agent.waits,
        )
        answer = handler(call.name, plugin, request.verb)(context)
        return Reply(answer if isinstance(answer, bytes) else (yield from answer), 0)
    except MustWait:
        return ELSEWHERE
    except Exception as error:
        version = _known(version) if version else _version_or_newest(call.stdin)
        return refusal(error, version, verb=call.environ.get("CNI_COMMAND", ""))


def refusal(error: Exception, version: str = "0.1.0", *, verb: str = "") -> Reply:
    """The reply that tells of an error, in this version of the specification.

    What keeps STATUS from an answer would keep the next ADD from success, and has the code for that.
    """
    told = as_cni_error(error)
    if verb == "STATUS" and told.code in _IN_THE_WAY:
        told = CniError(NOT_AVAILABLE, told.msg, told.details)
    return Reply(spec.render_error(told, version), 1)


def _refuse_without_agent(verb: str, conf: NetConf) -> None:
    """DEL and GC always work: what cannot be cleaned up would be worse than an agent that is away."""
    if conf.agent == "required" and verb in ("ADD", "CHECK", "STATUS"):
        raise CniError(
            TRY_AGAIN_LATER,
            'the agent is away, and "agent" is "required": see systemctl status tulled, or set "agent" to "auto"',
        )


def as_cni_error(error: Exception) -> CniError:
    """Any error as one of the specification's, with a remedy where there is one."""
    from ipam import errors as ipam

    match error:
        case CniError():
            return error
        case NetnsError():
            return _netns_error(error)
        case KernelError():
            if error.errno in PASSING:
                return CniError(TRY_AGAIN_LATER, f"{error}; {_SHORT}", str(error))
            cure = f"; {files.cure(OSError(error.errno, ''))}" if error.errno in (errno.EPERM, errno.EACCES) else ""
            return CniError(KERNEL_REFUSED, f"the kernel refused: {error}{cure}", str(error))
        case ipam.RangeError():
            return CniError(INVALID_CONFIG, str(error))
        case ipam.PoolExhausted():
            return CniError(TRY_AGAIN_LATER, str(error))
        case ipam.CollectError():
            return CniError(GC_INCOMPLETE, "some leases could not be collected", str(error))
        case ipam.StoreError():
            return CniError(TRY_AGAIN_LATER if error.errno in PASSING else IO_FAILURE, str(error))
        case ipam.IpamError():
            return CniError(ADDRESS_UNAVAILABLE, str(error))
        case MemoryError():
            return CniError(TRY_AGAIN_LATER, f"no memory; {_SHORT}")
        case OSError():
            return CniError(TRY_AGAIN_LATER if error.errno in PASSING else IO_FAILURE, _os_message(error))
        case _:
            import traceback  # 3 ms, and only for a bug

            traceback.print_exc(file=sys.stderr)
            return CniError(BUG, f"unforeseen {type(error).__name__}: {error}; please report it with the log")


def _decode(stdin: bytes) -> Mapping[str, object]:
    return _decoded(stdin) if len(stdin) <= _REMEMBERED else reading.decode(stdin)


@lru_cache(maxsize=64)
def _decoded(stdin: bytes) -> Mapping[str, object]:
    """Remembered: an agent is asked in the same words for each pod of a network."""
    return reading.decode(stdin)


@lru_cache(maxsize=64)
def _parsed(name: str, stdin: bytes) -> Plugin:
    return plugins.parse(_decode(stdin), name)


def _parser(stdin: bytes) -> Callable[[str, bytes], Plugin]:
    return _parsed if len(stdin) <= _REMEMBERED else _parsed.__wrapped__


def _read(verb: str, stdin: bytes) -> Mapping[str, object]:
    """Of what is no JSON, or is nested too deep, DEL takes the network's name, where that can be made out."""
    try:
        return _decode(stdin)
    except CniError:
        name = decoding.string_in(stdin, "name") if verb == "DEL" else ""
        if not name:
            raise
        version = decoding.string_in(stdin, "cniVersion")
        return {"cniVersion": version if version in spec.VERSIONS else "", "name": name}


def _parse(call: Call, verb: str, raw: Mapping[str, object], folder: str) -> Plugin:
    """DEL must work with whatever configuration is left: what does not parse is done without (failure 2)."""
    try:
        found = _parser(call.stdin)(call.name, call.stdin)
        return msgspec.structs.replace(found, conf=located(found.conf, folder))
    except CniError as error:
        if verb != "DEL":
            raise
        found = plugins.parse_name(raw, call.name, folder)
        print(f"tulle: DEL goes on by what is on record: {error.msg}", file=sys.stderr)
        return found


def handler(name: str, plugin: Plugin, verb: str) -> Run:
    """The function behind a verb; only what is needed is imported, for a start-up is paid for each pod."""
    if plugin.ipam is not None:
        from cni_plugin.verbs import ipam

        return ipam.VERBS[verb]
    if plugin.feature is not None:
        from cni_plugin.verbs import chained

        return chained.VERBS[verb]
    if plugin.wiring is not None and not plugin.wiring.KEPT:
        from cni_plugin.verbs import inside

        return inside.VERBS[verb]
    if plugin.wiring is None:
        known = ", ".join(plugins.names())
        raise CniError(INVALID_ENVIRONMENT, f"called by the name {name!r}: Tulle acts as {known}; rename the link")
    found: Run
    match verb:
        case "ADD":
            from cni_plugin.verbs.add import add as found
        case "DEL":
            from cni_plugin.verbs.delete import delete as found
        case "CHECK":
            from cni_plugin.verbs.check import check as found
        case "GC":
            from cni_plugin.verbs.gc import collect as found
        case _:
            from cni_plugin.verbs.status import status as found
    return found


def _version_or_newest(stdin: bytes) -> str:
    """VERSION answers in the version asked for, as an error does; whatever else stands on stdin, it must not fail."""
    try:
        return _known(reading.version_of(reading.decode(stdin)))
    except (CniError, msgspec.MsgspecError):
        return spec.VERSIONS[-1]


def _known(version: str) -> str:
    return version if version in spec.VERSIONS else spec.VERSIONS[-1]


def _netns_error(error: NetnsError) -> CniError:
    """Without the words "not found" and "no such file": containerd takes an error with them for success (go-cni)."""
    why = {
        "gone": "names nothing; the sandbox has ended, or its path is wrong",
        "not-a-namespace": "is not a network namespace; a namespace's file was unmounted, or the path is wrong",
        "own": "is the host's own network namespace: plugin's netns and netns from CNI_NETNS should not be the same; "
        "give the pod one of its own (CNI_NETNS_OVERRIDE=1 allows it)",
    }
    return CniError(INVALID_NETNS, f"CNI_NETNS {error.path!r} {why[error.kind]}")


def _os_message(error: OSError) -> str:
    where = f" {error.filename!r}" if error.filename else ""
    why = "something is missing" if error.errno == errno.ENOENT else error.strerror or error  # see _netns_error
    if error.errno in PASSING:
        return f"{why}{where}; {_SHORT}"
    return f"{why}{where}: {files.cure(error)}"

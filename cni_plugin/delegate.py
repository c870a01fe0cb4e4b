"""Other plugins, called as the specification says: found by name in CNI_PATH, same environment, same stdin.

A delegate's stderr is ours; what it says on stdout is parsed. Promises: one that does not answer is ended with all that
it started, after `LONGEST` seconds; one that calls us in its turn cannot have us call others again, so nothing
goes round for ever, whatever name it knows us by.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping, Sequence

import msgspec

from cni_plugin import decoding
from cni_plugin.errors import DELEGATE_FAILED, INVALID_CONFIG, INVALID_ENVIRONMENT, CniError, NoAnswer
from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.host.program import MOST_BYTES, is_ancestor, run

LONGEST = {"ADD": 55.0}
LONGEST_OTHERS = 20.0
"""Seconds for an answer, by verb. A DHCP server behind a bridge with STP takes half a minute to be reached (two forward
delays of 15 s, IEEE 802.1D); kubelet gives up after 120 s."""
_LARGEST_CODE = (1 << 32) - 1
"""What libcni has room for (Error.Code in pkg/types/types.go, a uint of 32 bits at least)."""
MARK = "TULLE_DELEGATED"
"""The variable by which we know that it was one of us who called the plugin that calls us."""


def is_delegated(environ: Mapping[str, str]) -> bool:
    """Whether this request comes from a plugin that serves a request of ours."""
    return bool(environ.get(MARK))


def _was_started_by_us() -> bool:
    """The same, where the plugin in between dropped the mark. Only a built engine is told by its executable."""
    return hasattr(sys, "_MEIPASS") and is_ancestor("/proc/self/exe")


def find(kind: str, path: Sequence[str]) -> str:
    """The executable of a plugin type. Raises CniError 4 or 7, OSError where the kernel cannot tell now."""
    if "/" in kind or kind in (".", ".."):
        raise CniError(INVALID_CONFIG, f"invalid ipam.type {kind!r}: it is the name of a plugin, not a path")
    if not path:
        raise CniError(
            INVALID_ENVIRONMENT, f"required env variables [CNI_PATH] missing: ipam.type {kind!r} is another plugin"
        )
    for folder in path:
        candidate = os.path.join(folder, kind)
        if _is_plugin(candidate):
            return candidate
    raise CniError(
        INVALID_CONFIG,
        f"invalid ipam.type {kind!r}: there is no such plugin in CNI_PATH {':'.join(path)}; install it there",
    )


def _is_plugin(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)
    except ValueError:  # a path holds no NUL
        return False
    except OSError as error:
        if error.errno in PASSING:
            raise
        return False


def versions(executable: str, environ: Mapping[str, str]) -> Sequence[object]:
    """The versions of the specification that a plugin speaks, () where it does not say."""
    try:
        answer = call(executable, "VERSION", environ, b'{"cniVersion": "1.0.0"}')
    except CniError:
        return ()
    spoken = answer.get("supportedVersions")
    return spoken if isinstance(spoken, list) else ()


def call(
    executable: str, verb: str, environ: Mapping[str, str], stdin: bytes, *, seconds: float = 0.0
) -> Mapping[str, object]:
    """Run a plugin for this request and give back its result, {} for a verb without one. Raises its CniError.

    `seconds` that it may take, where that is not what its verb may.
    """
    if is_delegated(environ) or _was_started_by_us():
        raise CniError(
            INVALID_CONFIG,
            f"{executable} is not called: it was a plugin that we called who called us, so this would go round for "
            "ever; give ipam.type the name of an IPAM plugin that calls no main plugin",
        )
    seconds = seconds or LONGEST.get(verb, LONGEST_OTHERS)
    told = {**environ, "CNI_COMMAND": verb, MARK: "1"}
    try:
        status, stdout, _ = run(executable, [], told, stdin, quiet=False, seconds=seconds)
    except TimeoutError as error:
        raise NoAnswer(
            executable.rpartition("/")[2],
            DELEGATE_FAILED,
            f"{executable} {verb} did not answer within {seconds:g} s and was ended: see what it waits for (its log is "
            "on stderr)",
        ) from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            why = f"said more than {MOST_BYTES >> 20} MiB and was ended: a result has some hundred bytes"
            raise CniError(DELEGATE_FAILED, f"{executable} {verb} {why}; install it anew") from error
        # by its name, for containerd takes an error of DEL with "no such file" in it for success
        why = errno.errorcode.get(error.errno or 0, "unknown")
        raise CniError(DELEGATE_FAILED, f"{executable} cannot be run ({why}): install it anew") from error
    try:
        answer = decoding.decode(stdout) if stdout.strip() else {}
    except msgspec.DecodeError:
        answer = None
    if status == 0 and isinstance(answer, dict):
        return answer
    code = answer.get("code") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and type(code) is int and 0 < code <= _LARGEST_CODE:
        raise CniError(code, f"{executable}: {answer.get('msg') or ''}", str(answer.get("details") or ""))
    raise CniError(
        DELEGATE_FAILED,
        f"{executable} {verb} ended with exit code {status} and no error object on stdout: see its log on stderr",
        stdout[:500].decode(errors="replace"),
    )

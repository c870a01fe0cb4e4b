"""The engine, `tulled`: everything behind the client, for one request or for good.

    tulled                  the agent: serves all clients of this node, and keeps the node as it should be
    tulled --once NAME      the fallback: serves the one request in its environment and on its stdin, and ends
    tulled --check          says what is wrong with the agent's settings, and ends

The client execs the second with the runtime's environment when there is no agent. Promises: stdout gets the
reply, whole and nothing else, whatever a library may print; the exit code is the reply's.

    echo '{"cniVersion": "1.1.0"}' | CNI_COMMAND=VERSION tulled --once tulle
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Sequence

USAGE = """usage: tulled [--run-dir DIR] [--conf FILE]     the node agent, on DIR/agent.sock (/run/tulle); FILE has its
                                                 settings (/etc/tulle/agent.json)
       tulled --once NAME                        serve the one CNI request in the environment and on stdin, as the
                                                 plugin NAME
       tulled --check [--conf FILE]              say what is wrong with the settings, and with what Kubernetes has
                                                 beside them; exit code 1 if anything is
       tulled --install ROOT                     put this bundle on the node whose folders are below ROOT
       tulled --version
"""
CHUNK = 1 << 20
LARGEST = 64 << 20
"""Bytes of a request."""


def main(arguments: Sequence[str]) -> int:
    """Do as the arguments say. Returns the exit code: that of the reply, or 2 for arguments that are not ours."""
    os.umask(0o022)  # a runtime's may be any, and what we make has the mode that is asked for
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ignores it is not told how children end, and that is inherited
    match arguments:
        case ["--once", name]:
            return once(name)
        case ["--version"]:
            from cni_plugin.client import VERSION

            print(f"tulled {VERSION}")
            return 0
        case ["--install", root]:
            return install(root)
        case ["--check"]:
            return check("")
        case ["--check", "--conf", path]:
            return check(path)
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if len(arguments) % 2 or options.keys() - {"--run-dir", "--conf"}:
        sys.stderr.write(USAGE)
        return 2
    from cni_plugin.kernel.nft.nft_process import keeper

    keeper.start()  # a fork of us as long as we are small
    from cni_plugin.agent.service import serve

    return serve(options.get("--run-dir", ""), options.get("--conf", ""))


def once(name: str) -> int:
    """Serve one request as the plugin `name`. Returns the reply's exit code, 1 when stdout does not take the reply."""
    gc.disable()  # this process ends before cycles matter; a tenth of its start-up is collecting none
    answer = take_stdout()
    from cni_plugin.errors import IO_FAILURE, CniError
    from cni_plugin.kernel.open import open_kernel
    from cni_plugin.verbs.run import refusal, run

    stdin = b""
    try:
        stdin = read_all(0)
        reply = run(name, os.environ, stdin, open_kernel)
    except OSError as error:
        what = f"the network configuration cannot be read from stdin: {error.strerror}"
        told = CniError(IO_FAILURE, f"{what}; run it as a container runtime does")
        reply = refusal(told, verb=os.environ.get("CNI_COMMAND", ""))
    try:
        write_all(answer, reply.stdout)
    except OSError as error:
        print(f"tulled: the reply could not be written to stdout: {error.strerror}", file=sys.stderr)
        if not reply.code and os.environ.get("CNI_COMMAND") == "ADD":  # of which nobody would know
            run(name, {**os.environ, "CNI_COMMAND": "DEL"}, stdin, open_kernel)
        return reply.code or 1
    return reply.code


def install(root: str) -> int:
    """Put the bundle that we are of on a node. Returns 1, with the reason on stderr, when that failed."""
    from cni_plugin.agent.install import install as put

    try:
        print(f"tulled: installed {put(root)} below {root or '/'}", file=sys.stderr)
    except Exception as error:
        from cni_plugin.verbs.run import as_cni_error

        print(f"tulled: {as_cni_error(error).msg}", file=sys.stderr)
        return 1
    return 0


def check(path: str) -> int:
    """Say on stderr what is wrong with the agent's settings. Returns 1 if anything is."""
    from cni_plugin.agent.checking import mistakes
    from cni_plugin.agent.settings import DEFAULT_PATH

    found = mistakes(path or DEFAULT_PATH)
    for each in found:
        print(f"tulled: {each}", file=sys.stderr)
    return 1 if found else 0


def take_stdout() -> int:
    """Keep stdout for the reply alone: whatever else is written there goes to stderr. Returns the fd to answer on."""
    answer = os.dup(1)
    os.dup2(2, 1)
    return answer


def read_all(fd: int) -> bytes:
    """All that can be read from a file descriptor. Raises OSError, also for what has no end."""
    chunks = []
    while chunk := os.read(fd, CHUNK):
        chunks.append(chunk)
        if len(chunks) * CHUNK > LARGEST and sum(map(len, chunks)) > LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return b"".join(chunks)


def write_all(fd: int, data: bytes) -> None:
    """All of data. Raises OSError."""
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to clean up, and taking down an interpreter with all its modules takes a while

"""The executable that a runtime calls for each pod: takes the request as raw bytes and has it done.

It knows no JSON, no CNI and no network, and it imports nothing but what is built into every interpreter: its
start-up is paid by every pod. Whoever does the work gets the request untouched. Here that is the engine of the
same release, which takes this process over by one exec, finds the whole of stdin on file descriptor 0, and
writes the reply itself.

    called as        without CNI_COMMAND            with CNI_COMMAND
    tulle            says what it is, on stderr     exec tulled --once tulle
    host-local, ...  likewise, by that name         exec tulled --once host-local

Promises: nothing but a reply is ever written to stdout; the engine is found beside this very executable, never by
PATH, by the environment or by the name it was called by; a closed stdin is an empty one.
"""

import posix
import sys  # and no `from __future__`: that imports a module, and there is none to import in the frozen client

VERSION = "0.1.0"
PROTOCOLS = "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
PARITY = "v1.9.1"
"""The release of the reference plugins whose place we take under their names. Schedulers read the first version
in this text and refuse a `bridge` before 0.4.0 (Nomad, client/fingerprint/plugins_cni.go)."""

IO_FAILURE = 5
CHUNK = 1 << 16


def main() -> int:
    """Serve the one request that environment and stdin hold. Returns an exit status, or never."""
    name = called_by()
    open_standard_files()
    if not posix.environ.get(b"CNI_COMMAND"):
        write(2, about(name).encode("utf-8", "surrogateescape"))
        return 0
    try:
        request = read_stdin()
    except OSError as error:
        return fail("cannot read the network configuration from stdin", error, "run it as a container runtime does")
    return become_engine(name, request)


def called_by() -> str:
    """The base name that the runtime called us by: under that of a reference plugin we take its place."""
    name = sys.argv[0].rpartition("/")[2]
    return "tulle" if name in ("", "client.py") else name


def about(name: str) -> str:
    """What we are, by the name we were called by, in the two lines that the reference plugins print."""
    if name == "tulle":
        line = f"Tulle CNI plugin {VERSION}"
    else:
        line = f"CNI {name} plugin {PARITY} (served by Tulle {VERSION})"
    return f"{line}\nCNI protocol versions supported: {PROTOCOLS}\n"


def open_standard_files() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed, lest the next file opened take its number."""
    for fd in range(3):
        try:
            posix.fstat(fd)
        except OSError:
            posix.set_inheritable(posix.open("/dev/null", posix.O_RDWR), True)  # takes the lowest free number: fd


def read_stdin() -> bytes:
    """All of stdin. Raises OSError."""
    chunks = []
    while chunk := posix.read(0, CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)


def become_engine(name: str, request: bytes) -> int:
    """Replace this process by the engine, the request on its stdin. Returns only when that failed."""
    path = "the engine"
    try:
        path, arguments = engine(name)
        put_on_stdin(request)
        posix.execv(path, [path, *arguments])
    except OSError as error:
        return fail(f"cannot start {path}", error, "install Tulle again (scripts/install)")


def engine(name: str) -> tuple[str, list[str]]:
    """The engine of this very release, and its arguments. Raises OSError when /proc cannot tell where we are."""
    if hasattr(sys, "frozen"):
        bundle = posix.readlink("/proc/self/exe").rpartition("/")[0]
        return f"{bundle}/tulled", ["--once", name]
    return sys.executable, ["-I", "-m", "cni_plugin.agent", "--once", name]


def put_on_stdin(request: bytes) -> None:
    """Make fd 0 a file in memory that holds the request, read from its start. Raises OSError."""
    memory = posix.memfd_create("cni-request")  # closed by exec, unlike its copy
    write(memory, request)
    posix.lseek(memory, 0, 0)
    posix.dup2(memory, 0)


def write(fd: int, data: bytes) -> None:
    """All of data. Raises OSError."""
    while data:
        data = data[posix.write(fd, data) :]


def fail(what: str, error: OSError, remedy: str) -> int:
    """Answer the runtime with an error of the specification, written by hand: importing json takes longer than exec."""
    text = f"{what}: {posix.strerror(error.errno or 0)}; {remedy}"
    quoted = "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\u{min(ord(c), 0xFFFD):04x}" for c in text)
    write(1, f'{{"cniVersion": "1.1.0", "code": {IO_FAILURE}, "msg": "{quoted}"}}\n'.encode())
    return 1


if __name__ == "__main__":
    posix._exit(main())

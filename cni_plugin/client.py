"""The executable that a runtime calls for each pod: takes the request as raw bytes and has it done.

It knows no JSON, no CNI and no network, and it imports nothing but what is built into every interpreter: its
start-up is paid by every pod. Whoever does the work gets the request untouched: the agent of this node over its
socket, with the pod's network namespace as an open file; or, where there is no agent, the engine of the same
release, which takes this process over by one exec, finds the whole of stdin on file descriptor 0, and writes the
reply itself.

    called as        without CNI_COMMAND            with CNI_COMMAND                else
    tulle            says what it is, on stderr     asks $TULLE_RUN_DIR/agent.sock  exec tulled --once tulle
    host-local, ...  likewise, by that name         likewise                        exec tulled --once host-local

Promises: nothing but a reply is ever written to stdout; an ADD is done once at most: as soon as a byte of it was sent,
a lost reply is error 11 and no second try (all other verbs may be done twice, so the engine does them then); an ADD
whose result nobody can be told is taken back; the engine
is found beside this very executable, never by PATH, by the environment or by the name it was called by; a closed stdin
is an empty one.
"""

import _socket
import posix
import sys  # and no `from __future__`: that imports a module, and there is none to import in the frozen client

VERSION = "0.1.0"
PROTOCOLS = "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
PARITY = "v1.9.1"
"""The release of the reference plugins whose place we take under their names. Schedulers read the first version
in this text and refuse a `bridge` before 0.4.0 (Nomad, client/fingerprint/plugins_cni.go)."""

IO_FAILURE, TRY_AGAIN_LATER = 5, 11
CHUNK, MOST_STDIN = 1 << 16, 64 << 20

# Frames as cni_plugin.wire tells; a test holds the two together.
WIRE = 1
GREETING, LARGEST = 8, 8 << 20
FOLDER = b"TULLE_CALLED_IN"
GREETING_SECONDS, REPLY_SECONDS = 5, 110
"""How long the agent may take to greet, being busy with others; and to answer: kubelet itself gives up after 120 s."""


def main() -> int:
    """Serve the one request that environment and stdin hold. Returns an exit status, or never."""
    try:
        return serve()
    except OSError as error:
        return fail("cannot serve this request", error, "the runtime may try again after DEL")


def serve() -> int:
    """The same. Raises OSError when the kernel has not even a descriptor for us."""
    name = called_by()
    open_standard_files()
    if not posix.environ.get(b"CNI_COMMAND"):
        write(2, about(name).encode("utf-8", "surrogateescape"))
        return 0
    try:
        request = read_stdin()
    except OSError as error:
        return fail("cannot read the network configuration from stdin", error, "run it as a container runtime does")
    if not declines_agent(request):
        try:
            channel = find_agent()
            if channel is not None:
                return ask_agent(channel, name, request)
        except LostReply as lost:
            if posix.environ[b"CNI_COMMAND"] == b"ADD":
                return fail("the agent was lost while it served this request", lost, AGAIN, request)
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
    """Put /dev/null where stdin, stdout or stderr is closed, lest the next file opened take its number.

    What would be written to a closed stdout is a reply that is lost, so that does not take one.
    """
    for fd, mode in enumerate((posix.O_RDWR, posix.O_RDONLY, posix.O_RDWR)):
        try:
            posix.fstat(fd)
        except OSError:
            posix.set_inheritable(posix.open("/dev/null", mode), True)  # takes the lowest free number: fd


def read_stdin() -> bytes:
    """All of stdin. Raises OSError, also for what has no end."""
    chunks, size = [], 0
    while chunk := posix.read(0, CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > MOST_STDIN:
            raise OSError(27, "")  # EFBIG
    return b"".join(chunks)


class LostReply(OSError):
    """The agent has the request, or a part of it, and did not answer."""


AGAIN = "the runtime may try again after DEL; journalctl -u tulled tells what became of the agent"


def declines_agent(request: bytes) -> bool:
    """Whether the configuration says `"agent": "none"`. Read without parsing: a mistake costs time and nothing else."""
    _, _, rest = request.lower().partition(b'"agent"')
    colon, value = rest.lstrip()[:1], rest.lstrip()[1:].lstrip()
    return colon == b":" and value.startswith(b'"none"')


def find_agent() -> _socket.socket | None:
    """A connection to this node's agent, which greeted in words that we speak; None when there is none."""
    folder = posix.environ.get(b"TULLE_RUN_DIR") or b"/run/tulle"
    try:
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    except OSError:  # short of memory or descriptors: the engine needs fewer, or says so
        return None
    try:
        channel.connect(folder + b"/agent.sock")
        patience(channel, GREETING_SECONDS)
        greeting = receive(channel, GREETING)
        if greeting[:5] == b"TULLE" and greeting[5] <= WIRE <= greeting[6]:
            return channel
    except OSError:
        pass
    channel.close()
    return None


def ask_agent(channel: _socket.socket, name: str, request: bytes) -> int:
    """Have the agent serve the request, and pass its reply on. Raises LostReply."""
    environ = b"\0".join(key + b"=" + value for key, value in {**callers_environ(), **standing()}.items())
    parts = [name.encode("utf-8", "surrogateescape"), environ, request]
    lengths = b"".join(len(each).to_bytes(4, "little") for each in parts)
    frame = b"".join([b"T", bytes([WIRE, 1, 0]), lengths, *parts])
    if len(frame) > LARGEST:
        return become_engine(name, request)
    try:
        patience(channel, REPLY_SECONDS)
        sent = channel.sendmsg([frame], pod())
        while sent < len(frame):
            sent += channel.send(frame[sent:])
        head = receive(channel, 8)
        reply = receive(channel, int.from_bytes(head[4:], "little"))
    except OSError as error:
        raise LostReply(error.errno or 0, "") from None
    return answer(reply, head[2], name, request)


def answer(reply: bytes, code: int, name: str, request: bytes) -> int:
    """Pass a reply on. An ADD whose result nobody gets to know is taken back: the runtime may take it for none."""
    try:
        write(1, reply)
    except OSError as error:
        write(2, f"{name}: the reply could not be written to stdout: {posix.strerror(error.errno or 0)}\n".encode())
        if not code and posix.environ[b"CNI_COMMAND"] == b"ADD":
            posix.environ[b"CNI_COMMAND"] = b"DEL"
            child = posix.fork()
            if not child:
                posix._exit(become_engine(name, request))
            posix.waitpid(child, 0)
        return code or 1
    return code


def standing() -> dict[bytes, bytes]:
    """The folder that we were called in: relative paths are meant from there, and the agent stands elsewhere."""
    try:
        return {FOLDER: posix.getcwdb()}
    except OSError:  # it was removed
        return {FOLDER: b""}


def pod() -> list[tuple[int, int, bytes]]:
    """The pod's network namespace, opened here and handed on: the agent may not see the path that the runtime sees."""
    try:
        fd = posix.open(posix.environ[b"CNI_NETNS"], posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except (KeyError, OSError):  # none, or gone: what that means is for the verb to say
        return []
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]


def patience(channel: _socket.socket, seconds: int) -> None:
    """Let a blocking call take so long at most: struct timeval for SO_RCVTIMEO and SO_SNDTIMEO (socket(7))."""
    for option in (20, 21):
        channel.setsockopt(_socket.SOL_SOCKET, option, seconds.to_bytes(8, sys.byteorder) + bytes(8))


def receive(channel: _socket.socket, size: int) -> bytes:
    """Exactly so many bytes. Raises OSError, also when the other side ends before."""
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise OSError(104, "")  # ECONNRESET
        data += more
    return data


def become_engine(name: str, request: bytes) -> int:
    """Replace this process by the engine, the request on its stdin. Returns only when that failed."""
    path = "the engine"
    try:
        path, arguments = engine(name)
        put_on_stdin(request)
        posix.execve(path, [path, *arguments], callers_environ())
    except OSError as error:
        return fail(f"cannot start {path}", error, "install Tulle again (scripts/install)", request)


def engine(name: str) -> tuple[str, list[str]]:
    """The engine of this very release, and its arguments. Raises OSError when /proc cannot tell where we are."""
    if hasattr(sys, "_MEIPASS"):
        bundle = posix.readlink("/proc/self/exe").rpartition("/")[0]
        return f"{bundle}/tulled", ["--once", name]
    return sys.executable, ["-I", "-m", "cni_plugin.agent", "--once", name]


def callers_environ() -> dict[bytes, bytes]:
    """The environment as the runtime made it: PyInstaller's loader adds variables and a folder to the library path."""
    own = getattr(sys, "_MEIPASS", "").encode("utf-8", "surrogateescape")
    environ = {key: value for key, value in posix.environ.items() if not (own and key.startswith(b"_PYI_"))}
    first, _, rest = environ.get(b"LD_LIBRARY_PATH", b"").partition(b":")
    if own and first == own:
        del environ[b"LD_LIBRARY_PATH"]
        if rest:
            environ[b"LD_LIBRARY_PATH"] = rest
            if environ.get(b"LD_LIBRARY_PATH_ORIG") == rest:
                del environ[b"LD_LIBRARY_PATH_ORIG"]
    return environ


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


def version_in(request: bytes) -> str:
    """The cniVersion of a configuration, the newest where it has none that we speak. Read without parsing."""
    _, _, rest = request.lower().partition(b'"cniversion"')
    version = rest.partition(b'"')[2].partition(b'"')[0].decode("utf-8", "replace")
    return version if version in PROTOCOLS.split(", ") else "1.1.0"


def fail(what: str, error: OSError, remedy: str, request: bytes = b"") -> int:
    """Answer the runtime with an error of the specification, written by hand: importing json takes longer than exec."""
    code = TRY_AGAIN_LATER if isinstance(error, LostReply) else IO_FAILURE
    text = f"{what}: {posix.strerror(error.errno or 0)}; {remedy}"
    quoted = "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\u{min(ord(c), 0xFFFD):04x}" for c in text)
    try:
        write(1, f'{{"cniVersion": "{version_in(request)}", "code": {code}, "msg": "{quoted}"}}\n'.encode())
    except OSError:  # nobody can be told
        pass
    return 1


if __name__ == "__main__":
    posix._exit(main())

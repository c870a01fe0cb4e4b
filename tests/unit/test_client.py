"""The client hands a request on untouched, and is nothing but quick about it.

A witness stands in for the engine: it writes down what it was started with. All else is real: a process, an exec,
file descriptors, an environment.
"""

from __future__ import annotations

import base64
import json
import os
import posix
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from cni_plugin import client, spec
from tests.pace import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]

WITNESS = """
import base64, json, os, sys
seen = {
    "argv": sys.argv[1:],
    "stdin": base64.b64encode(sys.stdin.buffer.read()).decode() if sys.stdin else None,
    "files": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
              if os.path.exists(f"/proc/self/fd/{fd}") or int(fd) < 3},
    "environ": {os.fsdecode(k): base64.b64encode(v).decode() for k, v in os.environb.items()},
    "pid": os.getpid(),
}
open(sys.argv[0] + ".json", "w").write(json.dumps(seen))
sys.exit(42)
"""

CLIENT = """
import posix, sys
sys.path.insert(0, {repository!r})
from cni_plugin import client
client.engine = lambda name: ({path!r}, ["-I", {witness!r}, "--once", name])
posix._exit(client.main())
"""


class Seen(NamedTuple):
    """What the engine was started with, and what the caller got."""

    code: int
    stdout: bytes
    stderr: str
    argv: list[str]
    stdin: bytes
    files: Mapping[str, str]
    environ: Mapping[str, bytes]


class Caller:
    """Calls the client as a runtime would, with a witness in the engine's place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = sys.executable
        self.redirections = ""

    def run(self, name: str, stdin: bytes, environ: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
        """The client under this name, closed files and all."""
        witness = self.folder / "witness"
        witness.write_text(WITNESS)
        executable = self.folder / name
        executable.write_text(CLIENT.format(repository=str(REPOSITORY), path=self.engine, witness=str(witness)))
        command = ["/bin/sh", "-c", f'exec "$0" -I "$1" {self.redirections}', sys.executable, str(executable)]
        return subprocess.run(command, input=stdin, env=environ, capture_output=True, timeout=PATIENCE, check=False)

    def __call__(self, name: str = "tulle", stdin: bytes = b"{}", environ: Mapping[str, str] | None = None) -> Seen:
        done = self.run(name, stdin, {"CNI_COMMAND": "ADD", **(environ or {})})
        seen = json.loads((self.folder / "witness.json").read_text())
        return Seen(
            done.returncode,
            done.stdout,
            done.stderr.decode(),
            seen["argv"],
            base64.b64decode(seen["stdin"]),
            seen["files"],
            {key: base64.b64decode(value) for key, value in seen["environ"].items()},
        )


@pytest.fixture
def call(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


@pytest.mark.parametrize("name", ["tulle", "host-local", "a name with spaces", "--version"])
def test_the_engine_is_told_the_name_the_plugin_was_called_by(call: Caller, name: str) -> None:
    assert call(name).argv == ["--once", name]


@pytest.mark.parametrize(
    "stdin", [b"", b"{}", b"\x00\xff not json \n", b"x" * 3_000_000], ids=["empty", "json", "bytes", "3 MB"]
)
def test_stdin_reaches_the_engine_byte_for_byte(call: Caller, stdin: bytes) -> None:
    assert call(stdin=stdin).stdin == stdin


def test_the_environment_reaches_the_engine_byte_for_byte(call: Caller) -> None:
    odd = {"CNI_ARGS": "K=\udcff\udcfe;IgnoreUnknown=1", "LANG": "xx", "CNI_CONTAINERID": "ünïcode"}
    seen = call(environ=odd).environ
    assert {key: seen[key] for key in odd} == {key: os.fsencode(value) for key, value in odd.items()}


def test_the_exit_code_is_the_engines(call: Caller) -> None:
    assert call().code == 42


def test_the_engine_inherits_stdin_stdout_and_stderr_and_no_other_file(call: Caller) -> None:
    files = call().files
    assert set(files) == {"0", "1", "2"}
    assert "cni-request" in files["0"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files_are_empty_ones_and_nothing_else_takes_their_place(call: Caller, closed: str) -> None:
    call.redirections = closed
    seen = call(stdin=b"{}")
    assert seen.code == 42
    assert seen.stdin == (b"" if "<&-" in closed else b"{}")
    for fd, redirection in (("1", " >&-"), ("2", "2>&-")):
        assert (seen.files[fd] == "/dev/null") == (redirection in f" {closed}")


def test_stdin_that_cannot_be_read_is_an_error_on_stdout(call: Caller) -> None:
    call.redirections = "0>/dev/null"
    done = call.run("tulle", b"", {"CNI_COMMAND": "ADD"})
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"]) == (1, 5)
    assert "stdin" in error["msg"] and "Bad file descriptor" in error["msg"]


@pytest.mark.parametrize("path", ["/nowhere/tulled", '/no"where\\/é/\t😀/tulled', "/etc/passwd", "/no/\udcff/x"])
def test_an_engine_that_does_not_start_is_an_error_that_names_it_and_the_remedy(call: Caller, path: str) -> None:
    call.engine = path
    done = call.run("tulle", b"{}", {"CNI_COMMAND": "ADD"})
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"], done.stderr) == (1, 5, b"")
    assert error["msg"].startswith(f"cannot start {path.replace('😀', chr(0xFFFD))}: ")
    assert "scripts/install" in error["msg"]


@pytest.mark.parametrize("environ", [{}, {"CNI_COMMAND": ""}, {"CNI_IFNAME": "eth0"}])
def test_without_a_command_it_says_what_it_is_and_starts_no_engine(call: Caller, environ: dict[str, str]) -> None:
    done = call.run("tulle", b"", environ)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == (
        "Tulle CNI plugin 0.1.0\n"
        "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
    )
    assert not (call.folder / "witness.json").exists()


def test_without_a_command_it_does_not_wait_for_stdin(call: Caller) -> None:
    call.redirections = "</dev/zero"  # has no end
    assert call.run("tulle", b"", {}).returncode == 0


def test_under_a_reference_plugins_name_it_tells_whose_place_it_takes(call: Caller) -> None:
    """Nomad takes the first semantic version in this text and wants at least 0.4.0 of `bridge`."""
    lines = call.run("bridge", b"", {}).stderr.decode().splitlines()
    assert lines[0] == "CNI bridge plugin v1.9.1 (served by Tulle 0.1.0)"


def test_its_versions_are_those_of_the_project_and_of_the_engine() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["version"] == client.VERSION
    assert ", ".join(spec.VERSIONS) == client.PROTOCOLS


def test_it_imports_nothing_but_built_in_modules() -> None:
    script = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); import client\n"
        "print(*(set(sys.modules) - before - {'client'} - set(sys.builtin_module_names)))"
    )
    run = [sys.executable, "-I", "-S", "-c", script, str(REPOSITORY / "cni_plugin")]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "\n"


def test_from_source_the_engine_runs_in_the_same_isolated_interpreter() -> None:
    assert client.engine("bridge") == (sys.executable, ["-I", "-m", "cni_plugin.agent", "--once", "bridge"])


def test_frozen_the_engine_is_the_one_beside_the_executable_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    readlink: Callable[[str], str] = {"/proc/self/exe": "/opt/tulle/1/tulle"}.__getitem__
    monkeypatch.setattr(sys, "_MEIPASS", "/opt/tulle/1/_client", raising=False)
    monkeypatch.setattr(sys, "argv", ["/elsewhere/tulle"])
    monkeypatch.setenv("PATH", "/elsewhere")
    monkeypatch.setattr(posix, "readlink", readlink)
    assert client.engine("tulle") == ("/opt/tulle/1/tulled", ["--once", "tulle"])


@pytest.mark.parametrize(
    ("request_", "version"),
    [
        (b'{"cniVersion": "0.4.0"}', "0.4.0"), (b'{"name":"n","CNIVersion":"1.0.0"}', "1.0.0"), (b"", "1.1.0"),
        (b'{"cniVersion": "9.0.0"}', "1.1.0"), (b'{"cniVersion": "0.4', "1.1.0"), (b'{"cniVersion": "\xff"}', "1.1.0"),
    ],
)
def test_an_error_of_the_clients_own_bears_the_version_in_use(request_: bytes, version: str) -> None:
    assert client.version_in(request_) == version

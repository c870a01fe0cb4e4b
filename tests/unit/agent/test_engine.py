"""The engine's entry point: stdout is the reply and nothing else, and the exit code is the reply's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cni_plugin.client import VERSION
from tests.pace import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[3]

ENGINE = """
import os, subprocess, sys
sys.path[:0] = {path!r}
from cni_plugin.agent import __main__ as engine
from cni_plugin.verbs import run as verbs

def run(name, environ, stdin, open_kernel):
    print("noise of a library")
    os.write(1, b"noise of a C library")
    subprocess.run(["echo", "noise of a child"])
    return verbs.Reply({reply}, {code})

verbs.run = run
os._exit(engine.main(sys.argv[1:]))
"""


def call(*arguments: str, reply: str = "b''", code: int = 0, stdin: bytes = b"", redirection: str = "") -> tuple[
    int, bytes, bytes
]:
    """Start the engine with a stand-in for the verbs that makes noise: exit code, stdout, stderr."""
    script = ENGINE.format(path=[str(REPOSITORY), *sys.path], reply=reply, code=code)
    shell = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-u", "-c", script, *arguments]
    done = subprocess.run(shell, input=stdin, capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def test_stdout_is_the_reply_alone_and_all_noise_is_on_stderr() -> None:
    code, stdout, stderr = call("--once", "tulle", reply="b'{}'")
    assert (code, stdout) == (0, b"{}")
    assert stderr.count(b"noise of") == 3


def test_the_reply_is_made_of_name_and_stdin_and_is_written_whole() -> None:
    code, stdout, _ = call("--once", "host-local", reply="name.encode() + stdin", stdin=b"x" * 3_000_000)
    assert (code, stdout) == (0, b"host-local" + b"x" * 3_000_000)


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_is_the_replys(code: int) -> None:
    assert call("--once", "tulle", code=code)[0] == code


def test_a_reply_that_stdout_does_not_take_is_no_success() -> None:
    code, _, stderr = call("--once", "tulle", reply="b'{}'", redirection=">/dev/full")
    assert code == 1
    assert b"could not be written to stdout: No space left on device" in stderr


def test_an_add_of_which_nobody_can_be_told_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ENGINE", ENGINE.replace(
        'print("noise of a library")', 'print(environ["CNI_COMMAND"], stdin, file=sys.stderr)'
    ))
    for verb, done in (("ADD", ["ADD b'x'", "DEL b'x'"]), ("DEL", ["DEL b'x'"]), ("CHECK", ["CHECK b'x'"])):
        monkeypatch.setenv("CNI_COMMAND", verb)
        code, _, stderr = call("--once", "tulle", reply="b'{}'", stdin=b"x", redirection=">/dev/full")
        said = stderr.decode().splitlines()
        assert (code, [each for each in said if each.endswith("b'x'")]) == (1, done)


@pytest.mark.parametrize("arguments", [("--once",), ("tulle",), ("--once", "tulle", "more"), ("--twice", "tulle")])
def test_other_arguments_are_refused_with_the_usage(arguments: tuple[str, ...]) -> None:
    code, stdout, stderr = call(*arguments)
    assert (code, stdout) == (2, b"")
    assert stderr.startswith(b"usage: tulled ")


def test_it_tells_its_version() -> None:
    assert call("--version")[:2] == (0, f"tulled {VERSION}\n".encode())


IMPORTED = """
import sys
sys.path[:0] = {path!r}
from cni_plugin import doubts
from cni_plugin.ipams import host_local
from cni_plugin.kernel import linux
from cni_plugin.verbs import add, context
print(*sys.modules)
"""
OF_CLUSTERS = {
    "cni_plugin.backends.contract", "cni_plugin.cluster", "cni_plugin.network", "cni_plugin.plan.cluster",
    "cni_plugin.plan.guard", "cni_plugin.plan.identity", "cni_plugin.node.cluster.peers", "cni_plugin.kernel.rtnl.ways",
}
OF_AGENTS = {"cni_plugin.kernel.watch.monitor", "cni_plugin.kernel.rtnl.remover"}


def test_an_add_imports_nothing_of_clusters_and_agents() -> None:
    """An engine starts for each pod: what it imports is paid each time."""
    script = IMPORTED.format(path=[str(REPOSITORY), *sys.path])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert not set(done.stdout.split()) & (OF_CLUSTERS | OF_AGENTS)

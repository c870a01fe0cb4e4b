"""An ADD whose reply nobody can read is undone, with an agent and without: stdout is full, closed, or only read."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.conformance.nodes import Call, Node
from tests.netns.failure_nodes import conf


def call(node: Node, command: str, redirection: str) -> tuple[int, str]:
    """One request with its stdout elsewhere: exit code, and what was said on stderr."""
    environ = Call(command=command, container="pod1", netns=node.pod("pod1").path).environ(node.plugins, node.run_dir)
    program = str(node.plugins.directory / "tulle")
    shell = ["nsenter", f"--net={node.path}", "/bin/sh", "-c", f'"$0" {redirection}', program]
    done = subprocess.run(
        shell, input=json.dumps(conf(node)), capture_output=True, text=True, env=environ, timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("stdout", [">/dev/full", ">&-", "1</dev/null"])
def test_an_add_whose_reply_cannot_be_written_is_no_success_and_leaves_nothing(served: Node, stdout: str) -> None:
    code, said = call(served, "ADD", stdout)
    assert code == 1
    assert "the reply could not be written to stdout" in said
    assert served.leases() == {}
    assert [each["ifname"] for each in served.pod("pod1").json("ip", "-j", "link")] == ["lo"]
    assert list((served.run_dir / "attachments").glob("*/*")) == []
    assert served.add(conf(served)).exit == 0, "the runtime may try again"
    assert call(served, "DEL", stdout)[0] == 0, "DEL has nothing to say"

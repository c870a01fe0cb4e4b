"""Another program: how it ended is told, whoever started us, and where nobody can tell that is an error and no wait."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from cni_plugin.agent.__main__ import main
from cni_plugin.kernel.host.program import Outcome, run


@pytest.fixture
def ignored() -> Iterator[None]:
    """As in a process that was started by one that ignores SIGCHLD: the kernel tells it nothing of its children."""
    umask = os.umask(0o022)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)
    os.umask(umask)


def false(seconds: float) -> Outcome:
    return run("/bin/false", [], {}, b"", quiet=True, seconds=seconds)


@pytest.mark.usefixtures("ignored")
@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_an_end_that_nobody_tells_of_is_an_error_and_not_waited_for(seconds: float) -> None:
    with pytest.raises(ChildProcessError):
        false(seconds)


@pytest.mark.usefixtures("ignored")
@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_our_executables_are_told_of_ends_whatever_their_callers_ignore(
    seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out
    assert false(seconds).code == 1

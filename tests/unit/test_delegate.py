"""Other plugins: found where the runtime says, given what we were given, their errors handed on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from cni_plugin import client, delegate
from cni_plugin.errors import CniError
from cni_plugin.kernel.host import program
from tests.pace import until
from tests.unit.support import executable

ENV = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_ARGS": "K=V", "PATH": "/usr/bin:/bin", "TRACEPARENT": "00-1"}


def plugin(tmp_path: Path, text: str) -> str:
    executable(tmp_path / "bin" / "it", f"#!/bin/sh\n{text}\n")
    return f"{tmp_path}/bin/it"


def refusal(tmp_path: Path, text: str, verb: str = "ADD") -> CniError:
    with pytest.raises(CniError) as caught:
        delegate.call(plugin(tmp_path, text), verb, ENV, b"{}")
    return caught.value


def test_it_is_the_first_in_the_path_that_can_be_run(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "it").mkdir()
    (tmp_path / "b" / "it").write_text("not executable")
    executable(tmp_path / "c" / "it", "#!/bin/sh\n")
    assert delegate.find("it", [f"{tmp_path}/{name}" for name in ("none", "a", "b", "c")]) == f"{tmp_path}/c/it"


@pytest.mark.parametrize("kind", ["/bin/sh", "../it", ".", ".."])
def test_a_path_is_no_type(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CniError, match="not a path") as caught:
        delegate.find(kind, [str(tmp_path)])
    assert caught.value.code == 7


def test_a_type_that_is_not_there_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CniError, match=rf"'it'.*CNI_PATH {tmp_path}.*install it there") as caught:
        delegate.find("it", [str(tmp_path)])
    assert caught.value.code == 7


def test_without_a_path_the_variable_is_named() -> None:
    with pytest.raises(CniError, match=r"\[CNI_PATH\] missing") as caught:
        delegate.find("it", [])
    assert caught.value.code == 4


def test_it_gets_the_verb_the_same_environment_and_the_whole_of_stdin(tmp_path: Path) -> None:
    it = plugin(tmp_path, 'cat > "$0.stdin"; env > "$0.env"; echo "{}"')
    stdin = json.dumps({"name": "pods", "x": "y" * 300_000}).encode()
    assert delegate.call(it, "DEL", ENV, stdin) == {}
    assert Path(f"{it}.stdin").read_bytes() == stdin
    seen = Path(f"{it}.env").read_text().splitlines()
    assert {each for each in seen if not each.startswith(("PWD=", "SHLVL=", "_=", "OLDPWD="))} == {
        "CNI_COMMAND=DEL", "CNI_CONTAINERID=c1", "CNI_ARGS=K=V", "PATH=/usr/bin:/bin", "TRACEPARENT=00-1",
        "TULLE_DELEGATED=1",
    }


def test_one_that_does_not_read_its_stdin_holds_nobody_up(tmp_path: Path) -> None:
    assert delegate.call(plugin(tmp_path, "exit 0"), "DEL", ENV, b"x" * 2_000_000) == {}


def test_a_long_answer_is_read_whole(tmp_path: Path) -> None:
    text = """printf '{"x": "'; head -c 300000 /dev/zero | tr '\\0' y; printf '"}'"""
    assert delegate.call(plugin(tmp_path, text), "ADD", ENV, b"{}") == {"x": "y" * 300_000}


def test_its_error_object_is_handed_on_with_its_name(tmp_path: Path) -> None:
    error = refusal(tmp_path, """echo '{"code": 11, "msg": "later", "details": "much later"}'; exit 1""")
    assert (error.code, error.details) == (11, "much later")
    assert error.msg.endswith("/bin/it: later")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo oops; exit 3", "exit code 3"),
        ("exit 1", "exit code 1"),
        ("kill -9 $$", "exit code -9"),
        ("echo '[]'", "exit code 0"),
        ("echo not json", "exit code 0"),
        ("""echo '{"code": "x"}'; exit 1""", "exit code 1"),
        ("""echo '{"code": true}'; exit 1""", "exit code 1"),
        ("""echo '{"code": 7.0}'; exit 1""", "exit code 1"),
        ("""echo '{"code": 4294967296}'; exit 1""", "exit code 1"),
    ],
)
def test_one_that_fails_without_an_error_object_is_told_by_its_exit_code(tmp_path: Path, text: str, words: str) -> None:
    error = refusal(tmp_path, text)
    assert error.code == 104
    assert words in error.msg


def test_what_it_says_on_stderr_is_on_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    delegate.call(plugin(tmp_path, "echo a word >&2"), "DEL", ENV, b"{}")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "a word\n")


def test_a_file_that_cannot_be_executed_is_named_without_the_words_that_containerd_takes_for_success(
    tmp_path: Path,
) -> None:
    executable(tmp_path / "bin" / "it", "#!/no/such/interpreter\n")
    with pytest.raises(CniError, match=r"bin/it cannot be run \(ENOENT\)") as caught:
        delegate.call(f"{tmp_path}/bin/it", "ADD", ENV, b"{}")
    assert "no such file" not in caught.value.msg.lower()


def test_nothing_is_left_open(tmp_path: Path) -> None:
    it = plugin(tmp_path, "echo '{}'")
    before = len(os.listdir("/proc/self/fd"))
    delegate.call(it, "ADD", ENV, b"{}")
    executable(tmp_path / "bin" / "it", "#!/no/such/interpreter\n")
    with pytest.raises(CniError):
        delegate.call(it, "ADD", ENV, b"{}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_does_not_answer_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    it = plugin(tmp_path, 'sleep 1000 & echo "$! $$" > "$0.pids"; wait')
    pids = Path(f"{it}.pids")
    for seconds in (0.3, 3, 30):  # a busy machine may take a while to begin with it
        with pytest.raises(CniError, match=rf"bin/it ADD did not answer within {seconds:g} s and was ended") as caught:
            delegate.call(it, "ADD", ENV, b"{}", seconds=seconds)
        assert caught.value.code == 104
        if pids.exists() and pids.read_text():
            break
    child, leader = pids.read_text().split()
    assert is_over(leader)
    until(lambda: is_over(child), "what it had started is over, which dies beside it")


def is_over(pid: str) -> bool:
    """Whether a process ended, though whoever is its parent by now may not have looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def test_each_verb_has_its_time_and_an_add_the_most() -> None:
    assert delegate.LONGEST["ADD"] + delegate.LONGEST_OTHERS < client.REPLY_SECONDS
    assert delegate.LONGEST["ADD"] > 2 * 15


def test_who_was_called_by_us_cannot_have_us_call_others(tmp_path: Path) -> None:
    it = plugin(tmp_path, "env > $0.env")
    delegate.call(it, "DEL", ENV, b"{}")
    inner = dict(each.partition("=")[::2] for each in Path(f"{it}.env").read_text().splitlines())
    assert delegate.is_delegated(inner)
    assert not delegate.is_delegated(ENV)
    with pytest.raises(CniError, match="round for ever") as caught:
        delegate.call(it, "DEL", inner, b"{}")
    assert caught.value.code == 7


@pytest.mark.parametrize("text", ["head -c 100000 /dev/zero", "yes"])
def test_one_that_says_too_much_is_not_read_and_one_that_says_it_without_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """What it says is in the memory of this machine, and a minute is long."""
    monkeypatch.setattr(program, "MOST_BYTES", 1 << 16)
    error = refusal(tmp_path, text)
    assert error.code == 104
    assert "bin/it ADD said more than" in error.msg


def test_who_started_us_is_known_by_its_executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.is_ancestor(f"/proc/{os.getppid()}/exe")
    assert not program.is_ancestor("/usr/bin/true")
    it = plugin(tmp_path, "echo '{}'")
    monkeypatch.setattr(sys, "_MEIPASS", "", raising=False)
    monkeypatch.setattr(delegate, "is_ancestor", lambda executable: executable == "/proc/self/exe")
    with pytest.raises(CniError, match="round for ever"):
        delegate.call(it, "ADD", ENV, b"{}")

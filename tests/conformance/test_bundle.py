"""The built bundle, called as runtimes call it and as they should not: it answers, soon, and needs nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cni_plugin import spec
from cni_plugin.client import VERSION
from tests.conformance.conftest import BUNDLE, REPOSITORY, Nodes
from tests.conformance.nodes import NODE4, Plugins
from tests.pace import PATIENCE, cheaper, until

VERSIONS = {"cniVersion": "1.1.0", "supportedVersions": list(spec.VERSIONS)}
OF_THE_SYSTEM = {"libc", "libm", "libdl", "librt", "libpthread", "linux-vdso", "ld-linux-x86-64", "ld-linux-aarch64"}

WITNESS = """#!/bin/sh
/usr/bin/env -0 > "$0.env"
"""


@pytest.fixture(scope="module")
def bundle() -> Path:
    assert (BUNDLE / "tulle").exists(), f"{BUNDLE} is missing: run scripts/build"
    return BUNDLE


def call(
    executable: Path | str, stdin: str = "", *arguments: str, environ: Mapping[str, str] | None = None, cwd: str = "/"
) -> subprocess.CompletedProcess[str]:
    """Run an executable with this environment and no other variable."""
    return subprocess.run(
        [str(executable), *arguments],
        input=stdin, env=dict(environ or {}), cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )


def version_of(executable: Path | str, environ: Mapping[str, str], cwd: str = "/") -> object:
    """What the VERSION verb answers; nothing may appear on stderr."""
    done = call(executable, environ={**environ, "CNI_COMMAND": "VERSION"}, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules and libraries that bear the names of those we need, and are none."""
    folder = tmp_path_factory.mktemp("trap")
    for module in ("posix", "encodings", "json", "msgspec", "socket", "sitecustomize", "usercustomize", "cni_plugin"):
        (folder / f"{module}.py").write_text(f"open({str(folder / 'sprung')!r}, 'w')\nraise SystemExit(99)\n")
    for library in ("libpython3.11.so.1.0", "libnftables.so.1", "libffi.so.8", "libmnl.so.0"):
        (folder / library).write_text("not a library\n")
    return folder


HOSTILE: dict[str, dict[str, str]] = {
    "nothing at all": {},
    "PYTHONPATH": {"PYTHONPATH": "{trap}"},
    "PYTHONHOME": {"PYTHONHOME": "{trap}"},
    "PYTHON options": {
        "PYTHONSTARTUP": "{trap}/json.py", "PYTHONINSPECT": "1", "PYTHONVERBOSE": "2", "PYTHONOPTIMIZE": "x",
        "PYTHONHASHSEED": "not a number", "PYTHONUTF8": "9", "PYTHONIOENCODING": "utf-16", "PYTHONPLATLIBDIR": "{trap}",
    },
    "LD_LIBRARY_PATH": {"LD_LIBRARY_PATH": "{trap}:/nowhere"},
    "LANG": {"LANG": "xx", "LC_ALL": "tlh_QO.KOI-8", "LANGUAGE": "xx"},
    "no PATH": {"PATH": ""},
    "HOME and TMPDIR": {"HOME": "/nowhere", "TMPDIR": "/nowhere", "XDG_CACHE_HOME": "/nowhere"},
    "another frozen program's": {
        "_PYI_ARCHIVE_FILE": "/usr/bin/other", "_PYI_APPLICATION_HOME_DIR": "{trap}", "_MEIPASS2": "{trap}",
        "_PYI_PARENT_PROCESS_LEVEL": "1", "LD_LIBRARY_PATH_ORIG": "{trap}",
    },
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_no_environment_keeps_it_from_answering(bundle: Path, trap: Path, hostile: dict[str, str]) -> None:
    environ = {key: value.format(trap=trap) for key, value in hostile.items()}
    assert version_of(bundle / "tulle", environ) == VERSIONS
    assert not (trap / "sprung").exists()


def test_a_locale_that_speaks_no_utf8_keeps_it_from_nothing(bundle: Path, tmp_path: Path) -> None:
    """The interpreter would look for that locale's codec before it does anything else, and the client has but one."""
    made = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(tmp_path / "de_DE.ISO-8859-1")]
    subprocess.run(made, check=True, capture_output=True)
    assert version_of(bundle / "tulle", {"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.ISO-8859-1"}) == VERSIONS


def test_it_writes_to_the_middle_of_a_file(bundle: Path, tmp_path: Path) -> None:
    """A stream that begins at another place than 0 wants more of its codec."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("a") as file:
        subprocess.run([str(bundle / "tulle")], env={}, stdout=file, stderr=file, timeout=PATIENCE, check=True)
    assert log.read_text().startswith("before\nTulle CNI plugin")


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_delegated_plugin_gets_the_callers_environment_and_nothing_of_the_bundles(
    bundle: Path, trap: Path, tmp_path: Path, hostile: dict[str, str]
) -> None:
    (tmp_path / "witness").write_text(WITNESS)
    (tmp_path / "witness").chmod(0o755)
    hostile = {key: value.format(trap=trap) for key, value in hostile.items()}
    environ = {
        **{key: value for key, value in hostile.items() if not key.startswith("_PYI_")},
        "CNI_COMMAND": "STATUS", "CNI_PATH": str(tmp_path), "TULLE_RUN_DIR": str(tmp_path / "run"),
        "TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "tulle", "ipam": {"type": "witness"}}
    done = call(bundle / "tulle", json.dumps(conf), environ={**hostile, **environ})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    seen = dict(entry.split("=", 1) for entry in (tmp_path / "witness.env").read_text().split("\0") if entry)
    environ["TULLE_DELEGATED"] = "1"  # so that one of ours who is called sees that one of ours calls
    shells_own = {"PWD", "OLDPWD", "SHLVL", "_", *({"PATH"} - set(environ))}
    assert {key: value for key, value in seen.items() if key not in shells_own} == environ


@pytest.mark.parametrize("name", ["tulle", "bridge", "host-local"])
def test_it_works_through_links_by_whatever_name_and_from_any_folder(bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "current").symlink_to(bundle)
    (tmp_path / name).symlink_to("current/tulle")
    assert version_of(tmp_path / name, {}) == VERSIONS
    assert version_of(f"./{name}", {}, cwd=str(tmp_path)) == VERSIONS
    about = call(tmp_path / name).stderr.splitlines()[0]
    assert (about == f"Tulle CNI plugin {VERSION}") == (name == "tulle")
    assert name in about.lower()


def test_the_name_decides_what_it_does(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "portmap").symlink_to(bundle / "tulle")
    environ = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
    done = call(tmp_path / "portmap", '{"cniVersion": "1.0.0", "name": "n", "type": "portmap"}', environ=environ)
    assert done.returncode == 1
    assert "portmap" in json.loads(done.stdout)["msg"]


def test_without_a_command_it_says_what_it_is_on_stderr_alone(bundle: Path) -> None:
    done = call(bundle / "tulle")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"Tulle CNI plugin {VERSION}\nCNI protocol versions supported: {', '.join(spec.VERSIONS)}\n"


@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
def test_closed_standard_files_do_no_harm(bundle: Path, closed: str) -> None:
    done = version_without(bundle, closed)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == VERSIONS


@pytest.mark.parametrize(("closed", "words"), [
    (">&-", "the reply could not be written to stdout: Bad file descriptor"), ("<&- >&- 2>&-", ""),
])
def test_a_reply_that_nobody_can_be_told_is_no_success(bundle: Path, closed: str, words: str) -> None:
    done = version_without(bundle, closed)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def version_without(bundle: Path, closed: str) -> subprocess.CompletedProcess[str]:
    return call("/bin/sh", "", "-c", f'exec "$0" {closed}', str(bundle / "tulle"), environ={"CNI_COMMAND": "VERSION"})


def test_no_stdin_is_answered_with_an_error_not_with_a_hang(bundle: Path) -> None:
    environ = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
    done = call("/bin/sh", "", "-c", 'exec "$0" <&-', str(bundle / "tulle"), environ=environ)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 6)


def test_a_bundle_may_be_moved_and_one_without_engine_says_so(bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "somewhere else"
    shutil.copytree(bundle, moved)
    assert version_of(moved / "tulle", {}) == VERSIONS
    (moved / "tulled").unlink()
    done = call(moved / "tulle", environ={"CNI_COMMAND": "VERSION", "PATH": str(bundle)})
    error = json.loads(done.stdout)
    assert (done.returncode, error["code"]) == (1, 5)
    assert str(moved / "tulled") in error["msg"] and "scripts/install" in error["msg"]


def test_the_engine_refuses_what_it_does_not_know(bundle: Path) -> None:
    assert call(bundle / "tulled", "", "--version").stdout == f"tulled {VERSION}\n"
    done = call(bundle / "tulled", "", "--onec", "tulle")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: tulled" in done.stderr


@pytest.mark.parametrize("sample", ["10-tulle.conflist", "10-tulle-cluster.conflist"])
def test_the_tool_can_plan_each_sample_configuration(
    bundle: Path, nodes: Nodes, tulle: Plugins, tmp_path: Path, sample: str
) -> None:
    node = nodes(tulle)
    cluster = (REPOSITORY / "conf" / "cluster.json").read_text()
    assert '"192.0.2.1"' in cluster
    (tmp_path / "cluster.json").write_text(cluster.replace('"192.0.2.1"', f'"{NODE4}"'))
    text = (REPOSITORY / "conf" / sample).read_text()
    (tmp_path / sample).write_text(text.replace("/etc/tulle/", f"{tmp_path}/"))
    planned = node.run(str(bundle / "tullectl"), "plan", str(tmp_path / sample), "--run-dir", str(node.run_dir)).stdout
    assert "ip link add tulle0" in planned
    assert ("ip link add tulle.1 " in planned) == ("cluster" in sample)


def test_every_library_comes_with_the_bundle_but_those_of_libc(bundle: Path) -> None:
    internal = bundle / "_internal"
    listed = subprocess.run(
        ["ldd", str(internal / "libnftables.so.1"), *map(str, internal.rglob("*.cpython-*.so"))],
        env={"LD_LIBRARY_PATH": str(internal)}, capture_output=True, text=True, check=True,
    ).stdout
    needed = dict(re.findall(r"^\s*(\S+) => (.+) \(0x", listed, re.MULTILINE))
    assert "libnftnl.so.11" in needed
    foreign = {name for name, path in needed.items() if not path.startswith(str(internal))}
    assert {Path(name).name.split(".so")[0] for name in foreign} <= OF_THE_SYSTEM


def test_nftables_are_spoken_by_the_bundles_own_library(bundle: Path, nodes: Nodes, tulle: Plugins) -> None:
    node = nodes(tulle)
    conf = {
        "cniVersion": "1.0.0", "name": "net", "type": "tulle", "isGateway": True, "ipMasq": True,
        "ipam": {"type": "host-local", "subnet": "10.71.0.0/24", "dataDir": str(node.data_dir)},
    }
    environ = {
        "LD_DEBUG": "files", "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": node.pod("p").path,
        "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere", "TULLE_RUN_DIR": str(node.run_dir),
    }
    variables = [f"{key}={value}" for key, value in environ.items()]
    done = node.run("/usr/bin/env", "-i", *variables, str(bundle / "tulle"), stdin=json.dumps(conf))
    assert "masquerade" in node.run("nft", "list", "table", "inet", "tulle").stdout
    for library in ("libnftables.so.1", "libnftnl.so.11", "libmnl.so.0"):
        assert f"calling init: {bundle}/_internal/{library}" in done.stderr


def test_the_client_starts_in_little_more_than_bare_python_takes(bundle: Path) -> None:
    bare, client = interleaved(["/usr/bin/python3", "-I", "-S", "-c", "0"], [str(bundle / "tulle")], rounds=60)
    cheaper(client, 2.2 * bare, f"{client / bare:.2f} times as long")


def interleaved(*commands: Sequence[str], rounds: int) -> list[float]:
    """The least seconds that each command takes, run in turns so that load falls on all of them alike."""
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(rounds):
        for taken, command in zip(times, commands, strict=True):
            start = time.perf_counter()
            process = os.posix_spawn(
                command[0], list(command), {}, file_actions=[(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]
            )
            os.waitpid(process, 0)
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def test_an_agent_whose_bundle_was_replaced_goes_on_with_its_own_modules(bundle: Path, tmp_path: Path) -> None:
    """What no request needed yet is read late, and an installer does not wait for that."""
    copy, run = tmp_path / "bundle", tmp_path / "run"
    shutil.copytree(bundle, copy, symlinks=True)
    environ = {"CNI_COMMAND": "GC", "CNI_PATH": "/nowhere", "TULLE_RUN_DIR": str(run)}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "tulle", "agent": "required", "cni.dev/valid-attachments": []}
    with subprocess.Popen(["unshare", "-n", copy / "tulled", "--run-dir", run], stderr=subprocess.DEVNULL) as agent:
        try:
            until((run / "agent.sock").exists, "the agent listens")
            shutil.rmtree(copy)
            done = call(bundle / "tulle", json.dumps(conf), environ=environ)
        finally:
            agent.terminate()
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.soak
def test_a_copy_of_the_repository_builds_the_bundle_and_does_not_build_it_twice(tmp_path: Path) -> None:
    for each in ("cni_plugin", "ipam", "scripts", "conf"):
        shutil.copytree(REPOSITORY / each, tmp_path / each, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    build = str(tmp_path / "scripts" / "build")
    subprocess.run([build], check=True, timeout=600)
    assert version_of(tmp_path / "dist" / "tulle" / "tulle", {}) == VERSIONS
    made = {each: each.stat().st_mtime_ns for each in (tmp_path / "dist").rglob("*")}
    again = subprocess.run([build], check=True, capture_output=True, text=True)
    assert "up to date" in again.stderr
    assert {each: each.stat().st_mtime_ns for each in (tmp_path / "dist").rglob("*")} == made

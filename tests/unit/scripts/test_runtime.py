"""The lab's container runtime gives a plugin what libcni would: shown by a plugin that only writes down what it got."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import cast

import pytest

from scripts.lib.lab.runtime import Attachment, Json, Network, PluginError, Runtime

RECORDER = """#!{python} -IS
import json, os, sys
name = os.path.basename(sys.argv[0])
conf = json.load(sys.stdin)
env = {{key: value for key, value in os.environ.items() if key.startswith("CNI_")}}
with open(os.path.join(os.path.dirname(sys.argv[0]), "log"), "a") as log:
    log.write(json.dumps({{"plugin": name, "env": env, "conf": conf}}) + "\\n")
if env["CNI_COMMAND"] in conf.get("failOn", []):
    print(json.dumps({{"cniVersion": "1.0.0", "code": 7, "msg": "told to", "details": name}}))
    sys.exit(1)
if env["CNI_COMMAND"] == "ADD":
    done = conf.get("prevResult", {{"ips": []}})
    print(json.dumps(done | {{"dns": {{"search": [*done.get("dns", {{}}).get("search", []), name]}}}}))
"""

POD = Attachment("c1", "/run/netns/p1", "eth0", "K=V", {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.9"]})


class Bench:
    """Two recording plugins, `first` and `second`, and what they have written down."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("first", "second"):
            python = Path(sys.executable).resolve()  # a script's first line ends at a space
            (directory / name).write_text(RECORDER.format(python=python))
            (directory / name).chmod(stat.S_IRWXU)
        self.runtime = Runtime(path=(directory / "empty", directory), cache=directory / "cache")

    def calls(self) -> list[Json]:
        log = self.directory / "log"
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return calls

    def walk(self) -> list[tuple[str, str]]:
        return [(str(call["plugin"]), cast(dict[str, str], call["env"])["CNI_COMMAND"]) for call in self.calls()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def network(version: str = "1.1.0", *, fail_on: tuple[str, ...] = (), **keys: object) -> Network:
    plugins: list[Json] = [
        {"type": "first", "capabilities": {"mac": True, "ips": False, "portMappings": True}},
        {"type": "second", "failOn": list(fail_on)},
    ]
    return Network.parse({"cniVersion": version, "name": "net", "plugins": plugins, **keys})


def test_each_plugin_of_a_chain_gets_the_result_of_the_one_before(bench: Bench) -> None:
    result = bench.runtime.add(network(), POD)
    first, second = (cast(Json, call["conf"]) for call in bench.calls())
    assert "prevResult" not in first
    assert cast(Json, second["prevResult"])["dns"] == {"search": ["first"]}
    assert result["dns"] == {"search": ["first", "second"]}
    assert result["cniVersion"] == "1.1.0"


def test_a_plugin_gets_the_name_and_version_of_the_list_and_its_own_keys(bench: Bench) -> None:
    bench.runtime.add(network("0.4.0"), POD)
    confs = [cast(Json, call["conf"]) for call in bench.calls()]
    assert [(conf["name"], conf["cniVersion"], conf["type"]) for conf in confs] == [
        ("net", "0.4.0", "first"), ("net", "0.4.0", "second"),
    ]


def test_runtime_config_holds_only_capabilities_that_are_declared_true_and_given(bench: Bench) -> None:
    bench.runtime.add(network(), POD)
    first, second = (cast(Json, call["conf"]) for call in bench.calls())
    assert first["runtimeConfig"] == {"mac": "02:00:00:00:00:01"}
    assert "runtimeConfig" not in second


def test_all_variables_are_set_for_the_plugin(bench: Bench) -> None:
    bench.runtime.add(network(), POD)
    assert bench.calls()[0]["env"] == {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/p1", "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K=V", "CNI_PATH": f"{bench.directory}/empty:{bench.directory}",
    }


def test_del_walks_backwards_with_the_final_result_and_forgets_it(bench: Bench) -> None:
    result = bench.runtime.add(network(), POD)
    bench.calls()
    bench.runtime.delete(network(), POD)
    calls = bench.calls()
    assert [call["plugin"] for call in calls] == ["second", "first"]
    assert [cast(Json, call["conf"])["prevResult"] for call in calls] == [result, result]
    assert bench.runtime.cached(network(), POD) is None


def test_del_before_version_0_4_0_has_no_result(bench: Bench) -> None:
    bench.runtime.add(network("0.3.1"), POD)
    bench.runtime.delete(network("0.3.1"), POD)
    assert all("prevResult" not in cast(Json, call["conf"]) for call in bench.calls()[2:])


def test_check_gives_every_plugin_the_final_result(bench: Bench) -> None:
    result = bench.runtime.add(network(), POD)
    bench.calls()
    bench.runtime.check(network(), POD)
    assert [cast(Json, call["conf"])["prevResult"] for call in bench.calls()] == [result, result]


def test_check_is_not_sent_when_disabled_and_refused_before_0_4_0(bench: Bench) -> None:
    bench.runtime.check(network(disableCheck="true"), POD)
    with pytest.raises(ValueError, match="no CHECK"):
        bench.runtime.check(network("0.3.1"), POD)
    assert bench.calls() == []


def test_a_failure_ends_the_walk_and_carries_the_plugins_error(bench: Bench) -> None:
    with pytest.raises(PluginError, match="ADD by second: told to") as failure:
        bench.runtime.add(network(fail_on=("ADD",)), POD)
    assert (failure.value.code, failure.value.details) == (7, "second")
    assert bench.walk() == [("first", "ADD"), ("second", "ADD")]
    with pytest.raises(PluginError):
        bench.runtime.delete(network(fail_on=("DEL",)), POD)
    assert bench.walk() == [("second", "DEL")]


@pytest.mark.parametrize(("version", "walk"), [("1.0.0", []), ("1.1.0", [("first", "STATUS"), ("second", "STATUS")])])
def test_status_is_sent_from_1_1_0_on(bench: Bench, version: str, walk: list[tuple[str, str]]) -> None:
    bench.runtime.status(network(version))
    assert bench.walk() == walk


def test_gc_deletes_what_the_cache_has_beyond_the_valid_then_tells_every_plugin(bench: Bench) -> None:
    stale = Attachment("c2", "/run/netns/p2")
    for attachment in (POD, stale):
        bench.runtime.add(network(), attachment)
    bench.calls()
    with pytest.raises(ExceptionGroup, match="GC of net") as failure:
        bench.runtime.gc(network(fail_on=("DEL",)), [POD])
    assert [str(error) for error in failure.value.exceptions] == ["DEL by second: told to (code 7) second"]
    calls = bench.calls()
    assert [cast(Json, call["env"])["CNI_COMMAND"] for call in calls] == ["DEL", "GC", "GC"]
    conf = cast(Json, calls[-1]["conf"])
    assert conf["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]
    assert conf["cni.dev/attachments"] == conf["cni.dev/valid-attachments"]


def test_gc_without_a_list_sends_none(bench: Bench) -> None:
    bench.runtime.gc(network(), None)
    assert [key for call in bench.calls() for key in cast(Json, call["conf"]) if key.startswith("cni.dev/")] == []


def test_gc_is_not_sent_before_1_1_0_nor_when_disabled(bench: Bench) -> None:
    bench.runtime.gc(network("1.0.0"), [])
    bench.runtime.gc(network(disableGC=True), [])
    assert bench.calls() == []


def test_a_plugin_that_is_nowhere_is_named_with_the_path(bench: Bench) -> None:
    missing = Network.parse({"cniVersion": "1.0.0", "name": "net", "type": "nope"})
    with pytest.raises(FileNotFoundError, match=r"'nope' in .*empty"):
        bench.runtime.add(missing, POD)


def test_the_first_file_in_order_that_has_the_name_is_the_network(tmp_path: Path) -> None:
    for name, version in (("20-b", "1.0.0"), ("10-a", "0.4.0")):
        conf = {"cniVersion": version, "name": "net", "plugins": [{"type": "first"}]}
        (tmp_path / f"{name}.conflist").write_text(json.dumps(conf))
    assert Network.load(tmp_path, "net").version == "0.4.0"
    with pytest.raises(LookupError, match="there is net, net"):
        Network.load(tmp_path, "other")


def test_of_several_versions_the_highest_known_is_used() -> None:
    assert network("1.0.0", cniVersions=["0.4.0", "1.1.0", "9.9.9"]).version == "1.1.0"
    assert network("1.0.0", cniVersions=["0.4.0"]).version == "1.0.0"
    assert network("9.9.9").version == "9.9.9"  # the plugin is to refuse it

"""`tulled --check`: what an agent could not start with is said, all of it, before one is put on a node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from cni_plugin.agent import __main__ as entry
from cni_plugin.agent.checking import mistakes

CONF = Path(__file__).parents[3] / "conf"


def settings(folder: Path, **keys: object) -> Path:
    path = folder / "agent.json"
    path.write_text(json.dumps(keys))
    return path


def in_a_pod(folder: Path, **changes: str) -> Path:
    """The keys of the manifest's ConfigMap as files, some of them with another text."""
    objects = yaml.safe_load_all((CONF / "kubernetes" / "tulle.yaml").read_text())
    keys = next(each["data"] for each in objects if each["kind"] == "ConfigMap")
    for name, text in {**keys, **{f"{key.replace('_', '-')}.json": each for key, each in changes.items()}}.items():
        (folder / name).write_text(text)
    return folder / "agent.json"


def test_the_manifest_as_it_is_has_no_mistake(tmp_path: Path) -> None:
    assert mistakes(str(in_a_pod(tmp_path))) == []


@pytest.mark.parametrize("name", ["agent.json", "agent-kubernetes.json", "agent-etcd.json"])
def test_the_samples_have_none(name: str) -> None:
    assert mistakes(str(CONF / name)) == []


def test_settings_with_a_number_that_nothing_holds_are_told_of(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    path.write_text('{"interval": 1e400}')
    (mistake,) = mistakes(str(path))
    assert "out of range" in mistake


def test_no_settings_are_the_defaults(tmp_path: Path) -> None:
    assert mistakes(str(tmp_path / "agent.json")) == []


@pytest.mark.parametrize(("keys", "words"), [
    ({"mehs": True}, "mehs"),
    ({"interval": "often"}, "interval"),
    ({"interval": 0}, "interval"),
    ({"metrics": "0.0.0.0:9472"}, "open to the network"),
    ({"metrics": "9472"}, "127.0.0.1:9472"),
    ({"address": {"pattern": "eth["}}, "address.pattern"),
    ({"address": {"canReach": "example.org"}}, "canReach"),
    ({"address": {"public": "2001:db8::1"}}, "public"),
    ({"address": {"interfaces": ["eth0"]}}, "interfaces"),
    ({"source": {"type": "consul"}}, "source.type"),
    ({"source": {"typ": "etcd"}}, "write type where you wrote typ"),
    ({"source": {}, "cni": {"path": "net.d/10-tulle.conflist"}}, "cni.path"),
    ({"cni": {"path": "/etc/cni/net.d/10-tulle"}}, "cni.path"),
    ({"source": {"type": "kubernetes", "configMap": "tulle-config"}}, "namespace/name"),
    ({"source": {"type": "etcd", "endpoints": []}}, "endpoints"),
    ({"source": {"type": "etcd", "ttl": "a day"}}, "ttl"),
    ({"source": {"type": "file", "path": "cluster.json"}}, "source.path"),
])  # fmt: skip
def test_a_setting_that_no_agent_could_use_is_told(tmp_path: Path, keys: dict[str, object], words: str) -> None:
    path = settings(tmp_path, **keys)
    (told,) = mistakes(str(path))
    assert words in told and str(path) in told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = settings(tmp_path, metrics="9472", address={"pattern": "("}, source={"type": "x"}, cni={"path": "x"})
    assert len(mistakes(str(path))) == 4


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_what_is_no_json_object_is_told_with_the_files_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent.json"
    path.write_bytes(text.encode("latin-1"))
    (told,) = mistakes(str(path))
    assert str(path) in told


@pytest.mark.parametrize(("changes", "words"), [
    ({"net_conf": "{"}, "net-conf.json"),
    ({"net_conf": '{"Network": "10.244.0.0/40"}'}, "10.244.0.0/40"),
    ({"net_conf": '{"Network": "10.244.0.0/16", "Backend": {"Type": "wirguard"}}'}, "wirguard"),
    ({"net_conf": '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 99999999}}'}, "vni"),
    ({"cni_conf": "{"}, "cni-conf.json"),
    ({"cni_conf": '{"name": "pods", "plugins": [{"type": "flannel"}]}'}, "tulle"),
    ({"cni_conf": '{"plugins": [{"type": "tulle"}]}'}, "name"),
    ({"cni_conf": '{"name": "pods", "plugins": [{"type": "tulle", "hairpinMode": "yes"}]}'}, "hairpinMode"),
])  # fmt: skip
def test_in_a_pod_the_network_and_the_cni_configuration_beside_it_are_looked_at_too(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    (told,) = mistakes(str(in_a_pod(tmp_path, **changes)))
    assert words in told


def test_the_program_says_them_on_stderr_and_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--check", "--conf", str(settings(tmp_path, metrics="9472"))]) == 1
    told = capfd.readouterr()
    assert told.out == "" and told.err.startswith("tulled: ") and "9472" in told.err
    assert entry.main(["--check", "--conf", str(settings(tmp_path))]) == 0
    assert capfd.readouterr() == ("", "")
    assert entry.main(["--check", "--config", "x"]) == 2

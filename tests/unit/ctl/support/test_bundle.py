"""`tullectl bundle`: what a report needs, no secret, and what it can be replayed from."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.ctl.support import bundle
from cni_plugin.ctl.support.bundle import Packed
from cni_plugin.harmless import LEFT_OUT
from tests.unit.ctl.tool import Tool, agent, configure, metrics, served
from tests.unit.support import Node

HOST = Attachment("pods", "a", "eth0").host_dev
STATUS = {"version": "0.1.0", "pid": 7, "started": 1.0, "queue": 2, "served": 9, "ready": True}


def members(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {each.name.partition("/")[2]: _text(archive, each) for each in archive}


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    assert isinstance(file, io.BufferedReader)
    return file.read().decode()


def test_bundle_holds_what_a_report_needs_and_says_so(node: Node, tool: Tool) -> None:
    configure(node)
    requests = [served(node)]
    path = node.home / "b.tar.gz"
    with agent(node, {"status": STATUS, "requests": requests, "metrics": metrics(110.0)}):
        said = tool("bundle", str(path), "--data-dir", f"{node.home}/data")
    assert said.exit == 0, said.err
    found = members(path)
    for each in (
        "versions.json", "status.json", "diff.json", "doctor.json", "leases.json", "agent.json", "requests.json",
        "metrics.json", "records/pods/a:eth0", "configurations/10-tulle.conflist", "node/sysctls.txt",
        "node/os-release.txt", "missing.json",
    ):  # fmt: skip
        assert each in found
        assert each in said.out
    assert json.loads(found["requests.json"])[0]["container"] == "a"
    assert json.loads(found["leases.json"])[0]["address"] == "10.22.0.2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_bundle_on_stdout_is_the_archive_and_nothing_else(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    bundle.write("-", [Packed("a.json", "{}")])
    with tarfile.open(fileobj=io.BytesIO(capsysbinary.readouterr().out)) as archive:
        assert [Path(each).name for each in archive.getnames()] == ["a.json"]


def test_bundle_holds_the_node_list_of_a_cluster_without_its_secrets(node: Node, tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    nodes = [{"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}]
    path.write_text(json.dumps({"node": "n1", "nodes": nodes}))
    ipam = {"type": "host-local", "dataDir": f"{node.home}/data"}
    assert node.configured(cluster=str(path), ipam=ipam).call("ADD").exit == 0
    path.write_text(json.dumps({"node": "n1", "nodes": nodes, "token": "hunter2-hunter2"}))
    assert tool("bundle", str(node.home / "b.tar.gz")).exit == 0
    listed = json.loads(members(node.home / "b.tar.gz")["clusters/pods-nodes.json"])
    assert listed == {"node": "n1", "nodes": nodes, "token": LEFT_OUT}


def test_bundle_without_an_agent_tells_what_is_missing(node: Node, tool: Tool) -> None:
    said = tool("bundle", str(node.home / "b.tar.gz"), "--json")
    assert said.exit == 0
    told = said.json
    assert isinstance(told, dict)
    assert "no agent answers" in told["missing"]["agent"]
    assert "requests.json" not in told["members"]


def test_bundle_holds_no_secret_wherever_it_stood(
    node: Node, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from-the-environment")
    secret = "hunter2-hunter2"
    inner = {"token": secret, "client-key-data": "S0VZS0VZS0VZ"}
    odd: dict[str, Any] = {
        "kubernetes": inner, "apiKey": "key-of-the-api", "pw": f"{secret}-1", "dsn": f"postgres://u:{secret}@db/x",
        "headers": [{"name": "X-Auth", "value": secret}], "env": [{"name": "DB", "value": secret}],
        "command": [f"--token={secret}"], "url": f"https://u:{secret}@host/{secret}", secret: {secret: secret},
    }
    configure(node, args={"cni": {"ips": []}}, **odd)
    (node.home / "net.d" / "99-plain.conf").write_text(f"password = {secret}")
    request = served(node)
    request["stdin"] = json.dumps({**node.conf, **odd})
    request["stdout"] = json.dumps({"code": 7, "msg": f"no such token {secret}"})
    request["message"] = f"no such token {secret}"
    request["environ"] |= {"CNI_ARGS": f"K8S_POD_NAME=web-0;API_TOKEN={secret};ODD=other-value", "HOME": "/root/home"}
    path = node.home / "b.tar.gz"
    source = {"type": "etcd", "endpoints": [f"http://root:{secret}@192.0.2.9:2379"], "password": secret}
    status = {**STATUS, "settings": {"source": source}, "problem": f"http://root:{secret}@192.0.2.9:2379 is away"}
    with agent(node, {"status": status, "requests": [request], "metrics": {}}):
        assert tool("bundle", str(path)).exit == 0
    whole = "".join(members(path).values())
    for each in (secret, "S0VZS0VZS0VZ", "key-of-the-api", "from-the-environment", "other-value", "/root/home"):
        assert each not in whole, each
    assert "K8S_POD_NAME=web-0" in whole
    assert "http://192.0.2.9:2379" in whole
    assert LEFT_OUT in whole


def test_a_bundle_can_be_replayed_elsewhere(node: Node, tool: Tool) -> None:
    path = node.home / "b.tar.gz"
    request = served(node)
    request["environ"]["CNI_ARGS"] = "IgnoreUnknown=1;K8S_POD_NAME=x;ODD=y"
    with agent(node, {"status": STATUS, "requests": [request], "metrics": {}}):
        assert tool("bundle", str(path)).exit == 0
    said = tool("replay", "1", "--from", str(path))
    assert said.exit == 0, said.err
    assert "ip -n POD addr add 10.22.0.2/24 dev eth0" in said.out


@pytest.mark.parametrize(("data", "says"), [
    (b"", "holds no requests"), (b"\x1f\x8bnonsense", "no bundle"), (b'{"a": 1}', "no list of requests"),
])  # fmt: skip
def test_what_is_no_bundle_is_not_replayed(node: Node, tool: Tool, data: bytes, says: str) -> None:
    path = node.home / "b.tar.gz"
    path.write_bytes(data)
    said = tool("replay", "--from", str(path))
    assert said.exit == 1
    assert says in said.err

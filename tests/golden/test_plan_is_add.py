"""What `tullectl plan` prints is what an ADD then does, operation by operation, and the error that it answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni_plugin.ctl.look.plan import plan_add
from cni_plugin.diff import Op
from cni_plugin.errors import CniError
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.nft import Chain
from cni_plugin.verbs.run import as_cni_error
from tests.golden.cases import requests
from tests.golden.conftest import FOLDER
from tests.unit.support import UPLINK, Json, Node

REQUESTS = dict(requests())
POD = "a eth0"


def node_with(home: Path, **keys: object) -> Node:
    """A node on which nothing was done, with this configuration for its network."""
    held = ("192.0.2.1", "2001:db8::1")
    bare = Node(home, FakeKernel(uplink=UPLINK, held=held)).configured(ipMasq=None, isDefaultGateway=None, ipam=None)
    return configured(bare, **keys)


def configured(node: Node, **keys: object) -> Node:
    ipam = keys.get("ipam")
    there = {"ipam": {**ipam, "dataDir": f"{node.home}/data"}} if isinstance(ipam, dict) else {}
    return node.configured(**{**keys, **there})


def planned(node: Node, pod: str = POD) -> list[Op] | CniError:
    """What the tool says of an ADD of this pod; it leaves kernel and disk as they are."""
    path = node.home / "plan.conf"
    path.write_text(json.dumps(node.conf))
    before, files = dict(node.kernel.state), disk(node)
    container, ifname = pod.split()
    try:
        steps = plan_add(str(path), (container, ifname), node.kernel, f"{node.home}/run")
    except Exception as error:
        return as_cni_error(error)
    finally:
        assert (node.kernel.state, disk(node)) == (before, files)
    return [op for step in steps for op in step.ops]


def disk(node: Node) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in node.home.rglob("*")}


def done(node: Node, pod: str = POD) -> list[Op] | tuple[int, str]:
    """What an ADD does, or the error that it answers."""
    before = len(node.kernel.applied)
    reply = node.call("ADD", pod)
    return (reply.code, str(reply.body["msg"])) if reply.exit else node.kernel.applied[before:]


def agree(node: Node, pod: str = POD) -> list[Op] | tuple[int, str]:
    """Both say the same; what it is."""
    plan, add = planned(node, pod), done(node, pod)
    assert ((plan.code, plan.msg) if isinstance(plan, CniError) else plan) == add
    return add


@pytest.mark.parametrize("name", REQUESTS)
def test_for_each_golden_configuration_plan_and_add_agree(tmp_path: Path, name: str) -> None:
    node = node_with(tmp_path, **REQUESTS[name])
    agree(node)
    agree(node, "b eth1")
    agree(configured(node, bridge="another"), "c eth2")


def test_every_golden_plan_has_its_configuration() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(REQUESTS)


def four(subnet: str, **keys: object) -> Json:
    return {"isGateway": True, "ipam": {"type": "host-local", "subnet": subnet}, **keys}


def test_what_force_address_removes_is_planned(tmp_path: Path) -> None:
    node = node_with(tmp_path, **four("10.22.0.0/24"))
    agree(node)
    ops = agree(configured(node, **four("10.33.0.0/24", forceAddress=True)), "b eth1")
    assert Op("delete", Addr("tulle0", "10.22.0.1/24")) in ops


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({**four("fd00::/64"), "mtu": 1000}, 7), (four("10.22.0.0/29", runtimeConfig={"ips": ["10.9.9.9"]}), 102),
        (four("10.22.0.0/24", runtimeConfig={"ips": ["10.22.0.9"]}), 0), ({"cniVersion": "9.9.9"}, 1),
        (four("10.22.0.0/24", cluster={"nodes": []}), 7),
    ],
)
def test_what_add_answers_plan_ends_with(tmp_path: Path, keys: Json, code: int) -> None:
    found = agree(node_with(tmp_path, **keys))
    assert (found[0] if isinstance(found, tuple) else 0) == code


def test_a_pod_that_is_there_already_is_refused_by_both(tmp_path: Path) -> None:
    node = node_with(tmp_path, **four("10.22.0.0/24"))
    agree(node)
    assert isinstance(planned(node), CniError)


def test_what_a_killed_add_left_is_taken_away_first(tmp_path: Path) -> None:
    node = node_with(tmp_path, **four("10.22.0.0/24"))
    agree(node)
    node.unplug(POD)
    ops = agree(node)
    assert [op.verb for op in ops[:1] if isinstance(op, Op)] == ["delete"]


def test_networks_that_are_masqueraded_together_are_planned_together(tmp_path: Path) -> None:
    node = node_with(tmp_path, **four("10.22.0.0/24", ipMasq=True))
    agree(node)
    ops = agree(configured(node, name="others", **four("10.33.0.0/24", ipMasq=True)), "b eth1")
    (chain,) = [op.object for op in ops if isinstance(op, Op) and isinstance(op.object, Chain)]
    assert len(chain.rules) == 2

"""conf/kubernetes/policy.yaml, judged by a CEL runtime as an API server of 1.30 or later would: none is to be had here.

What the agent writes is let through, as its own code makes it; what an agent with a stolen token could write is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from cni_plugin.agent.sources.contract import Announcement
from cni_plugin.agent.sources.kube import announce
from cni_plugin.agent.sources.kube.lease import body
from cni_plugin.agent.sources.kube.objects import Own, read_node
from tests.unit.agent.sources.kube_objects import FLANNEL, Object, big_node, flannel_notes, uid

cel = pytest.importorskip("cel_expr_python.cel")

CONF = Path(__file__).parents[2] / "conf" / "kubernetes"
ACCOUNT = "system:serviceaccount:kube-tulle:tulle"
ME, OTHER = "node-00001", "node-00002"
LEASES = {"group": "coordination.k8s.io", "version": "v1", "resource": "leases"}
NODES = {"group": "", "version": "v1", "resource": "nodes"}


def policy() -> Object:
    spec: Object = next(yaml.safe_load_all((CONF / "policy.yaml").read_text()))["spec"]
    return spec


def request(resource: Object, token_of: str | None = ME, *, user: str = ACCOUNT, sub: str = "") -> Object:
    """What the API server knows of a request by a token that was made for a pod on that node."""
    extra = {"extra": {"authentication.kubernetes.io/node-name": [token_of]}} if token_of is not None else {}
    return {"resource": resource, "subResource": sub, "operation": "UPDATE", "userInfo": {"username": user, **extra}}


def refusals(asked: Object, new: Object | None, old: Object | None = None) -> list[str]:
    """The messages of what is not fulfilled, [] when the request is let through or is none of the policy's business."""
    names = ("request", "object", "oldObject", "variables")
    env = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))
    data: dict[str, Any] = {"request": asked, "object": new, "oldObject": old, "variables": {}}

    def value(expression: str) -> object:
        """A mistake in an expression is one that denies: failurePolicy is Fail."""
        found = env.compile(expression).eval(data=data)
        return "failed" if found.type() == cel.Type.ERROR else found.plain_value()

    if not all(value(each["expression"]) is True for each in policy()["matchConditions"]):
        return []
    for each in policy()["variables"]:
        data["variables"][each["name"]] = value(each["expression"])
    return [each["message"] for each in policy()["validations"] if value(each["expression"]) is not True]


def node(name: str = ME) -> Object:
    """As an API server shows it, with kubelet's conditions and annotations of others."""
    found = big_node(int(name[-5:]))
    found["metadata"] |= {"resourceVersion": "7", "managedFields": [{"manager": "kubelet"}], "finalizers": ["an/other"]}
    return found


def own() -> Own:
    found = read_node(json.dumps(node()).encode(), ME).own
    assert found is not None
    return found


def said(backend: str = "vxlan") -> Announcement:
    return Announcement((ip_address("192.0.2.1"), ip_address("2001:db8::1")), backend, lambda _: {"vni": "1"})


def lease(change: Callable[[Object], object] = lambda _: None, name: str = ME) -> Object:
    """What the agent applies, with what the server adds, and then this change."""
    found = json.loads(json.dumps(body(own(), announce.notes(own(), said()))).replace(ME, name))
    found["metadata"] |= {"namespace": "kube-tulle", "uid": "1", "managedFields": [{"manager": "tulle"}]}
    change(found)
    return dict(found)


def patched(patch: Object) -> Object:
    """A Node after a strategic merge patch of its status."""
    found = deepcopy(node())
    found["metadata"]["annotations"] |= patch.get("metadata", {}).get("annotations", {})
    for each in patch.get("status", {}).get("conditions", []):
        kept = [one for one in found["status"]["conditions"] if one["type"] != each["type"]]
        found["status"]["conditions"] = [*kept, each]
    found["metadata"]["managedFields"] = [{"manager": "kubelet"}, {"manager": "tulle"}]
    return found


def changed(change: Callable[[Object], object]) -> Object:
    found = deepcopy(node())
    change(found)
    return found


def test_it_denies_and_is_bound_to_all_that_agents_may_write() -> None:
    found, binding = yaml.safe_load_all((CONF / "policy.yaml").read_text())
    assert found["spec"]["failurePolicy"] == "Fail" and binding["spec"]["validationActions"] == ["Deny"]
    assert binding["spec"]["policyName"] == found["metadata"]["name"]
    rules = found["spec"]["matchConstraints"]["resourceRules"]
    assert {(group, kind) for each in rules for group in each["apiGroups"] for kind in each["resources"]} == {
        ("coordination.k8s.io", "leases"), ("", "nodes"), ("", "nodes/status"),
    }


def test_an_agent_writes_the_lease_of_its_node() -> None:
    assert refusals(request(LEASES) | {"operation": "CREATE"}, lease()) == []
    assert refusals(request(LEASES), lease(), lease()) == []


def test_an_agent_may_delete_the_lease_of_its_node_and_no_other() -> None:
    deleting = request(LEASES) | {"operation": "DELETE"}
    assert refusals(deleting, None, lease()) == []
    assert refusals(deleting, None, lease(name=OTHER))


@pytest.mark.parametrize("user", ["admin", "system:serviceaccount:kube-system:node-controller"])
def test_what_others_write_is_their_business(user: str) -> None:
    assert refusals(request(LEASES, None, user=user), lease(name=OTHER)) == []
    assert refusals(request(NODES, None, user=user), changed(lambda it: it["metadata"].update(labels={})), node()) == []


@pytest.mark.parametrize(("token_of", "name"), [(ME, OTHER), (OTHER, ME), (None, ME), ("", ME), (None, "")])
def test_an_agent_cannot_write_the_lease_of_another_node_and_one_of_no_node_none(
    token_of: str | None, name: str
) -> None:
    assert any("own node" in each for each in refusals(request(LEASES, token_of), lease(name=name)))


@pytest.mark.parametrize("change", [
    lambda it: it["metadata"].update(ownerReferences=[{"apiVersion": "v1", "kind": "Namespace", "name": ME}]),
    lambda it: it["metadata"]["ownerReferences"].append({"apiVersion": "v1", "kind": "Node", "name": OTHER}),
    lambda it: it["metadata"].update(finalizers=["example/never"]),
    lambda it: it["metadata"]["annotations"].update({"example/x": "y"}),
    lambda it: it["spec"].update(holderIdentity=OTHER),
    lambda it: it.pop("spec"),
])  # fmt: skip
def test_a_lease_is_held_and_owned_by_its_node_and_nothing_keeps_it(change: Callable[[Object], object]) -> None:
    assert refusals(request(LEASES), lease(change), lease())


@pytest.mark.parametrize("up", [True, False])
def test_an_agent_with_the_right_writes_flannels_annotations_and_that_its_network_is_there(*, up: bool) -> None:
    wanted = {**announce.flannels(own(), said()), **flannel_notes("192.0.2.1", "0a:54:0a:f4:01:00")}
    for notes in (wanted, {}):
        new = patched(announce.patch(notes, up=up))
        assert refusals(request(NODES, sub="status"), new, node()) == []
    first = changed(lambda it: it["metadata"].pop("annotations"))
    assert refusals(request(NODES, sub="status"), patched(announce.patch(wanted, up=up)), node()) == []
    assert refusals(request(NODES, sub="status"), first, first) == []


def test_an_agent_writes_no_other_node() -> None:
    new = patched(announce.patch({f"{FLANNEL}/public-ip": "192.0.2.1"}, up=True))
    assert any("own node" in each for each in refusals(request(NODES, OTHER, sub="status"), new, node()))


def test_an_agent_writes_nothing_but_a_nodes_status() -> None:
    new = changed(lambda it: it["spec"].update(unschedulable=True))
    assert any("status alone" in each for each in refusals(request(NODES), new, node()))


OWNER = {"apiVersion": "v1", "kind": "Namespace", "name": "gone", "uid": uid("gone")}


@pytest.mark.parametrize(("change", "word"), [
    (lambda it: it["metadata"].update(ownerReferences=[OWNER]), "metadata"),
    (lambda it: it["metadata"]["labels"].update(role="control-plane"), "metadata"),
    (lambda it: it["metadata"].pop("labels"), "metadata"),
    (lambda it: it["metadata"].pop("finalizers"), "metadata"),
    (lambda it: it["metadata"].update(finalizers=[]), "metadata"),
    (lambda it: it["metadata"]["annotations"].update({"volumes.example/x": "y"}), "annotations"),
    (lambda it: it["metadata"]["annotations"].update({"tulle.network/public-ip-overwrite": "x"}), "annotations"),
    (lambda it: it["metadata"]["annotations"].clear(), "annotations"),
    (lambda it: it["metadata"].pop("annotations"), "annotations"),
    (lambda it: it["status"].update(addresses=[{"type": "InternalIP", "address": "192.0.2.66"}]), "status"),
    (lambda it: it["status"]["daemonEndpoints"]["kubeletEndpoint"].update(Port=1), "status"),
    (lambda it: it["status"].update(volumesInUse=["x"]), "status"),
    (lambda it: it["status"].update(unheardOf=1), "status"),
    (lambda it: it["status"].pop("capacity"), "status"),
    (lambda it: it["status"]["conditions"].append({"type": "NetworkUnavailable", "status": "True"}), "conditions"),
    (lambda it: it["status"]["conditions"].append({"type": "DiskPressure", "status": "True"}), "conditions"),
    (lambda it: it["status"]["conditions"][-1].update(status="Unknown"), "conditions"),
    (lambda it: it["status"]["conditions"].pop(), "conditions"),
    (lambda it: it["status"].pop("conditions"), "conditions"),
])  # fmt: skip
def test_of_its_own_node_an_agent_can_write_nothing_else(change: Callable[[Object], object], word: str) -> None:
    told = refusals(request(NODES, sub="status"), changed(change), node())
    assert len(told) == 1 and word in told[0]

"""A real kube-apiserver takes conf/kubernetes/tulle.yaml, whole: what it does not know it would drop without a word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.cluster.control_plane import ControlPlane, missing
from tests.helm import render

CONF = Path(__file__).parents[2] / "conf" / "kubernetes"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
HOME = "namespaces/kube-tulle"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": f"/api/v1/{HOME}/serviceaccounts",
    "ConfigMap": f"/api/v1/{HOME}/configmaps",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": f"{RBAC}/{HOME}/roles",
    "RoleBinding": f"{RBAC}/{HOME}/rolebindings",
    "DaemonSet": f"/apis/apps/v1/{HOME}/daemonsets",
}
ACCOUNT = "system:serviceaccount:kube-tulle:tulle"

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that has been given every object of the manifest but the DaemonSet."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane:
        with plane.inside():
            for each in manifest():
                if each["kind"] != "DaemonSet":
                    kept = plane.request("POST", PATHS[each["kind"]], each)
                    assert lost(each, kept) == []
        yield plane


def manifest() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CONF / "tulle.yaml").read_text()))


def lost(sent: object, kept: object, at: str = "") -> list[str]:
    """The paths of what was sent and is not there, or is there with another value."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return [each for key in sent for each in lost(sent[key], kept.get(key), f"{at}.{key}")]
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        return [each for i, pair in enumerate(zip(sent, kept, strict=True)) for each in lost(*pair, f"{at}[{i}]")]
    return [] if sent == kept else [at]


def test_the_server_keeps_every_field_of_the_daemon_set(plane: ControlPlane) -> None:
    daemon = manifest()[-1]
    assert daemon["kind"] == "DaemonSet"
    with plane.inside():
        kept = plane.request("POST", f"{PATHS['DaemonSet']}?dryRun=All", daemon)
    assert lost(daemon, kept) == []


def test_the_server_drops_a_field_that_it_does_not_know(plane: ControlPlane) -> None:
    daemon = manifest()[-1]
    daemon["spec"]["template"]["spec"]["terminationGraceSeconds"] = 1
    with plane.inside():
        kept = plane.request("POST", f"{PATHS['DaemonSet']}?dryRun=All", daemon)
    assert lost(daemon, kept) == [".spec.template.spec.terminationGraceSeconds"]


def test_the_server_takes_the_chart_with_other_values(plane: ControlPlane) -> None:
    daemon: Any = render({
        "env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "192.0.2.10"}],
        "updateStrategy": {"rollingUpdate": {"maxUnavailable": "10%"}},
        "nodeSelector": {"pool": "a"},
    })[-1]
    with plane.inside():
        kept = plane.request("POST", f"{PATHS['DaemonSet']}?dryRun=All", daemon)
    assert lost(daemon, kept) == []


@pytest.mark.parametrize(("verb", "what", "allowed"), [
    ("list", {"resource": "nodes"}, True),
    ("watch", {"resource": "nodes"}, True),
    ("patch", {"resource": "nodes", "subresource": "status", "name": "n1"}, False),
    ("patch", {"resource": "nodes", "name": "n1"}, False),
    ("update", {"resource": "nodes", "subresource": "status", "name": "n1"}, False),
    ("delete", {"resource": "nodes", "name": "n1"}, False),
    ("watch", {"resource": "configmaps", "namespace": "kube-tulle", "name": "tulle-config"}, True),
    ("list", {"resource": "configmaps", "namespace": "kube-tulle"}, False),
    ("list", {"resource": "configmaps", "namespace": "kube-system", "name": "tulle-config"}, False),
    ("list", {"resource": "secrets", "namespace": "kube-tulle"}, False),
    ("list", {"resource": "pods"}, False),
    ("create", {"resource": "events", "namespace": "kube-tulle"}, False),
    *((verb, {"group": "coordination.k8s.io", "resource": "leases", "namespace": "kube-tulle", "name": "n1"}, True)
      for verb in ("list", "watch", "create", "patch", "delete")),
    *((verb, {"group": "coordination.k8s.io", "resource": "leases", "namespace": "kube-tulle", "name": "n1"}, False)
      for verb in ("update", "deletecollection")),
    *((verb, {"group": "coordination.k8s.io", "resource": "leases", "namespace": "kube-node-lease"}, False)
      for verb in ("list", "create", "patch")),
])
def test_the_agents_account_may_do_what_it_needs_and_no_more(
    plane: ControlPlane, verb: str, what: dict[str, str], *, allowed: bool
) -> None:
    review: Any = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "resourceAttributes": {"verb": verb, **what}},
    }
    with plane.inside():
        answer: Any = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer["status"]["allowed"] == allowed

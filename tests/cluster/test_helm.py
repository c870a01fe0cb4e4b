"""The chart by Helm itself on a real kube-apiserver: installed, upgraded, and gone without a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane, missing
from tests.cluster.test_manifest_server import PATHS, lost, manifest
from tests.helm import CHART, HelmError, helm

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server, and this thread in its network."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as plane, plane.inside():
        yield plane


def there(plane: ControlPlane) -> dict[str, Any]:
    """The chart's objects that the server has, by kind; a namespace only while it is not being deleted."""
    found: dict[str, Any] = {}
    for kind, path in PATHS.items():
        items: Any = plane.request("GET", path)["items"]
        for each in items:
            if each["metadata"].get("labels", {}).get("app") == "tulle" and "deletionTimestamp" not in each["metadata"]:
                found[kind] = each
    return found


def test_the_chart_is_installed_upgraded_and_taken_away_by_helm(plane: ControlPlane) -> None:
    def tulle(verb: str, *words: str) -> None:
        helm(verb, "tulle", *words, "--kubeconfig", str(plane.kubeconfig))

    tulle("install", str(CHART))
    objects = there(plane)
    assert set(objects) == set(PATHS)
    for each in manifest():
        if each["kind"] != "ConfigMap":  # its texts are written otherwise and mean the same: test_manifest.py
            kept = {"kind": each["kind"], "apiVersion": each["apiVersion"], **objects[each["kind"]]}  # not in lists
            assert lost(each, kept) == []

    tulle("upgrade", str(CHART), "--set", "network.backend.type=host-gw", "--reuse-values")
    assert json.loads(there(plane)["ConfigMap"]["data"]["net-conf.json"])["backend"] == {"type": "host-gw"}
    assert there(plane)["DaemonSet"]["metadata"]["uid"] == objects["DaemonSet"]["metadata"]["uid"]

    tulle("uninstall")
    assert there(plane) == {}


def test_helm_installs_into_a_namespace_that_it_creates(plane: ControlPlane) -> None:
    helm("install", "tulle", str(CHART), "--namespace", "kube-tulle", "--create-namespace",
         "--set", "createNamespace=false", "--kubeconfig", str(plane.kubeconfig))
    assert set(there(plane)) == set(PATHS) - {"Namespace"}


def test_a_value_that_the_chart_does_not_know_is_refused(plane: ControlPlane) -> None:
    with pytest.raises(HelmError, match="netwrok"):
        helm("install", "tulle", str(CHART), "--set", "netwrok.network=10.9.0.0/16",
             "--kubeconfig", str(plane.kubeconfig))
    assert there(plane) == {}

"""The credentials of an agent outside of a pod, as the manual has them made, and kubelet's: on a real API server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from cni_plugin.agent.sources.contract import Announcement
from cni_plugin.agent.sources.kube.follow import Pace
from cni_plugin.agent.sources.kubernetes import Conf, KubernetesSource
from scripts.lib.lab.kube_parts import lacks, search_path
from tests.cluster.control_plane import NEEDED, TOOLS, ControlPlane
from tests.cluster.test_source_kubernetes import MANIFEST, PATHS, REPO, told_by
from tests.manual import PAGES, script, tried_by
from tests.unit.agent.sources.kube_objects import node
from tests.unit.agent.sources.told import Told, wait

PROGRAMS = (*NEEDED, "kubectl")

pytestmark = pytest.mark.skipif(bool(lacks(PROGRAMS, TOOLS)), reason=lacks(PROGRAMS, TOOLS))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane with the objects of our manifest and the node n1, and this thread in its network."""
    with ControlPlane(tmp_path) as plane, plane.inside():
        for each in yaml.safe_load_all(MANIFEST.read_text()):
            if each["kind"] in PATHS:
                plane.request("POST", PATHS[each["kind"]], each)
        plane.request("POST", "/api/v1/nodes", node("n1", "10.244.1.0/24", "192.0.2.1"))
        plane.start("kube-controller-manager")
        yield plane


@pytest.fixture
def told() -> Iterator[Told]:
    found = Told()
    yield found
    found.mailbox.close()


def test_the_credentials_that_the_manual_has_made_are_enough_for_an_agent(
    plane: ControlPlane, told: Told, tmp_path: Path
) -> None:
    environment = {"PATH": search_path(PROGRAMS), "HOME": str(tmp_path), "KUBECONFIG": str(plane.kubeconfig)}
    words = ["sh", "-euc", script(tried_by(__file__, "on a control plane"))]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    source = KubernetesSource(Conf(kubeconfig=str(tmp_path / "kubeconfig")), "n1", told.mailbox, Pace())
    try:
        told.wait(lambda: told.names() == ["n1"] and told.trouble == "")
        source.publish(Announcement((ip_address("192.0.2.1"),), "vxlan", lambda _: {"vni": "1"}))
        wait(lambda: told_by(plane).get("tulle.network/address") == "192.0.2.1")
        assert told.snapshot is not None and (told.trouble, told.snapshot.problems) == ("", ())
    finally:
        source.close()


def test_with_kubelets_own_credentials_the_whole_remedy_is_told(plane: ControlPlane, told: Told) -> None:
    kubelets = plane.kubeconfig_of("kubelet", "/O=system:nodes/CN=system:node:n1")
    source = KubernetesSource(Conf(kubeconfig=str(kubelets)), "n1", told.mailbox, Pace())
    try:
        told.wait(lambda: "configmaps" in told.trouble)
        assert "apply the RBAC rules of conf/kubernetes/tulle.yaml; kubelet's own credentials do not do" in told.trouble
    finally:
        source.close()


def test_no_example_uses_kubelets_credentials() -> None:
    samples = [each for each in (REPO / "conf").iterdir() if each.is_file()]
    assert not any(re.search(r'"kubeconfig": "[^"]*kubelet', each.read_text()) for each in (*PAGES, *samples))

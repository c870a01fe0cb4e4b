"""The Vagrantfile: Vagrant accepts it, would not accept a mistake in it, and its cluster is one that Tulle accepts.

Machines are not started here: that takes a hypervisor and a minute each.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cni_plugin.cluster import parse
from cni_plugin.errors import CniError

REPO = Path(__file__).resolve().parents[2]
QUIET = {"VAGRANT_CHECKPOINT_DISABLE": "1"}
DUMP = "\nFile.write(ENV.fetch('TULLE_DUMP'), JSON.generate(NODES.map { |node| CLUSTER.merge(node: node[:name]) }))\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a copy of the Vagrantfile, and no state of Vagrant outside of it."""
    if shutil.which("vagrant") is None:
        pytest.skip("no vagrant here: apt-get install --no-install-recommends vagrant vagrant-libvirt")
    shutil.copy(REPO / "Vagrantfile", tmp_path)
    return tmp_path


@functools.cache
def libvirt_known() -> bool:
    """Whether Vagrant has the plugin that knows libvirt's settings."""
    return "vagrant-libvirt" in _vagrant(REPO, os.environ | QUIET, "plugin", "list").stdout


def validate(project: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """`vagrant validate`, with what the installed providers say to their settings where there are any."""
    env = os.environ | settings | QUIET | {"VAGRANT_HOME": str(project / "home")}
    if libvirt_known():
        return _vagrant(project, env | {"VAGRANT_DEFAULT_PROVIDER": "libvirt"}, "validate")
    return _vagrant(project, env, "validate", "--ignore-provider")


def _vagrant(project: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["vagrant", *words], cwd=project, env=env, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("settings", [{}, {"TULLE_BACKEND": "host-gw"}, {"TULLE_NODES": "5", "TULLE_CONTAINERD": "1"}])
def test_vagrant_accepts_the_vagrantfile(project: Path, settings: dict[str, str]) -> None:
    done = validate(project, **settings)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("right", "wrong"), [("vm.hostname", "vm.hostnam"), ("libvirt.memory", "libvirt.memry")])
def test_vagrant_refuses_a_misspelt_setting_by_name(project: Path, right: str, wrong: str) -> None:
    if right.startswith("libvirt") and not libvirt_known():
        pytest.skip("no vagrant-libvirt here, so nothing knows libvirt's settings")
    text = (project / "Vagrantfile").read_text()
    assert right in text
    (project / "Vagrantfile").write_text(text.replace(right, wrong))
    done = validate(project)
    assert done.returncode != 0
    assert wrong.split(".")[1] in done.stdout + done.stderr


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_each_machine_gets_a_cluster_in_which_it_is_a_node(project: Path, backend: str) -> None:
    with (project / "Vagrantfile").open("a") as vagrantfile:
        vagrantfile.write(DUMP)
    dump = project / "clusters.json"
    assert validate(project, TULLE_BACKEND=backend, TULLE_DUMP=str(dump)).returncode == 0
    clusters = json.loads(dump.read_text())
    assert [parse(each).me(frozenset(), "").name for each in clusters] == ["node1", "node2", "node3"]
    assert {parse(each).backend for each in clusters} == {backend}
    clusters[0]["nodes"][1]["podCIDRs"] = clusters[0]["nodes"][0]["podCIDRs"]
    with pytest.raises(CniError):
        parse(clusters[0])

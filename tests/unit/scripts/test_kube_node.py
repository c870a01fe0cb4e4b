"""What the lab tells a kubelet, by the release that it is of: one that is told what it does not know ends at once."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from scripts.lib.lab import kube_node, kube_parts
from scripts.lib.lab.topology import LabError, Node, Spec

RUNTIME = "unix:///run/containerd/containerd.sock"


def said(release: tuple[int, int], gates: str = "") -> tuple[list[str], dict[str, object]]:
    node = Node(Spec("k"), 1)
    command = kube_node.kubelet_command(node, Path("/lab/n1"), Path("/lab/n1.kubeconfig"), release, gates)
    return shlex.split(command), kube_node.kubelet_conf(node, Path("/lab/ca.crt"), release)


def test_an_old_kubelet_gets_its_runtime_by_its_command_line() -> None:
    words, conf = said((1, 20), "--feature-gates=IPv6DualStack=true")
    assert {"--container-runtime=remote", f"--container-runtime-endpoint={RUNTIME}"} < set(words)
    assert words[-1] == "--feature-gates=IPv6DualStack=true"
    assert not {"containerRuntimeEndpoint", "failCgroupV1"} & conf.keys()


@pytest.mark.parametrize("release", [(1, 27), (1, 36), (2, 0)])
def test_a_younger_one_gets_it_by_its_configuration(release: tuple[int, int]) -> None:
    words, conf = said(release)
    assert not [each for each in words if each.startswith("--container-runtime")]
    assert conf["containerRuntimeEndpoint"] == RUNTIME
    assert ("failCgroupV1" in conf) == (release >= (1, 31))


def test_the_release_is_what_the_kubelet_says(tmp_path: Path) -> None:
    kubelet = tmp_path / "kubelet"
    kubelet.write_text("#!/bin/sh\necho Kubernetes v1.36.2\n")
    kubelet.chmod(0o755)
    assert kube_parts.release(f"{tmp_path}:/usr/bin:/bin") == (1, 36)
    kubelet.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(LabError, match="hello"):
        kube_parts.release(f"{tmp_path}:/usr/bin:/bin")


def test_a_node_that_ends_while_it_boots_is_told_with_its_last_words(tmp_path: Path) -> None:
    folder = tmp_path / "n1"
    folder.mkdir()
    (tmp_path / "log").mkdir()
    with subprocess.Popen("true") as ended:
        pass
    (folder / "pid").write_text(str(ended.pid))
    (tmp_path / "log" / "n1-boot").write_text("umount: no mount point specified\n")
    with pytest.raises(LabError, match="n1 ended while it booted: umount: no mount point"):
        kube_node.has_image(folder)

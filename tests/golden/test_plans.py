"""Every plan as a person would carry it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cni_plugin.backends import contract as backend
from tests.golden.cases import BACKENDS, MASQUERADES, PODS, direct_routing, gone, made, masquerade, pod, said
from tests.golden.conftest import FOLDER, Golden

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_wired_like_this(golden: Golden, name: str) -> None:
    steps = list(pod(name))
    there = "\n".join(f"# {title}\n{made(state)}" for title, state in steps)
    back = "\n".join(f"# {title}, taken away\n{gone(state)}" for title, state in reversed(steps))
    golden(f"pod-{name}", f"{there}\n\n{back}")


@pytest.mark.parametrize("name", backend.names())
@pytest.mark.parametrize("family", BACKENDS)
def test_a_node_joins_a_cluster_like_this(golden: Golden, name: str, family: str) -> None:
    golden(f"backend-{name}-{family}", said(name, BACKENDS[family]))


def test_a_node_routes_directly_what_is_on_its_link(golden: Golden) -> None:
    golden("backend-vxlan-direct-routing", made(direct_routing()))


@pytest.mark.parametrize("name", MASQUERADES)
def test_networks_are_masqueraded_like_this(golden: Golden, name: str) -> None:
    golden(f"masquerade-{name}", f"{made(masquerade(name))}\n\n# taken away\n{gone(masquerade(name))}")


def test_texts_are_the_same_in_every_process() -> None:
    """Python's hashes, and so the order of its sets, change from one process to the next."""
    program = "from tests.golden.cases import *; print([(made(s), gone(s)) for n in PODS for _, s in pod(n)])"
    said = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, cwd=ROOT, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert len(said) == 1


def test_no_text_is_left_of_what_is_no_longer_planned() -> None:
    planned = {f"pod-{each}" for each in PODS} | {f"masquerade-{each}" for each in MASQUERADES}
    planned |= {f"backend-{name}-{family}" for name in backend.names() for family in BACKENDS}
    assert {path.stem for path in FOLDER.glob("*.txt")} == planned | {"backend-vxlan-direct-routing"}

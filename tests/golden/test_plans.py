"""Every plan as a person would carry it out."""

from __future__ import annotations

import pytest

from cni_plugin import backend
from tests.golden.cases import BACKENDS, MASQUERADES, PODS, direct_routing, gone, made, masquerade, pod, said
from tests.golden.conftest import Golden


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


def test_no_text_is_left_of_what_is_no_longer_planned() -> None:
    from tests.golden.conftest import FOLDER

    planned = {f"pod-{each}" for each in PODS} | {f"masquerade-{each}" for each in MASQUERADES}
    planned |= {f"backend-{name}-{family}" for name in backend.names() for family in BACKENDS}
    assert {path.stem for path in FOLDER.glob("*.txt")} == planned | {"backend-vxlan-direct-routing"}

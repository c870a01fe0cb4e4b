"""What `tullectl plan` prints of a real kernel is what the ADD that comes next does there, operation by operation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from cni_plugin.ctl.look.plan import plan_add
from cni_plugin.diff import Op
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.modules import VLAN_FILTERING
from cni_plugin.kernel.see.probe import features
from cni_plugin.verbs.run import run as serve
from tests.golden.cases import requests
from tests.netns.kernel_world import MakeNetns, kernel_of, path, run
from tests.unit.support import Json

REQUESTS = dict(requests())
SAMPLE = (
    "pod-dual", "pod-routes", "pod-vlan-and-trunk", "pod-macspoofchk", "pod-isolation", "pod-layer-2",
    "backend-vxlan-dual", "backend-vxlan-v6-over-v4", "backend-vxlan-direct-routing", "backend-host-gw-dual",
    "masquerade-dual",
)
FORCED: Json = {"isGateway": True, "forceAddress": True}


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    with kernel_of(netns("node")) as kernel:
        for line in (
            "link add eth0 type bridge", "addr add 192.0.2.1/24 dev eth0", "addr add 2001:db8::1/64 dev eth0 nodad",
            "link set eth0 up", "link set lo up",
        ):
            run(f"ip {line}")
        yield kernel


class World:
    """A node with its folders, on which plan and ADD are asked for the same."""

    def __init__(self, home: Path, kernel: LinuxKernel, netns: MakeNetns, patch: pytest.MonkeyPatch) -> None:
        self.home, self.kernel, self.netns = home, kernel, netns
        self.applied: list[Op] = []
        apply = kernel.apply

        def noted(ops: Sequence[Op]) -> None:
            self.applied += ops
            apply(ops)

        patch.setattr(kernel, "apply", noted)

    def agree(self, container: str, keys: Json) -> list[str]:
        """Both do the same; what it is, in the words of the diff."""
        ipam = keys.get("ipam")
        there: Json = {"ipam": {**ipam, "dataDir": f"{self.home}/data"}} if isinstance(ipam, dict) else {}
        conf = {"cniVersion": "1.1.0", "name": "pods", "type": "tulle", **keys, **there}
        (self.home / "plan.conf").write_text(json.dumps(conf))
        steps = plan_add(f"{self.home}/plan.conf", (container, "eth0"), self.kernel, f"{self.home}/run")
        assert self.applied == []
        pod = self.netns(container)
        env = {
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": path(pod),
            "CNI_PATH": "/nowhere", "TULLE_RUN_DIR": f"{self.home}/run",
        }
        reply = serve("tulle", env, json.dumps(conf).encode(), lambda: nullcontext(self.kernel))
        assert reply.code == 0, reply.stdout
        done, self.applied = self.applied, []
        assert [op for step in steps for op in step.ops] == done
        return [f"{op.verb} {'/'.join(op.object.key)}" for op in done]


@pytest.fixture
def world(tmp_path: Path, kernel: LinuxKernel, netns: MakeNetns, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, kernel, netns, monkeypatch)


@pytest.mark.parametrize("name", SAMPLE)
def test_plan_and_add_agree_on_a_real_kernel(world: World, name: str) -> None:
    if "vlan" in REQUESTS[name] and not features([VLAN_FILTERING])[VLAN_FILTERING]:
        pytest.skip("this kernel's bridges do not filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING)")
    world.agree("one", REQUESTS[name])
    world.agree("two", REQUESTS[name])


def test_what_force_address_removes_of_a_real_bridge_is_planned(world: World) -> None:
    world.agree("one", {**FORCED, "ipam": {"type": "host-local", "subnet": "10.22.0.0/24"}})
    ops = world.agree("two", {**FORCED, "ipam": {"type": "host-local", "subnet": "10.33.0.0/24"}})
    assert "delete addr//tulle0/10.22.0.1/24" in ops

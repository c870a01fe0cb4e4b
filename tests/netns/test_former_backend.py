"""A cluster that changes its backend under its pods: each node ends with the devices of the last one, and they talk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.netns.conftest import MakeLab
from tests.netns.members import Json, Members, members

HOST_GW: Json = {"type": "host-gw"}
ONE: Json = {"type": "vxlan", "vni": 1, "port": 8472}
TWO: Json = {"type": "vxlan", "vni": 2, "port": 8472}
FOREIGN = "tulle.99"
"""An administrator's, whatever it is called: it bears no mark of ours."""


def tunnels(them: Members, name: str) -> set[str]:
    """The tunnels' devices of a node."""
    return {each["ifname"] for each in json.loads(them.lab.run(name, "ip", "-j", "link", "show", "type", "vxlan"))}


def guarded(them: Members, name: str) -> set[str]:
    """The VNIs that something of nft's is called after."""
    found = json.loads(them.lab.run(name, "nft", "-j", "list", "table", "inet", "tulle"))["nftables"]
    names = {each["chain"]["name"] for each in found if "chain" in each}
    return {each.rpartition("_")[2] for each in names if each.startswith(("input", "forward", "own_"))}


def device(backend: Json) -> set[str]:
    return {f"tulle.{backend['vni']}"} if "vni" in backend else set()


def as_they_should_be(them: Members, backend: Json) -> None:
    """Both nodes are as a fresh plan says, with no device beside the backend's and the foreign one; pods talk."""
    for name in ("n1", "n2"):
        them.until(lambda name=name: them.off(name) == [], f"{name} is as planned with {backend}")  # type: ignore[misc]
        assert tunnels(them, name) == device(backend) | {FOREIGN}
        assert guarded(them, name) == ({str(backend["vni"])} if "vni" in backend else set())
    them.answered("n1/a", "n2/b")
    them.answered("n2/b", "n1/a")


def begin(them: Members, backend: Json) -> None:
    them.conf["backend"] = backend
    them.save()
    for name in ("n1", "n2"):
        them.lab.run(name, "ip", "link", "add", FOREIGN, "type", "vxlan", "id", "99", "dstport", "8472", "dev", "eth0")
    them.join()
    them.lab.add("n1", "a")
    them.lab.add("n2", "b")
    as_they_should_be(them, backend)


def test_a_former_backends_device_goes_while_pods_live_and_comes_back_with_it(lab: MakeLab, plugin: Path) -> None:
    with members(lab(nodes=2), plugin) as them:
        begin(them, ONE)
        for backend in (HOST_GW, ONE, TWO, HOST_GW, TWO, ONE):
            them.conf["backend"] = backend
            them.save()
            as_they_should_be(them, backend)


@pytest.mark.parametrize("forgetful", [False, True], ids=["as noted", "with nothing on record of the cluster"])
def test_it_goes_when_the_cluster_changed_while_no_agent_ran(lab: MakeLab, plugin: Path, *, forgetful: bool) -> None:
    with members(lab(nodes=2), plugin) as them:
        begin(them, ONE)
        for backend in (HOST_GW, TWO, ONE):
            for name in ("n1", "n2"):
                them.agents[name].kill()
                for each in ("clusters", "programmed") if forgetful else ():
                    shutil.rmtree(them.agents[name].node.run_dir / each)
            them.conf["backend"] = backend
            them.save()
            them.start()
            as_they_should_be(them, backend)

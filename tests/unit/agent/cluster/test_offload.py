"""Checksums are left to the NIC where the kernel is known to be right, until a peer shows that the NIC is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from cni_plugin.agent.cluster import offload as watching
from cni_plugin.agent.cluster.offload import Offload
from cni_plugin.kernel.watch.changed import EVERYTHING
from cni_plugin.model.host import Feature
from cni_plugin.plan.offload import trusted
from cni_plugin.store import offload
from cni_plugin.store.records import Records
from tests.unit.node.cluster.test_convergence import World, near, of


@pytest.mark.parametrize(("release", "right"), [
    ("5.8.0", True), ("6.1.0-18-amd64", True), ("6.18.44-fc-v595", True), ("10.0", True), ("5.10.0-8-amd64", True),
    ("5.7.19", False), ("5.4.41", False), ("4.19.0-27-amd64", False), ("3.10.0-1160.el7.x86_64", False), ("x", False),
])
def test_a_kernel_is_trusted_by_its_number(release: str, right: bool) -> None:
    assert trusted(release) is right


def switched(world: World) -> bool:
    (found,) = [each for each in world.kernel.state.values() if isinstance(each, Feature)]
    return found.tx_checksum


@pytest.mark.parametrize(("running", "said", "on"), [
    ("6.1.0", None, True), ("5.4.0", None, False), ("6.1.0", False, False), ("5.4.0", True, True),
])
def test_what_an_operator_says_goes_before_the_kernels_number(
    tmp_path: Path, running: str, said: bool | None, on: bool
) -> None:
    world = World(str(tmp_path))
    world.kernel.running = running
    world.learns(of(*near(2), backend={"type": "vxlan", **({} if said is None else {"txChecksum": said})}))
    assert switched(world) is on


class Peer:
    """What comes back from a peer, and how often it was tried."""

    def __init__(self, *, by_device: bool, by_hand: bool) -> None:
        self.by_device, self.by_hand = by_device, by_hand
        self.tried: list[tuple[str, str, str]] = []
        self.closed = 0

    def __call__(self, source: str, own: str, to: str) -> Peer:
        self.tried.append((source, own, to))
        return self

    def look(self) -> bool:
        return self.by_device and self.by_hand

    def close(self) -> None:
        self.closed += 1


def tries(world: World, peer: Peer, monkeypatch: pytest.MonkeyPatch, rounds: int = 30) -> list[str]:
    """Let the agent try; what it asked to be looked at again."""
    now = [0.0]
    monkeypatch.setattr(watching, "monotonic", lambda: now[0])
    said: list[str] = []
    watcher = Offload(world.records, lambda: said.append("anew"), peer)
    for _ in range(rounds):
        now[0] = watcher.due() or 0.0
        watcher.run()
    watcher.close()
    return said


def joined(tmp_path: Path, **options: object) -> World:
    world = World(str(tmp_path))
    world.learns(of(*near(2, 3, 4, 5, 6), backend={"type": "vxlan", **options}))
    return world


def test_a_nic_that_is_right_is_tried_once_with_three_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, peer = joined(tmp_path), Peer(by_device=True, by_hand=True)
    assert tries(world, peer, monkeypatch) == []
    assert peer.tried == [("192.0.2.1", "10.244.1.0", f"10.244.{number}.0") for number in (2, 3, 4)]
    assert (peer.closed, offload.broken(world.records)) == (3, "")


def test_a_nic_that_gets_checksums_wrong_is_not_left_any_from_the_next_look_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, peer = joined(tmp_path), Peer(by_device=False, by_hand=True)
    assert switched(world)
    assert tries(world, peer, monkeypatch) == ["anew"]
    assert len(peer.tried) <= 6, "each once, and once more to be sure"
    (op,) = world.member.look(EVERYTHING)
    assert (op.object, switched(world)) == (Feature("tulle.1", tx_checksum=False), False)
    assert "answers TCP whose checksum this node computed" in offload.broken(world.records)
    assert tries(world, Peer(by_device=False, by_hand=True), monkeypatch) == [], "known for this boot"


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_peer_that_says_nothing_at_all_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    """It is away, or a firewall drops both."""
    world = joined(tmp_path)
    assert tries(world, Peer(by_device=by_hand, by_hand=False), monkeypatch) == []
    assert offload.broken(world.records) == ""


def test_nothing_is_tried_where_nothing_is_left_to_the_nic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, world in enumerate((joined(tmp_path / "a", txChecksum=False), World(str(tmp_path / "b")))):
        peer = Peer(by_device=False, by_hand=True)
        assert tries(world, peer, monkeypatch) == [], number
        assert peer.tried == []


def test_what_was_found_in_another_boot_or_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    for text in ("", "{", '{"boot": "another", "broken": "so"}', "[]"):
        (tmp_path / "offload").write_text(text)
        assert offload.broken(records) == ""

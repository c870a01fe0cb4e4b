"""How full the node is, as a scrape finds it: by the leases and records on disk, whoever wrote them."""

from __future__ import annotations

from pathlib import Path

from cni_plugin.agent.metrics.gauges import Gauges, Pool
from tests.unit.support import DUAL, Node


def gauges(node: Node) -> Gauges:
    """Of this node, with three requests waiting."""
    return Gauges(node.kernel, node.records, lambda: 3)


def test_a_node_without_pods_has_nothing_to_tell(tmp_path: Path) -> None:
    found = gauges(Node(tmp_path))
    assert (found.pools(), found.attachments(), found.bridge_ports(), found.queue()) == ([], {}, {}, 3)


def test_pools_and_attachments_are_counted_as_they_are_on_disk(tmp_path: Path) -> None:
    node = Node(tmp_path, ipam={"subnet": "", "ranges": DUAL})
    found = gauges(node)
    for count, pod in enumerate(("c1 eth0", "c2 eth1"), 1):
        node.call("ADD", pod)
        assert found.attachments() == {"pods": count}
        (four, six) = found.pools()
        assert four == Pool("pods", 0, count, 253 - count)
        assert (six.range_set, six.used) == (1, count)
    node.call("DEL", "c1 eth0")
    assert found.pools()[0] == Pool("pods", 0, 1, 252) and found.attachments() == {"pods": 1}


def test_a_network_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.call("ADD", "c1 eth0")
    broken = Path(node.records.folder("broken"))
    broken.mkdir()
    (broken / "c:eth0").write_text("{")
    found = gauges(node)
    assert [each.network for each in found.pools()] == ["pods"]
    Path(node.records.folder("pods")).rename(tmp_path / "away")
    assert found.pools() == []

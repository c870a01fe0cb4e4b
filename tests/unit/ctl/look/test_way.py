"""The way of a packet, told hop by hop from what the namespaces know; nothing is sent."""

from __future__ import annotations

import pytest

from cni_plugin.ctl.look.way import Ground, way
from cni_plugin.kernel.nft.ruleset import Hook, hooks, rules
from cni_plugin.kernel.see.look import Entry, Link, Way
from cni_plugin.store.records import Record
from tests.unit.ctl.tool import View
from tests.unit.support import Node

OUT = Way("unicast", "up0", "198.51.100.2", "198.51.100.1")
BRIDGE, WIRE_MAC = "tulle0", "0a:58:0a:16:00:02"


@pytest.fixture
def record(node: Node) -> Record:
    node.call("ADD")
    (found,) = node.records.all()
    return found


def ground(record: Record, host: View, hooked: tuple[Hook, ...] = ()) -> Ground:
    pod = View(
        ways={"10.22.0.1": Way("unicast", "eth0"), "10.22.0.9": Way("unicast", "eth0"), "10.22.0.2": Way("local", "lo"),
              "203.0.113.9": Way("unicast", "eth0", "10.22.0.1"), "10.244.2.7": Way("unicast", "eth0", "10.22.0.1")},
        neighbours=(Entry("eth0", "0a:58:0a:16:00:09", "10.22.0.9"),),
    )  # fmt: skip
    return Ground(host, pod, record, hooked, ("10.244.0.0/16",))


def host_of(record: Record, coming: str = "", goes: Way = OUT) -> View:
    """The node, and what it does with a packet from the pod to `coming`."""
    wire = Link(record.attachment.host_dev, 3, "veth", master=BRIDGE, port="forwarding")
    tunnel = Link("tulle.1", 5, "vxlan")
    return View(
        (wire, tunnel),
        addresses={BRIDGE: ("10.22.0.1/24",)},
        ways={f"10.22.0.2>{coming}": goes, "203.0.113.9": OUT},
        neighbours=(Entry("tulle.1", "0a:54:0a:f4:02:00", "10.244.2.0"),),
        entries=(Entry("tulle.1", "0a:54:0a:f4:02:00", "192.0.2.2"), Entry("tl9", "0a:58:0a:16:00:09")),
    )


def test_the_gateway_is_this_node(record: Record) -> None:
    hops = list(way(ground(record, host_of(record)), "10.22.0.1"))
    assert hops[-1] == "tulle0 of this node has 10.22.0.1"
    assert hops[1] == f"the wire: out of {record.attachment.host_dev}, port of tulle0 (forwarding)"


def test_what_leaves_the_node_is_forwarded_and_masqueraded(record: Record) -> None:
    host = host_of(record, "203.0.113.9")
    hops = list(way(ground(record, host), "203.0.113.9"))
    assert hops[-2:] == [
        "tulle0 -> up0 by way of 198.51.100.2", "masqueraded: it leaves with the node's address 198.51.100.1",
    ]


def test_a_firewall_that_drops_stands_in_the_way(record: Record) -> None:
    host = host_of(record, "203.0.113.9")
    hooked = (Hook("ip filter", "FORWARD", "filter", "forward", "filter", "drop"),)
    hops = list(way(ground(record, host, hooked), "203.0.113.9"))
    assert any("nft chain ip filter FORWARD: dropped" in each for each in hops)


def test_a_pod_of_another_node_is_reached_through_the_tunnel_and_not_masqueraded(record: Record) -> None:
    host = host_of(record, "10.244.2.7", Way("unicast", "tulle.1", "10.244.2.0"))
    hops = list(way(ground(record, host), "10.244.2.7"))
    assert hops[-1] == "VXLAN: to node 192.0.2.2 (neighbour 0a:54:0a:f4:02:00)"


def test_a_tunnel_that_knows_no_neighbour_is_where_it_ends(record: Record) -> None:
    host = host_of(record, "10.244.2.7", Way("unicast", "tulle.1", "10.244.9.0"))
    assert "the packet ends here" in list(way(ground(record, host), "10.244.2.7"))[-1]


def test_a_node_that_does_not_forward_says_so(record: Record) -> None:
    hops = list(way(ground(record, host_of(record)), "203.0.113.9"))
    assert hops[-1] == "the node does not forward it: no route"


def test_a_pod_beside_it_is_switched(record: Record) -> None:
    hops = list(way(ground(record, host_of(record)), "10.22.0.9"))
    assert hops[-1] == "tulle0 switches it to 0a:58:0a:16:00:09 behind tl9"


@pytest.mark.parametrize(("to", "says"), [
    ("10.22.0.2", "it does not leave the pod"), ("192.0.2.77", "the pod has no way to 192.0.2.77: no route"),
])  # fmt: skip
def test_a_packet_that_does_not_leave_the_pod(record: Record, to: str, says: str) -> None:
    (hop,) = way(ground(record, host_of(record)), to)
    assert says in hop


def test_a_wire_that_is_cut_is_told(record: Record) -> None:
    host = View(addresses={BRIDGE: ("10.22.0.1/24",)})
    assert list(way(ground(record, host), "10.22.0.1"))[1] == f"the wire is cut: {record.attachment.host_dev} is gone"


LISTING = """table ip filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t\tip saddr 10.22.0.2 accept
\t}
\tset blocked {
\t\telements = { 192.0.2.1 }
\t}
}
table inet tulle {
\tchain postrouting {
\t\ttype nat hook postrouting priority srcnat + 5; policy accept;
\t}
\tchain plain {
\t\treturn
\t}
}
"""


def test_base_chains_are_read_from_what_nft_lists() -> None:
    assert [(each.table, each.chain, each.hook, each.priority, each.policy) for each in hooks(LISTING)] == [
        ("ip filter", "FORWARD", "forward", "filter", "drop"),
        ("inet tulle", "postrouting", "postrouting", "srcnat + 5", "accept"),
    ]


def test_rules_are_read_with_the_chain_they_stand_in() -> None:
    found = [(each.table, each.chain, each.text) for each in rules(LISTING)]
    assert ("ip filter", "FORWARD", "ip saddr 10.22.0.2 accept") in found
    assert ("inet tulle", "plain", "return") in found

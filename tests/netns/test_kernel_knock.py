"""A segment with the device's checksum and one with our own, in real kernels, with a NIC that gets checksums wrong."""

from __future__ import annotations

import pytest

from cni_plugin.kernel.see.knock import Knock
from tests.netns.agents import in_node
from tests.netns.conftest import MakeLab
from tests.netns.test_failures_cluster import two_nodes
from tests.pace import until

WRONG = "tcp sport >= 32768 drop"
"""What comes of such a NIC, before any NAT: only the kernel's own connections have ports of the ephemeral range."""


def answers(knock: Knock) -> list[bool]:
    """Whether the device's segment, and that made by hand, was answered by the time that the latter was."""
    try:
        until(lambda: knock.look() or knock.by_hand, "an answer")
        knock.look()
        return [knock.by_device, knock.by_hand]
    finally:
        knock.close()


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_nic_that_gets_checksums_wrong_is_told_from_a_firewall(lab: MakeLab, family: str) -> None:
    made = two_nodes(lab, family=family)
    own, to = (made.node(each).pod_cidrs[0].partition("/")[0] for each in ("n1", "n2"))
    source = made.node("n1").addresses[0]

    def knocked() -> list[bool]:
        return in_node(f"/run/netns/{made.node('n1').netns}", lambda: answers(Knock(source, own, to)))

    assert until(lambda: knocked() == [True, True], "both arrive")
    made.run("n1", "nft", "add table inet nic")
    made.run("n1", "nft", "add chain inet nic out { type filter hook postrouting priority 0; }")
    made.run("n1", "nft", f"add rule inet nic out oifname tulle.1 {WRONG}")
    assert knocked() == [False, True]
